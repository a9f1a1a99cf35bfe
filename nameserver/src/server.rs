//! The sockets: threads that answer datagrams, tasks for streams, and a task that forwards.

mod relay;
mod stream;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::answer::Responder;
use crate::forward::Forwarding;
use crate::limit::{Limiter, RateLimit};
use crate::metrics::{Counters, Metrics};
use crate::sys;
use relay::Relay;
use udp::Sockets;

/// Where a server listens, and what its clients may take of it.
#[derive(Debug, Clone)]
pub struct Listening {
    /// Where UDP and TCP are answered. With port 0 the system chooses one, the same for both.
    pub addresses: Vec<SocketAddr>,
    /// How many threads answer datagrams of each address. Default: 1.
    pub threads: usize,
    /// How much one client may ask over UDP. Default: as much as it likes.
    pub rate_limit: Option<RateLimit>,
    /// Whom to ask what the responder does not know. Default: nobody.
    pub forwarding: Option<Forwarding>,
    /// How many streams may be open, of all clients. Default: 256. One more is closed at once.
    pub max_streams: usize,
    /// How many streams one client may have open. Default: 64.
    pub max_streams_per_client: usize,
    /// For how long a stream may be silent, or take to read a reply. Default: 10 s.
    pub idle: Duration,
    /// Where DNS over TLS is answered (RFC 7858), and with which certificate.
    #[cfg(feature = "tls")]
    pub tls: Option<(Vec<SocketAddr>, crate::TlsConfig)>,
}

impl Listening {
    /// The defaults, at these addresses.
    pub fn on(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            threads: 1,
            rate_limit: None,
            forwarding: None,
            max_streams: 256,
            max_streams_per_client: 64,
            idle: Duration::from_secs(10),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no threads or no random numbers.
    #[error("cannot start")]
    Start(#[from] io::Error),
}

/// A server that runs. It goes on until [`stop`](Server::stop), or until it is dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    #[cfg(feature = "tls")]
    tls_addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    relay: Option<Relay>,
    tasks: JoinSet<()>,
    threads: Vec<thread::JoinHandle<()>>,
    sockets: Vec<Arc<std::net::UdpSocket>>,
}

/// What all threads and tasks use.
#[derive(Debug)]
struct Shared {
    responder: Responder,
    limiter: Option<Mutex<Limiter>>,
    stopping: AtomicBool,
    counters: Vec<Counters>,
}

impl Shared {
    fn admits(&self, client: SocketAddr) -> bool {
        self.limiter.as_ref().is_none_or(|limiter| {
            let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
            limiter.admit(client.ip(), Instant::now())
        })
    }
}

impl Server {
    /// Listens and answers. Everything listens before this returns.
    ///
    /// # Errors
    /// [`ServerError`]
    ///
    /// # Cancel safety
    /// Safe: what was opened is closed.
    pub async fn start(responder: Responder, listening: Listening) -> Result<Self, ServerError> {
        let threads = listening.threads.max(1);
        let sockets = Sockets::bind(&listening.addresses)?;
        // The last one is the streams'.
        let counters = (0..=threads * listening.addresses.len()).map(|_| Counters::default());
        let shared = Arc::new(Shared {
            responder,
            limiter: listening.rate_limit.map(|limit| Mutex::new(Limiter::new(limit))),
            stopping: AtomicBool::new(false),
            counters: counters.collect(),
        });
        let mut tasks = JoinSet::new();
        let relay = match &listening.forwarding {
            Some(forwarding) => Some(Relay::start(forwarding.clone(), &mut tasks)?),
            None => None,
        };
        let mut server = Self {
            addresses: sockets.addresses,
            #[cfg(feature = "tls")]
            tls_addresses: Vec::new(),
            shared: Arc::clone(&shared),
            relay: relay.clone(),
            tasks,
            threads: Vec::new(),
            sockets: sockets.udp,
        };
        let streams = Arc::new(stream::Streams::new(
            &listening,
            Arc::clone(&shared),
            relay.clone(),
        ));
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            server.tasks.spawn(Arc::clone(&streams).serve(listener));
        }
        #[cfg(feature = "tls")]
        if let Some((addresses, config)) = listening.tls {
            for address in addresses {
                let listener = tokio::net::TcpListener::bind(address)
                    .await
                    .map_err(|source| ServerError::Bind { address, source })?;
                server.tls_addresses.push(listener.local_addr()?);
                server
                    .tasks
                    .spawn(Arc::clone(&streams).serve_tls(listener, Arc::clone(&config)));
            }
        }
        for (number, socket) in server
            .sockets
            .iter()
            .flat_map(|socket| (0..threads).map(move |_| socket))
            .enumerate()
        {
            let worker = udp::Worker {
                socket: Arc::clone(socket),
                shared: Arc::clone(&shared),
                counters: number,
                relay: relay.clone(),
            };
            let thread = thread::Builder::new().name(format!("dns-udp-{number}"));
            server.threads.push(thread.spawn(move || worker.run())?);
        }
        Ok(server)
    }

    /// Where UDP and TCP are answered.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where DNS over TLS is answered.
    #[cfg(feature = "tls")]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// What was asked and answered so far.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::sum(&self.shared.counters);
        metrics.names = self.shared.responder.registry().snapshot().len() as u64;
        metrics.forward = self.relay.as_ref().map(Relay::counts).unwrap_or_default();
        metrics
    }

    /// Closes everything, and returns when all of it is closed.
    ///
    /// # Cancel safety
    /// Safe: everything is closed, if perhaps a moment later.
    pub async fn stop(mut self) {
        self.close();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(|| {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        if joined.await.is_ok_and(|panicked| panicked > 0) {
            tracing::error!("a thread that answered datagrams has panicked");
        }
        self.tasks.shutdown().await;
        if let Some(relay) = &self.relay {
            relay.stop().await;
        }
    }

    fn close(&self) {
        self.shared.stopping.store(true, Relaxed);
        self.sockets.iter().for_each(|socket| sys::wake(socket));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}
