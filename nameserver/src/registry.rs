//! Names with owners, read without waiting for whoever writes.

mod claims;
mod snapshot;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::data::Data;
use crate::name::Name;
pub(crate) use snapshot::Node;
pub use snapshot::Snapshot;

/// Names that have the same data, the canonical one first: that is the one that its addresses lead back to (PTR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The names.
    pub names: Vec<Name>,
    /// What each of them has.
    pub data: Vec<Data>,
}

impl Record {
    /// One name with its addresses.
    pub fn addresses(name: Name, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            names: vec![name],
            data: addresses.into_iter().map(Data::from).collect(),
        }
    }
}

/// The names that are served, and who published each.
///
/// Several owners may have the same name: whoever asks gets what all of them published, or what the newest one did
/// ([`Sharing`](crate::Sharing)), and when one withdraws, the others' answers stay. Readers take an immutable [`Snapshot`] and never
/// wait; a write makes the next one, which shares everything that did not change. Cheap to clone; all clones are the same registry.
///
/// ```
/// use nameserver::{Record, Registry};
/// let registry = Registry::default();
/// let api = |address: [u8; 4]| Record::addresses("api".parse().unwrap(), [address.into()]);
/// registry.publish("one", &[api([10, 0, 0, 1])]);
/// registry.publish("two", &[api([10, 0, 0, 2])]);
/// registry.withdraw("one");
/// let left: Vec<_> = registry.snapshot().addresses(&"api".parse()?).collect();
/// assert_eq!(left, [std::net::IpAddr::from([10, 0, 0, 2])]);
/// # Ok::<(), nameserver::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Registry(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: ArcSwap<Snapshot>,
    writer: Mutex<Writer>,
}

/// What only writers need.
#[derive(Default)]
struct Writer {
    owners: HashMap<Box<str>, Owner>,
    last_owner: u32,
    last_order: u32,
}

#[derive(Clone, Copy)]
struct Owner {
    id: u32,
    names: usize,
}

impl Registry {
    /// Makes these the owner's records and takes away all others that it had. Returns how many names changed.
    pub fn publish(&self, owner: &str, records: &[Record]) -> usize {
        self.write(owner, |write| {
            let wanted = by_name(records);
            write.set(&wanted);
            if write.owner.names > wanted.len() {
                let gone = write.draft.names_of_owner(write.owner.id);
                for name in gone.iter().filter(|name| !wanted.contains_key(name)) {
                    write.set_one(name, &[], false);
                }
            }
        })
    }

    /// Gives the names of these records exactly this data from this owner, takes the owner's data from those to remove, and
    /// leaves the owner's other names as they are. Returns how many names changed.
    pub fn update(&self, owner: &str, set: &[Record], remove: &[Name]) -> usize {
        self.write(owner, |write| {
            for name in remove {
                write.set_one(name, &[], false);
            }
            write.set(&by_name(set));
        })
    }

    /// Takes away all that this owner published. Returns how many names changed.
    pub fn withdraw(&self, owner: &str) -> usize {
        self.publish(owner, &[])
    }

    /// What is served at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// The same without counting a reference, for a reader that is done with it soon.
    pub(crate) fn read(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.current.load()
    }

    fn write(&self, owner: &str, change: impl FnOnce(&mut Write<'_>)) -> usize {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *writer;
        let known = writer.owners.get(owner).copied();
        let mut draft = Snapshot::clone(&self.0.current.load());
        let mut write = Write {
            owner: known.unwrap_or(Owner {
                id: writer.last_owner.wrapping_add(1),
                names: 0,
            }),
            order: writer.last_order.wrapping_add(1),
            draft: &mut draft,
            changed: 0,
        };
        change(&mut write);
        let Write {
            owner: after,
            order,
            changed,
            ..
        } = write;
        if changed > 0 {
            draft.next_generation();
            self.0.current.store(Arc::new(draft));
            writer.last_order = order;
        }
        if known.is_none() && after.names > 0 {
            writer.last_owner = after.id;
        }
        if after.names == 0 {
            writer.owners.remove(owner);
        } else {
            writer.owners.insert(owner.into(), after);
        }
        changed
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.0.current.load()).finish()
    }
}

/// One write by one owner.
struct Write<'a> {
    draft: &'a mut Snapshot,
    owner: Owner,
    order: u32,
    changed: usize,
}

impl Write<'_> {
    fn set(&mut self, wanted: &HashMap<&Name, Wanted<'_>>) {
        for (name, wanted) in wanted {
            self.set_one(name, &wanted.data, wanted.canonical);
        }
    }

    fn set_one(&mut self, name: &Name, data: &[&Data], canonical: bool) {
        let edit = self
            .draft
            .set_claims(name, self.owner.id, self.order, data, canonical);
        self.changed += usize::from(edit.changed);
        self.owner.names = self.owner.names + usize::from(edit.has) - usize::from(edit.had);
    }
}

/// What a name is to have, from all records of one write.
#[derive(Default)]
struct Wanted<'a> {
    data: Vec<&'a Data>,
    canonical: bool,
}

fn by_name(records: &[Record]) -> HashMap<&Name, Wanted<'_>> {
    let mut wanted: HashMap<&Name, Wanted<'_>> = HashMap::with_capacity(records.len());
    for record in records.iter().filter(|record| !record.data.is_empty()) {
        for (position, name) in record.names.iter().enumerate() {
            let wanted = wanted.entry(name).or_default();
            wanted.canonical |= position == 0;
            wanted.data.extend(&record.data);
        }
    }
    for wanted in wanted.values_mut() {
        // A set has no order and holds each record once (RFC 2181 §5).
        wanted.data.sort_unstable();
        wanted.data.dedup();
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, last: u8) -> Record {
        Record::addresses(name.parse().unwrap(), [[10, 0, 0, last].into()])
    }

    fn addresses(registry: &Registry, name: &str) -> Vec<String> {
        let snapshot = registry.snapshot();
        let mut found: Vec<_> = snapshot
            .addresses(&name.parse().unwrap())
            .map(|a| a.to_string())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn removing_one_owner_of_an_alias_leaves_the_others() {
        let registry = Registry::default();
        registry.publish("one", &[record("api", 1), record("only-one", 1)]);
        registry.publish("two", &[record("api", 2)]);
        assert_eq!(addresses(&registry, "api"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(registry.withdraw("one"), 2);
        assert_eq!(addresses(&registry, "api"), ["10.0.0.2"]);
        assert!(addresses(&registry, "only-one").is_empty());
        assert_eq!(registry.snapshot().len(), 1);
    }

    #[test]
    fn publishing_the_same_again_changes_nothing() {
        let registry = Registry::default();
        let records = [record("a", 1), record("b", 2)];
        assert_eq!(registry.publish("one", &records), 2);
        let before = registry.snapshot();
        assert_eq!(registry.publish("one", &records), 0);
        assert!(Arc::ptr_eq(&before, &registry.snapshot()));
        assert_eq!(registry.publish("one", &records[..1]), 1);
        assert_eq!(registry.snapshot().len(), 1);
    }

    #[test]
    fn an_update_leaves_the_other_names_of_its_owner() {
        let registry = Registry::default();
        registry.publish("one", &[record("a", 1), record("b", 2)]);
        assert_eq!(
            registry.update("one", &[record("a", 9)], &["b".parse().unwrap()]),
            2
        );
        assert_eq!(addresses(&registry, "a"), ["10.0.0.9"]);
        assert!(addresses(&registry, "b").is_empty());
        assert_eq!(registry.withdraw("one"), 1);
        assert!(registry.snapshot().is_empty());
    }

    #[test]
    fn a_reader_keeps_what_it_saw() {
        let registry = Registry::default();
        registry.publish("one", &[record("a", 1)]);
        let seen = registry.snapshot();
        registry.withdraw("one");
        assert_eq!(seen.addresses(&"a".parse().unwrap()).count(), 1);
        assert_eq!(registry.snapshot().len(), 0);
    }

    #[test]
    fn an_address_leads_back_to_its_canonical_names() {
        let registry = Registry::default();
        let names = ["orders.backend", "orders"].map(|name| name.parse().unwrap());
        let address = IpAddr::from([127, 77, 0, 2]);
        registry.publish(
            "one",
            &[Record {
                names: names.to_vec(),
                data: vec![address.into()],
            }],
        );
        let back = |registry: &Registry| registry.snapshot().names_of(address).cloned().collect::<Vec<_>>();
        assert_eq!(back(&registry), names[..1]);
        registry.withdraw("one");
        assert!(back(&registry).is_empty());
    }
}
