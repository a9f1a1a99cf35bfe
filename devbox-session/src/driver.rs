//! The task that owns a session: it performs the steps that the state machine asks for and tells it what came of them.
//! No decision is made here, and nothing is awaited inline: every effect runs beside the loop, and its outcome comes
//! back as an input.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use devbox_helper_client::{Endpoint, Protocol};
use devbox_provider::{Goodbye, Provider, with_causes};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use ipalloc::{Allocator, Timestamp};
use service_catalog::{Label, SourceError};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::listener::{ConnectionLimit, Listener, ListenerCounts, ListenerOptions, Rules, Stranger};
use tunnel_bridge::udp::{UdpCounts, UdpListener, UdpOptions};
use tunnel_bridge::{Refusal, Target};

use crate::handle::{Command, Handle};
use crate::host::{BindFault, Host};
use crate::key::{ProviderId, ServiceKey};
use crate::lease_keeper::LeaseKeeper;
use crate::links::{Happened, Links};
use crate::report::{DroppedReport, Event, StatusReport, UdpReport};
use crate::route::{Aim, Route};
use crate::service_options::ListenerRules;
use crate::settings::{Settings, StopReason};
use crate::sink::{NameSink, PublishError, Published, Records};
use crate::state::{SessionState, Traffic};
use crate::step::Step;

/// Events kept for a reader that falls behind; then it gets [`Event::Lagged`], and the session never waits.
const EVENT_BACKLOG: usize = 1024;
/// Commands under way; whoever sends one waits when it is full.
const COMMAND_BACKLOG: usize = 16;
/// Refused connections that wait to be told. Further ones are not told: they are counted all the same.
const REFUSAL_BACKLOG: usize = 64;
/// Programs turned away that wait to be told. Further ones are counted.
const STRANGER_BACKLOG: usize = 64;
/// Connections that end sooner than this after the session was asked to end are not spoken of.
const DRAINED_AT_ONCE: Duration = Duration::from_millis(300);
/// For how long a new connection is held while there is no link.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long the far sides may take to hear a goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a session is put together from.
pub struct Parts {
    /// Where addresses come from.
    pub addresses: Allocator,
    /// The far sides, one for each of [`Settings::providers`] and in the same order.
    pub providers: Vec<Arc<dyn Provider>>,
    /// This machine.
    pub host: Arc<dyn Host>,
    /// The places that names go to.
    pub sinks: Vec<Arc<dyn NameSink>>,
    /// Who remembers addresses.
    pub keeper: Box<dyn LeaseKeeper>,
}

/// A session that is ready to run.
///
/// [`Session::run`] ends when everything is undone. Everything that others ask of it goes through [`Handle`].
pub struct Session {
    state: SessionState,
    links: Links,
    host: Arc<dyn Host>,
    sinks: Vec<Arc<dyn NameSink>>,
    keeper: Box<dyn LeaseKeeper>,
    listeners: HashMap<Endpoint, Open>,
    /// While stopping: what the listeners that were closed have carried.
    closed: HashMap<Endpoint, Counts>,
    effects: FuturesUnordered<BoxFuture<'static, Outcome>>,
    lost: BoxFuture<'static, ()>,
    draining: JoinSet<()>,
    goodbyes: JoinSet<()>,
    /// Cancelled by the first request to stop: nothing new is opened.
    halt: CancellationToken,
    /// Cancelled by the second request to stop: effects that hang are given up.
    hurry: CancellationToken,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Event>,
    revision: watch::Sender<u64>,
    /// Notified by the listeners when a connection opens or ends.
    connections: Arc<Notify>,
    /// What the far sides refused, by the address that was connected to.
    refusals: mpsc::Receiver<(SocketAddr, Refusal)>,
    refusal_sender: mpsc::Sender<(SocketAddr, Refusal)>,
    /// Who was turned away, by the address that was connected to.
    strangers: mpsc::Receiver<(SocketAddr, Stranger)>,
    stranger_sender: mpsc::Sender<(SocketAddr, Stranger)>,
    udp_strangers: mpsc::Receiver<(SocketAddr, Stranger)>,
    udp_stranger_sender: mpsc::Sender<(SocketAddr, Stranger)>,
    rules: ListenerRules,
    udp_refusals: mpsc::Receiver<(SocketAddr, Refusal)>,
    udp_refusal_sender: mpsc::Sender<(SocketAddr, Refusal)>,
    /// What all listeners together may have open.
    limit: Arc<ConnectionLimit>,
    /// The same for flows of datagrams.
    flow_limit: Arc<ConnectionLimit>,
    changed: bool,
}

struct Open {
    listener: Listening,
    route: Arc<Route>,
}

enum Listening {
    Tcp(Listener),
    Udp(UdpListener),
}

impl Listening {
    /// Of rules only the one about who may connect is there for datagrams.
    fn set_rules(&self, rules: Rules) {
        match self {
            Self::Tcp(listener) => listener.set_rules(rules),
            Self::Udp(listener) => listener.set_access(rules.access),
        }
    }

    /// Connections of TCP know when they end; a flow would carry what is meant for the new target to the old one.
    fn end_flows(&self) {
        if let Self::Udp(listener) = self {
            listener.end_flows();
        }
    }

    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Tcp(listener) => Endpoint::tcp(listener.local_addr()),
            Self::Udp(listener) => Endpoint::udp(listener.local_addr()),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Tcp(listener) => Counts::Tcp(listener.shared_counts()),
            Self::Udp(listener) => Counts::Udp(listener.shared_counts()),
        }
    }

    /// Frees the port. What is open of TCP goes on, until what is given out is closed; UDP has nothing that could end by itself.
    async fn stop(self) -> Option<Listener> {
        match self {
            Self::Tcp(listener) => {
                listener.stop().await;
                Some(listener)
            }
            Self::Udp(listener) => {
                listener.close().await;
                None
            }
        }
    }

    async fn close(self, drain: Duration) {
        match self {
            Self::Tcp(listener) => listener.close(drain).await,
            Self::Udp(listener) => listener.close().await,
        }
    }
}

/// What a listener has carried.
#[derive(Clone)]
enum Counts {
    Tcp(Arc<ListenerCounts>),
    Udp(Arc<UdpCounts>),
}

impl Counts {
    /// Connections that somebody may wait for. A flow of datagrams has no end of its own.
    fn awaited(&self) -> u64 {
        match self {
            Self::Tcp(counts) => counts.read().active,
            Self::Udp(_) => 0,
        }
    }

    fn traffic(&self) -> Traffic {
        match self {
            Self::Tcp(counts) => {
                let counts = counts.read();
                Traffic {
                    connections: counts.connections,
                    active: counts.active,
                    sent_bytes: counts.sent_bytes,
                    received_bytes: counts.received_bytes,
                    last_failure: counts.last_failure.map(|end| end.to_string()),
                    rejected: counts.rejected,
                    strangers: counts.strangers,
                    udp: None,
                }
            }
            Self::Udp(counts) => {
                let counts = counts.read();
                Traffic {
                    connections: counts.flows,
                    active: counts.active,
                    sent_bytes: counts.sent_bytes,
                    received_bytes: counts.received_bytes,
                    last_failure: counts.last_failure.map(|end| end.to_string()),
                    rejected: 0,
                    strangers: counts.dropped.strangers,
                    udp: Some(UdpReport {
                        sent: counts.sent,
                        received: counts.received,
                        evicted: counts.evicted,
                        dropped: DroppedReport {
                            queue_full: counts.dropped.queue_full,
                            too_many_flows: counts.dropped.too_many_flows,
                            too_long: counts.dropped.too_long,
                            not_connected: counts.dropped.not_connected,
                        },
                        max_datagram: counts.max_datagram,
                    }),
                }
            }
        }
    }
}

/// What a host has bound.
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// One result of a bind.
type BoundEndpoint = (Endpoint, Target, Result<Socket, BindFault>);

/// What came of an effect.
enum Outcome {
    Claimed(Label),
    Bound {
        service: ServiceKey,
        address: IpAddr,
        all_or_none: bool,
        results: Vec<BoundEndpoint>,
    },
    Published {
        sink: usize,
        records: Records,
        result: Result<Published, PublishError>,
    },
    Closed {
        endpoints: Vec<Endpoint>,
        /// Their ports are free; their connections may go on.
        draining: Vec<Listener>,
        drain: Duration,
    },
    Released(Result<(), PublishError>),
    /// While stopping: so many connections of the listeners that were closed have not ended.
    StillOpen(u64),
    /// Somebody else may have changed what this sink published.
    Disturbed(usize),
    /// It has no outcome.
    Done,
}

impl Session {
    /// Puts a session together; nothing happens before [`Session::run`].
    pub fn new(settings: Settings, parts: Parts) -> (Self, Handle) {
        let Parts {
            addresses,
            providers,
            host,
            sinks,
            keeper,
        } = parts;
        let (command_sender, commands) = mpsc::channel(COMMAND_BACKLOG);
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (refusal_sender, refusals) = mpsc::channel(REFUSAL_BACKLOG);
        let (stranger_sender, strangers) = mpsc::channel(STRANGER_BACKLOG);
        let (udp_stranger_sender, udp_strangers) = mpsc::channel(STRANGER_BACKLOG);
        let rules = ListenerRules::new(settings.listening.clone());
        let (revision, revisions) = watch::channel(0);
        let handle = Handle::new(command_sender, events.downgrade(), revisions);
        let names = sinks.iter().map(|sink| sink.describe()).collect();
        let limit = Arc::new(ConnectionLimit::new(settings.max_connections));
        // A link has as many places for streams and flows together: the other half is left to connections.
        let flow_limit = Arc::new(ConnectionLimit::new(settings.max_connections.div_ceil(2)));
        let (udp_refusal_sender, udp_refusals) = mpsc::channel(REFUSAL_BACKLOG);
        let mut state = SessionState::new(settings, addresses, names, now());
        let links = Links::new(providers);
        for provider in links.ids() {
            if let Some(status) = links.status(provider) {
                state.set_status(provider, status);
            }
        }
        let watched = Arc::clone(&host);
        let session = Self {
            state,
            links,
            sinks,
            keeper,
            listeners: HashMap::new(),
            closed: HashMap::new(),
            effects: FuturesUnordered::new(),
            lost: Box::pin(async move { watched.lost().await }),
            host,
            draining: JoinSet::new(),
            goodbyes: JoinSet::new(),
            halt: CancellationToken::new(),
            hurry: CancellationToken::new(),
            commands,
            events,
            revision,
            connections: Arc::new(Notify::new()),
            refusals,
            refusal_sender,
            strangers,
            stranger_sender,
            udp_strangers,
            udp_stranger_sender,
            rules,
            udp_refusals,
            udp_refusal_sender,
            limit,
            flow_limit,
            changed: false,
        };
        (session, handle)
    }

    /// Runs until the session has ended and everything that it did is undone; says why it ended.
    ///
    /// # Cancel safety
    ///
    /// Must run to its end: dropped before, it leaves the undoing to the helper, which sees its channel close.
    pub async fn run(mut self) -> StopReason {
        for sink in 0..self.sinks.len() {
            self.watch(sink);
        }
        loop {
            while let Some(step) = self.state.poll_step(now()) {
                self.start(step);
            }
            self.publish();
            if self.state.is_stopping() {
                self.halt.cancel();
            }
            if let Some(reason) = self.state.finished() {
                let reason = reason.clone();
                self.leave().await;
                return reason;
            }
            self.wait().await;
            // However much is ready at once, the other tasks of the thread get their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// Waits for one thing to happen and hands it to the state machine. What others ask comes first.
    async fn wait(&mut self) {
        let timer = self.state.poll_timeout();
        tokio::select! {
            biased;
            Some(command) = self.commands.recv() => self.handle_command(command),
            () = &mut self.lost => {
                self.lost = Box::pin(pending());
                self.state.handle_helper_lost();
                self.changed = true;
            }
            next = either(&mut self.effects, &mut self.links) => match next {
                Next::Outcome(outcome) => self.handle_outcome(outcome),
                Next::Link(provider, happened) => self.handle_link(provider, happened),
            },
            // What was carried is read when a report is built.
            () = self.connections.notified() => {
                self.changed = true;
                self.state.handle_connections(self.limit.rejected(), self.limit.open());
            }
            Some((at, refusal)) = self.refusals.recv() => self.handle_refused(Endpoint::tcp(at), refusal),
            Some((at, refusal)) = self.udp_refusals.recv() => self.handle_refused(Endpoint::udp(at), refusal),
            Some((at, stranger)) = self.strangers.recv() => self.state.handle_stranger(&Endpoint::tcp(at), stranger),
            Some((at, stranger)) = self.udp_strangers.recv() => self.state.handle_stranger(&Endpoint::udp(at), stranger),
            Some(_) = self.draining.join_next() => {}
            Some(_) = self.goodbyes.join_next() => {}
            () = until(timer) => self.refresh_statuses(),
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            // Whoever asked may have gone meanwhile; then nobody misses the answer.
            Command::Status(reply) => {
                self.refresh_statuses();
                drop(reply.send(Box::new(self.report())));
            }
            Command::Stop(reason) => {
                self.state.stop(reason);
                self.changed = true;
                if self.state.is_hurried() {
                    self.hurry.cancel();
                    self.draining.abort_all();
                }
            }
            Command::Nudge => self.state.handle_nudge(now()),
            Command::Switch {
                provider,
                environment,
                reply,
            } => {
                let known = self.state.switch_environment(provider, environment, now());
                self.changed = true;
                if reply.send(known).is_err() {
                    tracing::trace!("whoever asked for the switch has gone");
                }
            }
        }
    }

    fn handle_refused(&mut self, endpoint: Endpoint, refusal: Refusal) {
        let received = self.traffic(&endpoint).received_bytes;
        self.state.handle_refused(&endpoint, refusal, received, now());
    }

    /// What is due may be to say what a connect waits for.
    fn refresh_statuses(&mut self) {
        for provider in self.links.ids() {
            if let Some(status) = self.links.status(provider) {
                self.state.set_status(provider, status);
            }
        }
    }

    fn handle_link(&mut self, provider: ProviderId, happened: Happened) {
        self.changed = true;
        if let Some(status) = self.links.status(provider) {
            self.state.set_status(provider, status);
        }
        match happened {
            Happened::Connected => self.state.handle_connected(provider, now()),
            Happened::Failed(error) => self.state.handle_connect_failed(provider, error, now()),
            Happened::Interrupted { until } => self.state.handle_link_interrupted(provider, now(), until),
            Happened::Resumed { resumes } => self.state.handle_link_resumed(provider, now(), resumes),
            Happened::Updated(update) => {
                // Known by now: what the far side offers comes before its catalog.
                if let Some(carried) = self.links.carries_datagrams(provider) {
                    self.state.handle_datagrams(provider, carried);
                }
                self.state.handle_update(provider, update, now(), today());
            }
            Happened::Lost(SourceError::Superseded { message }) => {
                self.state.handle_superseded(provider, message);
            }
            Happened::Lost(SourceError::Lost { source }) => {
                self.state.handle_link_lost(provider, source.to_string(), now());
            }
            Happened::Lost(error @ (SourceError::Leaving { .. } | SourceError::Moving { .. })) => {
                self.state.handle_link_left(provider, with_causes(&error), now());
            }
            Happened::Lost(error) => self.state.handle_link_lost(provider, with_causes(&error), now()),
        }
    }

    /// Begins a step. Nothing is waited for.
    fn start(&mut self, step: Step) {
        match step {
            Step::Connect {
                provider,
                environment,
            } => self.links.connect(provider, environment),
            Step::Check { provider } => self.links.check(provider),
            Step::Disconnect { provider } => {
                if let Some(goodbye) = self.links.disconnect(provider) {
                    self.say(goodbye);
                }
            }
            Step::Admit {
                provider,
                environment,
            } => self.links.admit(provider, environment),
            Step::Claim { environment } => {
                let host = Arc::clone(&self.host);
                // Without a deadline of its own: the host has one for the older session's leaving.
                self.effect(async move {
                    host.claim(environment.clone()).await;
                    Outcome::Claimed(environment)
                });
            }
            Step::Unclaim { environment } => {
                let host = Arc::clone(&self.host);
                self.effect(async move {
                    host.unclaim(environment).await;
                    Outcome::Done
                });
            }
            Step::Bind {
                service,
                address,
                endpoints,
                all_or_none,
            } => self.bind(service, address, endpoints, all_or_none),
            Step::Retarget {
                endpoint,
                service,
                target,
            } => {
                if let (Some(open), Some(aim)) = (self.listeners.get(&endpoint), self.aim(&service, target)) {
                    open.listener.set_rules(self.rules.of(&service, endpoint.address));
                    if open.route.set(aim) {
                        open.listener.end_flows();
                    }
                }
            }
            Step::Publish { sink, records } => self.publish_names(sink, records),
            Step::Close { endpoints, drain } => self.close(endpoints, drain),
            Step::Release => self.release(),
        }
    }

    /// Runs an effect beside the loop.
    fn effect(&self, effect: impl Future<Output = Outcome> + Send + 'static) {
        self.effects.push(Box::pin(effect));
    }

    fn bind(
        &self,
        service: ServiceKey,
        address: IpAddr,
        endpoints: Vec<(Endpoint, Target)>,
        all_or_none: bool,
    ) {
        let (host, halt) = (Arc::clone(&self.host), self.halt.clone());
        let after = self.state.effect_timeout();
        let deadline = tokio::time::Instant::now() + after;
        self.effect(async move {
            let mut results = Vec::with_capacity(endpoints.len());
            for (endpoint, target) in endpoints {
                // One deadline for all ports: a helper that hangs hangs for each of them.
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                let bind = async {
                    match endpoint.protocol {
                        Protocol::Tcp => host.bind(endpoint).await.map(Socket::Tcp),
                        Protocol::Udp => host.bind_udp(endpoint).await.map(Socket::Udp),
                    }
                };
                let bound = in_time(left, &halt, bind).await;
                let result = bound.unwrap_or(Err(BindFault::TimedOut { endpoint, after }));
                results.push((endpoint, target, result));
            }
            Outcome::Bound {
                service,
                address,
                all_or_none,
                results,
            }
        });
    }

    fn publish_names(&self, index: usize, records: Records) {
        let Some(sink) = self.sinks.get(index).map(Arc::clone) else {
            return;
        };
        let hurry = self.hurry.clone();
        let after = self.state.effect_timeout();
        self.effect(async move {
            let published = in_time(after, &hurry, sink.publish(records.clone())).await;
            let result = published.unwrap_or_else(|| {
                Err(PublishError::TimedOut {
                    what: format!("whoever publishes to {}", sink.describe()),
                    after,
                })
            });
            Outcome::Published {
                sink: index,
                records,
                result,
            }
        });
    }

    /// Waits beside the loop, for as long as it takes, until somebody else touches what a sink published.
    fn watch(&self, index: usize) {
        if let Some(sink) = self.sinks.get(index).map(Arc::clone) {
            self.effect(async move {
                sink.disturbed().await;
                Outcome::Disturbed(index)
            });
        }
    }

    /// Stops listening; the ports are free when the effect is done. While stopping, that includes that connections have ended
    /// or were cut.
    fn close(&mut self, endpoints: Vec<Endpoint>, drain: Duration) {
        let closing: Vec<_> = endpoints
            .iter()
            .filter_map(|endpoint| self.listeners.remove(endpoint))
            .map(|open| open.listener)
            .collect();
        if !self.state.is_stopping() {
            self.effect(async move {
                let stopped = join_all(closing.into_iter().map(Listening::stop)).await;
                Outcome::Closed {
                    endpoints,
                    draining: stopped.into_iter().flatten().collect(),
                    drain,
                }
            });
            return;
        }
        let open: Vec<_> = closing.iter().map(Listening::counts).collect();
        let at = closing.iter().map(Listening::endpoint);
        self.closed.extend(at.zip(open.iter().cloned()));
        self.effect(async move {
            tokio::time::sleep(DRAINED_AT_ONCE).await;
            Outcome::StillOpen(open.iter().map(Counts::awaited).sum())
        });
        let hurry = self.hurry.clone();
        let mut others = std::mem::take(&mut self.draining);
        self.effect(async move {
            let drained = async {
                join_all(closing.into_iter().map(|listener| listener.close(drain))).await;
                while others.join_next().await.is_some() {}
            };
            tokio::select! {
                () = drained => {}
                // What is dropped here is reset.
                () = hurry.cancelled() => {}
            }
            Outcome::Closed {
                endpoints,
                draining: Vec::new(),
                drain,
            }
        });
    }

    fn release(&self) {
        let host = Arc::clone(&self.host);
        let hurried = self.state.is_hurried();
        let hurry = if hurried {
            CancellationToken::new()
        } else {
            self.hurry.clone()
        };
        let after = if hurried {
            GOODBYE
        } else {
            self.state.effect_timeout()
        };
        self.effect(async move {
            let released = in_time(after, &hurry, host.release()).await;
            Outcome::Released(released.unwrap_or_else(|| {
                Err(PublishError::TimedOut {
                    what: "the helper".to_owned(),
                    after,
                })
            }))
        });
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        self.changed = true;
        match outcome {
            Outcome::Claimed(environment) => self.state.handle_claimed(&environment),
            Outcome::Bound {
                service,
                address,
                all_or_none,
                results,
            } => self.handle_bound(&service, address, all_or_none, results),
            Outcome::Published {
                sink,
                records,
                result,
            } => self.state.handle_published(sink, records, result, now()),
            Outcome::Closed {
                endpoints,
                draining,
                drain,
            } => {
                for listener in draining {
                    self.draining.spawn(listener.close(drain));
                }
                self.state.handle_closed(&endpoints);
            }
            Outcome::StillOpen(connections) => self.state.handle_still_open(connections),
            Outcome::Released(result) => self.state.handle_released(result),
            Outcome::Disturbed(sink) => {
                self.state.handle_disturbed(sink, now());
                self.watch(sink);
            }
            Outcome::Done => {}
        }
    }

    fn handle_bound(
        &mut self,
        service: &ServiceKey,
        address: IpAddr,
        all_or_none: bool,
        bound: Vec<BoundEndpoint>,
    ) {
        let in_use = bound
            .iter()
            .any(|(.., result)| matches!(result, Err(BindFault::InUse { .. })));
        let keep = !(all_or_none && in_use);
        let mut results = Vec::with_capacity(bound.len());
        for (endpoint, target, result) in bound {
            let result = match result {
                Ok(socket) if keep => self.listen(service, socket, target, endpoint),
                Ok(_) => Ok(()),
                Err(fault) => Err(fault),
            };
            results.push((endpoint, result));
        }
        self.state.handle_bound(service, address, all_or_none, results);
    }

    fn listen(
        &mut self,
        service: &ServiceKey,
        socket: Socket,
        target: Target,
        endpoint: Endpoint,
    ) -> Result<(), BindFault> {
        let other = |message| BindFault::Other { endpoint, message };
        let aim = self
            .aim(service, target.clone())
            .ok_or_else(|| other("its provider is not known".to_owned()))?;
        let route = Arc::new(Route::new(aim, PATIENCE));
        let dialer = Arc::clone(&route);
        let changed = Arc::clone(&self.connections);
        let listener = match socket {
            Socket::Tcp(socket) => {
                let options = ListenerOptions {
                    limit: Arc::clone(&self.limit),
                    refusals: Some(self.refusal_sender.clone()),
                    strangers: Some(self.stranger_sender.clone()),
                    rules: self.rules.of(service, endpoint.address),
                    ..ListenerOptions::default()
                };
                Listener::spawn(socket, target, dialer, options, changed).map(Listening::Tcp)
            }
            Socket::Udp(socket) => {
                let options = UdpOptions {
                    limit: Arc::clone(&self.flow_limit),
                    access: self.rules.of(service, endpoint.address).access,
                    strangers: Some(self.udp_stranger_sender.clone()),
                    refusals: Some(self.udp_refusal_sender.clone()),
                    ..UdpOptions::default()
                };
                UdpListener::spawn(socket, target, dialer, options, changed).map(Listening::Udp)
            }
        };
        let listener = listener.map_err(|error| other(with_causes(&error)))?;
        tracing::debug!(%service, addr = %endpoint, "listening");
        self.listeners.insert(endpoint, Open { listener, route });
        Ok(())
    }

    fn aim(&self, service: &ServiceKey, target: Target) -> Option<Aim> {
        Some(Aim {
            environment: service.environment.clone(),
            target,
            road: self.links.road(service.provider)?,
        })
    }

    fn report(&self) -> StatusReport {
        let mut report = self.state.report(|endpoint| self.traffic(endpoint));
        if let Some(pid) = self.host.helper_pid() {
            report.identity.helper_pid = Some(pid);
        }
        report.helper_awaited = self.host.helper_awaited();
        report
    }

    fn traffic(&self, endpoint: &Endpoint) -> Traffic {
        match (self.listeners.get(endpoint), self.closed.get(endpoint)) {
            (Some(open), _) => open.listener.counts().traffic(),
            (None, Some(closed)) => closed.traffic(),
            (None, None) => Traffic::default(),
        }
    }

    /// Tells what happened to whoever listens, and keeps what is to be remembered.
    fn publish(&mut self) {
        let changes = self.state.take_lease_changes();
        if !changes.is_empty() {
            self.keeper.keep(changes);
        }
        while let Some(event) = self.state.poll_event() {
            self.changed = true;
            // No reader is no error: a session may run unobserved.
            drop(self.events.send(event));
        }
        if std::mem::take(&mut self.changed) {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    fn say(&mut self, goodbye: Goodbye) {
        self.goodbyes.spawn(async move {
            // A courtesy: the far side notices a closed socket as well.
            let said = timeout(GOODBYE, goodbye.say()).await;
            tracing::debug!(clean = said.is_ok(), "link closed");
        });
    }

    /// Says goodbye to every far side.
    async fn leave(mut self) {
        for provider in self.links.ids() {
            if let Some(goodbye) = self.links.disconnect(provider) {
                self.say(goodbye);
            }
        }
        while self.goodbyes.join_next().await.is_some() {}
    }
}

/// What happens next, here or at a far side.
enum Next {
    Outcome(Outcome),
    Link(ProviderId, Happened),
}

/// Waits for an effect or a link; neither can starve the other.
async fn either(effects: &mut FuturesUnordered<BoxFuture<'static, Outcome>>, links: &mut Links) -> Next {
    tokio::select! {
        Some(outcome) = effects.next() => Next::Outcome(outcome),
        (provider, happened) = links.next() => Next::Link(provider, happened),
    }
}

/// The result of an effect; nothing where it takes longer than `after` or nobody waits any more.
async fn in_time<T>(
    after: Duration,
    hurry: &CancellationToken,
    effect: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        result = timeout(after, effect) => result.ok(),
        () = hurry.cancelled() => None,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => pending().await,
    }
}

/// The runtime's clock, so that tests may stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn today() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
