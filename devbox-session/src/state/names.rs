//! Which names lead where, and what each sink has published of that.

mod claims;
mod held;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notices::Notices;
use crate::key::ServiceKey;
use crate::names_policy::RefusedName;
use crate::report::{CONTESTED, Event, NameClash, PutBack, Refusals};
use crate::sink::{Behind, HeldNames, PublishError, Published, Record, Records, TakenName};
use claims::{Claims, Touched};
use held::HeldByOthers;

/// The names of a session.
#[derive(Debug)]
pub(super) struct Names {
    sinks: Vec<Sink>,
    wanted: Records,
    /// Services whose names, or where they lead, may be other than in `wanted`.
    dirty: BTreeSet<ServiceKey>,
    /// Services that lead somewhere.
    named: BTreeMap<ServiceKey, Named>,
    claims: Claims,
    /// Services whose names are in the record of another one, which they are other names for, by that one.
    sharing: BTreeMap<ServiceKey, BTreeSet<ServiceKey>>,
    /// When the last publication has had its pause.
    rest_until: Option<Instant>,
}

#[derive(Debug)]
struct Named {
    wish: Arc<Wish>,
    names: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Sink {
    name: String,
    published: Records,
    under_way: bool,
    /// When the publication that is under way began.
    since: Option<Instant>,
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

/// How much longer than a publication the pause after it is: a burst of changes costs a quarter of a processor, however many names there
/// are. It is at most [`LONG`]. The first of a burst has none: a catalog often comes in two parts.
const REST: u32 = 3;
/// A publication that takes longer does not keep new names from the other sinks, nor does a pause. Without one for so long, a burst is
/// over.
const LONG: Duration = Duration::from_millis(500);

/// What one service would like to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) service: ServiceKey,
    /// Whom to name in a clash.
    pub(super) shown: String,
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
    /// What is at these addresses. Its members are named with the records.
    pub(super) behind: Behind,
    /// Names that follow from its id.
    pub(super) own: Vec<Arc<str>>,
    /// Names that its owner gave it: any service's own name is stronger.
    pub(super) given: Vec<Arc<str>>,
    /// Names that it would have but for a rule.
    pub(super) refused: Vec<RefusedName>,
    /// Its right to a name that others would have as well.
    pub(super) right: Right,
}

impl Wish {
    /// The service whose record has its names.
    fn record(&self) -> ServiceKey {
        ServiceKey {
            service: self.behind.service.clone(),
            ..self.service.clone()
        }
    }
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
        let sinks = sinks.into_iter().map(|name| Sink {
            name,
            published: Records::default(),
            under_way: false,
            since: None,
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
            wanted: Records::default(),
            dirty: BTreeSet::new(),
            named: BTreeMap::new(),
            claims: Claims::default(),
            sharing: BTreeMap::new(),
            rest_until: None,
        }
    }

    /// What a service would be called, or where that leads, may be other than it was.
    pub(super) fn mark(&mut self, service: ServiceKey) {
        self.dirty.insert(service);
    }

    /// The services whose names are to be looked at, if that is due: after a publication there is a pause, and what changes meanwhile
    /// is one publication.
    pub(super) fn take_dirty(&mut self, now: Instant) -> Option<BTreeSet<ServiceKey>> {
        let waits = self.dirty.is_empty() || self.busy_until().is_some_and(|until| until > now);
        (!waits).then(|| std::mem::take(&mut self.dirty))
    }

    /// Until when services that were marked are not looked at: a sink is at work, and not for long, or has its pause.
    fn busy_until(&self) -> Option<Instant> {
        let at_work = self.sinks.iter().filter_map(|sink| Some(sink.since? + LONG));
        at_work.chain(self.rest_until).max()
    }

    /// Whether services wait to be looked at.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes what services would be called now; `None` of one that leads nowhere. Own names of all come first, then given ones, each in
    /// the order of the wishes' right to them and, where that is the same, of the services. A name that somebody has already is a clash.
    ///
    /// What it costs depends on these services and those that have to do with them, and not on how many there are.
    pub(super) fn refresh(
        &mut self,
        wishes: impl IntoIterator<Item = (ServiceKey, Option<Wish>)>,
        notices: &mut Notices,
    ) {
        let mut touched = Touched::default();
        let mut renamed = BTreeSet::new();
        let mut records = BTreeSet::new();
        let mut newly_refused = Vec::new();
        for (service, wish) in wishes {
            let former = self.named.get(&service).map(|named| &*named.wish);
            if former == wish.as_ref() {
                continue;
            }
            if let Some(former) = self.named.remove(&service) {
                self.claims.withdraw(&former.wish, &mut touched);
                let record = former.wish.record();
                if let Some(sharing) = self.sharing.get_mut(&record) {
                    sharing.remove(&service);
                    if sharing.is_empty() {
                        self.sharing.remove(&record);
                    }
                }
                records.insert(record);
            }
            records.extend(service.whole());
            if let Some(wish) = wish {
                let wish = Arc::new(wish);
                self.claims.make(&wish, &mut touched);
                let record = wish.record();
                if record != service {
                    let sharing = self.sharing.entry(record.clone()).or_default();
                    sharing.insert(service.clone());
                }
                records.insert(record);
                if !wish.refused.is_empty() {
                    newly_refused.push(Arc::clone(&wish));
                }
                renamed.insert(service.clone());
                let names = Vec::new();
                self.named.insert(service, Named { wish, names });
            }
        }
        renamed.extend(touched.settle(&self.claims, notices));
        tell_refused(&newly_refused, notices);
        for service in renamed {
            let Some(named) = self.named.get_mut(&service) else {
                continue;
            };
            let names = self.claims.names_of(&named.wish);
            if names != named.names {
                named.names = names;
                records.insert(named.wish.record());
                records.extend(service.whole());
            }
        }
        for service in records {
            match self.record(&service) {
                Some(record) => self.wanted.put(service, record),
                None => self.wanted.remove(&service),
            }
        }
    }

    /// The record of a service, with the names of those that are other names for it.
    fn record(&self, service: &ServiceKey) -> Option<Record> {
        // Its own names are the canonical ones, wherever it stands among its aliases.
        let own = self.named.get(service);
        let own = own.filter(|named| named.wish.behind.service == service.service);
        let others = self.sharing.get(service).into_iter().flatten();
        let others = others.filter_map(|key| self.named.get(key));
        let mut named = own.into_iter().chain(others).peekable();
        let wish = Arc::clone(&named.peek()?.wish);
        let names: Vec<_> = named.flat_map(|named| &named.names).cloned().collect();
        (!names.is_empty()).then(|| Record {
            names,
            addresses: wish.addresses.clone(),
            behind: Some(Behind {
                members: self.members(service),
                ..wish.behind.clone()
            }),
        })
    }

    /// The canonical names of a service's members.
    fn members(&self, service: &ServiceKey) -> Vec<Arc<str>> {
        // They come right after it.
        let after = (Bound::Excluded(service), Bound::Unbounded);
        let members = self.named.range(after);
        let members = members.take_while(|(key, _)| key.whole().as_ref() == Some(service));
        members
            .filter_map(|(_, named)| named.names.first().cloned())
            .collect()
    }

    /// Nothing is wanted any more.
    pub(super) fn withdraw(&mut self) {
        self.dirty.clear();
        self.wanted = Records::default();
        for sink in &mut self.sinks {
            sink.retry_at = None;
            sink.check_at = None;
        }
    }

    /// The next sink to publish to, with what it is to have.
    pub(super) fn poll_publish(&mut self, now: Instant) -> Option<(usize, Records)> {
        let wanted = &self.wanted;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (index, sink) = self.sinks.iter_mut().enumerate().find(|(_, sink)| {
            let retry = sink.retry_at.is_none() || due(sink.retry_at);
            !sink.under_way && (sink.published != *wanted && retry || due(sink.check_at))
        })?;
        sink.under_way = true;
        sink.since = Some(now);
        sink.retry_at = None;
        sink.check_at = None;
        Some((index, wanted.clone()))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let retries = self.sinks.iter().filter(|sink| sink.published != self.wanted);
        let checks = self.sinks.iter().filter(|sink| !sink.under_way);
        let retries = retries.filter_map(|sink| sink.retry_at);
        let checks = checks.filter_map(|sink| sink.check_at);
        let looks = self.busy_until().filter(|_| self.is_dirty());
        retries.chain(checks).chain(looks).min()
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
        records: Records,
        published: Published,
        now: Instant,
        notices: &mut Notices,
    ) {
        self.rest(sink, now);
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

    /// The pause after a publication begins.
    fn rest(&mut self, sink: usize, now: Instant) {
        if let Some(since) = self.sinks.get_mut(sink).and_then(|sink| sink.since.take()) {
            let in_burst = self.rest_until.is_some_and(|rested| since < rested + LONG);
            let took = now.saturating_duration_since(since);
            let pause = if in_burst {
                LONG.min(took * REST)
            } else {
                Duration::ZERO
            };
            self.rest_until = self.rest_until.max(Some(now + pause));
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
        self.rest(sink, now);
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
            sink.since = None;
            sink.published = Records::default();
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
        self.dirty.is_empty()
            && self
                .sinks
                .iter()
                .all(|sink| !sink.under_way && sink.published == self.wanted)
    }

    /// Whether every sink has published what is wanted, or has failed to and waits. Services that are marked may want something else.
    pub(super) fn is_settled(&self) -> bool {
        let settled =
            |sink: &Sink| !sink.under_way && (sink.published == self.wanted || sink.retry_at.is_some());
        self.sinks.iter().all(settled)
    }

    /// Whether something may still be resolvable.
    pub(super) fn is_anything_published(&self) -> bool {
        self.sinks
            .iter()
            .any(|sink| sink.under_way || !sink.published.is_empty())
    }

    /// What is wanted.
    pub(super) fn wanted(&self) -> &Records {
        &self.wanted
    }

    /// The names that lead to a service: those that it was assigned and that neither a line of the user's nor another session
    /// has.
    pub(super) fn of(&self, service: &ServiceKey) -> Vec<String> {
        let is_elsewhere =
            |sink: &Sink, name: &str| sink.taken.contains_key(name) || sink.held.contains(name);
        let names = self.assigned(service);
        let names = names.filter(|name| !self.sinks.iter().any(|sink| is_elsewhere(sink, name)));
        names.map(str::to_owned).collect()
    }

    /// The names of a service that other sessions hold.
    pub(super) fn held_of(&self, service: &ServiceKey) -> Vec<String> {
        let names = self.assigned(service);
        let names = names.filter(|name| self.sinks.iter().any(|sink| sink.held.contains(name)));
        names.map(str::to_owned).collect()
    }

    fn assigned(&self, service: &ServiceKey) -> impl Iterator<Item = &str> {
        let named = self.named.get(service).into_iter();
        named.flat_map(|named| &named.names).map(Arc::as_ref)
    }

    pub(super) fn held(&self) -> Vec<HeldNames> {
        let sinks = self.sinks.iter();
        sinks.flat_map(|sink| sink.held.sessions()).cloned().collect()
    }

    /// The names that a service would have but for a rule.
    pub(super) fn refused(&self, service: &ServiceKey) -> Vec<RefusedName> {
        let named = self.named.get(service);
        named.map_or_else(Vec::new, |named| named.wish.refused.clone())
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
        self.claims.clashes()
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

/// Tells which services go without names, once for each: however many they are, one event for each rule.
fn tell_refused(wishes: &[Arc<Wish>], notices: &mut Notices) {
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
