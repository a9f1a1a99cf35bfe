//! What the command asks of the operating system itself. Each function is there on every system; what one lacks says so.

use std::path::PathBuf;

use cfg_if::cfg_if;

cfg_if! {
    if #[cfg(unix)] {
        mod background;
        mod signals;
        pub(crate) use background::{
            Background, Starter, append_privately, is_at, make_private_folder, redirect_output,
        };
        pub(crate) use signals::{ExecSignals, Signals};
    } else {
        mod other;
        pub(crate) use other::{
            Background, ExecSignals, Signals, Starter, append_privately, as_caller, caller, drop_to_caller, is_at, is_root,
            make_private_folder, own_identity, redirect_output,
        };
    }
}

cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        #[path = "sys/ids_apple.rs"]
        mod ids;
    } else if #[cfg(unix)] {
        mod ids;
    }
}

cfg_if! {
    if #[cfg(all(target_os = "linux", target_env = "gnu"))] {
        mod memory;
        pub(crate) use memory::{give_memory_back, keep_memory};
    } else {
        /// Nothing to do: this system's allocator does it by itself.
        pub(crate) fn give_memory_back() {}

        /// Nothing to do, as above.
        pub(crate) fn keep_memory() {}
    }
}

#[cfg(unix)]
pub(crate) use ids::{as_caller, caller, drop_to_caller, is_root, own_identity};

/// The person behind the command: under sudo, whoever called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// An absolute path: `HOME=` and a relative one name no folder.
    pub(crate) home: Option<PathBuf>,
}

/// The folder in a variable. Empty and relative ones are ignored (XDG Base Directory Specification): they would mean another
/// folder wherever the command is run.
pub(crate) fn folder_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
}

impl Caller {
    /// Where what outlives a session is kept for this user.
    pub(crate) fn state_folder(&self) -> Option<PathBuf> {
        // Under sudo the variable is root's, if it is set at all.
        let own = folder_of("XDG_STATE_HOME").filter(|_| std::env::var_os("SUDO_UID").is_none());
        let folder = own.or_else(|| self.home.as_ref().map(|home| home.join(".local/state")))?;
        Some(folder.join("devbox"))
    }
}

/// Whether addresses of the prefix are this machine's own only once a helper has made them so.
pub(crate) fn must_be_opened(pool: &ipnet::IpNet) -> bool {
    // Linux and Windows have the whole of 127.0.0.0/8; lo0 of the others has 127.0.0.1.
    !cfg!(any(target_os = "linux", windows)) || !pool.addr().is_loopback()
}

/// Makes a file a program that everybody may run and only its owner may write.
pub(crate) fn make_program(path: &std::path::Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    #[cfg(not(unix))]
    std::fs::metadata(path)?;
    Ok(())
}

/// Whether launchd starts this system's services.
pub(crate) const HAS_LAUNCHD: bool = cfg!(target_os = "macos");
/// Whether systemd may.
pub(crate) const HAS_SYSTEMD: bool = cfg!(target_os = "linux");
/// Whether Windows' service control manager does.
pub(crate) const HAS_MANAGER: bool = cfg!(windows);
