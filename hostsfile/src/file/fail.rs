//! Points at which a test can let the process die. In any other build they are nothing.

/// Dies here if the environment of a test says so.
#[cfg(test)]
pub(super) fn point(name: &str) {
    if std::env::var("HOSTSFILE_DIE_AT").is_ok_and(|at| at == name) {
        #[cfg(unix)]
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .expect("a process may kill itself");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn point(_name: &str) {}
