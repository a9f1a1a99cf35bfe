use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use devbox_provider::with_causes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument as _, debug, error, info_span, warn};
use tunnel_bridge::quic;
use tunnel_bridge::tls::{self, Acceptor};

use crate::handshake::{Asked, NotLetIn};
use crate::lobby::{Guest, Lobby, Origin};
use crate::refusals::Refusals;
use crate::tally::{Tally, Told, Trouble};
use crate::{Admission, Limits, Rejection, View};

/// How long whoever is turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long accepting rests after the system had nothing to give (too many open files), and where there is room again.
const ACCEPT_REST: Duration = Duration::from_millis(100);
const ROOM_REST: Duration = Duration::from_millis(5);

/// Where so many have shown no token, a client that comes over QUIC has its address checked before it counts as one more.
const CHECK_FROM: usize = 32;

/// A client's connection, with or without TLS.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for S {}

/// A client that showed a token which is taken, and has not been answered.
pub(crate) struct Known {
    pub(crate) asked: Asked<Box<dyn Transport>>,
    pub(crate) view: View,
    /// When it is to be let in at the latest.
    pub(crate) deadline: Instant,
}

/// Connections from their first byte to their token: nothing but a bounded head is read before it, and nothing is held
/// for a connection without one but its place in the [`Lobby`].
pub(crate) struct Reception {
    desk: Arc<Desk>,
    lobby: Lobby,
    refusals: Refusals,
    tally: Tally,
    talks: JoinSet<(Guest, Talk)>,
    /// Of every guest in the lobby: it ends the talk, and with it the connection.
    ends: BTreeMap<Guest, AbortHandle>,
    /// An origin that has so many in the lobby is told about.
    crowd: usize,
    max_clients: usize,
}

/// How a talk went.
enum Talk {
    /// Boxed: most of what is known is the request.
    Known(Box<Known>),
    Refused(Box<Asked<Box<dyn Transport>>>, Rejection),
    TimedOut,
    /// It was answered, or is gone.
    Over,
}

impl Reception {
    pub(crate) fn new(
        acceptor: Option<watch::Receiver<Acceptor>>,
        admission: Arc<dyn Admission>,
        limits: &Limits,
    ) -> Self {
        let desk = Desk {
            acceptor,
            admission,
            handshake_timeout: limits.handshake_timeout,
        };
        Self {
            desk: Arc::new(desk),
            lobby: Lobby::new(limits.max_half_open, limits.max_half_open_per_address),
            refusals: Refusals::default(),
            tally: Tally::default(),
            talks: JoinSet::new(),
            ends: BTreeMap::new(),
            crowd: limits.max_half_open_per_address.div_ceil(4),
            max_clients: limits.max_clients,
        }
    }

    /// Takes a new connection in.
    pub(crate) fn handle_arrival(&mut self, stream: TcpStream, peer: SocketAddr) {
        let deadline = Instant::now() + self.desk.handshake_timeout;
        self.begin_talk(peer, deadline, |desk| async move {
            desk.hear(stream, peer, deadline).await
        });
    }

    /// Takes a client in that begins a QUIC handshake. Anybody can pretend to come from anywhere: where more than a few are
    /// here, whoever comes first has to show that what is sent to its address arrives.
    pub(crate) fn handle_quic_arrival(&mut self, arrival: quic::Arrival) {
        if !arrival.is_checked() && self.lobby.len() >= CHECK_FROM {
            arrival.check();
            return;
        }
        let peer = arrival.peer();
        let deadline = Instant::now() + self.desk.handshake_timeout;
        self.begin_talk(peer, deadline, |desk| async move {
            let asked = Asked::read_quic(arrival, peer).await?;
            desk.admit(asked, deadline).await
        });
    }

    fn begin_talk<F>(&mut self, peer: SocketAddr, deadline: Instant, hear: impl FnOnce(Arc<Desk>) -> F)
    where
        F: Future<Output = Result<Talk, NotLetIn>> + Send + 'static,
    {
        let origin = Origin::from(peer.ip());
        let entered = self.lobby.enter(origin);
        if entered.of_origin >= self.crowd {
            self.note(Trouble::Crowd(Some(origin)), 0);
        }
        if let Some((guest, origin)) = entered.evicted {
            self.drop_guest(guest, origin);
        }
        let (hearing, guest) = (hear(Arc::clone(&self.desk)), entered.guest);
        let talk = async move { (guest, talk(hearing, deadline).await) };
        let end = self.talks.spawn(talk.instrument(info_span!("client", %peer)));
        self.ends.insert(guest, end);
    }

    /// A connection could not be accepted, most likely because descriptors have run out: a part of the lobby makes room
    /// for those who wait behind it. How long to wait before the next try.
    pub(crate) fn handle_accept_error(&mut self, error: &io::Error) -> Duration {
        if self.note(Trouble::CannotAccept, 1) {
            warn!(%error, "connections cannot be accepted");
        }
        let shed = self.lobby.len().div_ceil(4);
        for _ in 0..shed {
            if let Some((guest, origin)) = self.lobby.evict() {
                self.drop_guest(guest, origin);
            }
        }
        if shed > 0 { ROOM_REST } else { ACCEPT_REST }
    }

    /// A client with a good token was turned away because there are too many.
    pub(crate) fn handle_full(&mut self) {
        self.note(Trouble::Full, 1);
    }

    /// Waits for the next client that shows a token which is taken. Pending for as long as nobody talks.
    ///
    /// # Cancel safety
    /// Nobody is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> Known {
        loop {
            match self.talks.join_next().await {
                None => std::future::pending().await,
                Some(Ok((guest, talk))) => {
                    if let Some(known) = self.handle_talk(guest, talk) {
                        return known;
                    }
                }
                Some(Err(error)) => self.handle_failed_talk(&error),
            }
        }
    }

    /// Lets time pass: what was counted is told.
    pub(crate) fn handle_tick(&mut self) {
        while let Some(told) = self.tally.poll(Instant::now().into_std()) {
            tell_count(&told);
        }
    }

    fn handle_talk(&mut self, guest: Guest, talk: Talk) -> Option<Known> {
        self.ends.remove(&guest);
        if let Talk::Refused(asked, rejection) = talk {
            self.handle_refusal(guest, *asked, rejection);
            return None;
        }
        let origin = self.lobby.leave(guest);
        match (talk, origin) {
            (Talk::Known(known), _) => Some(*known),
            // One client that says nothing is no trouble; a crowd's are.
            (Talk::TimedOut, Some(origin)) if self.tally.is_going_on(Trouble::Crowd(Some(origin))) => {
                self.note(Trouble::Crowd(Some(origin)), 1);
                None
            }
            _ => None,
        }
    }

    fn handle_refusal(&mut self, guest: Guest, asked: Asked<Box<dyn Transport>>, rejection: Rejection) {
        let peer = asked.offer.peer;
        let origin = Origin::from(peer.ip());
        let trouble = Trouble::RefusedTokens(Some(origin));
        if self.note(trouble, 1) {
            warn!(%peer, session = asked.offer.session, reason = rejection.message, "token refused");
        }
        let delay = self.refusals.handle_refusal(origin, Instant::now().into_std());
        if !self.lobby.refuse(guest) {
            // It had to leave while its talk ended. An answer would hold a connection that nobody counts.
            return;
        }
        let answer = async move {
            sleep(delay).await;
            let farewell = timeout_at(Instant::now() + FAREWELL, asked.reject(rejection)).await;
            match farewell {
                Ok(error) => debug!(error = %with_causes(&error), "not let in"),
                Err(_) => debug!("not let in, and does not read why"),
            }
            (guest, Talk::Over)
        };
        let end = self.talks.spawn(answer.instrument(info_span!("client", %peer)));
        self.ends.insert(guest, end);
    }

    fn handle_failed_talk(&mut self, failure: &JoinError) {
        // A guest that had to leave is no news.
        if failure.is_panic() {
            error!(error = %failure, "a client's task failed");
            let of_task = |(_, end): &(&Guest, &AbortHandle)| end.id() == failure.id();
            if let Some(guest) = self.ends.iter().find(of_task).map(|(guest, _)| *guest) {
                self.ends.remove(&guest);
                self.lobby.leave(guest);
            }
        }
    }

    fn drop_guest(&mut self, guest: Guest, origin: Origin) {
        if let Some(end) = self.ends.remove(&guest) {
            end.abort();
        }
        self.note(Trouble::Crowd(Some(origin)), 0);
        self.note(Trouble::Crowd(Some(origin)), 1);
    }

    /// Counts trouble, and tells its beginning where that needs no more words. Whether this was its beginning.
    fn note(&mut self, trouble: Trouble, count: u64) -> bool {
        let begun = self.tally.note(trouble, count, Instant::now().into_std());
        match begun {
            Some(Trouble::Crowd(origin)) => warn!(
                from = %named(origin),
                "many connections that show no token; the oldest are dropped where there are too many"
            ),
            Some(Trouble::Full) => warn!(
                clients = self.max_clients,
                "the limit of clients is reached, others are answered 503"
            ),
            Some(Trouble::RefusedTokens(_) | Trouble::CannotAccept) | None => {}
        }
        begun.is_some()
    }
}

fn tell_count(told: &Told) {
    let Told { trouble, count, over } = *told;
    match trouble {
        Trouble::Crowd(origin) => {
            warn!(from = %named(origin), dropped = count, over, "connections that showed no token");
        }
        // The first was told in full.
        _ if count == 0 => {}
        Trouble::RefusedTokens(origin) => warn!(from = %named(origin), count, over, "more tokens refused"),
        Trouble::Full => warn!(count, over, "more clients turned away at the limit"),
        Trouble::CannotAccept => warn!(count, over, "more failures to accept connections"),
    }
}

fn named(origin: Option<Origin>) -> String {
    origin.map_or_else(|| "other addresses".to_owned(), |origin| origin.to_string())
}

/// What every talk needs.
struct Desk {
    acceptor: Option<watch::Receiver<Acceptor>>,
    admission: Arc<dyn Admission>,
    handshake_timeout: Duration,
}

/// Hears somebody out until the deadline.
async fn talk(hearing: impl Future<Output = Result<Talk, NotLetIn>>, deadline: Instant) -> Talk {
    let from = Instant::now();
    match timeout_at(deadline, hearing).await {
        Ok(Ok(talk)) => talk,
        Ok(Err(error)) => {
            debug!(error = %with_causes(&error), "not let in");
            Talk::Over
        }
        Err(_) => {
            debug!(after = ?from.elapsed(), "not let in: out of time");
            Talk::TimedOut
        }
    }
}

impl Desk {
    async fn hear(&self, stream: TcpStream, peer: SocketAddr, deadline: Instant) -> Result<Talk, NotLetIn> {
        tunnel_bridge::prepare_socket(&stream);
        let mut certificate = None;
        let stream: Box<dyn Transport> = match &self.acceptor {
            None => Box::new(stream),
            Some(acceptor) => {
                let acceptor = acceptor.borrow().clone();
                let stream = acceptor.accept(stream).await?;
                certificate = tls::peer_identity(&stream);
                Box::new(stream)
            }
        };
        let mut asked = Asked::read(stream, peer).await?;
        asked.offer.certificate = certificate;
        self.admit(asked, deadline).await
    }

    async fn admit(&self, asked: Asked<Box<dyn Transport>>, deadline: Instant) -> Result<Talk, NotLetIn> {
        Ok(match self.admission.admit(&asked.offer).await {
            Ok(view) => Talk::Known(Box::new(Known {
                asked,
                view,
                deadline,
            })),
            Err(rejection) if rejection.status == 401 => Talk::Refused(Box::new(asked), rejection),
            Err(rejection) => return Err(asked.reject(rejection).await),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Turns everybody away.
    struct Nobody;

    #[async_trait::async_trait]
    impl Admission for Nobody {
        async fn admit(&self, _: &crate::Offer) -> Result<View, Rejection> {
            Err(Rejection::token("nobody"))
        }
    }

    const REQUEST: &[u8] = b"GET /kube/devbox/tunnel/client/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: devbox-tunnel.1\r\n\r\n";

    #[tokio::test]
    async fn who_had_to_leave_while_its_talk_ended_is_dropped_without_an_answer() {
        for evicted in [false, true] {
            let limits = Limits::default();
            let mut reception = Reception::new(None, Arc::new(Nobody), &limits);
            let peer: SocketAddr = "192.0.2.1:9".parse().unwrap();
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(REQUEST).await.unwrap();
            let server: Box<dyn Transport> = Box::new(server);
            let asked = Asked::read(server, peer).await.unwrap();
            let guest = reception.lobby.enter(Origin::from(peer.ip())).guest;
            if evicted {
                let (guest, origin) = reception.lobby.evict().unwrap();
                reception.drop_guest(guest, origin);
            }
            let refused = Talk::Refused(Box::new(asked), Rejection::token("nobody"));
            assert!(reception.handle_talk(guest, refused).is_none());
            let held = usize::from(!evicted);
            assert_eq!((reception.talks.len(), reception.ends.len()), (held, held));
            if evicted {
                assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "dropped");
            }
        }
    }
}
