//! The forwarder's sockets. Whoever has something for the forwarder gives it to it: the thread that read a question asks the upstream, and
//! the task that reads the reply answers the client. A question that finds the forwarder at work, or with much to do, waits in a queue, so
//! that what is answered from memory never waits for what is not.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use super::stream::read_message;
use crate::forward::{ForwardCounts, Forwarder, Forwarding, PortId, Transmit};
use crate::sys::{self, Peer};
use crate::wire::Transport;

/// Who is to get a reply.
pub(super) enum Client {
    Datagram {
        socket: Arc<std::net::UdpSocket>,
        peer: Peer,
    },
    /// A place in a stream's queue.
    Stream(mpsc::OwnedPermit<Vec<u8>>),
}

impl Client {
    fn reply(self, reply: Vec<u8>) {
        match self {
            Self::Datagram { socket, peer } => sys::send(&socket, &reply, peer),
            Self::Stream(place) => {
                place.send(reply);
            }
        }
    }
}

/// A way to the forwarder. Cheap to clone.
#[derive(Clone)]
pub(super) struct Relay {
    core: Arc<Core>,
    questions: mpsc::Sender<Question>,
}

struct Question {
    client: Client,
    packet: Vec<u8>,
    transport: Transport,
}

/// How many questions may wait; more are dropped, and their clients ask again.
const WAITING: usize = 8_192;

/// How many of them are taken before anything else is looked at.
const AT_ONCE: usize = 256;

/// With fewer in flight a question is sent by the thread that read it: a few microseconds, which a flood must not take from others.
const DIRECT: usize = 64;

/// How many sockets are open to each upstream for questions to come.
const SPARES: usize = 4;

impl Relay {
    pub(super) fn start(forwarding: Forwarding, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let (questions, waiting) = mpsc::channel(WAITING);
        let random = random_ids()?;
        let spares: HashMap<_, _> = forwarding
            .upstreams
            .iter()
            .map(|upstream| (*upstream, Vec::new()))
            .collect();
        let core = Arc::new_cyclic(|core| Core {
            state: Mutex::new(State {
                core: Weak::clone(core),
                runtime: Handle::current(),
                spares,
                forwarder: Forwarder::new(forwarding, random),
                ports: HashMap::new(),
                readers: JoinSet::new(),
                awaited: None,
            }),
            earlier: Notify::new(),
        });
        tasks.spawn(Arc::clone(&core).run(waiting));
        Ok(Self { core, questions })
    }

    pub(super) fn forward(&self, client: Client, packet: &[u8], transport: Transport) {
        let Err(client) = self.core.ask(client, packet, transport) else {
            return;
        };
        let question = Question {
            client,
            packet: packet.to_vec(),
            transport,
        };
        if self.questions.try_send(question).is_err() {
            tracing::debug!("a question was dropped: too many wait to be forwarded");
        }
    }

    pub(super) fn counts(&self) -> ForwardCounts {
        self.core.lock().forwarder.counts()
    }

    /// Closes the sockets, and returns when they are closed.
    pub(super) async fn stop(&self) {
        let mut readers = {
            let mut state = self.core.lock();
            state.ports.clear();
            state.spares.clear();
            std::mem::take(&mut state.readers)
        };
        readers.shutdown().await;
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

/// Ids from the system's random numbers, many at a time.
fn random_ids() -> io::Result<impl FnMut() -> u16 + Send + 'static> {
    let mut bytes = [0; 512];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    let mut left = bytes.len();
    Ok(move || {
        if left == 0 && getrandom::fill(&mut bytes).is_ok() {
            left = bytes.len();
        }
        left = left.saturating_sub(2);
        let [high, low] = [left, left + 1].map(|at| bytes.get(at).copied().unwrap_or_default());
        u16::from_be_bytes([high, low])
    })
}

/// The forwarder and its sockets. The lock is held for a step of the forwarder and what it wants sent, never while anything is awaited.
struct Core {
    state: Mutex<State>,
    /// Something is to be done earlier than the task knows.
    earlier: Notify,
}

struct State {
    forwarder: Forwarder<Client>,
    ports: HashMap<PortId, Socket>,
    /// Sockets for questions to come, by upstream.
    spares: HashMap<SocketAddr, Vec<Socket>>,
    readers: JoinSet<()>,
    /// When the task looks at the time next.
    awaited: Option<Instant>,
    runtime: Handle,
    core: Weak<Core>,
}

struct Socket {
    /// `None` for a connection, which its reader has alone.
    udp: Option<Arc<UdpSocket>>,
    /// Which port it is, as soon as it is one.
    port: Arc<OnceLock<PortId>>,
    reader: AbortHandle,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks at once, if that makes nobody wait; otherwise the client comes back.
    fn ask(&self, client: Client, packet: &[u8], transport: Transport) -> Result<(), Client> {
        let Ok(mut state) = self.state.try_lock() else {
            return Err(client);
        };
        if state.forwarder.in_flight() >= DIRECT || state.spares.values().all(Vec::is_empty) {
            return Err(client);
        }
        state
            .forwarder
            .handle_query(client, packet, transport, Instant::now());
        state.act();
        let wake = state.forwarder.poll_timeout();
        let is_earlier = wake.is_some_and(|wake| state.awaited.is_none_or(|awaited| wake < awaited));
        if is_earlier {
            state.awaited = wake;
        }
        drop(state);
        if is_earlier {
            self.earlier.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, and looks at the time.
    async fn run(self: Arc<Self>, mut waiting: mpsc::Receiver<Question>) {
        let mut questions = Vec::with_capacity(AT_ONCE);
        loop {
            let awaited = self.turn(&mut questions);
            let sleep = async move {
                match awaited {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = waiting.recv_many(&mut questions, AT_ONCE) => {
                    if taken == 0 {
                        return;
                    }
                }
                () = sleep => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// When the next one is due.
    fn turn(&self, questions: &mut Vec<Question>) -> Option<Instant> {
        let mut state = self.lock();
        let now = Instant::now();
        state.forwarder.handle_timeout(now);
        for Question {
            client,
            packet,
            transport,
        } in questions.drain(..)
        {
            state.forwarder.handle_query(client, &packet, transport, now);
        }
        state.act();
        state.tidy();
        state.awaited = state.forwarder.poll_timeout();
        state.awaited
    }

    /// A reader's packet, or none if none will come; whether the reader is to go on.
    fn handle(&self, port: PortId, upstream: SocketAddr, received: Option<&[u8]>) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        match received {
            Some(packet) => state.forwarder.handle_reply(port, upstream, packet, now),
            None => state.forwarder.handle_failure(port, now),
        }
        state.act();
        state.tidy();
        state.ports.contains_key(&port)
    }
}

impl State {
    /// Does what the forwarder wants.
    fn act(&mut self) {
        while let Some(transmit) = self.forwarder.poll_transmit() {
            let port = transmit.port;
            if let Err(error) = self.transmit(transmit) {
                tracing::debug!(%error, "cannot ask an upstream");
                self.forwarder.handle_failure(port, Instant::now());
            }
        }
        while let Some((client, reply)) = self.forwarder.poll_reply() {
            client.reply(reply);
        }
        while let Some(closed) = self.forwarder.poll_closed() {
            if let Some(socket) = self.ports.remove(&closed) {
                socket.reader.abort();
            }
        }
    }

    /// What nobody waits for: forgets readers that have ended, and opens sockets for questions to come.
    fn tidy(&mut self) {
        while self.readers.try_join_next().is_some() {}
        let mut all = std::mem::take(&mut self.spares);
        for (upstream, spares) in &mut all {
            while spares.len() < SPARES {
                match self.open(*upstream) {
                    Ok(socket) => spares.push(socket),
                    Err(error) => {
                        tracing::debug!(%error, %upstream, "no spare socket");
                        break;
                    }
                }
            }
        }
        self.spares = all;
    }

    fn transmit(&mut self, transmit: Transmit) -> io::Result<()> {
        let Transmit {
            port,
            upstream,
            transport,
            packet,
        } = transmit;
        if transport == Transport::Tcp {
            let core = Weak::clone(&self.core);
            let ask = async move {
                let reply = ask_by_tcp(upstream, &packet).await;
                if let Some(core) = core.upgrade() {
                    core.handle(port, upstream, reply.ok().as_deref());
                }
            };
            let socket = Socket {
                udp: None,
                port: Arc::default(),
                reader: self.readers.spawn_on(ask, &self.runtime),
            };
            self.ports.insert(port, socket);
            return Ok(());
        }
        let udp = match self.ports.get(&port) {
            Some(socket) => socket.udp.clone(),
            None => {
                let spare = self.spares.get_mut(&upstream).and_then(Vec::pop);
                let socket = spare.map_or_else(|| self.open(upstream), Ok)?;
                socket.port.get_or_init(|| port);
                let udp = socket.udp.clone();
                self.ports.insert(port, socket);
                udp
            }
        };
        let Some(udp) = udp else { return Ok(()) };
        // Not by way of the runtime, which has not yet heard that a new socket can be written to.
        match socket2::SockRef::from(&*udp).send(&packet) {
            // As if it were lost on the way.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Opens a socket to an upstream and has it read.
    fn open(&mut self, upstream: SocketAddr) -> io::Result<Socket> {
        let context = self.runtime.enter();
        let udp = Arc::new(connected(upstream)?);
        drop(context);
        let port = Arc::<OnceLock<PortId>>::default();
        let read = read(
            Arc::clone(&udp),
            Arc::clone(&port),
            upstream,
            Weak::clone(&self.core),
        );
        Ok(Socket {
            udp: Some(udp),
            port,
            reader: self.readers.spawn_on(read, &self.runtime),
        })
    }
}

/// A socket on a port that the system chooses, which takes packets of the upstream alone.
fn connected(upstream: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(upstream)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn read(socket: Arc<UdpSocket>, port: Arc<OnceLock<PortId>>, upstream: SocketAddr, core: Weak<Core>) {
    let mut buffer = vec![0; MAX_REPLY_LEN];
    loop {
        let received = socket.recv(&mut buffer).await;
        let received = received.ok().and_then(|len| buffer.get(..len));
        // What comes before anything was asked answers nothing.
        let Some(port) = port.get() else { continue };
        let Some(core) = core.upgrade() else { return };
        if !core.handle(*port, upstream, received) {
            return;
        }
    }
}

async fn ask_by_tcp(upstream: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let len = u16::try_from(packet.len()).map_err(io::Error::other)?;
    let mut message = len.to_be_bytes().to_vec();
    message.extend_from_slice(packet);
    stream.write_all(&message).await?;
    let mut reply = Vec::new();
    read_message(&mut stream, &mut reply).await?;
    Ok(reply)
}

/// What a reply over UDP may have: we ask for 1232 bytes, and not everyone keeps to it.
const MAX_REPLY_LEN: usize = 4_096;
