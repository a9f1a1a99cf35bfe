//! What only a helper with several callers needs: its socket, a file that only root has written, users and groups, the log.

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
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
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

    /// The socket that systemd passes to the program that it starts (sd_listen_fds(3)).
    #[expect(unsafe_code, reason = "the descriptor is a number in the environment")]
    pub(crate) fn activated() -> io::Result<Self> {
        let is = |name: &str, wanted: &str| std::env::var_os(name).as_deref() == Some(OsStr::new(wanted));
        if !is("LISTEN_PID", &std::process::id().to_string()) || !is("LISTEN_FDS", "1") {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no socket was passed; without socket activation, name one with --socket",
            ));
        }
        // SAFETY: the variables say that this number is a descriptor which is ours from the start, and this is called once.
        let fd = unsafe { OwnedFd::from_raw_fd(FIRST_PASSED) };
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

/// A descriptor in the form in which descriptors are passed.
pub(crate) fn passable(descriptor: netif::TunHandle) -> Result<TcpListener, HelperError> {
    Ok(TcpListener::from(descriptor))
}

/// SD_LISTEN_FDS_START.
const FIRST_PASSED: RawFd = 3;
const MAX_POLICY_BYTES: u64 = 1 << 20;
/// Where syslogd listens.
#[cfg(target_vendor = "apple")]
pub(crate) const SYSLOG: &str = "/var/run/syslog";
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SYSLOG: &str = "/dev/log";
