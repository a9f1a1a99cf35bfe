//! A pair of pipes, the helper's standard input and output, or the named pipe of an installed one. They carry bytes only, no descriptors.

mod pipe;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pipe::Half;

/// Starts the command with its ends of two new pipes. Ours are not inheritable.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Writer, Reader)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the helper has no pipes"));
    };
    Ok((
        child,
        Writer::File(Some(File::from(OwnedHandle::from(stdin)))),
        Reader::File(File::from(OwnedHandle::from(stdout))),
    ))
}

/// Nothing is passed on this system.
pub(crate) fn passed(_: TcpListener) -> io::Result<(Writer, Reader)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A named pipe that was opened for overlapped input and output. Nothing else is passed on this system.
pub type Descriptor = OwnedHandle;

/// A channel to the helper that listens there.
pub(crate) fn connect(pipe: &Path) -> io::Result<(Writer, Reader)> {
    of_descriptor(pipe::open(pipe)?)
}

/// A channel over such a pipe.
pub(crate) fn of_descriptor(pipe: Descriptor) -> io::Result<(Writer, Reader)> {
    let (writer, reader) = pipe::halves(pipe)?;
    Ok((Writer::Pipe(writer), Reader::Pipe(reader)))
}

/// Nothing comes over on this system.
pub(crate) fn descriptor(_: TcpListener) -> io::Result<Descriptor> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The helper's end.
pub(crate) fn inherited() -> io::Result<(Writer, Reader)> {
    let reader = io::stdin().as_handle().try_clone_to_owned()?;
    let writer = io::stdout().as_handle().try_clone_to_owned()?;
    Ok((
        Writer::File(Some(File::from(writer))),
        Reader::File(File::from(reader)),
    ))
}

/// Nothing comes over on this system.
pub(crate) fn datagrams(_: TcpListener) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The sending direction.
#[derive(Debug)]
pub(crate) enum Writer {
    File(Option<File>),
    Pipe(Half),
}

impl Writer {
    /// Writes at least one byte.
    pub(crate) fn write(&mut self, bytes: &[u8], listener: Option<&TcpListener>) -> io::Result<usize> {
        if listener.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match self {
            Self::File(Some(pipe)) => loop {
                match pipe.write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            },
            Self::File(None) => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Pipe(half) => half.write(bytes),
        }
    }

    /// The pipes of a child have no time limits.
    #[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if let Self::Pipe(half) = self {
            half.set_limit(timeout);
        }
        Ok(())
    }

    /// A named pipe has no end for one direction only.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::File(file) => *file = None,
            Self::Pipe(half) => half.close(),
        }
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) enum Reader {
    File(File),
    Pipe(Half),
}

impl Reader {
    /// Zero bytes at the end of the stream. A broken pipe counts as the end too: the other end is gone.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<TcpListener>)> {
        let file = match self {
            Self::File(file) => file,
            Self::Pipe(half) => return half.read(buffer).map(|count| (count, None)),
        };
        loop {
            match file.read(buffer) {
                Ok(count) => return Ok((count, None)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok((0, None)),
                Err(error) => return Err(error),
            }
        }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn close(self) {
        if let Self::Pipe(half) = self {
            half.close();
        }
    }

    /// The pipes of a child have no time limits.
    #[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if let Self::Pipe(half) = self {
            half.set_limit(timeout);
        }
        Ok(())
    }
}
