//! What only a helper with several callers needs: its socket, a file that only root has written, users and groups, the log.

#[cfg(not(target_os = "macos"))]
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use devbox_helper_client::{Descriptor, HelperError};
use nix::unistd::{Group, User};
use rustix::fs::{CWD, Mode, OFlags};

/// Where callers connect.
#[derive(Debug)]
pub(crate) struct Listener(UnixListener);

impl Listener {
    /// A socket at this path. Everybody may connect: who may ask is for the policy to say. One that a process left which has
    /// ended is replaced, any other file is not.
    pub(crate) fn at(path: &Path, _admitted: &[String]) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self(listener))
    }

    /// The socket that systemd or launchd has made, and passes to the program that it starts.
    #[expect(unsafe_code, reason = "the descriptor is told as a number")]
    pub(crate) fn activated(_admitted: &[String]) -> io::Result<Self> {
        let number = passed_socket()?;
        // SAFETY: whoever has started this program says that this number is a descriptor which is ours, and this is called once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(false)?;
        // A socket of another kind has no such address.
        listener.local_addr()?;
        Ok(Self(listener))
    }

    pub(crate) fn accept(&self) -> io::Result<Descriptor> {
        self.0.accept().map(|(stream, _)| stream.into())
    }
}

/// Socket activation of systemd, sd_listen_fds(3).
#[cfg(not(target_os = "macos"))]
fn passed_socket() -> io::Result<RawFd> {
    let is = |name: &str, wanted: &str| std::env::var_os(name).as_deref() == Some(OsStr::new(wanted));
    if !is("LISTEN_PID", &std::process::id().to_string()) || !is("LISTEN_FDS", "1") {
        return Err(no_socket());
    }
    Ok(FIRST_PASSED)
}

/// Socket activation of launchd, by the name in the property list (launch_activate_socket(3)).
#[cfg(target_os = "macos")]
fn passed_socket() -> io::Result<RawFd> {
    let passed = raunch::activate_socket("Listeners").map_err(|error| match error {
        raunch::Error::NotManaged | raunch::Error::NotInPlist => no_socket(),
        error => io::Error::other(error),
    })?;
    passed.first().copied().ok_or_else(no_socket)
}

fn no_socket() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "no socket was passed; without socket activation, name one with --socket",
    )
}

/// The content of a file that nobody but root, or the user of this process, can have written.
pub(crate) fn read_trusted(path: &Path) -> io::Result<String> {
    let untrusted = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let mut file = File::from(file);
    let own = rustix::process::geteuid().as_raw();
    let folder = path.parent().map(fs::metadata).transpose()?;
    for (what, found) in [("it", Some(file.metadata()?)), ("its folder", folder)] {
        let Some(found) = found else { continue };
        if found.uid() != 0 && found.uid() != own {
            return untrusted(&format!("{what} belongs to user {}, not to root", found.uid()));
        }
        // In a folder with the sticky bit others cannot replace what is not theirs.
        if found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0 {
            return untrusted(&format!("others can write {what}: chmod go-w"));
        }
    }
    if !file.metadata()?.is_file() {
        return untrusted("it is no file");
    }
    let mut text = String::new();
    file.by_ref().take(MAX_POLICY_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn uid_of(name: &str) -> Option<u32> {
    Some(User::from_name(name).ok()??.uid.as_raw())
}

pub(crate) fn gid_of(name: &str) -> Option<u32> {
    Some(Group::from_name(name).ok()??.gid.as_raw())
}

/// Whether somebody took the datagram. It never waits.
pub(crate) fn send_datagram(socket: &Path, bytes: &[u8]) -> bool {
    let sent = UnixDatagram::unbound().and_then(|log| {
        log.set_nonblocking(true)?;
        log.send_to(bytes, socket)
    });
    sent.is_ok()
}

/// The log is a datagram socket here.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn log(_: &str, _: bool) -> bool {
    false
}

/// The unified log takes what syslog(3) is told, under the program's name; a message at `LOG_INFO` would be kept in memory only. The
/// crates for os_log(3) itself need Apple's C headers, or Swift, where they are built.
#[cfg(target_vendor = "apple")]
pub(crate) fn log(text: &str, is_refusal: bool) -> bool {
    use nix::syslog::{Facility, Priority, Severity, syslog};

    let severity = if is_refusal {
        Severity::LOG_WARNING
    } else {
        Severity::LOG_NOTICE
    };
    syslog(Priority::new(severity, Facility::LOG_AUTH), text).is_ok()
}

/// A user, for the log.
pub(crate) fn user_text(uid: u32) -> String {
    uid.to_string()
}

/// The user of this process, as a policy names them.
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn own_account() -> io::Result<String> {
    Ok(rustix::process::getuid().as_raw().to_string())
}

/// A descriptor in the form in which descriptors are passed.
pub(crate) fn passable(descriptor: netif::TunHandle) -> Result<TcpListener, HelperError> {
    Ok(TcpListener::from(descriptor))
}

/// Whether the socket itself is open to those alone whom the policy names.
pub(crate) const LETS_IN_BY_NAME: bool = false;
/// Whether a number in a policy names a user.
pub(crate) const USERS_ARE_NUMBERS: bool = true;
pub(crate) const POLICY_FILE: &str = "/etc/devbox/policy.toml";
pub(crate) const STATE_DIR: &str = "/var/lib/devbox";
/// SD_LISTEN_FDS_START.
#[cfg(not(target_os = "macos"))]
const FIRST_PASSED: RawFd = 3;
const MAX_POLICY_BYTES: u64 = 1 << 20;
/// Where syslogd listens.
#[cfg(target_vendor = "apple")]
pub(crate) const SYSLOG: &str = "/var/run/syslog";
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SYSLOG: &str = "/dev/log";
