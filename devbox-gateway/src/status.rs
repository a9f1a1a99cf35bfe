//! What a gateway says of itself: whether it runs, whether it takes clients, and how many it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_bridge::ws::Upgrade;

use crate::presence::Presence;

/// How long one question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions at a time; whoever else asks is cut off.
const AT_ONCE: usize = 32;

/// How long accepting rests after the system had nothing to give.
const REST: Duration = Duration::from_millis(100);

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a gateway counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) presence: Presence,
    /// Sessions that were let in.
    pub(crate) sessions: Counter,
    /// Links that went on over another connection.
    pub(crate) resumed: Counter,
    /// Clients with a good token that were not let in.
    pub(crate) turned_away: Counter,
    streams: Counter,
    streams_ended: Counter,
}

/// A stream counts as open as long as this lives.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<Counts>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams_ended.add();
    }
}

impl Counts {
    pub(crate) fn open_stream(self: &Arc<Self>) -> OpenStream {
        self.streams.add();
        OpenStream(Arc::clone(self))
    }

    /// In Prometheus' text format.
    fn metrics(&self) -> String {
        let (connected, away) = self.presence.counts();
        let (ended, streams) = (self.streams_ended.count(), self.streams.count());
        let figures = [
            (
                "clients",
                "gauge",
                "Clients that are connected.",
                connected as u64,
            ),
            (
                "clients_interrupted",
                "gauge",
                "Clients whose link is kept for them.",
                away as u64,
            ),
            (
                "sessions_total",
                "counter",
                "Sessions that were let in.",
                self.sessions.count(),
            ),
            (
                "resumed_total",
                "counter",
                "Links that went on over another connection.",
                self.resumed.count(),
            ),
            (
                "turned_away_total",
                "counter",
                "Clients with a good token that were not let in.",
                self.turned_away.count(),
            ),
            (
                "streams",
                "gauge",
                "Connections to services that are open.",
                streams.saturating_sub(ended),
            ),
            (
                "streams_total",
                "counter",
                "Connections to services that were asked for.",
                streams,
            ),
        ];
        let of = |(name, kind, help, value)| {
            format!(
                "# HELP devbox_gateway_{name} {help}\n# TYPE devbox_gateway_{name} {kind}\ndevbox_gateway_{name} {value}\n"
            )
        };
        figures.map(of).concat()
    }
}

/// Answers until it is dropped. `stopping` says when no clients are taken any more.
pub(crate) async fn serve(listener: TcpListener, counts: Arc<Counts>, stopping: CancellationToken) {
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = answers.join_next(), if !answers.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if answers.len() < AT_ONCE => {
                    let (counts, stopping) = (Arc::clone(&counts), stopping.clone());
                    answers.spawn(async move {
                        if timeout(PATIENCE, answer(stream, &counts, &stopping)).await.is_err() {
                            debug!("a question about the gateway's status took too long");
                        }
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "questions about the gateway's status cannot be accepted");
                    sleep(REST).await;
                }
            },
        }
    }
}

async fn answer(stream: TcpStream, counts: &Counts, stopping: &CancellationToken) {
    let asked = match Upgrade::read(stream).await {
        Ok(asked) => asked,
        Err(error) => return debug!(%error, "no question about the gateway's status"),
    };
    let (status, text) = match asked.path() {
        "/healthz" => (200, "ok\n".to_owned()),
        "/readyz" if stopping.is_cancelled() => (503, "leaving\n".to_owned()),
        "/readyz" => (200, "ok\n".to_owned()),
        "/metrics" => (200, counts.metrics()),
        _ => (404, "here are /healthz, /readyz and /metrics\n".to_owned()),
    };
    if let Err(error) = asked.answer(status, &text, &[]).await {
        debug!(%error, "whoever asked for the gateway's status is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_open_until_it_is_dropped() {
        let counts = Arc::new(Counts::default());
        let has = |line: &str| counts.metrics().lines().any(|found| found == line);
        let first = counts.open_stream();
        let second = counts.open_stream();
        drop(first);
        assert!(has("devbox_gateway_streams 1") && has("devbox_gateway_streams_total 2"));
        drop(second);
        assert!(has("devbox_gateway_streams 0") && has("devbox_gateway_clients 0"));
    }
}
