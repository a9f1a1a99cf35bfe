//! The forwarder's sockets. One task owns its state; a reader for each port reports to it.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
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
#[derive(Debug, Clone)]
pub(super) struct Relay {
    questions: mpsc::Sender<Question>,
    counts: Arc<Mutex<ForwardCounts>>,
}

struct Question {
    client: Client,
    packet: Vec<u8>,
    transport: Transport,
}

/// What a reader has to say about its port.
enum Event {
    Reply(PortId, SocketAddr, Vec<u8>),
    Failed(PortId),
}

/// How many questions may wait for the task; more are dropped, and their clients ask again.
const WAITING: usize = 8_192;

/// How many of them are taken before anything else is looked at.
const AT_ONCE: usize = 256;

/// How many sockets are open to each upstream for questions to come.
const SPARES: usize = 4;

/// How many replies may wait; the sockets keep the others.
const EVENTS: usize = 1_024;

impl Relay {
    pub(super) fn start(forwarding: Forwarding, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let (questions, waiting) = mpsc::channel(WAITING);
        let (events, reported) = mpsc::channel(EVENTS);
        let counts = Arc::<Mutex<ForwardCounts>>::default();
        let task = Task {
            forwarder: Forwarder::new(forwarding, random_ids()?),
            ports: HashMap::new(),
            spares: HashMap::new(),
            readers: JoinSet::new(),
            events,
            counts: Arc::clone(&counts),
        };
        tasks.spawn(task.run(waiting, reported));
        Ok(Self { questions, counts })
    }

    pub(super) fn forward(&self, client: Client, packet: &[u8], transport: Transport) {
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
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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

struct Task {
    forwarder: Forwarder<Client>,
    ports: HashMap<PortId, Port>,
    /// Sockets for questions to come, by upstream.
    spares: HashMap<SocketAddr, Vec<UdpSocket>>,
    readers: JoinSet<()>,
    events: mpsc::Sender<Event>,
    counts: Arc<Mutex<ForwardCounts>>,
}

struct Port {
    /// `None` for a connection, which its reader has alone.
    socket: Option<Arc<UdpSocket>>,
    reader: AbortHandle,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Question>, mut reported: mpsc::Receiver<Event>) {
        let mut questions = Vec::with_capacity(AT_ONCE);
        loop {
            let wake = self.forwarder.poll_timeout();
            let sleep = async move {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = waiting.recv_many(&mut questions, AT_ONCE) => {
                    if taken == 0 {
                        return;
                    }
                    let now = Instant::now();
                    for Question { client, packet, transport } in questions.drain(..) {
                        self.forwarder.handle_query(client, &packet, transport, now);
                    }
                }
                Some(event) = reported.recv() => self.handle(event),
                () = sleep => self.forwarder.handle_timeout(Instant::now()),
                Some(_) = self.readers.join_next(), if !self.readers.is_empty() => {}
            }
            self.act();
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Reply(port, from, packet) => self.forwarder.handle_reply(port, from, &packet, now),
            Event::Failed(port) => self.forwarder.handle_failure(port, now),
        }
    }

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
            if let Some(port) = self.ports.remove(&closed) {
                port.reader.abort();
            }
        }
        self.open_spares();
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.forwarder.counts();
    }

    /// Opens sockets while no question waits for them.
    fn open_spares(&mut self) {
        for (upstream, spares) in &mut self.spares {
            while spares.len() < SPARES {
                match connected(*upstream) {
                    Ok(socket) => spares.push(socket),
                    Err(error) => {
                        tracing::debug!(%error, %upstream, "no spare socket");
                        break;
                    }
                }
            }
        }
    }

    fn transmit(&mut self, transmit: Transmit) -> io::Result<()> {
        let Transmit {
            port,
            upstream,
            transport,
            packet,
        } = transmit;
        let events = self.events.clone();
        if transport == Transport::Tcp {
            let reader = self.readers.spawn(async move {
                let event = match ask_by_tcp(upstream, &packet).await {
                    Ok(reply) => Event::Reply(port, upstream, reply),
                    Err(_) => Event::Failed(port),
                };
                report(&events, event).await;
            });
            self.ports.insert(port, Port { socket: None, reader });
            return Ok(());
        }
        let socket = match self.ports.get(&port) {
            Some(Port {
                socket: Some(socket), ..
            }) => Arc::clone(socket),
            _ => {
                let spare = self.spares.entry(upstream).or_default().pop();
                let socket = Arc::new(spare.map_or_else(|| connected(upstream), Ok)?);
                let reader = self
                    .readers
                    .spawn(read(Arc::clone(&socket), port, upstream, events));
                let kept = Port {
                    socket: Some(Arc::clone(&socket)),
                    reader,
                };
                self.ports.insert(port, kept);
                socket
            }
        };
        // Not by way of the runtime, which has not yet heard that a new socket can be written to.
        match socket2::SockRef::from(&*socket).send(&packet) {
            // As if it were lost on the way.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(|_| ()),
        }
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

async fn read(socket: Arc<UdpSocket>, port: PortId, upstream: SocketAddr, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; MAX_REPLY_LEN];
    loop {
        let event = match socket.recv(&mut buffer).await {
            Ok(len) => Event::Reply(port, upstream, buffer.get(..len).unwrap_or_default().to_vec()),
            Err(_) => Event::Failed(port),
        };
        report(&events, event).await;
    }
}

async fn report(events: &mpsc::Sender<Event>, event: Event) {
    if events.send(event).await.is_err() {
        tracing::trace!("a reply came after the end");
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
