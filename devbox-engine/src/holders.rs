//! Which program holds a port: asked once for all ports, off the session's thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devbox_helper_client::Endpoint;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::sys::PortHolders;

/// For how long an answer holds: 10,000 services whose ports are in use cost one walk over `/proc`.
const FRESH: Duration = Duration::from_secs(3);
/// Nobody waits longer for a name that only makes a message nicer.
const PATIENCE: Duration = Duration::from_secs(2);

type Reading = Shared<BoxFuture<'static, Arc<PortHolders>>>;

#[derive(Default)]
pub(crate) struct Holders {
    latest: Mutex<Option<(Instant, Reading)>>,
}

impl Holders {
    /// The program that holds this endpoint, where the system tells.
    pub(crate) async fn of(&self, endpoint: Endpoint) -> Option<String> {
        let holders = tokio::time::timeout(PATIENCE, self.reading()).await.ok()?;
        holders.of(endpoint)
    }

    /// The reading under way or done a moment ago, else a new one.
    fn reading(&self) -> Reading {
        let now = Instant::now();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((started, reading)) if now.duration_since(*started) < FRESH => reading.clone(),
            _ => {
                let task = tokio::task::spawn_blocking(PortHolders::read);
                let reading = async move { Arc::new(task.await.unwrap_or_default()) };
                let reading = reading.boxed().shared();
                *latest = Some((now, reading.clone()));
                reading
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn ten_thousand_questions_at_once_are_one_walk() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::tcp(listener.local_addr().unwrap());
        let holders = Holders::default();
        let asked = (0..10_000).map(|_| holders.of(endpoint));
        let told = futures_util::future::join_all(asked).await;
        assert!(told.iter().all(|holder| *holder == told[0]));
        let first = holders.reading().await;
        assert!(Arc::ptr_eq(&first, &holders.reading().await));
    }
}
