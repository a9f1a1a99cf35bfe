//! Queries on streams: each message behind its length (RFC 1035 §4.2.2), many at once, answered in whichever order they are ready
//! (RFC 7766 §6.2.1.1).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::relay::{Client, Relay};
use super::{Listening, Shared};
use crate::answer::Verdict;
use crate::wire::Transport;

/// All streams of a server.
pub(super) struct Streams {
    shared: Arc<Shared>,
    relay: Option<Relay>,
    idle: Duration,
    max: usize,
    max_per_client: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// How many queries of one stream may be without reply; then no more are read until one is answered.
const PIPELINED: usize = 64;

/// After an error of accept(2), such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

impl Streams {
    pub(super) fn new(listening: &Listening, shared: Arc<Shared>, relay: Option<Relay>) -> Self {
        Self {
            shared,
            relay,
            idle: listening.idle,
            max: listening.max_streams,
            max_per_client: listening.max_streams_per_client,
            open: Mutex::default(),
        }
    }

    /// Serves whoever connects, until it is dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let streams = Arc::clone(&self);
        self.accept(listener, move |stream| {
            let streams = Arc::clone(&streams);
            async move { streams.converse(stream).await }
        })
        .await;
    }

    /// The same behind TLS.
    #[cfg(feature = "tls")]
    pub(super) async fn serve_tls(
        self: Arc<Self>,
        listener: TcpListener,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) {
        let streams = Arc::clone(&self);
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        self.accept(listener, move |stream| {
            let (streams, acceptor) = (Arc::clone(&streams), acceptor.clone());
            async move {
                let stream = timeout(streams.idle, acceptor.accept(stream)).await??;
                streams.converse(stream).await
            }
        })
        .await;
    }

    async fn accept<F>(&self, listener: TcpListener, serve: impl Fn(TcpStream) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let mut conversations = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(ended) = conversations.join_next(), if !conversations.is_empty() => {
                    if let Ok(client) = ended {
                        self.leave(client);
                    }
                    continue;
                }
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            if !self.enter(peer) {
                continue;
            }
            let conversation = serve(stream);
            conversations.spawn(async move {
                if let Err(error) = conversation.await {
                    tracing::debug!(%error, "stream ended");
                }
                peer.ip()
            });
        }
    }

    fn enter(&self, peer: SocketAddr) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.entry(peer.ip()).or_default();
        let may = all < self.max && *own < self.max_per_client;
        *own += usize::from(may);
        may
    }

    fn leave(&self, client: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&client);
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite>(&self, stream: S) -> io::Result<()> {
        let (mut input, mut output) = tokio::io::split(stream);
        // A query takes its reply's place before it is read: when all are taken, the client waits.
        let (replies, mut ready) = mpsc::channel::<Vec<u8>>(PIPELINED);
        let read = async move {
            let mut packet = Vec::new();
            let mut reply = Vec::new();
            loop {
                let Ok(place) = replies.clone().reserve_owned().await else {
                    return Ok(());
                };
                match timeout(self.idle, read_message(&mut input, &mut packet)).await {
                    Ok(Ok(())) => {}
                    // The end, or silence: what was asked is still answered.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Ok(()),
                }
                let verdict = self.shared.responder.respond(&packet, Transport::Tcp, &mut reply);
                if let Some(counters) = self.shared.counters.last() {
                    counters.count(verdict);
                }
                match (verdict, &self.relay) {
                    (Verdict::Reply(_), _) => {
                        place.send(std::mem::take(&mut reply));
                    }
                    (Verdict::Forward, Some(relay)) => {
                        relay.forward(Client::Stream(place), &packet, Transport::Tcp);
                    }
                    // Whoever sends what is no query will not send one either.
                    (Verdict::Forward | Verdict::Drop, _) => return Ok(()),
                }
            }
        };
        let write = async {
            while let Some(reply) = ready.recv().await {
                let Ok(len) = u16::try_from(reply.len()) else {
                    continue;
                };
                // In one segment (RFC 7766 §8).
                let mut message = len.to_be_bytes().to_vec();
                message.extend_from_slice(&reply);
                timeout(self.idle, output.write_all(&message)).await??;
            }
            timeout(self.idle, output.shutdown()).await?
        };
        tokio::try_join!(read, write).map(|_| ())
    }
}

pub(super) async fn read_message(input: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<()> {
    let len = input.read_u16().await?;
    into.resize(usize::from(len), 0);
    input.read_exact(into).await?;
    Ok(())
}
