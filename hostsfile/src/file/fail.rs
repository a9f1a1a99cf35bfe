//! Points at which a test can make the process die. They do nothing in other builds.

/// Dies here if a test's environment variable says so.
#[cfg(test)]
pub(super) fn point(name: &str) {
    if std::env::var("HOSTSFILE_DIE_AT").is_ok_and(|at| at == name) {
        #[cfg(unix)]
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .expect("a process may kill itself");
        std::process::abort();
    }
}

/// Does nothing.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn point(_name: &str) {}
