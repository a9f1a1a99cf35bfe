//! A pair of pipes: the helper's standard input and output. They carry bytes only, no descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::windows::io::{AsHandle, OwnedHandle, OwnedSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Starts the command with its ends of two new pipes. Ours are not inheritable.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Writer, Reader)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the helper has no pipes"));
    };
    Ok((
        child,
        Writer(Some(File::from(OwnedHandle::from(stdin)))),
        Reader(File::from(OwnedHandle::from(stdout))),
    ))
}

/// Nothing is passed on this system.
pub(crate) fn passed(_: TcpListener) -> io::Result<(Writer, Reader)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing is passed on this system; what a descriptor would be.
pub type Descriptor = OwnedSocket;

/// There is no installed helper on this system.
pub(crate) fn connect(_: &Path) -> io::Result<(Writer, Reader)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing is accepted on this system.
pub(crate) fn of_descriptor(_: Descriptor) -> io::Result<(Writer, Reader)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The helper's end.
pub(crate) fn inherited() -> io::Result<(Writer, Reader)> {
    let reader = io::stdin().as_handle().try_clone_to_owned()?;
    let writer = io::stdout().as_handle().try_clone_to_owned()?;
    Ok((Writer(Some(File::from(writer))), Reader(File::from(reader))))
}

/// Nothing comes over on this system.
pub(crate) fn datagrams(_: TcpListener) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The sending direction.
#[derive(Debug)]
pub(crate) struct Writer(Option<File>);

impl Writer {
    /// Writes at least one byte.
    pub(crate) fn write(&mut self, bytes: &[u8], listener: Option<&TcpListener>) -> io::Result<usize> {
        if listener.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match &mut self.0 {
            Some(pipe) => loop {
                match pipe.write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            },
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Pipes have no time limits.
    pub(crate) fn set_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn finish(&mut self) {
        self.0 = None;
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct Reader(File);

impl Reader {
    /// Zero bytes at the end of the stream. A broken pipe counts as the end too: the other end is gone.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<TcpListener>)> {
        loop {
            match self.0.read(buffer) {
                Ok(count) => return Ok((count, None)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok((0, None)),
                Err(error) => return Err(error),
            }
        }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn close(self) {}

    /// Pipes have no time limits.
    pub(crate) fn set_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}
