//! What a link over QUIC, its streams and its task share.

use std::collections::VecDeque;
use std::future::Future as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, mpsc};

use super::Options;
use super::flow::{Inboxes, QuicFlow};
use super::stream::{QuicStream, Stopped};
use super::wire::{self, Kind, Violation};
use crate::link::{Command, link_lost};
use crate::{GoAwayReason, Refusal, RefusalKind, Target};

#[derive(Debug)]
pub(crate) struct Native {
    pub(super) connection: Connection,
    /// The client's, which this connection has to itself.
    pub(super) endpoint: Option<Endpoint>,
    /// After how long without a packet this end gives the connection up.
    pub(super) idle_timeout: Duration,
    opened: Mutex<Opened>,
    /// Streams of ours that are open, and how many may be.
    places: Arc<AtomicUsize>,
    max_streams: usize,
    /// Told when the first of these comes.
    pub(super) busy: Notify,
    /// Tells whoever waits to open one that it will not be opened.
    closing: Notify,
    lingering: Lingering,
    /// Of the flows of datagrams.
    pub(super) inboxes: Inboxes,
    /// Why this end broke the connection off.
    violation: Mutex<Option<Violation>>,
}

#[derive(Debug, Default)]
struct Opened {
    /// How many streams this end has opened.
    streams: u64,
    /// It opens no more: one of the two ends has said that it leaves.
    no_more: bool,
    /// The other end, which leaves, was told how many these were.
    told: bool,
}

/// One of the streams that this end may have open at once.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Native {
    pub(super) fn new(connection: Connection, endpoint: Option<Endpoint>, options: &Options) -> Native {
        Native {
            connection,
            endpoint,
            idle_timeout: options.idle_timeout,
            opened: Mutex::default(),
            places: Arc::default(),
            max_streams: usize::try_from(options.link.streams()).unwrap_or(usize::MAX),
            busy: Notify::new(),
            closing: Notify::new(),
            lingering: Lingering::default(),
            inboxes: Inboxes::default(),
            violation: Mutex::default(),
        }
    }

    /// Opens a stream of bytes to `target`. The request is on its way when this returns.
    pub(crate) async fn open_stream(
        self: &Arc<Self>,
        target: &Target,
        link: &mpsc::UnboundedSender<Command>,
    ) -> Result<QuicStream, Refusal> {
        self.open(Kind::Stream, target, link).await
    }

    /// Opens a flow of datagrams to `target`. The request is on its way when this returns.
    pub(crate) async fn open_flow(
        self: &Arc<Self>,
        target: &Target,
        link: &mpsc::UnboundedSender<Command>,
    ) -> Result<QuicFlow, Refusal> {
        if !self.are_datagrams_carried() {
            let message = "the other end of the link takes no datagrams over QUIC";
            return Err(Refusal::new(RefusalKind::Unsupported, message));
        }
        let stream = self.open(Kind::Flow, target, link).await?;
        Ok(QuicFlow::new(stream, Arc::clone(self)))
    }

    /// Whether the other end takes QUIC's datagrams, which it said in the handshake.
    pub(crate) fn are_datagrams_carried(&self) -> bool {
        self.connection.max_datagram_size().is_some()
    }

    async fn open(
        self: &Arc<Self>,
        kind: Kind,
        target: &Target,
        link: &mpsc::UnboundedSender<Command>,
    ) -> Result<QuicStream, Refusal> {
        let before = self.places.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.places));
        if before >= self.max_streams {
            let message = format!("{before} streams are open on this link");
            return Err(Refusal::new(RefusalKind::TooMany, message));
        }
        if before == 0 {
            self.busy.notify_one();
        }
        let streams = self.open_bi().await?;
        let request = wire::request(kind, target.as_str());
        let mut stream = QuicStream::opened(streams, Arc::clone(self), link.clone(), place, request);
        stream.request().await?;
        Ok(stream)
    }

    async fn open_bi(&self) -> Result<(SendStream, RecvStream), Refusal> {
        // Waits while the other end has not heard that streams have ended, is busy letting us in, or takes fewer than this end would open.
        let mut opening = pin!(self.connection.open_bi());
        let mut closing = pin!(self.closing.notified());
        std::future::poll_fn(|cx| {
            // Before it is asked for: whoever waits is woken.
            let _woken = closing.as_mut().poll(cx);
            let mut opened = self.opened();
            if opened.no_more {
                return Poll::Ready(Err(link_lost()));
            }
            let polled = opening.as_mut().poll(cx).map_err(|_| link_lost());
            if let Poll::Ready(Ok((send, _))) = &polled {
                opened.streams = opened.streams.max(send.id().index() + 1);
            }
            polled
        })
        .await
    }

    /// This end opens no more streams: it leaves.
    pub(super) fn open_no_more(&self) {
        self.opened().no_more = true;
        self.closing.notify_waiters();
    }

    /// The other end leaves: this one opens no more streams. How many it has opened, the first time.
    pub(super) fn hear_of_leaving(&self) -> Option<u64> {
        self.open_no_more();
        let mut opened = self.opened();
        let first = !std::mem::replace(&mut opened.told, true);
        first.then_some(opened.streams)
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether streams of ours are open.
    pub(super) fn is_busy(&self) -> bool {
        self.places.load(Ordering::Acquire) > 0
    }

    /// Keeps what tells that the other end has all of a finished stream.
    pub(super) fn linger(&self, stopped: Stopped) {
        self.lingering.push(stopped);
    }

    /// Waits until the other end has all that was finished.
    pub(super) async fn settle(&self) {
        while let Some(stopped) = self.lingering.pop() {
            // Whichever way it ended.
            drop(stopped.await);
        }
    }

    /// The other end broke the protocol: the link ends.
    pub(super) fn break_protocol(&self, violation: &Violation) {
        tracing::warn!(%violation, "the other end broke the tunnel's protocol");
        self.violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| violation.clone());
        self.connection.close(
            VarInt::from_u32(GoAwayReason::Protocol.code().into()),
            violation.0.as_bytes(),
        );
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Goes on from another socket, so that the other end hears from wherever this end is by now.
    pub(super) fn rebind(&self) {
        let Some(endpoint) = &self.endpoint else {
            tracing::trace!("only the client's end moves");
            return;
        };
        let peer = self.connection.remote_address();
        let rebound = super::socket::bind(unspecified(peer)).and_then(|socket| endpoint.rebind(socket));
        match rebound {
            Ok(()) => tracing::debug!(%peer, "the link moved to another socket"),
            Err(error) => tracing::debug!(%peer, %error, "the link stays on its socket"),
        }
    }

    /// How many packets have come.
    pub(super) fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// How many packets have been sent.
    pub(super) fn sent(&self) -> u64 {
        self.connection.stats().udp_tx.datagrams
    }

    /// Which address of this machine the system would send from. Asks the routing table and sends nothing.
    pub(super) fn source_address(&self) -> Option<IpAddr> {
        let peer = self.connection.remote_address();
        let socket = UdpSocket::bind(unspecified(peer)).ok()?;
        socket.connect(peer).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }
}

/// Any address of the family of `peer`, and any port.
pub(super) fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Streams that are over for their user, and of which the other end may not have everything.
#[derive(Default)]
struct Lingering(Mutex<VecDeque<Stopped>>);

impl Lingering {
    /// Looks after two others for each one that comes, so that those which are over do not pile up.
    fn push(&self, stopped: Stopped) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..2 {
            if let Some(mut first) = all.pop_front()
                && first.as_mut().poll(&mut cx).is_pending()
            {
                all.push_back(first);
            }
        }
        all.push_back(stopped);
    }

    fn pop(&self) -> Option<Stopped> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl std::fmt::Debug for Lingering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lingering(..)")
    }
}
