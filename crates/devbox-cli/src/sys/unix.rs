//! Unix: who the caller is, the control sockets, signals.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{
    Gid, Uid, User, getgrouplist, getgroups, getpgrp, setegid, seteuid, setgroups, setresgid, setresuid,
    tcgetpgrp,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Caller;

/// Whether this process runs as root now.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The calling user. Root without sudo is root.
pub(crate) fn caller() -> io::Result<Caller> {
    let sudo = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if is_root()
        && let (Some(uid), Some(gid)) = (sudo("SUDO_UID"), sudo("SUDO_GID"))
        && uid != 0
    {
        let user = User::from_uid(Uid::from_raw(uid))?;
        let groups = match &user {
            Some(user) => {
                let name = CString::new(user.name.as_str()).map_err(io::Error::other)?;
                getgrouplist(&name, Gid::from_raw(gid))?
                    .into_iter()
                    .map(Gid::as_raw)
                    .collect()
            }
            None => vec![gid],
        };
        return Ok(Caller {
            uid,
            gid,
            groups,
            home: user.map(|user| user.dir),
        });
    }
    Ok(Caller {
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
        home: std::env::var_os("HOME").map(PathBuf::from),
    })
}

/// Gives up root for good where sudo gave it: from here on this process is the caller's.
pub(crate) fn drop_to_caller(caller: &Caller) -> io::Result<()> {
    if !is_root() || caller.uid == 0 {
        return Ok(());
    }
    let groups: Vec<_> = caller.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    // Groups first: a process that is no longer root may not choose them (setgroups(2)).
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Does something with the caller's rights where sudo gave this process more, and takes its own again.
///
/// Only for a process without other threads: the ids are changed for the whole process (setresuid(2), C library/kernel
/// differences).
pub(crate) fn as_caller<T>(caller: &Caller, work: impl FnOnce() -> T) -> io::Result<T> {
    if !is_root() || caller.uid == 0 {
        return Ok(work());
    }
    let own: Vec<_> = getgroups()?;
    let groups: Vec<_> = caller.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups)?;
    setegid(Gid::from_raw(caller.gid))?;
    seteuid(Uid::from_raw(caller.uid))?;
    let done = work();
    seteuid(Uid::from_raw(0))?;
    setegid(Gid::from_raw(0))?;
    setgroups(&own)?;
    Ok(done)
}

/// Lifts the soft limit of open files to the hard one: each connection costs a descriptor.
pub(crate) fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Folders in which a user's control sockets may lie, the best first. Under sudo `XDG_RUNTIME_DIR` is gone, so that
/// the well-known places are looked at as well.
fn runtime_folders(uid: u32) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR") {
        folders.push(PathBuf::from(folder).join("devbox"));
    }
    folders.push(PathBuf::from(format!("/run/user/{uid}/devbox")));
    // Under sudo TMPDIR is gone as well.
    for folder in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        folders.push(folder.join(format!("devbox-{uid}")));
    }
    let mut seen = Vec::new();
    folders.retain(|folder| {
        folder.is_absolute() && !seen.contains(folder) && {
            seen.push(folder.clone());
            true
        }
    });
    folders
}

/// Whether nobody but this user can put anything there.
fn is_private(folder: &Path, uid: u32) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0)
}

/// The control sockets of this user's sessions, whether anybody still listens there or not.
pub(crate) fn control_sockets() -> Vec<PathBuf> {
    let uid = Uid::effective().as_raw();
    let private = runtime_folders(uid)
        .into_iter()
        .filter(|folder| is_private(folder, uid));
    let mut sockets: Vec<_> = private
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    sockets.sort();
    sockets
}

/// Connects to a control socket, if a session of this user listens there.
pub(crate) async fn connect_control(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let peer = stream.peer_cred()?.uid();
    if peer != Uid::effective().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {peer} listens there"),
        ));
    }
    Ok(stream)
}

/// Removes the control sockets of this user's sessions that were killed.
pub(crate) async fn remove_dead_control_sockets() {
    let uid = Uid::effective().as_raw();
    for folder in runtime_folders(uid)
        .iter()
        .filter(|folder| is_private(folder, uid))
    {
        let removed = async {
            let lock = FolderLock::take(folder).await?;
            remove_dead(folder).await?;
            lock.remove_if_empty(folder);
            io::Result::Ok(())
        };
        if let Err(error) = removed.await {
            tracing::debug!(folder = %folder.display(), %error, "dead sockets may stay");
        }
    }
}

/// Removes the sockets of a locked folder at which nobody listens. Whoever binds one does so under the lock, so that such a
/// one belongs to nobody.
async fn remove_dead(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let connected = UnixStream::connect(&path).await;
        if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The lock of a folder of control sockets: who holds it alone makes and removes them.
struct FolderLock(File);

impl FolderLock {
    /// Waits for it. The error says [`NotFound`](io::ErrorKind::NotFound) where the folder went meanwhile.
    async fn take(folder: &Path) -> io::Result<Self> {
        let file = File::open(folder)?;
        let deadline = Instant::now() + PATIENCE;
        while file.try_lock().is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} stays locked", folder.display()),
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
        // The one who held it before may have removed the folder, and somebody else made another.
        if fs::metadata(folder)?.ino() == file.metadata()?.ino() {
            Ok(Self(file))
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn remove_if_empty(self, folder: &Path) {
        // Other sessions may have theirs there.
        drop(fs::remove_dir(folder));
        drop(self.0);
    }
}

/// Longer than a session drains.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A control socket that this process listens on; gone when dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    uid: u32,
}

impl ControlListener {
    /// Listens as `name`, after whoever listens under that name was asked by `displace` to leave and did.
    ///
    /// The folder is locked meanwhile, so that of sessions that start at once one stays.
    pub(crate) async fn claim<F, D>(name: &str, displace: D) -> io::Result<Self>
    where
        D: Fn(UnixStream) -> F,
        F: Future<Output = io::Result<()>>,
    {
        let uid = Uid::effective().as_raw();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folder = Self::folder(uid)?;
            let lock = match FolderLock::take(&folder).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                    continue;
                }
                taken => taken?,
            };
            // One in another of the folders (started with another environment) is displaced as well.
            let mut others = control_sockets();
            others.retain(|path| path.file_stem().is_some_and(|stem| stem == name));
            for path in others {
                // Until nobody answers: one that was about to end may hang up in the middle.
                while let Ok(stream) = connect_control(&path).await {
                    if let Err(error) = displace(stream).await {
                        tracing::debug!(%error, "asked to leave");
                        tokio::time::sleep(PAUSE).await;
                    }
                    if Instant::now() > deadline {
                        let message = format!("the session at {} does not leave", path.display());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
            }
            remove_dead(&folder).await?;
            let path = folder.join(format!("{name}.sock"));
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&path)?.ino();
            drop(lock);
            return Ok(Self {
                listener,
                path,
                inode,
                uid,
            });
        }
    }

    fn folder(uid: u32) -> io::Result<PathBuf> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no folder for it");
        for folder in runtime_folders(uid) {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => last = error,
                _ if is_private(&folder, uid) => return Ok(folder),
                _ => {
                    last = io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        format!("{} is open to other users", folder.display()),
                    );
                }
            }
        }
        Err(last)
    }

    /// The next connection of this user; others are turned away.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == self.uid || peer == 0 {
                return Ok(stream);
            }
            tracing::warn!(uid = peer, "another user was turned away from the control socket");
        }
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        let Some(folder) = self.path.parent() else { return };
        let Ok(lock) = File::open(folder) else { return };
        // Whoever holds the lock waits for this session to end, and removes the socket then.
        if lock.try_lock().is_err() {
            return;
        }
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket stays");
        }
        FolderLock(lock).remove_if_empty(folder);
    }
}

/// The signals that end a session.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one, by name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// The signals that `exec` passes on to its command.
#[derive(Debug)]
pub(crate) struct ExecSignals {
    /// Those that `nohup` or a script's background job had us ignore are left out: they stay ignored, here and in the
    /// command.
    numbers: Vec<i32>,
    handled: Vec<(i32, Signal)>,
}

impl ExecSignals {
    /// To be called before any handler is installed.
    pub(crate) fn before_handlers() -> Self {
        use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
        let numbers = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];
        let heeded = numbers
            .into_iter()
            .filter(|number| !process_scope::signal_ignored(*number));
        Self {
            numbers: heeded.collect(),
            handled: Vec::new(),
        }
    }

    /// Installs the handlers. Needs the runtime.
    pub(crate) fn install(&mut self) -> io::Result<()> {
        for number in &self.numbers {
            self.handled
                .push((*number, signal(SignalKind::from_raw(*number))?));
        }
        Ok(())
    }

    /// The next signal to pass on. What the terminal sends (Ctrl-C, Ctrl-\, a hang-up) it sends to the command as well: that
    /// goes no further.
    pub(crate) async fn next(&mut self) -> i32 {
        loop {
            let number = std::future::poll_fn(|context| {
                let ready =
                    self.handled
                        .iter_mut()
                        .find_map(|(number, signal)| match signal.poll_recv(context) {
                            Poll::Ready(Some(())) => Some(*number),
                            Poll::Ready(None) | Poll::Pending => None,
                        });
                ready.map_or(Poll::Pending, Poll::Ready)
            });
            let number = number.await;
            let by_keyboard = matches!(number, nix::libc::SIGINT | nix::libc::SIGQUIT) && in_foreground();
            if !by_keyboard {
                return number;
            }
        }
    }
}

/// Whether this process is in the foreground process group of its terminal, to which the terminal sends its signals.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
}
