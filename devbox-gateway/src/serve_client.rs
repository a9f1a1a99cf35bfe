//! One client's link: its streams to targets, and the catalog.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use devbox_gateway_client::handshake::PUSH_STREAM;
use devbox_provider::{Connection, Wanted, with_causes};
use service_catalog::{CATALOG_STREAM, Label, PendingUpdates, SourceError, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, error, info};
use tunnel_bridge::resume::LinkStatus;
use tunnel_bridge::udp::{FLOW_IDLE, IncomingFlow, relay};
use tunnel_bridge::{
    Dialer, GoAwayReason, Incoming, Link, LinkEnd, MuxStream, Refusal, RefusalKind, splice_streams,
};

use crate::View;
use crate::config::Limits;
use crate::presence::Present;
use crate::pushed;
use crate::seat::Seat;
use crate::status::Counts;

/// How long a client may take to read that it should leave, and a provider to hear a goodbye.
const LEAVE: Duration = Duration::from_secs(2);

/// Catalog streams of one client at a time. It needs one.
const MAX_CATALOGS: usize = 16;

const STOPPING: &str = "the gateway is stopping";

/// The end of the gateway.
#[derive(Clone)]
pub(crate) struct Stopping {
    pub(crate) begun: CancellationToken,
    /// Where clients are sent then.
    pub(crate) successor: Option<String>,
}

/// A client that was let in.
pub(crate) struct Client {
    pub(crate) view: View,
    pub(crate) wanted: Wanted,
    pub(crate) seat: Seat,
    /// The view's provider, connected to for this client.
    pub(crate) connection: Connection,
    /// What was read of the connection's source before the client was let in.
    pub(crate) first: Option<Update>,
    /// The environment that it is served, where that is known.
    pub(crate) environment: Option<Label>,
}

impl Client {
    /// Serves a link until it is gone, a newer connection of the session has come, the provider fails, or `stopping`
    /// asks for the end. When this returns, the link is closed and its streams are over.
    pub(crate) async fn serve(
        self,
        link: Link,
        limits: Limits,
        stopping: Stopping,
        mut present: Present,
        counts: &Arc<Counts>,
    ) {
        let Self {
            view,
            wanted,
            seat,
            connection,
            first,
            environment,
        } = self;
        let revoked = seat.revoked(environment.as_ref());
        let mut status = link.watch_status();
        let mut resumes = status.borrow_and_update().resumes();
        tokio::pin!(revoked);
        let mut served = Served {
            view,
            wanted,
            dialer: Arc::clone(&connection.dialer),
            untold: Some((connection, first)),
            spent: None,
            limits,
            counts: Arc::clone(counts),
            streams: JoinSet::new(),
            catalogs: JoinSet::new(),
            pushes: JoinSet::new(),
        };
        loop {
            tokio::select! {
                incoming = link.accept() => match incoming {
                    Some(incoming) => served.take(incoming),
                    None => break,
                },
                Some(incoming) = link.accept_flow() => served.take_flow(incoming),
                Some(done) = served.streams.join_next(), if !served.streams.is_empty() => note_panic(&done),
                Some(done) = served.pushes.join_next(), if !served.pushes.is_empty() => note_panic(&done),
                Some(done) = served.catalogs.join_next(), if !served.catalogs.is_empty() => {
                    if let Some(ended) = served.handle_told(done) {
                        leave(&link, ended.reason(), &with_causes(&ended.error)).await;
                        break;
                    }
                }
                () = seat.displaced() => {
                    leave(&link, GoAwayReason::Superseded, "a newer connection of this session has come").await;
                    break;
                }
                () = &mut revoked => {
                    info!("its token was revoked");
                    leave(&link, GoAwayReason::Leaving, "the token of this session was revoked").await;
                    break;
                }
                Ok(()) = status.changed() => {
                    let status = *status.borrow_and_update();
                    present.set_connected(status.is_up());
                    match status {
                        LinkStatus::Detached { since, until, .. } => {
                            let window_seconds = (until - since).as_millis().div_ceil(1000);
                            info!(window_seconds, "interrupted: its connection was lost, and its link is kept");
                        }
                        _ if status.resumes() > resumes => info!("resumed: its link goes on over another connection"),
                        _ => {}
                    }
                    resumes = status.resumes();
                }
                () = stopping.begun.cancelled() => {
                    // Nobody listens any more: a client that is away cannot come back to this link.
                    if link.status().is_up() {
                        served.drain(&link, stopping.successor.as_deref()).await;
                    }
                    leave(&link, GoAwayReason::Leaving, STOPPING).await;
                    break;
                }
            }
        }
        match timeout(LEAVE, link.closed()).await {
            Ok(LinkEnd::PeerClosed { message }) => {
                info!(%message, "client left");
                present.say_goodbye();
            }
            Ok(end) => info!(%end, "link ended"),
            Err(_) => info!("link cut"),
        }
        served.end().await;
    }
}

struct Served {
    view: View,
    wanted: Wanted,
    dialer: Arc<dyn Dialer>,
    /// For the first catalog stream; further ones connect to the provider anew.
    untold: Option<(Connection, Option<Update>)>,
    /// The same connection once its catalog stream is over: the dialer still needs it.
    spent: Option<Connection>,
    limits: Limits,
    counts: Arc<Counts>,
    streams: JoinSet<()>,
    catalogs: JoinSet<Told>,
    pushes: JoinSet<()>,
}

impl Served {
    fn take(&mut self, incoming: Incoming) {
        let (open, limit) = match incoming.target().as_str() {
            PUSH_STREAM => return self.take_push(incoming),
            CATALOG_STREAM => (self.catalogs.len(), MAX_CATALOGS),
            _ => (self.streams.len(), self.limits.max_streams_per_client),
        };
        if open >= limit {
            incoming.refuse(too_many(open));
        } else if incoming.target().as_str() == CATALOG_STREAM {
            self.take_catalog(incoming);
        } else {
            self.take_stream(incoming);
        }
    }

    fn take_catalog(&mut self, incoming: Incoming) {
        match self.untold.take() {
            Some((connection, first)) => {
                let stream = incoming.accept();
                let tell = tell_catalog(stream, connection, first, Whose::TheDialers);
                self.catalogs.spawn(tell.in_current_span());
            }
            None => {
                let (provider, wanted) = (Arc::clone(&self.view.provider), self.wanted.clone());
                let tell = async move {
                    match provider.connect(wanted).await {
                        Ok(connection) => {
                            tell_catalog(incoming.accept(), connection, None, Whose::ItsOwn).await
                        }
                        Err(error) => {
                            incoming.refuse(Refusal::new(RefusalKind::Unreachable, with_causes(&error)));
                            Told::Nothing
                        }
                    }
                };
                self.catalogs.spawn(tell.in_current_span());
            }
        }
    }

    /// A catalog stream is over. Gives out why the client must connect again, if it must.
    fn handle_told(&mut self, done: Result<Told, tokio::task::JoinError>) -> Option<Ended> {
        note_panic(&done);
        match done.ok()? {
            Told::Nothing => None,
            Told::LetGo(connection, whose) => {
                if whose == Whose::TheDialers {
                    self.spent = Some(connection);
                }
                None
            }
            Told::Ended(ended) => Some(ended),
        }
    }

    fn take_push(&mut self, incoming: Incoming) {
        let Some(live) = self.view.pushed.clone() else {
            let message = "this gateway takes no catalogs from its clients";
            return incoming.refuse(Refusal::new(RefusalKind::NotAllowed, message));
        };
        if !self.pushes.is_empty() {
            let message = "this client pushes a catalog already";
            return incoming.refuse(Refusal::new(RefusalKind::TooMany, message));
        }
        let (stream, grant) = (incoming.accept(), self.view.grant.clone());
        self.pushes
            .spawn(async move { pushed::receive(stream, &live, grant.as_ref()).await }.in_current_span());
    }

    fn take_stream(&mut self, incoming: Incoming) {
        let target = incoming.target().clone();
        let (dialer, limit) = (Arc::clone(&self.dialer), self.limits.dial_timeout);
        let span = debug_span!("stream", %target);
        let open = self.counts.open_stream();
        let carry = async move {
            let _open = open;
            let dialed = unless_abandoned(incoming.abandoned(), dialer.dial(&target), limit).await;
            match dialed {
                None => debug!("given up by the client"),
                Some(Ok(connection)) => {
                    let report = splice_streams(connection, Box::new(incoming.accept())).await;
                    // Seen from here the target is the near side, and what it sent goes to the client.
                    debug!(to_client = report.sent, to_target = report.received, end = %report.end, "stream ended");
                }
                Some(Err(refusal)) => {
                    debug!(%refusal, "not connected");
                    incoming.refuse(refusal);
                }
            }
        };
        self.streams.spawn(carry.instrument(span));
    }

    /// A flow of datagrams counts as a stream.
    fn take_flow(&mut self, incoming: IncomingFlow) {
        let open = self.streams.len();
        if open >= self.limits.max_streams_per_client {
            return incoming.refuse(too_many(open));
        }
        let target = incoming.target().clone();
        let (dialer, limit) = (Arc::clone(&self.dialer), self.limits.dial_timeout);
        let span = debug_span!("flow", %target);
        let open = self.counts.open_stream();
        let carry = async move {
            let _open = open;
            let dialing = dialer.dial_datagrams(&target);
            let dialed = unless_abandoned(incoming.abandoned(), dialing, limit).await;
            match dialed {
                None => debug!("given up by the client"),
                Some(Ok(flow)) => {
                    let report = relay(flow, Box::new(incoming.accept()), FLOW_IDLE).await;
                    // Seen from here the target is the near side, and what it sent goes to the client.
                    debug!(
                        to_client = report.sent, to_target = report.received, dropped = report.dropped,
                        end = %report.end, "flow ended"
                    );
                }
                Some(Err(refusal)) => {
                    debug!(%refusal, "not connected");
                    incoming.refuse(refusal);
                }
            }
        };
        self.streams.spawn(carry.instrument(span));
    }

    /// Announces that the gateway leaves, and goes on serving for a while, up to the deadline: streams that are open, and
    /// those that the client opened before it heard. Whatever it opens later belongs on another link.
    async fn drain(&mut self, link: &Link, successor: Option<&str>) {
        match successor {
            Some(successor) => link.drain_to(STOPPING, successor),
            None => link.drain(STOPPING),
        }
        let mut status = link.watch_status();
        let ended = timeout(self.limits.drain, async {
            let heard = link.drained();
            tokio::pin!(heard);
            let mut crossing = true;
            while crossing || !self.streams.is_empty() {
                tokio::select! {
                    // What crossed is taken before its absence is believed.
                    biased;
                    incoming = link.accept() => match incoming {
                        Some(incoming) => self.take(incoming),
                        None => return,
                    },
                    Some(incoming) = link.accept_flow() => self.take_flow(incoming),
                    Some(done) = self.streams.join_next(), if !self.streams.is_empty() => note_panic(&done),
                    Some(done) = self.pushes.join_next(), if !self.pushes.is_empty() => note_panic(&done),
                    Some(done) = self.catalogs.join_next(), if !self.catalogs.is_empty() => note_panic(&done),
                    Ok(_) = status.wait_for(|status| !status.is_up()) => return,
                    () = &mut heard, if crossing => crossing = false,
                }
            }
        });
        if ended.await.is_err() {
            info!(streams = self.streams.len(), "streams cut at the deadline");
        }
    }

    /// Ends what is left. Streams of a link that is gone have failed already; what still dials is given up here.
    async fn end(mut self) {
        self.streams.shutdown().await;
        self.pushes.shutdown().await;
        self.catalogs.shutdown().await;
        let connection = self.spent.or(self.untold.map(|(connection, _)| connection));
        if let Some(connection) = connection
            && timeout(LEAVE, connection.close()).await.is_err()
        {
            debug!("the provider does not hear our goodbye");
        }
    }
}

/// How a catalog stream ended.
enum Told {
    /// The client let go of it.
    LetGo(Connection, Whose),
    /// The source ended.
    Ended(Ended),
    /// It never began.
    Nothing,
}

/// What else a catalog stream's connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The client's streams are dialed over it.
    TheDialers,
    ItsOwn,
}

struct Ended {
    error: SourceError,
    /// Kept until the client knows why it ends: dropped, it is reset.
    _stream: (ReadHalf<MuxStream>, WriteHalf<MuxStream>),
}

impl Ended {
    fn reason(&self) -> GoAwayReason {
        info!(error = %self.error, "the provider ended");
        match self.error {
            SourceError::Superseded { .. } => GoAwayReason::Superseded,
            // The client connects again, and so does its view.
            _ => GoAwayReason::Leaving,
        }
    }
}

fn too_many(open: usize) -> Refusal {
    let message = format!("this client has {open} streams open, which is the limit");
    Refusal::new(RefusalKind::TooMany, message)
}

/// What comes of dialing for up to `limit`. `None` where the program behind the request has left: nobody waits for the target any more.
async fn unless_abandoned<T>(
    abandoned: impl Future<Output = ()>,
    dialing: impl Future<Output = Result<T, Refusal>>,
    limit: Duration,
) -> Option<Result<T, Refusal>> {
    tokio::select! {
        dialed = timeout(limit, dialing) => Some(dialed.unwrap_or_else(|_| {
            let message = format!("not connected within {} s", limit.as_secs_f32());
            Err(Refusal::new(RefusalKind::TimedOut, message))
        })),
        () = abandoned => None,
    }
}

/// Says goodbye, to whoever still reads.
async fn leave(link: &Link, reason: GoAwayReason, message: &str) {
    if timeout(LEAVE, link.close(reason, message)).await.is_err() {
        debug!("the client does not read our goodbye");
    }
}

/// Tells the catalog and each change of it, until the client lets go of the stream or the source ends.
///
/// Nothing is queued for a client that reads slowly: once it has read, it is told the difference to what is in force
/// then.
async fn tell_catalog(
    stream: MuxStream,
    mut connection: Connection,
    first: Option<Update>,
    whose: Whose,
) -> Told {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut encoder = wire::Encoder::new();
    let mut pending = PendingUpdates::default();
    if let Some(update) = first {
        pending.handle_update(update);
    }
    let mut unsent = Bytes::new();
    let mut client_may_write = true;
    // What a client writes here means nothing, but its reset does.
    let mut ignored = [0; 256];
    let error = loop {
        if unsent.is_empty()
            && let Some(update) = pending.poll_update()
        {
            match encoder.encode(&update) {
                Ok(message) => unsent = message.into(),
                Err(source) => break source.into(),
            }
        }
        let lost = tokio::select! {
            update = connection.source.next() => match update {
                Ok(update) => {
                    pending.handle_update(update);
                    continue;
                }
                Err(error) => break error,
            },
            written = writer.write(&unsent), if !unsent.is_empty() => match written {
                Ok(count) => {
                    unsent.advance(count);
                    continue;
                }
                Err(error) => error,
            },
            read = reader.read(&mut ignored), if client_may_write => match read {
                Ok(count) => {
                    client_may_write = count > 0;
                    continue;
                }
                Err(error) => error,
            },
        };
        debug!(error = %lost, "catalog stream ended");
        return Told::LetGo(connection, whose);
    };
    Told::Ended(Ended {
        error,
        _stream: (reader, writer),
    })
}

fn note_panic<T>(done: &Result<T, tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(%error, "a stream's task failed");
    }
}
