//! The records of a session as a set that is cheap to copy, to change and to compare.

use std::cmp::Ordering;
use std::fmt;
use std::slice;
use std::sync::Arc;

use super::Record;
use crate::key::ServiceKey;

/// What a session publishes: a record for each service that has names, in the services' order.
///
/// A clone shares everything, and a set that was made from another one shares what did not change: what a sink has to do anew is found
/// at the cost of the change ([`Records::changes_since`]).
///
/// ```
/// use devbox_session::ServiceKey;
/// use devbox_session::sink::{Record, Records};
/// # use devbox_session::ProviderId;
/// # fn key(name: &str) -> ServiceKey {
/// #     let (environment, service) = ("dev".parse().unwrap(), name.parse().unwrap());
/// #     ServiceKey { provider: ProviderId(0), environment, service }
/// # }
/// # fn record(name: &str) -> Record {
/// #     Record { names: vec![name.into()], addresses: vec!["127.77.0.2".parse().unwrap()], behind: None }
/// # }
/// let before: Records = ["orders.backend", "web.shop"].map(|name| (key(name), record(name))).into_iter().collect();
/// let after: Records = [(key("web.shop"), record("web.shop"))].into_iter().collect();
/// let mut changes = after.changes_since(&before);
/// assert_eq!(&*changes.next().unwrap().before.unwrap().names[0], "orders.backend");
/// assert!(changes.next().is_none());
/// ```
#[derive(Clone, Default)]
pub struct Records {
    /// Sorted; none is empty.
    chunks: Arc<Vec<Chunk>>,
    len: usize,
}

/// Sorted. A change copies the pointers of one.
type Chunk = Arc<Vec<Arc<Entry>>>;

const CHUNK: usize = 64;

struct Entry {
    service: ServiceKey,
    record: Arc<Record>,
}

/// One service whose record differs between two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// What it was, if there was one.
    pub before: Option<&'a Arc<Record>>,
    /// What it is, if there is one.
    pub after: Option<&'a Arc<Record>>,
}

impl Records {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            chunks: self.chunks.iter(),
            entries: [].iter(),
        }
    }

    /// What is other than in `older`, in the services' order. What both share is passed over unseen.
    pub fn changes_since<'a>(&'a self, older: &'a Self) -> Changes<'a> {
        Changes {
            older: Cursor::new(older),
            newer: Cursor::new(self),
        }
    }

    /// The record of a service.
    pub(crate) fn get(&self, service: &ServiceKey) -> Option<&Arc<Record>> {
        let chunk = self.chunks.get(self.chunk_of(service)?)?;
        let at = place(chunk, service).ok()?;
        Some(&chunk.get(at)?.record)
    }

    /// Gives a service its record. One that is the same stays the one that it is.
    pub(crate) fn put(&mut self, service: ServiceKey, record: Record) {
        if self.get(&service).is_some_and(|known| **known == record) {
            return;
        }
        let at = self.chunk_of(&service);
        let record = Arc::new(record);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some((at, chunk)) = at.and_then(|at| Some((at, Arc::make_mut(chunks.get_mut(at)?)))) else {
            chunks.push(Arc::new(vec![Arc::new(Entry { service, record })]));
            self.len += 1;
            return;
        };
        let place = place(chunk, &service);
        let entry = Arc::new(Entry { service, record });
        match place {
            Ok(place) => chunk.splice(place..=place, [entry]).for_each(drop),
            Err(place) => {
                chunk.insert(place, entry);
                self.len += 1;
                if chunk.len() > CHUNK {
                    let upper = chunk.split_off(CHUNK / 2);
                    chunks.insert(at + 1, Arc::new(upper));
                }
            }
        }
    }

    /// Takes a service's record away.
    pub(crate) fn remove(&mut self, service: &ServiceKey) {
        if self.get(service).is_none() {
            return;
        }
        let Some(at) = self.chunk_of(service) else {
            return;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at).map(Arc::make_mut) else {
            return;
        };
        if let Ok(place) = place(chunk, service) {
            chunk.remove(place);
            self.len -= 1;
        }
        if chunk.is_empty() {
            chunks.remove(at);
        }
    }

    /// The chunk that a service is in, or would be in; nothing where there is none.
    fn chunk_of(&self, service: &ServiceKey) -> Option<usize> {
        let not_after = |chunk: &Chunk| chunk.first().is_some_and(|first| first.service <= *service);
        let after = self.chunks.partition_point(not_after);
        (!self.chunks.is_empty()).then(|| after.saturating_sub(1))
    }
}

/// Where in a chunk a service is, or would be.
fn place(chunk: &[Arc<Entry>], service: &ServiceKey) -> Result<usize, usize> {
    chunk.binary_search_by(|entry| entry.service.cmp(service))
}

impl FromIterator<(ServiceKey, Record)> for Records {
    fn from_iter<I: IntoIterator<Item = (ServiceKey, Record)>>(records: I) -> Self {
        let mut all = Self::default();
        for (service, record) in records {
            all.put(service, record);
        }
        all
    }
}

/// The same services with the same records.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
            || (self.len == other.len && self.changes_since(other).next().is_none())
    }
}

impl Eq for Records {}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = &'a Record;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// All records of a set.
pub struct Iter<'a> {
    chunks: slice::Iter<'a, Chunk>,
    entries: slice::Iter<'a, Arc<Entry>>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Record;

    fn next(&mut self) -> Option<&'a Record> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(&entry.record);
            }
            self.entries = self.chunks.next()?.iter();
        }
    }
}

/// What differs between two sets.
pub struct Changes<'a> {
    older: Cursor<'a>,
    newer: Cursor<'a>,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        loop {
            if let (Some(older), Some(newer)) = (self.older.whole(), self.newer.whole())
                && Arc::ptr_eq(older, newer)
            {
                self.older.pass_chunk();
                self.newer.pass_chunk();
                continue;
            }
            let order = match (self.older.entry(), self.newer.entry()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(older), Some(newer)) => older.service.cmp(&newer.service),
            };
            let before = self.older.take_if(order.is_le());
            let after = self.newer.take_if(order.is_ge());
            if let (Some(before), Some(after)) = (before, after)
                && (Arc::ptr_eq(before, after) || before.record == after.record)
            {
                continue;
            }
            return Some(Change {
                before: before.map(|entry| &entry.record),
                after: after.map(|entry| &entry.record),
            });
        }
    }
}

/// A place in a set.
struct Cursor<'a> {
    chunks: &'a [Chunk],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(records: &'a Records) -> Self {
        Self {
            chunks: &records.chunks,
            at: 0,
        }
    }

    /// The chunk at whose beginning it is.
    fn whole(&self) -> Option<&'a Chunk> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn pass_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn entry(&self) -> Option<&'a Arc<Entry>> {
        self.chunks.first()?.get(self.at)
    }

    fn take_if(&mut self, wanted: bool) -> Option<&'a Arc<Entry>> {
        let entry = self.entry().filter(|_| wanted)?;
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| chunk.len() == self.at) {
            self.pass_chunk();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::key::ProviderId;

    fn key(number: u16) -> ServiceKey {
        ServiceKey {
            provider: ProviderId(0),
            environment: "staging".parse().unwrap(),
            service: format!("s{number:05}.backend").parse().unwrap(),
        }
    }

    fn record(number: u16, last: u8) -> Record {
        Record {
            names: vec![format!("s{number:05}.backend").into()],
            addresses: vec![[127, 77, 0, last].into()],
            behind: None,
        }
    }

    /// What is put or removed.
    fn edits() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        proptest::collection::vec((0_u16..400, proptest::option::weighted(0.7, 0_u8..4)), 0..600)
    }

    fn edit(records: &mut Records, model: &mut BTreeMap<u16, u8>, edits: &[(u16, Option<u8>)]) {
        for (number, last) in edits {
            match last {
                Some(last) => {
                    records.put(key(*number), record(*number, *last));
                    model.insert(*number, *last);
                }
                None => {
                    records.remove(&key(*number));
                    model.remove(number);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_set_is_as_a_map_and_its_changes_lead_from_one_to_the_other(first in edits(), second in edits()) {
            let (mut older, mut model) = (Records::default(), BTreeMap::new());
            edit(&mut older, &mut model, &first);
            let (mut newer, before) = (older.clone(), model.clone());
            edit(&mut newer, &mut model, &second);
            let expected: Vec<_> = model.iter().map(|(number, last)| record(*number, *last)).collect();
            prop_assert_eq!(newer.iter().cloned().collect::<Vec<_>>(), expected);
            prop_assert_eq!(newer.len(), model.len());
            let changes: Vec<_> = newer
                .changes_since(&older)
                .map(|change| [change.before, change.after].map(|record| record.map(|record| (**record).clone())))
                .collect();
            let numbers = before.keys().chain(model.keys()).collect::<std::collections::BTreeSet<_>>();
            let differ = numbers.into_iter().filter(|number| before.get(number) != model.get(number));
            let expected: Vec<_> = differ
                .map(|number| [&before, &model].map(|map| map.get(number).map(|last| record(*number, *last))))
                .collect();
            prop_assert_eq!(&changes, &expected);
            prop_assert_eq!(newer == older, expected.is_empty());
            // The same set, put together otherwise.
            let anew: Records = model.iter().rev().map(|(number, last)| (key(*number), record(*number, *last))).collect();
            prop_assert_eq!(anew, newer);
        }
    }

    #[test]
    fn a_change_of_many_leaves_the_others_shared() {
        let older: Records = (0..10_000)
            .map(|number| (key(number), record(number, 1)))
            .collect();
        let mut newer = older.clone();
        newer.put(key(5_000), record(5_000, 2));
        newer.remove(&key(77));
        newer.put(key(10_001), record(10_001, 1));
        let is_shared = |chunk: &&Chunk| older.chunks.iter().any(|of| Arc::ptr_eq(of, chunk));
        let shared = newer.chunks.iter().filter(is_shared).count();
        assert_eq!(newer.chunks.len() - shared, 3);
        assert_eq!(newer.changes_since(&older).count(), 3);
    }
}
