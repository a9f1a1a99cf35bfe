//! Asking others: a state machine without sockets. Time, packets and random numbers come in, packets and replies go out.

mod cache;
mod flow;
mod port;
mod reply;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;

use crate::wire::{HEADER_LEN, Query, Transport};
use cache::Cache;
use flow::{Attempt, Flow, FlowId, Key, Upstream, Waiter};
pub use port::PortId;
use port::Ports;
use reply::Answer;

/// How questions are forwarded.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// Whom to ask, the best first. Our own address must not be among them: see [`system_upstreams`](crate::system_upstreams).
    pub upstreams: Vec<SocketAddr>,
    /// After how long a question that nobody answered gets SERVFAIL. Default: 5 s, as long as most resolvers wait.
    pub deadline: Duration,
    /// After how long the next upstream is asked as well, while nothing is known about how fast the first one is. Default: 200 ms.
    pub hedge_after: Duration,
    /// How many questions may be in flight; more get SERVFAIL at once. Default: 65,536.
    pub max_in_flight: usize,
    /// How many ports may be open to one upstream. Each question has one of its own until then, a random one of them afterwards.
    /// Default: 128.
    pub max_ports: usize,
    /// How many replies are kept. Default: 4,096; 0 keeps none.
    pub cache_entries: usize,
}

impl Forwarding {
    /// The defaults, with these upstreams.
    pub fn new(upstreams: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            upstreams: upstreams.into_iter().collect(),
            deadline: Duration::from_secs(5),
            hedge_after: Duration::from_millis(200),
            max_in_flight: 65_536,
            max_ports: 128,
            cache_entries: 4_096,
        }
    }
}

/// A packet to send to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The socket to send it from, connected to the upstream. One that has not been named before is to be opened.
    pub port: PortId,
    /// The upstream.
    pub upstream: SocketAddr,
    /// UDP: one datagram. TCP: a connection of its own, which carries this query and its reply.
    pub transport: Transport,
    /// The query, without a length in front.
    pub packet: Vec<u8>,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ForwardCounts {
    /// Questions that were to be forwarded.
    pub questions: u64,
    /// Of these, answered from the cache.
    pub cached: u64,
    /// Of these, joined to the same question that was in flight.
    pub joined: u64,
    /// Packets sent to upstreams.
    pub sent: u64,
    /// Of these, to a further upstream because the one before was slow.
    pub hedged: u64,
    /// Packets that were not the reply to anything we asked: another source, id or question.
    pub foreign: u64,
    /// Questions of our own that came back to us.
    pub loops: u64,
    /// Questions that got SERVFAIL from us.
    pub failed: u64,
}

/// Forwards questions for clients that are told apart by `C`.
///
/// [`handle_query`](Self::handle_query), [`handle_reply`](Self::handle_reply), [`handle_failure`](Self::handle_failure) and
/// [`handle_timeout`](Self::handle_timeout) say what happened; [`poll_transmit`](Self::poll_transmit), [`poll_reply`](Self::poll_reply),
/// [`poll_closed`](Self::poll_closed) and [`poll_timeout`](Self::poll_timeout) say what to do next.
pub struct Forwarder<C> {
    settings: Forwarding,
    upstreams: Vec<Upstream>,
    flows: HashMap<FlowId, Flow<C>>,
    last_flow: FlowId,
    by_key: HashMap<Key, FlowId>,
    by_sent: BTreeMap<(PortId, u16), FlowId>,
    wakes: BTreeSet<(Instant, FlowId)>,
    ports: Ports,
    cache: Cache,
    random: Box<dyn FnMut() -> u16 + Send>,
    transmits: VecDeque<Transmit>,
    replies: VecDeque<(C, Vec<u8>)>,
    counts: ForwardCounts,
}

impl<C> Forwarder<C> {
    /// A forwarder whose ids come from `random`, which nobody outside must be able to predict (RFC 5452 §9.2).
    pub fn new(settings: Forwarding, random: impl FnMut() -> u16 + Send + 'static) -> Self {
        let upstream = |address: &SocketAddr| Upstream::new(*address, settings.hedge_after);
        Self {
            upstreams: settings.upstreams.iter().map(upstream).collect(),
            ports: Ports::new(settings.max_ports),
            cache: Cache::new(settings.cache_entries),
            settings,
            flows: HashMap::new(),
            last_flow: 0,
            by_key: HashMap::new(),
            by_sent: BTreeMap::new(),
            wakes: BTreeSet::new(),
            random: Box::new(random),
            transmits: VecDeque::new(),
            replies: VecDeque::new(),
            counts: ForwardCounts::default(),
        }
    }

    /// A client's packet that the responder wants to have forwarded. One without a whole header is ignored.
    pub fn handle_query(&mut self, client: C, packet: &[u8], transport: Transport, now: Instant) {
        if packet.len() < HEADER_LEN {
            return;
        }
        self.counts.questions += 1;
        let query = Query::parse(packet).ok();
        let waiter = Waiter::new(client, packet, query.as_ref(), transport);
        let key = query.as_ref().map(Key::of);
        if let Some(key) = &key {
            if let Some(answer) = self.cache.lookup(key, now) {
                self.counts.cached += 1;
                self.replies.push_back(waiter.reply(&answer));
                return;
            }
            if let Some(flow) = self.by_key.get(key).and_then(|id| self.flows.get_mut(id)) {
                // A question with the id that we gave it is our own: an upstream leads back to us.
                if flow.attempts.iter().any(|attempt| attempt.id == waiter.id()) {
                    self.counts.loops += 1;
                    self.replies.push_back(waiter.fail());
                } else if flow.waiters.len() < MAX_WAITERS {
                    // A loop that gives the question new ids ends here as well.
                    self.counts.joined += 1;
                    flow.waiters.push(waiter);
                } else {
                    self.counts.failed += 1;
                    self.replies.push_back(waiter.fail());
                }
                return;
            }
        }
        if self.flows.len() >= self.settings.max_in_flight {
            self.counts.failed += 1;
            self.replies.push_back(waiter.fail());
            return;
        }
        self.last_flow += 1;
        let id = self.last_flow;
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), id);
        }
        let deadline = now + self.settings.deadline;
        let packet = query
            .as_ref()
            .map_or_else(|| packet.to_vec(), flow::upstream_query);
        self.flows.insert(id, Flow::new(key, packet, waiter, deadline));
        self.ask_next(id, now);
    }

    /// A packet that came to a port from an address.
    pub fn handle_reply(&mut self, port: PortId, from: SocketAddr, packet: &[u8], now: Instant) {
        let Some(answer) = Answer::parse(packet) else {
            self.counts.foreign += 1;
            return;
        };
        let sent = (port, answer.id());
        let Some((id, attempt)) = self.attempt(sent, from, &answer) else {
            self.counts.foreign += 1;
            return;
        };
        self.end_attempt(id, sent);
        if answer.is_truncated() && attempt.transport == Transport::Udp {
            self.send(id, attempt.upstream, Transport::Tcp, now);
            return;
        }
        if let Some(upstream) = self.upstreams.get_mut(attempt.upstream) {
            upstream.answered(now.saturating_duration_since(attempt.sent_at));
        }
        // Another server may do better than one that cannot or will not.
        let refused = matches!(answer.rcode(), Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP);
        if refused && self.try_elsewhere(id, now) {
            return;
        }
        self.finish(id, &answer, now);
    }

    /// A port's socket reported an error, as when nobody listens at the upstream: no reply will come there.
    pub fn handle_failure(&mut self, port: PortId, now: Instant) {
        let on_port = self.by_sent.range((port, u16::MIN)..=(port, u16::MAX));
        let lost: Vec<_> = on_port.map(|(sent, id)| (*sent, *id)).collect();
        for (sent, id) in lost {
            if let Some(attempt) = self.end_attempt(id, sent)
                && let Some(upstream) = self.upstreams.get_mut(attempt.upstream)
            {
                upstream.missed(now);
            }
            if !self.try_elsewhere(id, now) {
                self.fail(id);
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.wakes.first() {
            if at > now {
                return;
            }
            self.wakes.pop_first();
            let Some(flow) = self.flows.get_mut(&id) else {
                continue;
            };
            flow.wake = None;
            let late = flow.attempts.last().map(|attempt| attempt.upstream);
            if let Some(upstream) = late.and_then(|late| self.upstreams.get_mut(late)) {
                upstream.missed(now);
            }
            if flow.deadline <= now {
                self.fail(id);
            } else {
                self.counts.hedged += 1;
                self.ask_next(id, now);
            }
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next reply, and for whom.
    pub fn poll_reply(&mut self) -> Option<(C, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// The next port that is to be closed.
    pub fn poll_closed(&mut self) -> Option<PortId> {
        self.ports.poll_closed()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// What has happened so far.
    pub fn counts(&self) -> ForwardCounts {
        self.counts
    }

    /// How many questions are in flight.
    pub fn in_flight(&self) -> usize {
        self.flows.len()
    }

    /// The attempt that a packet replies to, if everything about it is right (RFC 5452 §9.1).
    fn attempt(
        &self,
        sent: (PortId, u16),
        from: SocketAddr,
        answer: &Answer<'_>,
    ) -> Option<(FlowId, Attempt)> {
        let id = *self.by_sent.get(&sent)?;
        let flow = self.flows.get(&id)?;
        let attempt = flow
            .attempts
            .iter()
            .find(|attempt| (attempt.port, attempt.id) == sent)?;
        let upstream = self.upstreams.get(attempt.upstream)?;
        let right = upstream.address == from && answer.is_for(flow.key.as_ref());
        right.then_some((id, *attempt))
    }

    fn end_attempt(&mut self, id: FlowId, sent: (PortId, u16)) -> Option<Attempt> {
        self.by_sent.remove(&sent)?;
        self.ports.release(sent.0);
        let flow = self.flows.get_mut(&id)?;
        let at = flow
            .attempts
            .iter()
            .position(|attempt| (attempt.port, attempt.id) == sent)?;
        Some(flow.attempts.remove(at))
    }

    /// Goes on with another upstream, or waits for one that was asked already; `false` if there is none.
    fn try_elsewhere(&mut self, id: FlowId, now: Instant) -> bool {
        let Some(flow) = self.flows.get(&id) else {
            return true;
        };
        if !flow.attempts.is_empty() {
            return true;
        }
        let more = flow.asked < self.upstreams.len();
        if more {
            self.ask_next(id, now);
        }
        more
    }

    /// Asks the best upstream that this question has not been sent to; when all have been, from the first one again.
    fn ask_next(&mut self, id: FlowId, now: Instant) {
        let mut order: Vec<usize> = (0..self.upstreams.len()).collect();
        order.sort_by_key(|&number| {
            self.upstreams
                .get(number)
                .is_none_or(|upstream| upstream.is_down(now))
        });
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let untried = order.iter().find(|number| !flow.tried.contains(number));
        let next = untried
            .or_else(|| order.get(flow.asked % order.len().max(1)))
            .copied();
        match next {
            Some(next) if flow.asked < MAX_ATTEMPTS => {
                flow.asked += 1;
                flow.tried.push(next);
                self.send(id, next, Transport::Udp, now);
            }
            Some(_) => self.wake(id, None),
            None => self.fail(id),
        }
    }

    fn send(&mut self, id: FlowId, upstream: usize, transport: Transport, now: Instant) {
        let Some(to) = self.upstreams.get(upstream) else {
            return;
        };
        let (address, patience) = (to.address, to.patience());
        let port = match transport {
            Transport::Udp => self.ports.lease(upstream, &mut self.random),
            Transport::Tcp => self.ports.lease_own(),
        };
        let mut query_id = (self.random)();
        while self.by_sent.contains_key(&(port, query_id)) {
            query_id = query_id.wrapping_add(1);
        }
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let mut packet = flow.packet.clone();
        if let Some(space) = packet.get_mut(..2) {
            space.copy_from_slice(&query_id.to_be_bytes());
        }
        flow.attempts.push(Attempt {
            upstream,
            port,
            id: query_id,
            transport,
            sent_at: now,
        });
        self.by_sent.insert((port, query_id), id);
        self.counts.sent += 1;
        self.transmits.push_back(Transmit {
            port,
            upstream: address,
            transport,
            packet,
        });
        self.wake(id, Some(now + patience));
    }

    /// Sets when the question is looked at again, at its deadline at the latest.
    fn wake(&mut self, id: FlowId, at: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        if let Some(old) = flow.wake.take() {
            self.wakes.remove(&(old, id));
        }
        let at = at.map_or(flow.deadline, |at| at.min(flow.deadline));
        flow.wake = Some(at);
        self.wakes.insert((at, id));
    }

    fn finish(&mut self, id: FlowId, answer: &Answer<'_>, now: Instant) {
        let Some(flow) = self.end(id) else { return };
        let stored = answer.to_stored();
        for waiter in flow.waiters {
            self.replies.push_back(waiter.reply(&stored));
        }
        if let Some(key) = flow.key {
            self.cache.insert(key, stored, now);
        }
    }

    fn fail(&mut self, id: FlowId) {
        let Some(flow) = self.end(id) else { return };
        self.counts.failed += flow.waiters.len() as u64;
        self.replies.extend(flow.waiters.into_iter().map(Waiter::fail));
    }

    fn end(&mut self, id: FlowId) -> Option<Flow<C>> {
        let flow = self.flows.remove(&id)?;
        if let Some(key) = &flow.key {
            self.by_key.remove(key);
        }
        if let Some(wake) = flow.wake {
            self.wakes.remove(&(wake, id));
        }
        for attempt in &flow.attempts {
            self.by_sent.remove(&(attempt.port, attempt.id));
            self.ports.release(attempt.port);
        }
        Some(flow)
    }
}

/// How many clients may wait for one question.
const MAX_WAITERS: usize = 256;

/// How often a question is sent until its deadline.
const MAX_ATTEMPTS: usize = 6;

impl<C> fmt::Debug for Forwarder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder")
            .field("settings", &self.settings)
            .field("in_flight", &self.flows.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
