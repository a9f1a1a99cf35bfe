//! The two ends of a tunnel, as their owners hold them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, watch};
use tunnel_proto::{Config, Role, StreamId};

use crate::carrier::{Carrier, CarrierEnd};
use crate::driver;
use crate::mux::{self, Flow, Unanswered, Unsent};
#[cfg(feature = "quic")]
use crate::quic::Native;
use crate::resume::{self, LinkStatus, Redial};
use crate::udp::{self, IncomingFlow};
use crate::{
    ByteStream, DatagramFlow, Dialer, GoAwayReason, MuxStream, Refusal, RefusalKind, ResetReason, Target,
};

/// What handles and streams ask of the driver. The channel has no bound of its own: data in it is bounded by each
/// stream's allowance, opens by the limit on streams, the rest by both.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        target: Target,
        flow: Arc<Flow>,
    },
    Accept {
        id: StreamId,
    },
    Refuse {
        id: StreamId,
        refusal: Refusal,
    },
    Data {
        flow: Arc<Flow>,
        bytes: Bytes,
    },
    Finish {
        flow: Arc<Flow>,
    },
    Reset {
        flow: Arc<Flow>,
        reason: ResetReason,
    },
    Consumed {
        flow: Arc<Flow>,
        bytes: u32,
    },
    Drain {
        message: String,
        successor: Option<String>,
    },
    Check,
    Close {
        reason: GoAwayReason,
        message: String,
    },
    /// Of a flow of datagrams.
    Flow(udp::Request),
}

/// An ACCEPT goes with what the target answers, where it does so at once, and the end of a connection with the next one's beginning, where that
/// begins at once.
const COALESCE_DELAY: Duration = Duration::from_millis(1);

/// How many requests may be unanswered while the next one is sent at once, to whichever target.
#[derive(Debug, Default)]
pub(crate) struct SurelySent(AtomicUsize);

impl SurelySent {
    /// Half of what `tunnel-proto` leaves unanswered of one target.
    const MOST: usize = 16;

    /// At most `limit` requests may be unanswered, and of one target no more than there are places left. Until this is
    /// known, none is sent.
    pub(crate) fn set_limit(&self, limit: u32) {
        let half = usize::try_from(limit.div_ceil(2)).unwrap_or(usize::MAX);
        self.0.store(half.min(Self::MOST), Ordering::Release);
    }
}

/// The limits of one end of a link.
///
/// ```
/// use tunnel_bridge::{Link, LinkOptions, RefusalKind, Role, StreamCarrier, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = LinkOptions::default();
/// options.max_streams = 1;
/// let (near, _far) = tokio::io::duplex(64 * 1024);
/// let link = Link::over_with(StreamCarrier::new(near), Role::Client, &options);
/// let target = Target::new("echo")?;
/// let _first = link.open(&target).await?;
/// let refused = link.open(&target).await?.accepted().await;
/// assert_eq!(refused.map_err(|refusal| refusal.kind), Err(RefusalKind::TooMany));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkOptions {
    /// Streams that may be open at once, both ends' together; the smaller of the two ends' limits counts. What exceeds it is refused with
    /// [`RefusalKind::TooMany`]. Default 16,448: as many as a [`ConnectionLimit`](crate::listener::ConnectionLimit) has places, and 64 that
    /// carry no connection. From 1 to 1,048,576; what is outside counts as the nearest of these.
    pub max_streams: u32,
}

impl Default for LinkOptions {
    fn default() -> LinkOptions {
        LinkOptions {
            max_streams: Config::default().max_streams,
        }
    }
}

impl LinkOptions {
    /// [`LinkOptions::max_streams`], within its bounds.
    pub(crate) fn streams(&self) -> u32 {
        self.max_streams.clamp(1, 1 << 20)
    }

    /// The protocol's limits, with these in place of its own.
    pub(crate) fn apply(&self, mut config: Config) -> Config {
        config.max_streams = self.streams();
        config.max_pending_opens = config.max_pending_opens.min(config.max_streams);
        config.coalesce_delay = COALESCE_DELAY;
        config
    }
}

/// One end of a tunnel that is up. Cloning is cheap; all clones are the same link.
///
/// One task drives the link for as long as there is a `Link` or a stream of it. Either end may open streams; the
/// other one takes them with [`Link::accept`].
#[derive(Debug, Clone)]
pub struct Link {
    commands: mpsc::UnboundedSender<Command>,
    incoming: Arc<Mutex<mpsc::Receiver<Incoming>>>,
    shared: Arc<Shared>,
    /// A link over QUIC, whose streams are QUIC's own.
    #[cfg(feature = "quic")]
    native: Option<Arc<Native>>,
}

/// What all handles of a link have of its driver, and what does not keep the link alive.
#[derive(Debug)]
struct Shared {
    unsent: Arc<Unsent>,
    leaving: watch::Receiver<Option<Leaving>>,
    drained: watch::Receiver<bool>,
    end: watch::Receiver<Option<LinkEnd>>,
    status: watch::Receiver<LinkStatus>,
    /// Why the last attempt at another connection failed.
    trouble: watch::Receiver<Option<Arc<str>>>,
    /// How many of this end's requests the other end has not answered.
    unanswered: Arc<AtomicUsize>,
    surely_sent: Arc<SurelySent>,
    flows: udp::LinkFlows,
}

impl Link {
    #[expect(
        clippy::too_many_arguments,
        reason = "what the driver shares with the handles, each once"
    )]
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        unsent: Arc<Unsent>,
        incoming: mpsc::Receiver<Incoming>,
        leaving: watch::Receiver<Option<Leaving>>,
        drained: watch::Receiver<bool>,
        end: watch::Receiver<Option<LinkEnd>>,
        status: watch::Receiver<LinkStatus>,
        surely_sent: Arc<SurelySent>,
        flows: udp::LinkFlows,
    ) -> Link {
        let shared = Shared {
            unsent,
            leaving,
            drained,
            end,
            status,
            trouble: watch::channel(None).1,
            unanswered: Arc::default(),
            surely_sent,
            flows,
        };
        Link {
            commands,
            incoming: Arc::new(Mutex::new(incoming)),
            shared: Arc::new(shared),
            #[cfg(feature = "quic")]
            native: None,
        }
    }

    /// With what is told of the attempts to take it up again. Only of a link that has no other handle yet.
    pub(crate) fn with_trouble(mut self, trouble: watch::Receiver<Option<Arc<str>>>) -> Link {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.trouble = trouble;
        }
        self
    }

    /// A link whose streams are QUIC's own. Of the commands, its driver hears those that are about the link.
    #[cfg(feature = "quic")]
    #[expect(
        clippy::too_many_arguments,
        reason = "what the driver shares with the handles, each once"
    )]
    pub(crate) fn native(
        native: Arc<Native>,
        commands: mpsc::UnboundedSender<Command>,
        incoming: mpsc::Receiver<Incoming>,
        leaving: watch::Receiver<Option<Leaving>>,
        drained: watch::Receiver<bool>,
        end: watch::Receiver<Option<LinkEnd>>,
        status: watch::Receiver<LinkStatus>,
        flows: udp::LinkFlows,
    ) -> Link {
        let (unsent, surely_sent) = (Arc::default(), Arc::default());
        Link {
            native: Some(native),
            ..Link::new(
                commands,
                unsent,
                incoming,
                leaving,
                drained,
                end,
                status,
                surely_sent,
                flows,
            )
        }
    }

    /// One end of a link over `carrier`. The two ends have different roles; which one is which decides only how
    /// streams are numbered.
    ///
    /// The task that drives it ends with the link, which [`Link::closed`] waits for, with the last handle and stream,
    /// or with the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn over<C: Carrier>(carrier: C, role: Role) -> Link {
        Link::over_with(carrier, role, &LinkOptions::default())
    }

    /// As [`Link::over`], with other limits.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn over_with<C: Carrier>(carrier: C, role: Role, options: &LinkOptions) -> Link {
        driver::plain(Box::new(carrier), role, options)
    }

    /// The client's end of a link over `carrier` that goes on over another one when that is lost: `redial` makes it. Where the other end
    /// offers no such thing, it is a link as [`Link::over`] makes it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are the link's; later ones may not be plain numbers"
    )]
    pub fn resumable<C: Carrier>(carrier: C, redial: impl Redial, options: resume::Options) -> Link {
        driver::resumable(Box::new(carrier), Arc::new(redial), &options)
    }

    pub(crate) fn downgrade(&self) -> WeakLink {
        WeakLink {
            commands: self.commands.downgrade(),
            incoming: Arc::downgrade(&self.incoming),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether the link has a connection at the moment. Once [`Link::is_closed`], it is what it was last.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        *self.shared.status.borrow()
    }

    /// Follows [`Link::status`]. Its sender is gone when the link is.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<LinkStatus> {
        self.shared.status.clone()
    }

    /// Why the last attempt to give the link another connection failed, while it has none: what [`Redial`] said. Nothing before that, at a
    /// server, and over QUIC, where a link finds another path by itself.
    #[must_use]
    pub fn watch_trouble(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.trouble.clone()
    }

    /// Makes sure of the connection, as when the network has changed or the machine has slept: one that answers nothing for a
    /// second (5 s where the link cannot be taken up again) counts as lost, and a link that has none asks for one at once. Over QUIC,
    /// where a link finds another path by itself, it is [`LinkStatus::Detached`] after that second, and lost after 5 s. Does not wait.
    pub fn check_now(&self) {
        if self.commands.send(Command::Check).is_err() {
            tracing::trace!("a link that is gone needs no check");
        }
    }

    /// A [`Dialer`] whose streams run over this link.
    #[must_use]
    pub fn dialer(&self) -> Arc<dyn Dialer> {
        Arc::new(self.clone())
    }

    /// Opens a stream to `target` without waiting for the far side: what is written goes right behind the request.
    /// [`MuxStream::accepted`], or the first read, tells whether the far side has connected it.
    ///
    /// # Errors
    /// Kind [`RefusalKind::LinkLost`] when the link is gone, and when the other end has said that it leaves: then
    /// another link can take the connection.
    ///
    /// # Cancel safety
    /// Never waits.
    #[cfg_attr(
        not(feature = "quic"),
        expect(
            clippy::unused_async,
            reason = "callers treat it as a dial; a limit on opens may wait here"
        )
    )]
    pub async fn open(&self, target: &Target) -> Result<MuxStream, Refusal> {
        #[cfg(feature = "quic")]
        if let Some(native) = &self.native {
            self.check_staying()?;
            return Ok(native.open_stream(target, &self.commands).await?.into());
        }
        Ok(self.open_now(target)?.0.into())
    }

    fn check_staying(&self) -> Result<(), Refusal> {
        if self.is_leaving() {
            let message = "the far side is leaving and takes no new connections on this link";
            return Err(Refusal::new(RefusalKind::LinkLost, message));
        }
        Ok(())
    }

    /// The stream, and how many requests were unanswered before it.
    fn open_now(&self, target: &Target) -> Result<(mux::MuxStream, usize), Refusal> {
        self.check_staying()?;
        let (unanswered, before) = Unanswered::count(&self.shared.unanswered);
        let flow = Arc::new(Flow::new(Arc::clone(&self.shared.unsent), Some(unanswered)));
        let command = Command::Open {
            target: target.clone(),
            flow: Arc::clone(&flow),
        };
        self.commands.send(command).map_err(|_| link_lost())?;
        Ok((mux::MuxStream::new(flow, self.commands.clone()), before))
    }

    /// The next stream that the other end opens; `None` once the link is gone.
    ///
    /// # Cancel safety
    /// No stream is lost when it is dropped.
    pub async fn accept(&self) -> Option<Incoming> {
        self.incoming.lock().await.recv().await
    }

    /// The next flow of datagrams that the other end opens; `None` once the link is gone. Up to 256 wait for it.
    ///
    /// # Cancel safety
    /// No flow is lost when it is dropped.
    pub async fn accept_flow(&self) -> Option<IncomingFlow> {
        self.shared.flows.accept().await
    }

    /// Whether both ends carry datagrams; `None` before the other end has said so. An older one does not. Over QUIC it
    /// is known from the start.
    #[must_use]
    pub fn are_datagrams_carried(&self) -> Option<bool> {
        #[cfg(feature = "quic")]
        if let Some(native) = &self.native {
            return Some(native.are_datagrams_carried());
        }
        self.shared.flows.are_carried()
    }

    /// Resolves when the other end has said that it leaves, with what it said: it takes no new streams on this link,
    /// while those that are open go on, and it will close the link before long. The latest word counts. `None` when
    /// the link is gone without such a word.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn leaving(&self) -> Option<Leaving> {
        let mut leaving = self.shared.leaving.clone();
        // Its sender is gone with the driver; the last word stays readable.
        match leaving.wait_for(Option::is_some).await {
            Ok(word) => word.clone(),
            Err(_) => self.shared.leaving.borrow().clone(),
        }
    }

    /// Follows what the other end says about its leaving, for whoever must not keep the link alive by a handle of it.
    #[must_use]
    pub fn watch_leaving(&self) -> watch::Receiver<Option<Leaving>> {
        self.shared.leaving.clone()
    }

    /// Whether the other end has said that it leaves.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.shared.leaving.borrow().is_some()
    }

    /// As [`Link::drain`], and names where the other end should connect to instead: a URL of 1 to 1024 visible ASCII characters, which it
    /// finds in [`Leaving::successor`]. Any other text is left out, with a warning.
    pub fn drain_to(&self, message: &str, successor: &str) {
        self.send_drain(message, Some(successor.to_owned()));
    }

    /// Announces that this end leaves, so that the other end opens no new streams here, and goes on serving those that
    /// are open and those that it opened before it heard of this. To be followed by [`Link::shutdown`] when they have
    /// ended, or at a deadline. Does not wait.
    pub fn drain(&self, message: &str) {
        self.send_drain(message, None);
    }

    fn send_drain(&self, message: &str, successor: Option<String>) {
        let message = message.to_owned();
        if self.commands.send(Command::Drain { message, successor }).is_err() {
            tracing::trace!("a link that is gone cannot drain");
        }
    }

    /// Resolves when the other end has heard of [`Link::drain`], or when the link is gone: [`Link::accept`] has, or has
    /// given out, all that it opened before that.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn drained(&self) {
        let mut drained = self.shared.drained.clone();
        // An error is the link's end.
        drop(drained.wait_for(|drained| *drained).await);
    }

    /// Resolves when the link is gone, with the reason. All its streams have failed by then.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn closed(&self) -> LinkEnd {
        let mut end = self.shared.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(LinkEnd::Drained),
            // The driver's task was torn down with its runtime before it could say anything.
            Err(_) => LinkEnd::Lost {
                kind: io::ErrorKind::Other,
                message: "the driver was stopped".to_owned(),
            },
        }
    }

    /// Whether the link is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.end.borrow().is_some() || self.shared.end.has_changed().is_err()
    }

    /// Leaves: tells the other end, closes the carrier and resets the streams that are left. To let them end first, call
    /// [`Link::drain`] and wait for them. Resolves when the link is gone.
    ///
    /// # Cancel safety
    /// Once polled, the link closes even if the future is dropped.
    pub async fn shutdown(&self) {
        self.close(GoAwayReason::Leaving, "").await;
    }

    /// As [`Link::shutdown`], with a reason that the other end sees in its [`LinkEnd`]. A gateway says
    /// [`GoAwayReason::Superseded`] to a connection that a newer one replaces.
    ///
    /// # Cancel safety
    /// As [`Link::shutdown`].
    pub async fn close(&self, reason: GoAwayReason, message: &str) {
        // Fails only when the driver is gone, which is what was asked for.
        if self
            .commands
            .send(Command::Close {
                reason,
                message: message.to_owned(),
            })
            .is_ok()
        {
            self.closed().await;
        }
    }
}

/// A [`Link`] that does not keep itself alive.
#[derive(Debug)]
pub(crate) struct WeakLink {
    commands: mpsc::WeakUnboundedSender<Command>,
    incoming: Weak<Mutex<mpsc::Receiver<Incoming>>>,
    shared: Arc<Shared>,
}

impl WeakLink {
    /// A handle of the link, while there is another one.
    pub(crate) fn upgrade(&self) -> Option<Link> {
        Some(Link {
            commands: self.commands.upgrade()?,
            incoming: self.incoming.upgrade()?,
            shared: Arc::clone(&self.shared),
            // Links over QUIC are of no desk.
            #[cfg(feature = "quic")]
            native: None,
        })
    }
}

#[async_trait]
impl Dialer for Link {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        #[cfg(feature = "quic")]
        if self.native.is_some() {
            return Ok(Box::new(self.open(target).await?));
        }
        let (stream, before) = self.open_now(target)?;
        if before >= self.shared.surely_sent.0.load(Ordering::Acquire) || !self.status().is_up() {
            // Once it is given out, it could not go to another link when this one's far side leaves before it was sent.
            stream.open_sent().await?;
        }
        Ok(Box::new(stream))
    }

    async fn dial_datagrams(&self, target: &Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        #[cfg(feature = "quic")]
        if let Some(native) = &self.native {
            self.check_staying()?;
            let flow = native.open_flow(target, &self.commands).await?;
            return Ok(Box::new(udp::MuxFlow::from(flow)));
        }
        Ok(Box::new(udp::MuxFlow::from(
            self.shared.flows.open(target).await?,
        )))
    }

    fn carries_datagrams(&self) -> bool {
        self.are_datagrams_carried() == Some(true)
    }
}

/// A stream that the other end requests. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    target: Target,
    id: StreamId,
    /// Taken by the answer.
    stream: Option<MuxStream>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Incoming {
    pub(crate) fn new(
        target: Target,
        id: StreamId,
        stream: MuxStream,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Incoming {
        Incoming {
            target,
            id,
            stream: Some(stream),
            commands,
        }
    }

    /// The target it requests.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Resolves when the other end no longer wants the stream: its program gave up, or the link is gone. Whoever
    /// connects a target should stop then.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn abandoned(&self) {
        std::future::poll_fn(|cx| match &self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => Poll::Ready(()),
        })
        .await;
    }

    /// Accepts: the target is connected. Bytes that were sent behind the request can be read from the stream.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "only accept and refuse take the stream, and both take self"
    )]
    pub fn accept(mut self) -> MuxStream {
        let mut stream = self
            .stream
            .take()
            .expect("a request holds its stream until it is answered");
        if !stream.accept() {
            self.answer(Command::Accept { id: self.id });
        }
        stream
    }

    /// Refuses, and says why.
    pub fn refuse(mut self, refusal: Refusal) {
        self.refuse_with(refusal);
    }

    fn refuse_with(&mut self, refusal: Refusal) {
        if let Some(stream) = self.stream.take().and_then(|stream| stream.refuse(&refusal)) {
            self.answer(Command::Refuse { id: self.id, refusal });
            stream.disarm();
        }
    }

    fn answer(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!(target_text = %self.target, "answered on a link that is gone");
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.refuse_with(Refusal::new(
            RefusalKind::Internal,
            "the far side gave the request up",
        ));
    }
}

/// What the other end said about its leaving.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaving {
    /// Why it leaves. After [`GoAwayReason::Superseded`] nobody should connect again.
    pub reason: GoAwayReason,
    /// One line for a person, often empty.
    pub message: String,
    /// The URL that should be connected to instead, where it named one.
    pub successor: Option<String>,
}

#[cfg(feature = "quic")]
impl Leaving {
    /// Without a successor.
    pub(crate) fn of(reason: GoAwayReason, message: String) -> Leaving {
        Leaving {
            reason,
            message,
            successor: None,
        }
    }
}

/// Why a link is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The other end left in good order.
    #[error("the other end closed the link{}", colon(.message))]
    PeerClosed {
        /// What it said.
        message: String,
    },
    /// The connection under the link failed.
    #[error("the connection was lost: {message}")]
    Lost {
        /// The kind of the failure.
        kind: io::ErrorKind,
        /// What the system said.
        message: String,
    },
    /// The connection was lost, and the other end did not let the link be taken up again on a new one.
    #[error("the link could not be taken up again{}", colon(.message))]
    NotResumed {
        /// What it said.
        message: String,
    },
    /// Nothing was received for too long, although the other end was pinged.
    #[error("nothing was received for {} s", .silent_for.as_secs())]
    PingTimeout {
        /// For how long.
        silent_for: std::time::Duration,
    },
    /// One end broke the protocol.
    #[error("protocol broken: {message}")]
    Protocol {
        /// How.
        message: String,
    },
    /// A newer connection of the same session took this one's place.
    #[error("superseded by a newer connection of this session{}", colon(.message))]
    Superseded {
        /// What the other end said.
        message: String,
    },
    /// This end left: [`Link::shutdown`], or nobody held the link any more.
    #[error("closed by this end")]
    Drained,
}

impl From<CarrierEnd> for LinkEnd {
    fn from(end: CarrierEnd) -> LinkEnd {
        match end {
            CarrierEnd::Closed { message } => LinkEnd::PeerClosed { message },
            CarrierEnd::Lost(error) => LinkEnd::Lost {
                kind: error.kind(),
                message: error.to_string(),
            },
            CarrierEnd::Broken { message } => LinkEnd::Protocol { message },
        }
    }
}

pub(crate) fn colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

pub(crate) fn link_lost() -> Refusal {
    Refusal::new(RefusalKind::LinkLost, "the link to the far side was lost")
}
