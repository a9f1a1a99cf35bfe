//! The task that owns a session: it performs the steps that the state machine asks for and tells it what came of
//! them. No decision is made here.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use devbox_provider::with_causes;
use futures_util::future::BoxFuture;
use ipalloc::{Allocator, Timestamp};
use service_catalog::{Label, ServiceId, SourceError, Update};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tunnel_bridge::listener::{ConnectionEvent, Listener, ListenerOptions};
use tunnel_bridge::{Dialer, Target};

use crate::hold::{CurrentDialer, HoldingDialer};
use crate::host::{BindFault, Host};
use crate::provider::{ConnectFailure, FarSide, Provider};
use crate::report::{Event, StatusReport};
use crate::state::SessionState;
use crate::step::{Settings, Step, StopReason};

/// Events kept for a listener that does not keep up; the oldest are dropped for it, the session never waits.
const EVENT_BACKLOG: usize = 1024;
/// Connection events under way to the state machine. A connection never waits: counts are lost first.
const CONNECTION_BACKLOG: usize = 4096;
/// Commands under way; who sends one waits when it is full.
const COMMAND_BACKLOG: usize = 16;
/// For how long a new connection is held while there is no link.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session that is ready to run.
///
/// [`Session::run`] ends when everything is undone. Everything that others ask of it goes through [`Handle`].
pub struct Session {
    state: SessionState,
    provider: Box<dyn Provider>,
    host: Box<dyn Host>,
    generation: u64,
    connecting: Option<BoxFuture<'static, Result<FarSide, ConnectFailure>>>,
    far: Option<FarSide>,
    dialer: Arc<dyn Dialer>,
    current: watch::Sender<CurrentDialer>,
    listeners: HashMap<SocketAddr, Listener>,
    draining: JoinSet<()>,
    connections: (mpsc::Sender<ConnectionEvent>, mpsc::Receiver<ConnectionEvent>),
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Event>,
    reports: watch::Sender<Option<StatusReport>>,
}

/// Asks things of a running session. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
    reports: watch::Receiver<Option<StatusReport>>,
}

#[derive(Debug)]
enum Command {
    Status(oneshot::Sender<StatusReport>),
    Stop(StopReason),
}

impl Session {
    /// Puts a session together; nothing happens before [`Session::run`].
    pub fn new(
        settings: Settings,
        addresses: Allocator,
        provider: Box<dyn Provider>,
        host: Box<dyn Host>,
    ) -> (Self, Handle) {
        let (command_sender, commands) = mpsc::channel(COMMAND_BACKLOG);
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (reports, report_receiver) = watch::channel(None);
        let (current, current_receiver) = watch::channel(None);
        let session = Self {
            state: SessionState::new(settings, addresses, now()),
            provider,
            host,
            generation: 0,
            connecting: None,
            far: None,
            dialer: Arc::new(HoldingDialer::new(current_receiver, PATIENCE)),
            current,
            listeners: HashMap::new(),
            draining: JoinSet::new(),
            connections: mpsc::channel(CONNECTION_BACKLOG),
            commands,
            events: events.clone(),
            reports,
        };
        (
            session,
            Handle {
                commands: command_sender,
                events,
                reports: report_receiver,
            },
        )
    }

    /// Runs until the session has ended and everything that it did is undone; says why it ended.
    ///
    /// # Cancel safety
    ///
    /// Must run to its end: dropped before, it leaves the undoing to the helper, which sees its channel close.
    pub async fn run(mut self) -> StopReason {
        loop {
            while let Some(step) = self.state.poll_step(now()) {
                self.perform(step).await;
                self.publish();
            }
            self.publish();
            if let Some(reason) = self.state.finished() {
                let reason = reason.clone();
                if let Some(far) = self.far.take() {
                    // Courtesy only: the gateway notices a closed socket as well.
                    let closing = tokio::time::timeout(Duration::from_secs(1), (far.close)()).await;
                    tracing::debug!(clean = closing.is_ok(), "link closed");
                }
                return reason;
            }
            self.wait().await;
        }
    }

    /// Waits for one thing to happen and hands it to the state machine.
    async fn wait(&mut self) {
        let timer = self.state.poll_timeout();
        tokio::select! {
            Some(command) = self.commands.recv() => self.handle_command(command),
            outcome = until_connected(&mut self.connecting) => {
                self.connecting = None;
                match outcome {
                    Ok(far) => {
                        self.current.send_replace(Some(Arc::clone(&far.dialer)));
                        self.far = Some(far);
                        self.state.handle_connected(now());
                    }
                    Err(failure) => self.state.handle_connect_failed(failure, now()),
                }
            }
            update = next_update(&mut self.far) => match update {
                Ok(update) => self.state.handle_update(update, Timestamp::from(SystemTime::now())),
                Err(error) => {
                    self.current.send_replace(None);
                    self.far = None;
                    let reason = match &error {
                        SourceError::Lost { source } => source.to_string(),
                        error => with_causes(error),
                    };
                    self.state.handle_link_lost(reason, now());
                }
            },
            Some(event) = self.connections.1.recv() => {
                self.state.handle_connection(&event);
                while let Ok(event) = self.connections.1.try_recv() {
                    self.state.handle_connection(&event);
                }
            }
            Some(_) = self.draining.join_next() => {}
            () = self.host.lost() => self.state.handle_helper_lost(),
            () = until(timer) => {}
        }
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Connect => {
                self.generation += 1;
                self.connecting = Some(self.provider.connect(self.generation));
            }
            Step::Claim { environment } => {
                self.claim(environment).await;
                self.state.handle_claimed();
            }
            Step::Open {
                service,
                address,
                ports,
                all_or_none,
            } => {
                let results = self.open(&service, address, ports, all_or_none).await;
                self.state
                    .handle_opened(&service, address, results, Timestamp::from(SystemTime::now()));
            }
            Step::WriteHosts { entries } => {
                let result = self.host.write_hosts(entries.clone()).await;
                self.state.handle_hosts_written(entries, result, now());
            }
            Step::Close { listeners, drain } => {
                let closing: Vec<_> = listeners
                    .iter()
                    .filter_map(|at| self.listeners.remove(at))
                    .collect();
                for listener in closing {
                    listener.stop().await;
                    self.draining.spawn(listener.close(drain));
                }
                if self.state.is_stopping() {
                    self.drain().await;
                }
                self.state.handle_closed(&listeners);
            }
            Step::Release => {
                self.connecting = None;
                let result = self.host.release().await;
                self.state.handle_released(result);
            }
        }
    }

    /// Claims the environment; a request to stop ends the waiting for an older session.
    async fn claim(&mut self, environment: Label) {
        let claimed = self.host.claim(environment);
        tokio::pin!(claimed);
        loop {
            tokio::select! {
                () = &mut claimed => return,
                Some(command) = self.commands.recv() => match command {
                    Command::Status(reply) => drop(reply.send(self.state.report())),
                    Command::Stop(reason) => return self.state.stop(reason),
                },
            }
        }
    }

    /// Opens the listeners of one service on its address.
    async fn open(
        &mut self,
        service: &ServiceId,
        address: IpAddr,
        ports: Vec<(NonZeroU16, Target)>,
        all_or_none: bool,
    ) -> Vec<(NonZeroU16, Result<(), BindFault>)> {
        let mut bound = Vec::with_capacity(ports.len());
        for (port, target) in ports {
            let result = self.host.bind(SocketAddr::new(address, port.get())).await;
            bound.push((port, target, result));
        }
        let in_use = bound
            .iter()
            .any(|(.., result)| matches!(result, Err(BindFault::InUse { .. })));
        let keep = !(all_or_none && in_use);
        let mut results = Vec::with_capacity(bound.len());
        for (port, target, result) in bound {
            let at = SocketAddr::new(address, port.get());
            let result = match result {
                Ok(socket) if keep => self.listen(service, socket, target, at),
                Ok(_) => Ok(()),
                Err(fault) => Err(fault),
            };
            results.push((port, result));
        }
        results
    }

    fn listen(
        &mut self,
        service: &ServiceId,
        socket: TcpListener,
        target: Target,
        at: SocketAddr,
    ) -> Result<(), BindFault> {
        let (dialer, events) = (Arc::clone(&self.dialer), self.connections.0.clone());
        let listener =
            Listener::spawn(socket, target, dialer, ListenerOptions::default(), events).map_err(|error| {
                BindFault::Other {
                    address: at,
                    message: with_causes(&error),
                }
            })?;
        tracing::debug!(%service, addr = %at, "listening");
        self.listeners.insert(at, listener);
        Ok(())
    }

    /// Waits for connections to end; a second request to stop ends the waiting.
    async fn drain(&mut self) {
        loop {
            tokio::select! {
                left = self.draining.join_next() => if left.is_none() { return },
                Some(command) = self.commands.recv() => {
                    let again = matches!(command, Command::Stop(_));
                    self.handle_command(command);
                    if again {
                        self.draining.abort_all();
                    }
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            // Who asked may have gone meanwhile; then nobody misses the answer.
            Command::Status(reply) => drop(reply.send(self.state.report())),
            Command::Stop(reason) => self.state.stop(reason),
        }
    }

    /// Tells what happened to whoever listens.
    fn publish(&mut self) {
        let mut told = false;
        while let Some(event) = self.state.poll_event() {
            told = true;
            self.send(event);
        }
        if told {
            self.reports.send_replace(Some(self.state.report()));
        }
    }

    fn send(&self, event: Event) {
        // No receiver is no error: a session may run unobserved.
        drop(self.events.send(event));
    }
}

impl Handle {
    /// The session as it stands; `None` when it has ended.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn status(&self) -> Option<StatusReport> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Asks the session to end. [`Session::run`] returns once it has.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn stop(&self, reason: StopReason) {
        // A session that has ended already has what is asked for.
        drop(self.commands.send(Command::Stop(reason)).await);
    }

    /// What happens from here on. A receiver that does not keep up misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The report after each change; `None` before the first.
    pub fn reports(&self) -> watch::Receiver<Option<StatusReport>> {
        self.reports.clone()
    }
}

async fn until_connected(
    connecting: &mut Option<BoxFuture<'static, Result<FarSide, ConnectFailure>>>,
) -> Result<FarSide, ConnectFailure> {
    match connecting {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn next_update(far: &mut Option<FarSide>) -> Result<Update, SourceError> {
    match far {
        Some(far) => far.source.next().await,
        None => pending().await,
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
