//! What can go wrong, and which system setting is the cause.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a command could not run in its scope.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system does not let this user create a user namespace in which to mount.
    #[error("this system forbids user namespaces ({step}: {source}): {restriction}")]
    UserNamespacesForbidden {
        /// The step that was refused.
        step: &'static str,
        /// The setting that is the cause, as far as it can be determined.
        restriction: Restriction,
        /// The system's answer.
        source: io::Error,
    },
    /// The caller is root, but may not create a mount namespace.
    #[error(
        "root may not create a mount namespace here: {source} (CAP_SYS_ADMIN is missing, as in most containers)"
    )]
    MountNamespaceForbidden {
        /// The system's answer.
        source: io::Error,
    },
    /// There is no such program: a shell would exit with 127.
    #[error("{}: command not found", .program.display())]
    CommandNotFound {
        /// The program as it was given.
        program: OsString,
    },
    /// The program is there but cannot be run: a shell would exit with 126.
    #[error("{}: cannot be run: {source}", .file.display())]
    CommandNotExecutable {
        /// The file that was found.
        file: PathBuf,
        /// The system's answer; "no such file" where it is the file's interpreter that is missing.
        source: io::Error,
    },
    /// The command line cannot be passed to the system.
    #[error("{what}")]
    BadCommand {
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no hosts file to mount the private one over.
    #[error("{} does not exist, and a private one can only be mounted over an existing file", .path.display())]
    NoHostsFile {
        /// The system's hosts file.
        path: PathBuf,
    },
    /// A mount was refused.
    #[error("cannot {step} {}: {source}", .path.display())]
    Mount {
        /// What was attempted, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another step was refused.
    #[error("cannot {step}: {source}")]
    Setup {
        /// What was attempted, as a verb.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The private hosts file could not be changed.
    #[error("cannot update the private hosts file: {source}")]
    UpdateHosts {
        /// The system's answer.
        source: io::Error,
    },
    /// [`Scope::program`](crate::Scope::program) cannot be started.
    #[error("cannot start {} again: {source}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// [`Scope::program`](crate::Scope::program) exited without reporting anything: it was killed, or its `main` does not call
    /// [`enter`](crate::enter).
    #[error("{} exited before it became the command ({status})", .program.display())]
    NoAnswer {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// This operating system lacks something.
    #[error("{what} is not supported on this operating system")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
}

impl Error {
    /// The exit code that shells and env(1) use: 127 if there is no such command, 126 if it cannot be run, and 125 for every
    /// failure of our own.
    ///
    /// ```
    /// let error = process_scope::Error::CommandNotFound { program: "psqll".into() };
    /// assert_eq!(error.exit_code(), 127);
    /// ```
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::CommandNotFound { .. } => 127,
            Error::CommandNotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

/// The setting that keeps a user from creating user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restriction {
    /// Ubuntu since 23.10: only programs with an AppArmor profile that allows it.
    AppArmor,
    /// Debian's own switch is off.
    UnprivilegedClone,
    /// The number of user namespaces is limited, to this; it is 0, or that many exist.
    MaxUserNamespaces(u64),
    /// A seccomp filter, as container runtimes set it.
    Seccomp,
    /// The kernel is built without user namespaces.
    Kernel,
    /// None of the known settings explains it.
    Unknown,
}

impl Restriction {
    /// The setting by name, as sysctl(8) writes it where it is one.
    pub fn setting(self) -> Option<&'static str> {
        match self {
            Restriction::AppArmor => Some("kernel.apparmor_restrict_unprivileged_userns"),
            Restriction::UnprivilegedClone => Some("kernel.unprivileged_userns_clone"),
            Restriction::MaxUserNamespaces(_) => Some("user.max_user_namespaces"),
            Restriction::Seccomp => Some("seccomp"),
            Restriction::Kernel => Some("CONFIG_USER_NS"),
            Restriction::Unknown => None,
        }
    }
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Restriction::AppArmor => f.write_str(
                "kernel.apparmor_restrict_unprivileged_userns is 1; give this program an AppArmor profile with the \
                 rule `userns,`, or as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            Restriction::UnprivilegedClone => f.write_str(
                "kernel.unprivileged_userns_clone is 0; as root: sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            Restriction::MaxUserNamespaces(0) => f.write_str(
                "user.max_user_namespaces is 0; as root: sysctl -w user.max_user_namespaces=10000",
            ),
            Restriction::MaxUserNamespaces(limit) => write!(
                f,
                "user.max_user_namespaces is {limit} and that many exist, or 32 are nested; to raise it, as root: sysctl \
                 -w user.max_user_namespaces=N"
            ),
            Restriction::Seccomp => f.write_str(
                "a seccomp filter is set, as container runtimes do; run the container with a seccomp profile that \
                 allows unshare and mount (for Docker: --security-opt seccomp=unconfined)",
            ),
            Restriction::Kernel => f.write_str("the kernel is built without user namespaces (CONFIG_USER_NS)"),
            Restriction::Unknown => {
                f.write_str("none of the known settings explains it; a chroot, a container or a security module may be the cause")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_setting() {
        for restriction in [
            Restriction::AppArmor,
            Restriction::UnprivilegedClone,
            Restriction::MaxUserNamespaces(0),
            Restriction::Seccomp,
        ] {
            let name = restriction.setting().unwrap();
            assert!(restriction.to_string().contains(name), "{restriction}");
        }
    }
}
