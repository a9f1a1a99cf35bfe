//! Which source has which flow, and which flow gives way: pure, with the time passed in.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A source that was never answered may have gone for good (a scan, a query that was lost).
const IDLE_UNANSWERED: Duration = Duration::from_secs(30);

/// As long as a router holds an association of UDP at least (RFC 4787 §4.3).
const IDLE_ANSWERED: Duration = Duration::from_secs(120);

/// A flow that was in use within this time does not give way to a new one.
const IN_USE: Duration = Duration::from_secs(1);

/// A flow's number in its table. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId(u64);

/// How many flows a table may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) all: usize,
    pub(super) per_client: usize,
}

/// The flows of one listener, by source address and port.
///
/// Orders are kept lazily: an entry's place says when it was in use at the latest known then, and it is put to its true place when it
/// comes to the front. So a datagram costs one look-up, however many flows there are.
#[derive(Debug)]
pub(super) struct FlowTable {
    caps: Caps,
    by_source: HashMap<SocketAddr, FlowId>,
    entries: HashMap<FlowId, Entry>,
    /// By last use, of all and of each client.
    by_use: BTreeSet<(Instant, FlowId)>,
    clients: HashMap<IpAddr, BTreeSet<(Instant, FlowId)>>,
    by_due: BTreeSet<(Instant, FlowId)>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    source: SocketAddr,
    used: Instant,
    answered: bool,
    /// Its places in the orders.
    use_place: Instant,
    client_place: Instant,
    due_place: Instant,
}

impl Entry {
    fn due(&self) -> Instant {
        let idle = if self.answered {
            IDLE_ANSWERED
        } else {
            IDLE_UNANSWERED
        };
        self.used + idle
    }
}

/// What to do with a datagram of a source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It belongs to this flow.
    Known(FlowId),
    /// It is the first of a flow, for which another one may have to go.
    New { id: FlowId, evicted: Option<FlowId> },
    /// There are as many flows as may be, all in use.
    Full,
}

impl FlowTable {
    pub(super) fn new(caps: Caps) -> FlowTable {
        FlowTable {
            caps,
            by_source: HashMap::new(),
            entries: HashMap::new(),
            by_use: BTreeSet::new(),
            clients: HashMap::new(),
            by_due: BTreeSet::new(),
            next: 0,
        }
    }

    /// The flow of a source.
    pub(super) fn flow_of(&self, source: SocketAddr) -> Option<FlowId> {
        self.by_source.get(&source).copied()
    }

    /// A datagram of a local source has come.
    pub(super) fn handle_datagram(&mut self, source: SocketAddr, now: Instant) -> Verdict {
        if let Some(&id) = self.by_source.get(&source) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.used = now;
            }
            return Verdict::Known(id);
        }
        let of_client = self.clients.get(&source.ip()).map_or(0, BTreeSet::len);
        let evicted = if of_client >= self.caps.per_client {
            self.oldest_of(source.ip())
        } else if self.entries.len() >= self.caps.all {
            self.oldest()
        } else {
            return Verdict::New {
                id: self.insert(source, now),
                evicted: None,
            };
        };
        match evicted {
            Some((used, oldest)) if now.saturating_duration_since(used) >= IN_USE => {
                self.remove(oldest);
                Verdict::New {
                    id: self.insert(source, now),
                    evicted: Some(oldest),
                }
            }
            _ => Verdict::Full,
        }
    }

    /// A datagram for the source of a flow has come; whose that is.
    pub(super) fn handle_answer(&mut self, id: FlowId, now: Instant) -> Option<SocketAddr> {
        let entry = self.entries.get_mut(&id)?;
        entry.used = now;
        entry.answered = true;
        Some(entry.source)
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: FlowId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_source.remove(&entry.source);
        self.by_use.remove(&(entry.use_place, id));
        self.by_due.remove(&(entry.due_place, id));
        if let Some(client) = self.clients.get_mut(&entry.source.ip()) {
            client.remove(&(entry.client_place, id));
            if client.is_empty() {
                self.clients.remove(&entry.source.ip());
            }
        }
    }

    /// When to ask [`FlowTable::poll_idle`] next, at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.by_due.first().map(|&(due, _)| due)
    }

    /// The next flow whose time is up. It is taken out.
    pub(super) fn poll_idle(&mut self, now: Instant) -> Option<FlowId> {
        while let Some(&(place, id)) = self.by_due.first() {
            if place > now {
                return None;
            }
            let due = self.entries.get(&id)?.due();
            if due <= now {
                self.remove(id);
                return Some(id);
            }
            self.by_due.remove(&(place, id));
            self.by_due.insert((due, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.due_place = due;
            }
        }
        None
    }

    fn insert(&mut self, source: SocketAddr, now: Instant) -> FlowId {
        let id = FlowId(self.next);
        self.next += 1;
        let entry = Entry {
            source,
            used: now,
            answered: false,
            use_place: now,
            client_place: now,
            due_place: now + IDLE_UNANSWERED,
        };
        self.by_use.insert((now, id));
        self.by_due.insert((entry.due_place, id));
        self.clients.entry(source.ip()).or_default().insert((now, id));
        self.by_source.insert(source, id);
        self.entries.insert(id, entry);
        id
    }

    /// The flow that has rested longest, and when it was in use.
    fn oldest(&mut self) -> Option<(Instant, FlowId)> {
        loop {
            let &(place, id) = self.by_use.first()?;
            let entry = self.entries.get_mut(&id)?;
            if entry.used == place {
                return Some((place, id));
            }
            entry.use_place = entry.used;
            self.by_use.remove(&(place, id));
            self.by_use.insert((entry.used, id));
        }
    }

    fn oldest_of(&mut self, client: IpAddr) -> Option<(Instant, FlowId)> {
        let flows = self.clients.get_mut(&client)?;
        loop {
            let &(place, id) = flows.first()?;
            let entry = self.entries.get_mut(&id)?;
            if entry.used == place {
                return Some((place, id));
            }
            entry.client_place = entry.used;
            flows.remove(&(place, id));
            flows.insert((entry.used, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn source(client: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, client], port))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Datagram(u8, u16),
        Answer(prop::sample::Index),
        End(prop::sample::Index),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (1..4u8, 1..20u16).prop_map(|(client, port)| Step::Datagram(client, port)),
            3 => any::<prop::sample::Index>().prop_map(Step::Answer),
            1 => any::<prop::sample::Index>().prop_map(Step::End),
            3 => prop_oneof![0..900u64, 500..40_000u64, 100_000..130_000u64].prop_map(Step::Pass),
        ]
    }

    /// The same by looking at everything each time.
    #[derive(Default)]
    struct Model(BTreeMap<SocketAddr, (FlowId, Instant, bool)>);

    proptest! {
        #[test]
        fn the_table_does_what_looking_at_everything_would(
            all in 1..12usize,
            per_client in 1..8usize,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut table = FlowTable::new(Caps { all, per_client });
            let mut model = Model::default();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Datagram(client, port) => {
                        let source = source(client, port);
                        let of_client = model.0.keys().filter(|other| other.ip() == source.ip()).count();
                        let verdict = table.handle_datagram(source, now);
                        if let Some((id, used, _)) = model.0.get_mut(&source) {
                            prop_assert_eq!(&verdict, &Verdict::Known(*id));
                            *used = now;
                            continue;
                        }
                        let crowded = |other: &SocketAddr| of_client < per_client || other.ip() == source.ip();
                        let full = of_client >= per_client || model.0.len() >= all;
                        let oldest = model.0.iter().filter(|(other, _)| crowded(other)).map(|(_, flow)| flow.1).min();
                        match verdict {
                            Verdict::New { id, evicted } => {
                                prop_assert_eq!(evicted.is_some(), full);
                                if let Some(evicted) = evicted {
                                    let (&who, &(_, used, _)) =
                                        model.0.iter().find(|(_, flow)| flow.0 == evicted).unwrap();
                                    prop_assert!(crowded(&who));
                                    prop_assert_eq!(Some(used), oldest);
                                    prop_assert!(now - used >= IN_USE);
                                    model.0.remove(&who);
                                }
                                model.0.insert(source, (id, now, false));
                            }
                            Verdict::Full => prop_assert!(full && now - oldest.unwrap() < IN_USE),
                            Verdict::Known(id) => prop_assert!(false, "{id:?} is not known"),
                        }
                    }
                    Step::Answer(which) if !model.0.is_empty() => {
                        let who = *which.get(&model.0.keys().copied().collect::<Vec<_>>());
                        let flow = model.0.get_mut(&who).unwrap();
                        (flow.1, flow.2) = (now, true);
                        prop_assert_eq!(table.handle_answer(flow.0, now), Some(who));
                    }
                    Step::End(which) if !model.0.is_empty() => {
                        let who = *which.get(&model.0.keys().copied().collect::<Vec<_>>());
                        let flow = model.0.remove(&who).unwrap();
                        table.remove(flow.0);
                        prop_assert_eq!(table.handle_answer(flow.0, now), None);
                    }
                    Step::Pass(millis) => {
                        now += Duration::from_millis(millis);
                        let mut idle = Vec::new();
                        while let Some(id) = table.poll_idle(now) {
                            idle.push(id);
                        }
                        idle.sort();
                        let is_idle = |&(_, used, answered): &(FlowId, Instant, bool)| {
                            now - used >= if answered { IDLE_ANSWERED } else { IDLE_UNANSWERED }
                        };
                        let mut wanted = model.0.values().filter(|flow| is_idle(flow)).map(|flow| flow.0).collect::<Vec<_>>();
                        wanted.sort();
                        prop_assert_eq!(idle, wanted);
                        model.0.retain(|_, flow| !is_idle(flow));
                        // It is asked again before the next one's time is up.
                        let next = model.0.values().map(|flow| flow.1 + IDLE_UNANSWERED).min();
                        prop_assert_eq!(table.poll_timeout().is_some(), next.is_some());
                        prop_assert!(table.poll_timeout().is_none_or(|due| due > now));
                    }
                    Step::Answer(_) | Step::End(_) => {}
                }
                prop_assert_eq!(table.entries.len(), model.0.len());
                prop_assert!(table.entries.len() <= all);
            }
            for (id, ..) in model.0.into_values() {
                table.remove(id);
            }
            prop_assert!(table.by_source.is_empty() && table.by_use.is_empty() && table.by_due.is_empty());
            prop_assert!(table.clients.is_empty() && table.poll_timeout().is_none());
        }
    }

    #[test]
    fn an_unanswered_flow_ends_after_30_seconds_and_an_answered_one_after_two_minutes() {
        let mut table = FlowTable::new(Caps {
            all: 10,
            per_client: 10,
        });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let Verdict::New { id: silent, .. } = table.handle_datagram(source(1, 1), start) else {
            panic!("a new flow");
        };
        let Verdict::New { id: answered, .. } = table.handle_datagram(source(1, 2), start) else {
            panic!("a new flow");
        };
        table.handle_answer(answered, start);
        assert_eq!(table.poll_idle(at(29)), None);
        assert_eq!(table.poll_idle(at(30)), Some(silent));
        assert_eq!(table.poll_idle(at(119)), None);
        assert_eq!(
            table.handle_datagram(source(1, 2), at(119)),
            Verdict::Known(answered)
        );
        assert_eq!(table.poll_idle(at(238)), None);
        assert_eq!(table.poll_idle(at(239)), Some(answered));
    }
}
