//! A network in memory: connections to a desk, which can be cut, held up or refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tunnel_bridge::resume::{Desk, DeskError, DeskOptions, Options, Received, Redial, RedialError};
use tunnel_bridge::{Carrier, Link, LinkStatus, StreamCarrier, Target};

/// Everything here must happen within this time; on a loaded machine it takes well below a second.
pub(crate) const SOON: Duration = Duration::from_secs(40);

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {SOON:?}"),
    }
}

pub(crate) fn target(text: &str) -> Target {
    Target::new(text).unwrap()
}

/// What a desk made of a connection.
pub(crate) type Came = Result<Received, DeskError>;

/// The network and the server on it.
pub(crate) struct Network {
    desk: Desk,
    owner: Mutex<String>,
    /// What is under way, by connection.
    pumps: Mutex<Vec<AbortHandle>>,
    tasks: Mutex<JoinSet<()>>,
    pub(crate) dials: AtomicUsize,
    refusing: AtomicBool,
    came: mpsc::UnboundedSender<Came>,
}

impl Network {
    pub(crate) fn new(options: DeskOptions) -> (Arc<Network>, mpsc::UnboundedReceiver<Came>) {
        let (came, coming) = mpsc::unbounded_channel();
        let network = Network {
            desk: Desk::new(options),
            owner: Mutex::new("me".to_owned()),
            pumps: Mutex::default(),
            tasks: Mutex::default(),
            dials: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            came,
        };
        (Arc::new(network), coming)
    }

    pub(crate) fn desk(&self) -> Desk {
        self.desk.clone()
    }

    pub(crate) fn admit_as(&self, owner: &str) {
        owner.clone_into(&mut self.owner.lock().unwrap());
    }

    /// Whether connections are refused.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::SeqCst);
    }

    /// A connection to the desk; the far end is served by a task.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (near, mut near_middle) = duplex(64 * 1024);
        let (mut far_middle, far) = duplex(64 * 1024);
        let (desk, owner) = (self.desk(), self.owner.lock().unwrap().clone());
        let came = self.came.clone();
        let mut tasks = self.tasks.lock().unwrap();
        let pump = tasks.spawn(async move {
            drop(copy_bidirectional(&mut near_middle, &mut far_middle).await);
        });
        self.pumps.lock().unwrap().push(pump);
        tasks.spawn(async move {
            drop(came.send(desk.receive(StreamCarrier::new(far), &owner).await));
        });
        near
    }

    /// Cuts all connections; what is on its way is lost.
    pub(crate) fn cut(&self) {
        for pump in self.pumps.lock().unwrap().drain(..) {
            pump.abort();
        }
    }

    /// A client's link, and the server's end of it.
    pub(crate) async fn link(
        self: &Arc<Network>,
        coming: &mut mpsc::UnboundedReceiver<Came>,
    ) -> (Link, Link) {
        let carrier = StreamCarrier::new(self.connect());
        let near = Link::resumable(carrier, Dial(Arc::clone(self)), Options::default());
        match soon("a new link", coming.recv()).await {
            Some(Ok(Received::New(far))) => (near, far),
            other => panic!("{other:?}"),
        }
    }
}

/// Dials on the network.
pub(crate) struct Dial(pub(crate) Arc<Network>);

#[async_trait]
impl Redial for Dial {
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
        self.0.dials.fetch_add(1, Ordering::SeqCst);
        if self.0.refusing.load(Ordering::SeqCst) {
            return Err(RedialError::later("refused"));
        }
        Ok(Box::new(StreamCarrier::new(self.0.connect())))
    }
}

/// A stream between the two ends, after an exchange both ways: the client has its token by then.
pub(crate) async fn exchange(
    near: &Link,
    far: &Link,
) -> (tunnel_bridge::MuxStream, tunnel_bridge::MuxStream) {
    let mut asked = near.open(&target("echo")).await.unwrap();
    asked.write_all(b"ping").await.unwrap();
    let mut served = soon("a request", far.accept()).await.unwrap().accept();
    served.write_all(b"pong").await.unwrap();
    let mut four = [0; 4];
    soon("ping", served.read_exact(&mut four)).await.unwrap();
    assert_eq!(&four, b"ping");
    soon("pong", asked.read_exact(&mut four)).await.unwrap();
    assert_eq!(&four, b"pong");
    (asked, served)
}

/// Waits until the link's status is as wanted.
pub(crate) async fn until(
    what: &str,
    status: &mut watch::Receiver<LinkStatus>,
    wanted: impl FnMut(&LinkStatus) -> bool,
) -> LinkStatus {
    *soon(what, status.wait_for(wanted)).await.unwrap()
}

pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
