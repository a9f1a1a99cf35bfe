//! A Unix stream socket pair; the helper's end is its standard input. Descriptors travel as SCM_RIGHTS (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Starts the command with its end of a new channel. Our end is close-on-exec: no other child inherits it.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Writer, Reader)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    // The command holds its copy of the helper's end until it is given another, and with that copy the stream never ends.
    command.stdin(Stdio::null());
    let (writer, reader) = halves(ours)?;
    Ok((child, writer, reader))
}

/// A channel that a keeper passed.
pub(crate) fn passed(channel: TcpListener) -> io::Result<(Writer, Reader)> {
    halves(UnixStream::from(OwnedFd::from(channel)))
}

/// What is passed: any file, as a number.
pub type Descriptor = OwnedFd;

/// A channel to the helper that listens there.
pub(crate) fn connect(socket: &Path) -> io::Result<(Writer, Reader)> {
    halves(UnixStream::connect(socket)?)
}

/// A channel over a stream socket that was accepted.
pub(crate) fn of_descriptor(stream: Descriptor) -> io::Result<(Writer, Reader)> {
    halves(UnixStream::from(stream))
}

/// The helper's end.
pub(crate) fn inherited() -> io::Result<(Writer, Reader)> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    match rustix::net::sockopt::socket_type(&stdin) {
        Ok(rustix::net::SocketType::STREAM) => halves(UnixStream::from(stdin)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "standard input is not a stream socket",
        )),
    }
}

fn halves(stream: UnixStream) -> io::Result<(Writer, Reader)> {
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(&stream, true)?;
    let reader = stream.try_clone()?;
    Ok((Writer(stream), Reader(reader)))
}

/// What came over, as the descriptor that it is.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere nothing comes over")]
pub(crate) fn descriptor(passed: TcpListener) -> io::Result<Descriptor> {
    Ok(passed.into())
}

/// What came over as a descriptor, as the UDP socket that it is.
pub(crate) fn datagrams(passed: TcpListener) -> io::Result<UdpSocket> {
    Ok(UdpSocket::from(OwnedFd::from(passed)))
}

/// The sending direction.
#[derive(Debug)]
pub(crate) struct Writer(UnixStream);

impl Writer {
    /// Writes at least one byte, with the listener attached to the first. The system may take fewer bytes than given.
    pub(crate) fn write(&mut self, bytes: &[u8], listener: Option<&TcpListener>) -> io::Result<usize> {
        match listener {
            None => Ok(rustix::io::retry_on_intr(|| {
                rustix::net::send(&self.0, bytes, SEND_FLAGS)
            })?),
            Some(listener) => send_with_listener(&self.0, bytes, listener),
        }
    }

    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    pub(crate) fn finish(&mut self) {
        // Fails only when the other end is gone already, which is just as good.
        drop(self.0.shutdown(Shutdown::Write));
    }
}

fn send_with_listener(stream: &UnixStream, bytes: &[u8], listener: &TcpListener) -> io::Result<usize> {
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SEND_FLAGS)
    })?;
    Ok(sent)
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct Reader(UnixStream);

impl Reader {
    /// Zero bytes at the end of the stream. A reset counts as the end too: the other end is gone. Of several descriptors
    /// the first is returned; the others are closed, since no message carries more than one.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<TcpListener>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RECV_FLAGS)
        });
        let count = match received {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut passed = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    close_on_exec(&fd)?;
                    passed = passed.or(Some(fd));
                }
            }
        }
        Ok((count, passed.map(TcpListener::from)))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn close(self) {
        // Fails only when the other end is gone already, which is just as good.
        drop(self.0.shutdown(Shutdown::Both));
    }

    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::empty();
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;

#[cfg(target_vendor = "apple")]
const RECV_FLAGS: RecvFlags = RecvFlags::empty();
#[cfg(not(target_vendor = "apple"))]
const RECV_FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;

#[cfg(target_vendor = "apple")]
fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}
#[cfg(not(target_vendor = "apple"))]
fn close_on_exec(_: &OwnedFd) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
