//! Which names lead where, and what each sink has published of that.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notices::Notices;
use crate::key::ServiceKey;
use crate::names_policy::RefusedName;
use crate::report::{CONTESTED, Event, NameClash, PutBack, Refusals};
use crate::sink::{HeldNames, PublishError, Published, Record, TakenName};
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
    /// Names that follow from its id.
    pub(super) own: Vec<String>,
    /// Names that its owner gave it: any service's own name is stronger.
    pub(super) given: Vec<String>,
    /// Names that it would have but for a rule.
    pub(super) refused: Vec<RefusedName>,
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

    /// Puts the names together anew. Wishes come in the order of their right to a name: own names of all first, then
    /// given ones. A name that somebody has already is a clash.
    pub(super) fn refresh(&mut self, wishes: Vec<Wish>, notices: &mut Notices) {
        self.dirty = false;
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        let mut names = vec![Vec::new(); wishes.len()];
        let mut clashes = BTreeSet::new();
        for given in [false, true] {
            for (index, wish) in wishes.iter().enumerate() {
                for name in if given { &wish.given } else { &wish.own } {
                    let owner = *owners.entry(name.clone()).or_insert(index);
                    if owner != index {
                        clashes.insert(NameClash {
                            name: name.clone(),
                            owner: wishes[owner].shown.clone(),
                            other: wish.shown.clone(),
                        });
                    } else if !names[index].contains(name) {
                        names[index].push(name.clone());
                    }
                }
            }
        }
        for clash in clashes.difference(&self.clashes) {
            notices.push(Event::NameClash(clash.clone()));
        }
        self.clashes = clashes;
        tell_refused(&wishes, notices);
        self.assigned.clear();
        self.refused.clear();
        // Services with the same addresses (a service and those that are other names for it) share a record.
        let mut records: Vec<Record> = Vec::with_capacity(wishes.len());
        let mut places: BTreeMap<Vec<IpAddr>, usize> = BTreeMap::new();
        for (wish, names) in wishes.into_iter().zip(names) {
            if !names.is_empty() && !wish.addresses.is_empty() {
                let place = *places.entry(wish.addresses.clone()).or_insert(records.len());
                match records.get_mut(place) {
                    Some(record) => record.names.extend(names.iter().cloned()),
                    None => records.push(Record {
                        names: names.clone(),
                        addresses: wish.addresses,
                    }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ProviderId;

    fn wish(provider: usize, service: &str, own: &[&str], given: &[&str]) -> Wish {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let octet = u8::try_from(provider).unwrap();
        Wish {
            service: ServiceKey {
                provider: ProviderId(provider),
                environment: "staging".parse().unwrap(),
                service: service.parse().unwrap(),
            },
            shown: format!("{service} of p{provider}"),
            addresses: vec![IpAddr::from([
                127,
                77,
                octet,
                u8::try_from(service.len()).unwrap(),
            ])],
            own: texts(own),
            given: texts(given),
            refused: Vec::new(),
        }
    }

    fn events(notices: &mut Notices) -> Vec<Event> {
        std::iter::from_fn(|| notices.poll_event()).collect()
    }

    #[test]
    fn a_clash_goes_by_configured_order_and_is_told_once() {
        let mut names = Names::new(vec!["hosts".to_owned()]);
        let mut notices = Notices::default();
        let wishes = || {
            vec![
                wish(0, "orders.backend", &["orders.backend"], &["shop"]),
                wish(
                    1,
                    "orders.backend",
                    &["orders.backend", "orders.backend.local"],
                    &[],
                ),
                wish(1, "shop.x", &["shop"], &[]),
            ]
        };
        names.refresh(wishes(), &mut notices);
        names.refresh(wishes(), &mut notices);
        let of = |index: usize| names.of(&wishes()[index].service);
        assert_eq!(of(0), ["orders.backend"]);
        assert_eq!(of(1), ["orders.backend.local"]);
        assert_eq!(of(2), ["shop"], "an own name is stronger than a given one");
        let told = events(&mut notices);
        assert_eq!(told.len(), 2, "{told:?}");
        let all: Vec<_> = names
            .wanted()
            .iter()
            .flat_map(|record| record.names.clone())
            .collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), distinct.len(), "no name is in two records");
    }

    #[test]
    fn names_that_a_rule_refuses_are_told_once_and_counted() {
        let mut names = Names::new(vec!["hosts".to_owned()]);
        let mut notices = Notices::default();
        let refused = |name: String| RefusedName {
            name,
            why: "it is a name of the machine itself".to_owned(),
        };
        let wishes = || {
            let mut wishes: Vec<_> = (0..7)
                .map(|number| wish(0, &format!("localhost.n{number}"), &[], &[]))
                .collect();
            for wish in &mut wishes {
                wish.refused = vec![
                    refused(wish.service.service.to_string()),
                    refused(format!("{}.svc", wish.service.service)),
                ];
            }
            let mut partly = wish(0, "web.localhost", &["web.localhost.svc"], &[]);
            partly.refused = vec![refused("web.localhost".to_owned())];
            wishes.push(partly);
            wishes.push(wish(0, "web.shop", &["web.shop"], &[]));
            wishes
        };
        names.refresh(wishes(), &mut notices);
        names.refresh(wishes(), &mut notices);
        let told: Vec<_> = events(&mut notices)
            .into_iter()
            .map(|event| match event {
                Event::NamesRefused(refusals) => (refusals.nameless, refusals.names.to_string()),
                other => panic!("{other:?}"),
            })
            .collect();
        let several = "localhost.n0, localhost.n1, localhost.n2, localhost.n3, localhost.n4 and 2 more";
        assert_eq!(
            told,
            [(true, several.to_owned()), (false, "web.localhost".to_owned())]
        );
        assert_eq!(names.refused(&wishes()[0].service).len(), 2);
    }

    #[test]
    fn every_sink_gets_the_newest_set_and_one_at_a_time() {
        let mut names = Names::new(vec!["hosts".to_owned(), "registry".to_owned()]);
        let mut notices = Notices::default();
        let now = Instant::now();
        names.refresh(vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
        let (first, records) = names.poll_publish(now).unwrap();
        let (second, _) = names.poll_publish(now).unwrap();
        assert_eq!((first, second), (0, 1));
        assert!(names.poll_publish(now).is_none());
        names.refresh(vec![wish(0, "c.d", &["c.d"], &[])], &mut notices);
        names.handle_published(0, records, Published::default(), now, &mut notices);
        assert!(!names.is_published());
        let (again, newest) = names.poll_publish(now).unwrap();
        assert_eq!((again, newest[0].names[0].as_str()), (0, "c.d"));
    }

    #[test]
    fn a_sink_that_fails_is_tried_later_and_told_of_once() {
        let mut names = Names::new(vec!["hosts".to_owned(), "registry".to_owned()]);
        let mut notices = Notices::default();
        let mut now = Instant::now();
        let pause = Duration::from_secs(5);
        names.refresh(vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
        let error = PublishError::Other {
            message: "disk full".to_owned(),
        };
        for _ in 0..10 {
            let (sink, _) = names.poll_publish(now).unwrap();
            assert_eq!(sink, 0);
            names.handle_failed(sink, &error, now, pause, &mut notices);
            if let Some((sink, records)) = names.poll_publish(now) {
                assert_eq!(sink, 1, "the other sink does not wait for it");
                names.handle_published(sink, records, Published::default(), now, &mut notices);
            }
            assert!(names.is_settled() && !names.is_published());
            now = names.poll_timeout().unwrap();
        }
        let (sink, records) = names.poll_publish(now).unwrap();
        names.handle_published(sink, records, Published::default(), now, &mut notices);
        assert!(names.is_published());
        let told = events(&mut notices);
        assert!(
            matches!(
                told.as_slice(),
                [Event::NamesFailed { .. }, Event::NamesRestored { .. }]
            ),
            "{told:?}"
        );
    }

    /// A sink that has published one name, and the moment when it had.
    fn published() -> (Names, Notices, Instant) {
        let mut names = Names::new(vec!["/etc/hosts".to_owned()]);
        let mut notices = Notices::default();
        let now = Instant::now();
        names.refresh(vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
        answer(&mut names, &mut notices, now, true);
        (names, notices, now)
    }

    /// Answers the publication that is due, and only one is.
    fn answer(names: &mut Names, notices: &mut Notices, now: Instant, changed: bool) {
        let (sink, records) = names.poll_publish(now).unwrap();
        assert!(names.poll_publish(now).is_none());
        let done = Published {
            changed,
            ..Published::default()
        };
        names.handle_published(sink, records, done, now, notices);
        assert!(names.is_published() && names.poll_publish(now).is_none());
    }

    #[test]
    fn names_that_another_program_removes_are_put_back_told_of_and_counted() {
        let (mut names, mut notices, mut now) = published();
        assert!(events(&mut notices).is_empty() && names.put_back().is_empty());
        for times in 1..=10 {
            names.handle_disturbed(0, now);
            names.handle_disturbed(0, now);
            if times > 1 {
                assert!(names.poll_publish(now).is_none(), "not again and again");
                now = names.poll_timeout().unwrap();
            }
            answer(&mut names, &mut notices, now, true);
            now += Duration::from_secs(1);
            assert_eq!(names.put_back()[0].times, times);
        }
        let told: Vec<_> = events(&mut notices)
            .into_iter()
            .map(|event| match event {
                Event::NamesPutBack(told) => (told.times, told.is_contested()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(1, false), (CONTESTED, true)]);
        // After a while it is put back at once again.
        now += PUT_BACK_PAUSE;
        names.handle_disturbed(0, now);
        answer(&mut names, &mut notices, now, true);
    }

    #[test]
    fn a_disturbance_that_leaves_the_names_alone_is_not_told() {
        let (mut names, mut notices, now) = published();
        for _ in 0..10 {
            names.handle_disturbed(0, now);
            answer(&mut names, &mut notices, now, false);
        }
        assert!(events(&mut notices).is_empty() && names.put_back().is_empty());
        // Nor is what the user's own new line accounts for.
        names.handle_disturbed(0, now);
        let (sink, records) = names.poll_publish(now).unwrap();
        let done = Published {
            changed: true,
            taken: vec![TakenName {
                name: "a.b".to_owned(),
                line: 3,
            }],
            ..Published::default()
        };
        names.handle_published(sink, records, done, now, &mut notices);
        assert!(matches!(
            events(&mut notices).as_slice(),
            [Event::NameTaken { line: 3, .. }]
        ));
        assert!(names.put_back().is_empty());
    }

    fn held(names: &[&str]) -> Vec<HeldNames> {
        vec![HeldNames {
            session: "dev-1a2b3c4d".to_owned(),
            helper_pid: Some(7),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }]
    }

    /// Answers the publication that is due with what others hold. Where that is new, the file changes.
    fn leave(names: &mut Names, notices: &mut Notices, now: Instant, held: Vec<HeldNames>) {
        let (sink, records) = names.poll_publish(now).unwrap();
        let done = Published {
            changed: held != names.held(),
            held,
            ..Published::default()
        };
        names.handle_published(sink, records, done, now, notices);
    }

    #[test]
    fn names_that_change_hands_are_told_once_each_way() {
        let mut names = Names::new(vec!["/etc/hosts".to_owned()]);
        let mut notices = Notices::default();
        let mut now = Instant::now();
        let wanted = || wish(0, "a.b", &["a.b", "a.b.svc", "a.b.staging"], &[]);
        names.refresh(vec![wanted()], &mut notices);
        leave(&mut names, &mut notices, now, held(&["a.b", "a.b.svc"]));
        assert_eq!(names.of(&wanted().service), ["a.b.staging"]);
        assert_eq!(names.held_of(&wanted().service), ["a.b", "a.b.svc"]);
        assert_eq!(names.held(), held(&["a.b", "a.b.svc"]));
        let told = events(&mut notices);
        let [Event::NamesHeld(first)] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!((first.names.count, first.lost, first.published), (2, false, 1));
        // Nobody tells when the other session is killed: it is looked at from time to time.
        for _ in 0..3 {
            assert_eq!(names.poll_timeout(), Some(now + HELD_CHECK));
            now += HELD_CHECK;
            leave(&mut names, &mut notices, now, held(&["a.b", "a.b.svc"]));
        }
        names.handle_disturbed(0, now);
        assert!(names.poll_publish(now).is_none(), "whoever holds a name is first");
        now = names.poll_timeout().unwrap();
        leave(&mut names, &mut notices, now, Vec::new());
        assert_eq!(names.of(&wanted().service).len(), 3);
        assert_eq!(names.poll_timeout(), None);
        names.handle_disturbed(0, now);
        leave(&mut names, &mut notices, now, held(&["a.b"]));
        let told = events(&mut notices);
        let [.., Event::NamesGained { names: gained }, Event::NamesHeld(lost)] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(gained.to_string(), "a.b, a.b.svc");
        assert_eq!(
            (lost.names.to_string().as_str(), lost.lost, lost.published),
            ("a.b", true, 2)
        );
        assert!(names.put_back().is_empty());
    }

    #[test]
    fn a_check_that_fails_is_made_again_later_and_not_at_the_end() {
        let (mut names, mut notices, mut now) = published();
        let pause = Duration::from_secs(5);
        names.handle_disturbed(0, now);
        let (sink, _) = names.poll_publish(now).unwrap();
        let error = PublishError::Other {
            message: "disk full".to_owned(),
        };
        names.handle_failed(sink, &error, now, pause, &mut notices);
        names.handle_disturbed(0, now);
        assert!(names.poll_publish(now).is_none() && names.is_settled());
        now = names.poll_timeout().unwrap();
        answer(&mut names, &mut notices, now, true);
        names.handle_disturbed(0, now);
        names.withdraw();
        answer(&mut names, &mut notices, now, true);
        assert_eq!(names.poll_timeout(), None);
    }

    #[test]
    fn another_name_for_a_service_shares_its_record() {
        let mut names = Names::new(vec!["hosts".to_owned()]);
        let mut notices = Notices::default();
        let mut alias = wish(0, "db.x", &["db.x"], &[]);
        let target = wish(0, "postgres.x", &["postgres.x"], &[]);
        alias.addresses.clone_from(&target.addresses);
        names.refresh(vec![alias, target], &mut notices);
        assert_eq!(names.wanted().len(), 1);
        assert_eq!(names.wanted()[0].names, ["db.x", "postgres.x"]);
    }
}
