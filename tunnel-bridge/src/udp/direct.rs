//! Direct UDP: how the far side of a tunnel reaches targets, and how a session without a tunnel does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::{ToSocketAddrs, UdpSocket, lookup_host};
use tunnel_proto::MAX_DATAGRAM_BYTES;

use crate::direct::{DIAL_TIMEOUT, kind_of};
use crate::stream::Broken;
use crate::{ByteStream, DatagramFlow, Dialer, Refusal, RefusalKind, ResetReason, Target};

thread_local! {
    /// Where datagrams are received, to be copied from in their true size: a buffer of each flow's own would be 64 KiB.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM_BYTES + 1]);
}

/// Makes a flow to an address (`host:port` or a socket address), from a source port of its own that it keeps until it ends.
///
/// UDP has no handshake: that nobody listens shows only when a datagram was sent, where the target's system says so (ICMP). A flow
/// whose name has several addresses takes the next one then, until one has answered.
///
/// # Errors
/// As [`direct::connect`](crate::direct::connect); `timeout` is for resolving.
///
/// # Cancel safety
/// Dropping the future abandons the flow.
pub async fn connect<A>(address: A, timeout: Duration) -> Result<DirectFlow, Refusal>
where
    A: ToSocketAddrs + std::fmt::Display,
{
    let refusal = |error: &io::Error| Refusal::new(kind_of(error), format!("{address}: {error}"));
    let found = match tokio::time::timeout(timeout, lookup_host(&address)).await {
        Ok(found) => found.map_err(|error| refusal(&error))?.collect::<Vec<_>>(),
        Err(_) => {
            let message = format!("could not resolve {address} within {} s", timeout.as_secs_f32());
            return Err(Refusal::new(RefusalKind::TimedOut, message));
        }
    };
    DirectFlow::to_any(found).map_err(|error| refusal(&error))
}

/// A [`Dialer`] that takes the target's text as `host:port` and carries datagrams to it; it refuses streams.
///
/// It reaches whatever it is asked for. Where targets come from another machine, check them first.
///
/// ```
/// use std::future::poll_fn;
/// use tunnel_bridge::udp::UdpDialer;
/// use tunnel_bridge::{Dialer as _, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// let target = Target::new(&server.local_addr()?.to_string())?;
/// let mut flow = UdpDialer::default().dial_datagrams(&target).await?;
/// poll_fn(|cx| flow.poll_send(cx, &"who?".into())).await?;
/// let mut question = [0; 16];
/// let (len, source) = server.recv_from(&mut question).await?;
/// server.send_to(&question[..len], source).await?;
/// assert_eq!(poll_fn(|cx| flow.poll_receive(cx)).await?.as_deref(), Some(&b"who?"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct UdpDialer {
    timeout: Duration,
}

impl UdpDialer {
    /// A dialer whose names must resolve within `timeout`.
    #[must_use]
    pub const fn new(timeout: Duration) -> UdpDialer {
        UdpDialer { timeout }
    }
}

impl Default for UdpDialer {
    /// With [`DIAL_TIMEOUT`].
    fn default() -> UdpDialer {
        UdpDialer::new(DIAL_TIMEOUT)
    }
}

#[async_trait]
impl Dialer for UdpDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let message = format!("{target}: only datagrams are carried here");
        Err(Refusal::new(RefusalKind::Unsupported, message))
    }

    async fn dial_datagrams(&self, target: &Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        Ok(Box::new(connect(target.as_str(), self.timeout).await?))
    }

    fn carries_datagrams(&self) -> bool {
        true
    }
}

/// A UDP socket with one target. What the socket's queue in the kernel does not take is dropped and counted.
pub struct DirectFlow {
    socket: Arc<UdpSocket>,
    /// Resolves when the socket has an error to tell: that wakes nobody who waits for a datagram.
    failing: BoxFuture<'static, io::Result<Ready>>,
    /// Addresses that were not tried, and what was sent last, until the target has answered.
    others: VecDeque<SocketAddr>,
    unanswered: Option<Bytes>,
    dropped: u64,
}

impl DirectFlow {
    /// A flow to one of several addresses: to the first, until its system says that nobody listens there.
    ///
    /// # Errors
    /// What the system says of the last address; [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) where there is none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn to_any(addresses: impl IntoIterator<Item = SocketAddr>) -> io::Result<DirectFlow> {
        let mut others = addresses.into_iter().collect();
        let socket = next_socket(&mut others)?;
        Ok(DirectFlow {
            failing: failing(&socket),
            socket,
            others,
            unanswered: None,
            dropped: 0,
        })
    }

    /// Where its datagrams come from, as the target sees it.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The target's system says that nobody listens there: takes the next address, if there is one.
    fn handle_refused(&mut self, error: &io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::ConnectionRefused || error.kind() == io::ErrorKind::ConnectionReset
        {
            let Some(datagram) = self.unanswered.clone().filter(|_| !self.others.is_empty()) else {
                return Err(Broken::Reset(ResetReason::SocketReset).to_error());
            };
            self.socket = next_socket(&mut self.others)?;
            self.failing = failing(&self.socket);
            if SockRef::from(&*self.socket).send(&datagram).is_err() {
                self.dropped += 1;
            }
        }
        // Of others, as that a datagram is too long for the way, the flow does not end: its user sees nothing arrive.
        Ok(())
    }
}

impl fmt::Debug for DirectFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("DirectFlow");
        shown.field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn failing(socket: &Arc<UdpSocket>) -> BoxFuture<'static, io::Result<Ready>> {
    let socket = Arc::clone(socket);
    Box::pin(async move { socket.ready(Interest::ERROR).await })
}

/// A socket to the first address that takes one.
fn next_socket(addresses: &mut VecDeque<SocketAddr>) -> io::Result<Arc<UdpSocket>> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    while let Some(address) = addresses.pop_front() {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        match socket {
            Ok(socket) => return Ok(Arc::new(socket)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl DatagramFlow for DirectFlow {
    fn poll_send(&mut self, _cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>> {
        if !self.others.is_empty() {
            self.unanswered = Some(datagram.clone());
        }
        // Past the runtime, which takes a new socket for full: whether it is, the system says, and nobody waits for it.
        Poll::Ready(match SockRef::from(&*self.socket).send(datagram) {
            Ok(_) => Ok(()),
            Err(error) => {
                // The error may be that of an earlier one, in whose place this one was not sent (udp(7)).
                self.dropped += 1;
                self.handle_refused(&error)
            }
        })
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if self.socket.poll_recv_ready(cx)?.is_pending() {
                let _error = ready!(self.failing.as_mut().poll(cx))?;
                let told = self.socket.try_io(Interest::ERROR, || {
                    let error = SockRef::from(&*self.socket).take_error()?;
                    // None left: it is waited for again.
                    Err::<(), _>(error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
                });
                self.failing = failing(&self.socket);
                if let Err(error) = told {
                    self.handle_refused(&error)?;
                }
                continue;
            }
            let received = SCRATCH.with_borrow_mut(|buffer| -> io::Result<Bytes> {
                let len = self.socket.try_recv(buffer)?;
                Ok(Bytes::copy_from_slice(&buffer[..len]))
            });
            match received {
                Ok(datagram) => {
                    self.others = VecDeque::new();
                    self.unanswered = None;
                    return Poll::Ready(Ok(Some(datagram)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.handle_refused(&error)?,
            }
        }
    }

    fn max_datagram(&self) -> usize {
        MAX_DATAGRAM_BYTES
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
