//! The private files and the mounts that put them over the system's, all within a mount namespace of our own.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};

use super::child::failed;
use crate::render_nsswitch;
use crate::wire::{Failure, Step};

/// A file of the system's, and what is to be seen in its place.
pub(super) struct Replaced {
    /// Where it really is: no part of it a symbolic link.
    pub(super) path: PathBuf,
    pub(super) content: Vec<u8>,
    /// Permission bits of the private file.
    pub(super) mode: u32,
}

/// Makes all mounts. Returns the private hosts file, open for writing: through this descriptor alone, since the mount that
/// the command sees is read-only.
pub(super) fn make(hosts: &[u8], others: &[Replaced]) -> Result<File, Failure> {
    keep_inside()?;
    let hosts = Replaced {
        path: real_hosts()?,
        content: hosts.to_vec(),
        mode: 0o644,
    };
    let nsswitch = private_nsswitch();
    let nscd = nscd_folders();
    let all: Vec<&Replaced> = [&hosts].into_iter().chain(&nsswitch).chain(others).collect();
    let targets = all
        .iter()
        .map(|file| Target::open(&file.path))
        .collect::<Result<Vec<_>, Failure>>()?;

    // A tmpfs needs some folder to be mounted on; this one surely exists. The targets are open already, so that none of
    // them is hidden by it, and nobody else is in this namespace to miss what lies beneath.
    let options = Some(c"mode=0755");
    mount("tmpfs", STAGE, "tmpfs", FLAGS, options).map_err(failed(Step::Tmpfs, STAGE))?;
    let mut written = Vec::new();
    for (number, (file, target)) in all.iter().zip(&targets).enumerate() {
        let source = Path::new(STAGE).join(number.to_string());
        written.push(write(&source, file)?);
        mount_bind(&source, target.name.as_path()).map_err(failed(Step::Bind, &file.path))?;
    }
    // The mounted files and the open descriptors keep the file system alive; no path leads to it any more.
    unmount(STAGE, UnmountFlags::DETACH).map_err(failed(Step::Detach, STAGE))?;
    for file in &all {
        // A bind mount takes flags of its own only when it is mounted again (mount(2), MS_REMOUNT|MS_BIND).
        let flags = FLAGS | MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&file.path, flags, NO_DATA).map_err(failed(Step::ReadOnly, &file.path))?;
    }
    for folder in nscd {
        let flags = FLAGS | MountFlags::RDONLY;
        mount("tmpfs", &folder, "tmpfs", flags, options).map_err(failed(Step::Mask, &folder))?;
    }
    Ok(written.swap_remove(0))
}

const HOSTS: &str = "/etc/hosts";
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// nscd(8): where the C library asks before it reads any file. The first is glibc's own name for it.
const NSCD: [&str; 2] = ["/var/run/nscd", "/run/nscd"];
const STAGE: &str = "/etc";
const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const NO_DATA: &CStr = c"";

/// From here on no mount that is made in this namespace is seen outside. Mounts and unmounts made outside still arrive here
/// (a slave receives and does not send, mount_namespaces(7)): a disk plugged in later is there for the command, and
/// one taken away is not held busy by it.
fn keep_inside() -> Result<(), Failure> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(failed(Step::Propagation, "/"))
}

fn real_hosts() -> Result<PathBuf, Failure> {
    fs::canonicalize(HOSTS).map_err(|error| {
        let step = if error.kind() == io::ErrorKind::NotFound {
            Step::NoHosts
        } else {
            Step::OpenHosts
        };
        failed(step, HOSTS)(error)
    })
}

/// The `nsswitch.conf` to be seen, if it is another than the system's. None where there is none (musl), or
/// where it cannot be read: then the C library cannot either.
fn private_nsswitch() -> Option<Replaced> {
    let path = fs::canonicalize(NSSWITCH).ok()?;
    let content = render_nsswitch(&fs::read(&path).ok()?)?;
    Some(Replaced {
        path,
        content,
        mode: 0o644,
    })
}

/// The folders in which an nscd listens.
fn nscd_folders() -> Vec<PathBuf> {
    let listening = NSCD
        .iter()
        .filter(|folder| Path::new(folder).join("socket").exists());
    let mut folders: Vec<PathBuf> = listening
        .filter_map(|folder| fs::canonicalize(folder).ok())
        .collect();
    folders.dedup();
    folders
}

/// What is mounted over, held open, and a name for it that stays true whatever hides its path.
struct Target {
    name: PathBuf,
    _held: OwnedFd,
}

impl Target {
    fn open(path: &Path) -> Result<Target, Failure> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(Step::OpenHosts, path))?;
        Ok(Target {
            name: PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())),
            _held: held,
        })
    }
}

fn write(path: &Path, file: &Replaced) -> Result<File, Failure> {
    let write = || {
        let mut private = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        private.write_all(&file.content)?;
        // Whatever the caller's umask says.
        private.set_permissions(Permissions::from_mode(file.mode))?;
        Ok::<_, io::Error>(private)
    };
    write().map_err(failed(Step::Write, &file.path))
}
