//! Who holds a port: asked once for all ports, off the session's thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devbox_helper_client::Endpoint;
use devbox_session::Holder;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::sys::PortHolders;

/// For how long the programs hold: 10,000 services whose ports are in use cost one walk over `/proc`.
const FRESH: Duration = Duration::from_secs(3);
/// For how long the users hold, which cost two files.
const USERS_FRESH: Duration = Duration::from_millis(5);
/// A socket is not in the system's tables between its bind(2) and its listen(2). So often, and after such pauses, somebody is
/// looked for who took the port a moment ago, as sessions do that start together.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(10);
/// Nobody waits longer for who it is.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct Holders {
    programs: Latest,
    users: Latest,
}

impl Holders {
    /// Who holds this endpoint, where the system tells.
    pub(crate) async fn of(&self, endpoint: Endpoint) -> Option<Holder> {
        let asked = async {
            let programs = self.programs.get(FRESH, PortHolders::read).await;
            if let Some(holder) = programs.of(endpoint) {
                return Some(holder);
            }
            // It may have come since.
            for look in 0..LOOKS {
                tokio::time::sleep(look * PAUSE).await;
                let users = self.users.get(USERS_FRESH, PortHolders::read_users).await;
                if let Some(holder) = users.of(endpoint) {
                    return Some(holder);
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, asked).await.ok()?
    }
}

type Reading = Shared<BoxFuture<'static, Arc<PortHolders>>>;

#[derive(Default)]
struct Latest(Mutex<Option<(Instant, Reading)>>);

impl Latest {
    /// The reading under way or done a moment ago, else a new one.
    fn get(&self, fresh: Duration, read: fn() -> PortHolders) -> Reading {
        let now = Instant::now();
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((started, reading)) if now.duration_since(*started) < fresh => reading.clone(),
            _ => {
                let task = tokio::task::spawn_blocking(read);
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
        let first = holders.programs.get(FRESH, PortHolders::default).await;
        assert!(first.of(endpoint).is_some(), "it was read before");
    }

    #[tokio::test]
    async fn whoever_came_since_the_programs_were_looked_for_is_known_by_its_user() {
        let holders = Holders::default();
        holders.programs.get(FRESH, PortHolders::read).await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::tcp(listener.local_addr().unwrap());
        assert!(holders.of(endpoint).await.unwrap().own);
    }
}
