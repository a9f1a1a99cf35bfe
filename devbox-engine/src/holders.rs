//! Who holds a port: asked once for all ports, off the session's thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devbox_helper_client::{Endpoint, Protocol};
use devbox_session::Holder;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use netif::observed::{Listener, Transport};
use tokio::time::Instant;

use crate::sys;

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

/// The sockets of this machine that wait, and the programs that hold them, as far as this user may see them. By port: there are far fewer
/// sockets on one port than on all.
#[derive(Debug, Default)]
struct PortHolders(HashMap<(u16, Transport), Vec<Listener>>);

impl PortHolders {
    /// Can take a second: not for an async thread.
    fn read() -> Self {
        Self::of_listeners(Listener::all_with_programs())
    }

    /// Takes milliseconds, and knows no program.
    fn read_users() -> Self {
        Self::of_listeners(Listener::all())
    }

    fn of_listeners(listeners: Vec<Listener>) -> Self {
        let mut holders = Self::default();
        for listener in listeners {
            let key = (listener.address.port(), listener.transport);
            holders.0.entry(key).or_default().push(listener);
        }
        holders
    }

    /// Who listens on this endpoint, or on its port of every address.
    fn of(&self, endpoint: Endpoint) -> Option<Holder> {
        let transport = match endpoint.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        };
        let sockets = self.0.get(&(endpoint.port, transport))?;
        let is_everywhere = |socket: &&Listener| socket.address.ip().is_unspecified();
        let exact = sockets
            .iter()
            .find(|socket| socket.address.ip() == endpoint.address);
        let socket = exact.or_else(|| sockets.iter().find(is_everywhere))?;
        let program = match (&socket.program, socket.uid) {
            (Some(program), _) => program.to_string(),
            (None, Some(uid)) => format!("a program of user {uid}"),
            (None, None) => "a program".to_owned(),
        };
        Some(Holder {
            program,
            own: !is_everywhere(&socket) && socket.uid.is_some() && socket.uid == sys::own_user(),
        })
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
    use std::net::{SocketAddr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_this_process() {
        for any in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let endpoint = Endpoint::tcp(SocketAddr::from(([127, 0, 0, 1], port)));
            let holder = PortHolders::read().of(endpoint).unwrap();
            assert!(
                holder.program.contains(&format!("pid {}", std::process::id())),
                "{holder:?}"
            );
            assert_eq!(holder.own, any != "0.0.0.0:0", "{holder:?}");
            assert_eq!(PortHolders::read_users().of(endpoint).unwrap().own, holder.own);
        }
    }

    #[test]
    fn udp_ports_have_holders_of_their_own() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let holders = PortHolders::read();
        let holder = holders.of(Endpoint::udp(socket.local_addr().unwrap())).unwrap();
        assert!(holder.program.contains(&format!("pid {}", std::process::id())));
        assert!(holder.own);
    }

    #[test]
    fn a_port_that_nobody_listens_on_has_no_holder() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let endpoint = Endpoint::tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(PortHolders::read().of(endpoint), None);
    }

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
