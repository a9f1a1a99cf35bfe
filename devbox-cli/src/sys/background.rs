//! Running on without the terminal.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use tokio::io::AsyncReadExt;

/// A copy of this program that is about to run in the background, as whoever started it sees it.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    channel: UnixStream,
}

impl Background {
    /// Starts this program with these arguments. It has this one's output until it is ready, and a channel to this one as
    /// its standard input.
    pub(crate) fn start(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let (channel, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(OwnedFd::from(theirs));
        let child = command.spawn()?;
        Ok(Self { child, channel })
    }

    /// Waits until it is ready (`None`) or has ended.
    pub(crate) fn wait(mut self) -> io::Result<Option<ExitStatus>> {
        // `Command` and its end of the channel are gone, so that the end of the other process is the end of the stream.
        match self.channel.read_exact(&mut [0]) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.child.wait().map(Some),
            Err(error) => Err(error),
        }
    }
}

/// Whoever started this process and waits until it is ready.
#[derive(Debug)]
pub(crate) struct Starter(UnixStream);

impl Starter {
    /// To be called first: leaves the terminal's session, so that neither its keys nor its end reach this process.
    pub(crate) fn take() -> io::Result<Self> {
        setsid()?;
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self(channel))
    }

    /// Resolves when it waits no more: it was interrupted.
    pub(crate) async fn gone(&self) -> io::Result<()> {
        let channel = self.0.try_clone()?;
        channel.set_nonblocking(true)?;
        let mut channel = tokio::net::UnixStream::from_std(channel)?;
        channel.read(&mut [0]).await.map(drop)
    }

    /// Has it end with success.
    pub(crate) fn ready(&self) -> io::Result<()> {
        (&self.0).write_all(&[0])
    }
}

/// Standard output and standard error of this process are this file from here on.
pub(crate) fn redirect_output(file: &File) -> io::Result<()> {
    dup2_stdout(file)?;
    dup2_stderr(file)?;
    Ok(())
}

/// Opens a file to append to, or makes one that its owner alone may read.
pub(crate) fn append_privately(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Makes a folder that its owner alone may enter, and those above it.
pub(crate) fn make_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Whether the open file is the one at this path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(found)) => id(open) == id(found),
        _ => false,
    }
}
