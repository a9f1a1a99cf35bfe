//! Connections to the API server that are made ahead of need.
//!
//! Only TCP and TLS are: the container runtime connects to the target as soon as a port-forward opens, so one that is
//! opened ahead would be an idle connection of the target. PostgreSQL would spend one of its `max_connections` on it, and
//! report an incomplete startup packet when it goes. What is kept is good for any pod, and no pod's end matters to it.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tunnel_bridge::ws::{self, Standby};

use super::SUBPROTOCOL;
use crate::Cluster;

/// The most that are kept.
const MOST: usize = 8;

/// How long one is kept. An API server waits 32 s for a request (`ReadHeaderTimeout`).
const LIFETIME: Duration = Duration::from_secs(20);

/// For so long after a use, others are made.
const INTEREST: Duration = Duration::from_secs(20);

/// Gives out connections that are ready. Dropping it closes those that are left.
#[derive(Debug)]
pub(super) struct Reserve {
    /// Full only while the task is busy: then a connection is made at once instead.
    asking: mpsc::Sender<oneshot::Sender<Standby>>,
    task: JoinHandle<()>,
}

impl Reserve {
    pub(super) fn start(cluster: Cluster) -> Reserve {
        let (asking, asked) = mpsc::channel(64);
        let task = tokio::spawn(keep(cluster, asked));
        Reserve { asking, task }
    }

    /// A connection, if one is ready.
    pub(super) async fn take(&self) -> Option<Standby> {
        let (give, given) = oneshot::channel();
        self.asking.try_send(give).ok()?;
        given.await.ok()
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(cluster: Cluster, mut asked: mpsc::Receiver<oneshot::Sender<Standby>>) {
    let mut stock: Stock<Standby> = Stock::new(Instant::now());
    let mut making = FuturesUnordered::new();
    loop {
        while stock.poll_make(Instant::now()) {
            making.push(make(cluster.clone()));
        }
        tokio::select! {
            give = asked.recv() => {
                let Some(give) = give else { return };
                let mut taken = stock.take(Instant::now());
                while taken.as_mut().is_some_and(|standby| !standby.is_open()) {
                    taken = stock.take(Instant::now());
                }
                if let Some(standby) = taken
                    && let Err(standby) = give.send(standby)
                {
                    stock.handle_made(Some(standby), Instant::now());
                }
            }
            Some(made) = making.next(), if !making.is_empty() => stock.handle_made(made, Instant::now()),
            () = until(stock.poll_timeout()) => stock.handle_timeout(Instant::now()),
        }
    }
}

async fn make(cluster: Cluster) -> Option<Standby> {
    let made = async {
        let options = cluster
            .switch("/", SUBPROTOCOL)
            .await
            .map_err(|error| error.to_string())?;
        ws::stand_by(&options).await.map_err(|error| error.to_string())
    };
    match made.await {
        Ok(standby) => Some(standby),
        Err(error) => {
            // Whoever needs a connection will hear why there is none.
            tracing::debug!(%error, "no connection ahead of need");
            None
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// What is kept, and how much should be: twice as much after each time that it ran out, less after each that was not needed.
#[derive(Debug)]
struct Stock<C> {
    ready: VecDeque<(Instant, C)>,
    making: usize,
    wanted: usize,
    /// No more are made after this.
    until: Instant,
}

impl<C> Stock<C> {
    /// A session that begins will have a connection soon.
    fn new(now: Instant) -> Stock<C> {
        Stock {
            ready: VecDeque::new(),
            making: 0,
            wanted: 1,
            until: now + INTEREST,
        }
    }

    /// Gives out the oldest one.
    fn take(&mut self, now: Instant) -> Option<C> {
        self.handle_timeout(now);
        self.until = now + INTEREST;
        let taken = self.ready.pop_front().map(|(_, connection)| connection);
        if taken.is_none() {
            self.wanted = (2 * self.wanted).clamp(1, MOST);
        }
        taken
    }

    /// One of those that were begun is ready, or failed.
    fn handle_made(&mut self, made: Option<C>, now: Instant) {
        self.making = self.making.saturating_sub(1);
        match made {
            Some(connection) => self.ready.push_back((now, connection)),
            // The next one to need a connection tries again.
            None => self.until = now,
        }
    }

    /// Whether another one is to be made, which counts as begun then.
    fn poll_make(&mut self, now: Instant) -> bool {
        let more = now < self.until && self.ready.len() + self.making < self.wanted;
        self.making += usize::from(more);
        more
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.ready.front().map(|(made, _)| *made + LIFETIME)
    }

    fn handle_timeout(&mut self, now: Instant) {
        while self
            .ready
            .front()
            .is_some_and(|(made, _)| *made + LIFETIME <= now)
        {
            self.ready.pop_front();
            self.wanted = (self.wanted - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_all(stock: &mut Stock<()>, now: Instant) -> usize {
        let mut made = 0;
        while stock.poll_make(now) {
            made += 1;
        }
        for _ in 0..made {
            stock.handle_made(Some(()), now);
        }
        made
    }

    #[test]
    fn what_runs_out_grows_to_a_bound_and_what_is_not_needed_goes() {
        let start = Instant::now();
        let mut stock = Stock::new(start);
        assert_eq!(make_all(&mut stock, start), 1);
        for _ in 0..100 {
            while stock.take(start).is_some() {}
            make_all(&mut stock, start);
        }
        assert_eq!(stock.ready.len(), MOST);
        let later = start + LIFETIME;
        assert_eq!(stock.poll_timeout(), Some(later));
        stock.handle_timeout(later);
        assert_eq!((stock.ready.len(), stock.poll_timeout()), (0, None));
        assert_eq!(make_all(&mut stock, later), 0, "nobody has asked for a while");
        assert!(stock.take(later).is_none());
        assert!(make_all(&mut stock, later) > 0);
    }

    #[test]
    fn a_failure_is_not_repeated_before_the_next_use() {
        let start = Instant::now();
        let mut stock: Stock<()> = Stock::new(start);
        assert!(stock.poll_make(start));
        stock.handle_made(None, start);
        assert!(!stock.poll_make(start));
        assert!(stock.take(start).is_none());
        assert!(stock.poll_make(start));
    }
}
