//! Reads and writes of a connection. On Linux a read or write that moves less than it might is known to have emptied or filled the
//! socket, which saves the call that would only say so (epoll(7), on edge-triggered use).

use std::io;

use tokio::net::TcpStream;

/// Reads what is there; 0 at the end.
pub(crate) fn read_some(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    cfg_if::cfg_if! {
        if #[cfg(target_os = "linux")] {
            let asked = buffer.len();
            once(stream, tokio::io::Interest::READABLE, asked, || {
                retry(|| rustix::io::read(stream, &mut *buffer))
            })
        } else {
            stream.try_read(buffer)
        }
    }
}

/// Writes as much as the socket takes.
pub(crate) fn write_some(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    cfg_if::cfg_if! {
        if #[cfg(target_os = "linux")] {
            once(stream, tokio::io::Interest::WRITABLE, bytes.len(), || {
                // Not write(2): a program that is gone is an error, never a signal.
                retry(|| rustix::net::send(stream, bytes, rustix::net::SendFlags::NOSIGNAL))
            })
        } else {
            stream.try_write(bytes)
        }
    }
}

/// Resolves when the connection has failed, also while what has come on it is not read; it does not borrow the stream, and holds a
/// descriptor of its own instead. `None` where the system tells of failures only to whoever reads or writes.
#[cfg(feature = "tls")]
pub(crate) fn failure_of(stream: &TcpStream) -> Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> {
    cfg_if::cfg_if! {
        if #[cfg(unix)] {
            use std::os::fd::AsFd as _;

            let watched = stream.as_fd().try_clone_to_owned();
            match watched.and_then(|descriptor| TcpStream::from_std(descriptor.into())) {
                Ok(watched) => Some(Box::pin(async move {
                    drop(watched.ready(tokio::io::Interest::ERROR).await);
                })),
                Err(error) => {
                    tracing::debug!(%error, "a connection that is not read is not watched");
                    None
                }
            }
        } else {
            let _unwatched = stream;
            None
        }
    }
}

/// Runs `call`, and notes that the socket has no more for now when it moved some of what was asked and not all.
#[cfg(target_os = "linux")]
fn once(
    stream: &TcpStream,
    interest: tokio::io::Interest,
    asked: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut part = 0;
    let moved = stream.try_io(interest, || {
        let n = call()?;
        if n > 0 && n < asked {
            part = n;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    match moved {
        Err(error) if part > 0 && error.kind() == io::ErrorKind::WouldBlock => Ok(part),
        moved => moved,
    }
}

#[cfg(target_os = "linux")]
fn retry(call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(call)?)
}
