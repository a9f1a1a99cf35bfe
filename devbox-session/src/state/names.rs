//! Which names lead where, and what each sink has published of that.

mod held;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notices::Notices;
use crate::key::ServiceKey;
use crate::names_policy::RefusedName;
use crate::report::{CONTESTED, Event, NameClash, PutBack, Refusals};
use crate::sink::{Behind, HeldNames, PublishError, Published, Record, TakenName};
use held::HeldByOthers;

/// The names of a session.
#[derive(Debug)]
pub(super) struct Names {
    sinks: Vec<Sink>,
    wanted: Arc<[Record]>,
    /// What changed since `wanted` was put together may change it.
    dirty: bool,
    assigned: BTreeMap<ServiceKey, Vec<String>>,
    /// Only of services that have any.
    refused: BTreeMap<ServiceKey, Vec<RefusedName>>,
    clashes: BTreeSet<NameClash>,
}

#[derive(Debug)]
struct Sink {
    name: String,
    published: Arc<[Record]>,
    under_way: bool,
    retry_at: Option<Instant>,
    failing: bool,
    taken: BTreeMap<String, usize>,
    held: HeldByOthers,
    /// When to publish the same once more, since somebody else may have changed it.
    check_at: Option<Instant>,
    /// How often the names had to be put back, and when last.
    put_back: u32,
    put_back_at: Option<Instant>,
}

/// The shortest time between two occasions on which the names are put back: another program may do as we do.
const PUT_BACK_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether names are still held: of a session that was killed together with its helper nobody tells.
const HELD_CHECK: Duration = Duration::from_secs(10);
/// Where another program removed the names of all sessions, whoever holds a name puts it back before others ask for it.
const HOLDERS_FIRST: Duration = Duration::from_millis(400);

/// What one service would like to be called.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) service: ServiceKey,
    /// Whom to name in a clash.
    pub(super) shown: String,
    pub(super) addresses: Vec<IpAddr>,
    /// What is at these addresses. Its members are named with the records.
    pub(super) behind: Behind,
    /// Names that follow from its id.
    pub(super) own: Vec<String>,
    /// Names that its owner gave it: any service's own name is stronger.
    pub(super) given: Vec<String>,
    /// Names that it would have but for a rule.
    pub(super) refused: Vec<RefusedName>,
    /// Its right to a name that others would have as well.
    pub(super) right: Right,
}

/// Who comes first for a name: whom the user puts first, then the earlier far side's, then whom its catalog puts first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    by_user: Place,
    provider: usize,
    by_catalog: Place,
}

impl Right {
    pub(super) fn new(by_user: Option<u16>, provider: usize, by_catalog: Option<u16>) -> Self {
        Self {
            by_user: Place::from(by_user),
            provider,
            by_catalog: Place::from(by_catalog),
        }
    }

    /// Whether somebody has said that this one comes first.
    fn is_put_before(&self, other: &Self) -> bool {
        let by_catalog = self.provider == other.provider && self.by_catalog < other.by_catalog;
        self.by_user < other.by_user || (self.by_user == other.by_user && by_catalog)
    }
}

/// A place in an order. Those without one come last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    At(u16),
    #[default]
    Last,
}

impl From<Option<u16>> for Place {
    fn from(order: Option<u16>) -> Self {
        order.map_or(Self::Last, Self::At)
    }
}

impl Names {
    pub(super) fn new(sinks: Vec<String>) -> Self {
        let nothing: Arc<[Record]> = Arc::from([]);
        let sinks = sinks.into_iter().map(|name| Sink {
            name,
            published: Arc::clone(&nothing),
            under_way: false,
            retry_at: None,
            failing: false,
            taken: BTreeMap::new(),
            held: HeldByOthers::default(),
            check_at: None,
            put_back: 0,
            put_back_at: None,
        });
        Self {
            sinks: sinks.collect(),
            wanted: nothing,
            dirty: false,
            assigned: BTreeMap::new(),
            refused: BTreeMap::new(),
            clashes: BTreeSet::new(),
        }
    }

    pub(super) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Puts the names together anew: own names of all first, then given ones, each in the order of the wishes' right to them and, where
    /// that is the same, of the wishes. A name that somebody has already is a clash.
    pub(super) fn refresh(&mut self, wishes: Vec<Wish>, notices: &mut Notices) {
        self.dirty = false;
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        let mut names = vec![Vec::new(); wishes.len()];
        let mut clashes = BTreeSet::new();
        // Those that somebody has decided are no surprise.
        let mut meant = BTreeSet::new();
        let mut by_right: Vec<_> = wishes.iter().enumerate().collect();
        by_right.sort_by_key(|(_, wish)| wish.right);
        for given in [false, true] {
            for &(index, wish) in &by_right {
                for name in if given { &wish.given } else { &wish.own } {
                    let owner = *owners.entry(name.clone()).or_insert(index);
                    if owner != index {
                        let clash = NameClash {
                            name: name.clone(),
                            owner: wishes[owner].shown.clone(),
                            other: wish.shown.clone(),
                        };
                        if wishes[owner].right.is_put_before(&wish.right) {
                            meant.insert(clash.clone());
                        }
                        clashes.insert(clash);
                    } else if !names[index].contains(name) {
                        names[index].push(name.clone());
                    }
                }
            }
        }
        let news = clashes.difference(&self.clashes);
        for clash in news.filter(|clash| !meant.contains(*clash)) {
            notices.push(Event::NameClash(clash.clone()));
        }
        self.clashes = clashes;
        tell_refused(&wishes, notices);
        self.assigned.clear();
        self.refused.clear();
        let mut members = members(&wishes, &names);
        // Services with the same addresses (a service and those that are other names for it) share a record.
        let mut records: Vec<Record> = Vec::with_capacity(wishes.len());
        let mut places: BTreeMap<Vec<IpAddr>, usize> = BTreeMap::new();
        for (wish, names) in wishes.into_iter().zip(names) {
            if !names.is_empty() && !wish.addresses.is_empty() {
                let place = *places.entry(wish.addresses.clone()).or_insert(records.len());
                match records.get_mut(place) {
                    Some(record) => {
                        // The service's own are the canonical ones, wherever it stands among its aliases.
                        let own = wish.service.service == wish.behind.service;
                        let at = if own { 0 } else { record.names.len() };
                        record.names.splice(at..at, names.iter().cloned());
                    }
                    None => {
                        let key = ServiceKey {
                            service: wish.behind.service.clone(),
                            ..wish.service.clone()
                        };
                        records.push(Record {
                            names: names.clone(),
                            addresses: wish.addresses,
                            behind: Some(Behind {
                                members: members.remove(&key).unwrap_or_default(),
                                ..wish.behind
                            }),
                        });
                    }
                }
            }
            if !wish.refused.is_empty() {
                self.refused.insert(wish.service.clone(), wish.refused);
            }
            self.assigned.insert(wish.service, names);
        }
        if *records != *self.wanted {
            self.wanted = records.into();
        }
    }

    /// Nothing is wanted any more.
    pub(super) fn withdraw(&mut self) {
        self.dirty = false;
        self.wanted = Arc::from([]);
        for sink in &mut self.sinks {
            sink.retry_at = None;
            sink.check_at = None;
        }
    }

    /// The next sink to publish to, with what it is to have.
    pub(super) fn poll_publish(&mut self, now: Instant) -> Option<(usize, Arc<[Record]>)> {
        let wanted = &self.wanted;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (index, sink) = self.sinks.iter_mut().enumerate().find(|(_, sink)| {
            let retry = sink.retry_at.is_none() || due(sink.retry_at);
            !sink.under_way && (sink.published != *wanted && retry || due(sink.check_at))
        })?;
        sink.under_way = true;
        sink.retry_at = None;
        sink.check_at = None;
        Some((index, Arc::clone(wanted)))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let retries = self.sinks.iter().filter(|sink| sink.published != self.wanted);
        let checks = self.sinks.iter().filter(|sink| !sink.under_way);
        let retries = retries.filter_map(|sink| sink.retry_at);
        retries.chain(checks.filter_map(|sink| sink.check_at)).min()
    }

    /// Somebody else may have changed what a sink published: it is published again, at once unless that was done a moment
    /// ago. Where nothing has changed, nothing is written.
    pub(super) fn handle_disturbed(&mut self, sink: usize, now: Instant) {
        let sink = self.sinks.get_mut(sink);
        let Some(sink) = sink.filter(|sink| sink.under_way || !sink.published.is_empty()) else {
            return;
        };
        let again = sink.put_back_at.map(|last| last + PUT_BACK_PAUSE);
        let others = (!sink.held.is_empty()).then_some(now + HOLDERS_FIRST);
        let at = [again, others, sink.retry_at]
            .into_iter()
            .flatten()
            .fold(now, Instant::max);
        sink.check_at = Some(sink.check_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// A publication is done.
    pub(super) fn handle_published(
        &mut self,
        sink: usize,
        records: Arc<[Record]>,
        published: Published,
        now: Instant,
        notices: &mut Notices,
    ) {
        let Some(sink) = self.sinks.get_mut(sink) else {
            return;
        };
        sink.under_way = false;
        let former = std::mem::replace(&mut sink.published, records);
        sink.retry_at = None;
        if std::mem::take(&mut sink.failing) {
            notices.push(Event::NamesRestored {
                sink: sink.name.clone(),
            });
        }
        let taken = published.taken.into_iter().map(|taken| (taken.name, taken.line));
        let before = std::mem::replace(&mut sink.taken, taken.collect());
        let changed_hands = sink.held.update(
            published.held,
            &former,
            &sink.published,
            sink.taken.len(),
            notices,
        );
        if !sink.held.is_empty() {
            sink.check_at.get_or_insert(now + HELD_CHECK);
        }
        // Nothing of ours asked for the change, and neither a line of the user's nor another session accounts for it.
        let same = former == sink.published && before.keys().eq(sink.taken.keys()) && !changed_hands;
        if published.changed && same {
            sink.put_back += 1;
            sink.put_back_at = Some(now);
            if sink.put_back == 1 || sink.put_back == CONTESTED {
                notices.push(Event::NamesPutBack(sink.report()));
            }
        }
        for (name, line) in &sink.taken {
            let event = Event::NameTaken {
                name: name.clone(),
                line: *line,
            };
            notices.push_once(format!("taken {name}"), event);
        }
        for message in published.warnings {
            notices.push_once(format!("warning {message}"), Event::NamesWarning { message });
        }
    }

    /// A publication failed; it is tried again after `pause`.
    pub(super) fn handle_failed(
        &mut self,
        sink: usize,
        error: &PublishError,
        now: Instant,
        pause: Duration,
        notices: &mut Notices,
    ) {
        let Some(sink) = self.sinks.get_mut(sink) else {
            return;
        };
        sink.under_way = false;
        sink.retry_at = Some(now + pause);
        // It may have been a check of names that are there already.
        sink.check_at = sink.retry_at;
        if !std::mem::replace(&mut sink.failing, true) {
            notices.push(Event::NamesFailed {
                sink: sink.name.clone(),
                reason: error.to_string(),
            });
        }
    }

    /// A publication failed while undoing: the host's own undo is the second try.
    pub(super) fn give_up(&mut self, sink: usize) {
        if let Some(sink) = self.sinks.get_mut(sink) {
            sink.under_way = false;
            sink.published = Arc::from([]);
        }
    }

    pub(super) fn sink_name(&self, sink: usize) -> &str {
        self.sinks.get(sink).map_or("", |sink| &sink.name)
    }

    /// Whether any sink is at work.
    pub(super) fn is_under_way(&self) -> bool {
        self.sinks.iter().any(|sink| sink.under_way)
    }

    /// Whether every sink has published what is wanted.
    pub(super) fn is_published(&self) -> bool {
        !self.dirty
            && self
                .sinks
                .iter()
                .all(|sink| !sink.under_way && sink.published == self.wanted)
    }

    /// Whether every sink has published what is wanted, or has failed to and waits.
    pub(super) fn is_settled(&self) -> bool {
        let settled =
            |sink: &Sink| !sink.under_way && (sink.published == self.wanted || sink.retry_at.is_some());
        !self.dirty && self.sinks.iter().all(settled)
    }

    /// Whether something may still be resolvable.
    pub(super) fn is_anything_published(&self) -> bool {
        self.sinks
            .iter()
            .any(|sink| sink.under_way || !sink.published.is_empty())
    }

    /// What is wanted.
    pub(super) fn wanted(&self) -> &Arc<[Record]> {
        &self.wanted
    }

    /// The names that lead to a service: those that it was assigned and that neither a line of the user's nor another session
    /// has.
    pub(super) fn of(&self, service: &ServiceKey) -> Vec<String> {
        let is_elsewhere =
            |sink: &Sink, name: &String| sink.taken.contains_key(name) || sink.held.contains(name);
        let assigned = self.assigned.get(service).into_iter().flatten();
        assigned
            .filter(|name| !self.sinks.iter().any(|sink| is_elsewhere(sink, name)))
            .cloned()
            .collect()
    }

    /// The names of a service that other sessions hold.
    pub(super) fn held_of(&self, service: &ServiceKey) -> Vec<String> {
        let assigned = self.assigned.get(service).into_iter().flatten();
        assigned
            .filter(|name| self.sinks.iter().any(|sink| sink.held.contains(name)))
            .cloned()
            .collect()
    }

    pub(super) fn held(&self) -> Vec<HeldNames> {
        let sinks = self.sinks.iter();
        sinks.flat_map(|sink| sink.held.sessions()).cloned().collect()
    }

    /// The names that a service would have but for a rule.
    pub(super) fn refused(&self, service: &ServiceKey) -> Vec<RefusedName> {
        self.refused.get(service).cloned().unwrap_or_default()
    }

    pub(super) fn taken(&self) -> Vec<TakenName> {
        let taken = self.sinks.iter().flat_map(|sink| &sink.taken);
        let distinct: BTreeMap<_, _> = taken.collect();
        let taken = distinct.into_iter().map(|(name, line)| TakenName {
            name: name.clone(),
            line: *line,
        });
        taken.collect()
    }

    pub(super) fn put_back(&self) -> Vec<PutBack> {
        let sinks = self.sinks.iter().filter(|sink| sink.put_back > 0);
        sinks.map(Sink::report).collect()
    }

    pub(super) fn clashes(&self) -> Vec<NameClash> {
        self.clashes.iter().cloned().collect()
    }
}

impl Sink {
    fn report(&self) -> PutBack {
        PutBack {
            sink: self.name.clone(),
            times: self.put_back,
        }
    }
}

/// The canonical names of members, by their service.
fn members(wishes: &[Wish], names: &[Vec<String>]) -> BTreeMap<ServiceKey, Vec<String>> {
    let mut members: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (wish, names) in wishes.iter().zip(names) {
        if wish.service.service.member.is_some()
            && !wish.addresses.is_empty()
            && let Some(canonical) = names.first()
        {
            let mut service = wish.service.clone();
            service.service.member = None;
            members.entry(service).or_default().push(canonical.clone());
        }
    }
    members
}

/// Tells which services go without names, once for each: however many they are, one event for each rule.
fn tell_refused(wishes: &[Wish], notices: &mut Notices) {
    let news: Vec<_> = wishes
        .iter()
        .filter(|wish| !wish.refused.is_empty() && notices.is_news(format!("refused {}", wish.shown)))
        .map(|wish| {
            let nameless = wish.own.is_empty() && wish.given.is_empty();
            (&wish.service.service, nameless, wish.refused.as_slice())
        })
        .collect();
    for refusals in Refusals::of(news) {
        notices.push(Event::NamesRefused(refusals));
    }
}
