//! The control sockets: one for each session of a user, in folders of the user's own.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};

use super::may_make_files;

/// A connection to a session.
pub(crate) type ControlStream = UnixStream;

/// What a control socket is for. Each kind has folders of its own: whoever waits in one for a session to leave keeps nobody waiting
/// in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The user's one session for an environment, which a newer one displaces.
    Claimed,
    /// A session that commands share.
    Shared,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Claimed => "devbox",
            Kind::Shared => "devbox-exec",
        }
    }
}

/// Folders in which a user's control sockets may lie, the preferred one first. Under sudo `XDG_RUNTIME_DIR` is unset, so
/// the well-known places are searched too.
fn runtime_folders(kind: Kind, uid: u32) -> Vec<PathBuf> {
    let name = kind.folder();
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR") {
        folders.push(PathBuf::from(folder).join(name));
    }
    folders.push(PathBuf::from(format!("/run/user/{uid}/{name}")));
    // Under sudo TMPDIR is unset too.
    for folder in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        folders.push(folder.join(format!("{name}-{uid}")));
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
    sockets(Kind::Claimed)
}

fn sockets(kind: Kind) -> Vec<PathBuf> {
    let uid = Uid::effective().as_raw();
    let private = runtime_folders(kind, uid)
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
    let kinds = [Kind::Claimed, Kind::Shared];
    let folders = kinds.into_iter().flat_map(|kind| runtime_folders(kind, uid));
    for folder in &folders
        .filter(|folder| is_private(folder, uid))
        .collect::<Vec<_>>()
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

/// Removes the sockets of a locked folder on which nobody listens. Sockets are bound under the lock only, so such a one is
/// left over.
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

/// The lock of a folder of control sockets: only its holder makes or removes them.
struct FolderLock(File);

impl FolderLock {
    /// Waits for the lock. [`NotFound`](io::ErrorKind::NotFound) means that the folder was removed meanwhile.
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
        // The previous holder may have removed the folder, and somebody else made it again.
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
const PAUSE: Duration = Duration::from_millis(5);
/// How long the end of a shared session waits for the lock, which others hold for the moment of a connect.
const CLOSING: Duration = Duration::from_millis(500);

/// A control socket that this process listens on; gone when dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    uid: u32,
    kind: Kind,
}

/// Whose a shared socket is.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Nobody had it.
    Ours(ControlListener),
    /// A connection to whoever has it.
    Theirs(UnixStream),
}

impl ControlListener {
    /// Listens as `name`, unless somebody does: then it is a connection to them.
    pub(crate) async fn take(name: &str) -> io::Result<Taken> {
        if let Some(theirs) = Self::taken(name).await {
            return Ok(Taken::Theirs(theirs));
        }
        loop {
            let folder = Self::folder(Kind::Shared, Uid::effective().as_raw())?;
            let lock = match FolderLock::take(&folder).await {
                // The last of those that were there has left.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                taken => taken?,
            };
            if let Some(theirs) = Self::taken(name).await {
                return Ok(Taken::Theirs(theirs));
            }
            remove_dead(&folder).await?;
            let ours = Self::bind(Kind::Shared, &folder, name)?;
            drop(lock);
            return Ok(Taken::Ours(ours));
        }
    }

    async fn taken(name: &str) -> Option<UnixStream> {
        for path in sockets(Kind::Shared) {
            if path.file_stem().is_some_and(|stem| stem == name)
                && let Ok(stream) = connect_control(&path).await
            {
                return Some(stream);
            }
        }
        None
    }

    /// Listens as `name`, once nobody else does: `displace` asks the session behind a socket to leave and waits for it;
    /// it returns `false` when nobody listens there.
    ///
    /// The folder is locked meanwhile, so that of several sessions that start at once exactly one stays.
    pub(crate) async fn claim<F, D>(name: &str, displace: D) -> io::Result<Self>
    where
        D: Fn(PathBuf) -> F,
        F: Future<Output = io::Result<bool>>,
    {
        let uid = Uid::effective().as_raw();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folder = Self::folder(Kind::Claimed, uid)?;
            let lock = match FolderLock::take(&folder).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                    continue;
                }
                taken => taken?,
            };
            // A session started with another XDG_RUNTIME_DIR has its socket in another of the folders.
            let mut others = control_sockets();
            others.retain(|path| path.file_stem().is_some_and(|stem| stem == name));
            for path in others {
                // Until nobody answers: one that was about to end may hang up halfway.
                loop {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match tokio::time::timeout(left, displace(path.clone())).await {
                        Ok(Ok(false)) => break,
                        Ok(Ok(true)) | Err(_) => {}
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "asked to leave");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                    if Instant::now() > deadline {
                        let message = format!("the session at {} does not leave", path.display());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
            }
            remove_dead(&folder).await?;
            let ours = Self::bind(Kind::Claimed, &folder, name)?;
            drop(lock);
            return Ok(ours);
        }
    }

    /// Under the folder's lock.
    fn bind(kind: Kind, folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&path)?.ino();
        Ok(Self {
            listener,
            path,
            inode,
            uid: Uid::effective().as_raw(),
            kind,
        })
    }

    /// The first folder in which a socket can be made; else why the preferred one will not do.
    fn folder(kind: Kind, uid: u32) -> io::Result<PathBuf> {
        let mut first = None;
        for folder in runtime_folders(kind, uid) {
            let refusal = match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => error.to_string(),
                _ if !is_private(&folder, uid) => "it is not a folder of this user alone".to_owned(),
                _ if !may_make_files(&folder) => "it cannot be written to".to_owned(),
                _ => return Ok(folder),
            };
            first.get_or_insert_with(|| format!("{}: {refusal}", folder.display()));
        }
        let reason = first.unwrap_or_else(|| "there is no folder for it".to_owned());
        Err(io::Error::other(reason))
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
        let deadline = Instant::now() + CLOSING;
        while lock.try_lock().is_err() {
            // The holder of the lock is waiting for this session to end, and removes the socket itself.
            if self.kind == Kind::Claimed || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket stays");
        }
        FolderLock(lock).remove_if_empty(folder);
    }
}
