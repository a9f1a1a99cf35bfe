//! Any sequence of operations against a model that is slow and plain: a map of leases, a list of what rests, and a walk
//! over every address. The store is a memory that dies at a chosen write, in the middle of it.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use ipalloc::store::{MemoryStore, Part, Persistent, Store};
use ipalloc::{Allocator, Error, Key, Pool, Strategy as Choice, Timestamp};
use proptest::prelude::*;

const QUARANTINE: u64 = 50;

#[derive(Clone, Debug)]
enum Op {
    Lease(u8),
    LeaseWhere(u8, u8),
    LeaseAt(u8, u8),
    Release(u8),
    LeasePort(u8, u16),
    ReleasePort(u8, u16),
    Pin(u8, u8),
    Unpin(u8),
    Reserve(u8),
    Unreserve(u8),
    Wait(u64),
    Restart,
    Fold,
    /// The so-many-th write from here on is the last one of this process, and only this part of 256 of it is done.
    DieAt(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u8..14;
    prop_oneof![
        8 => key.clone().prop_map(Op::Lease),
        2 => (key.clone(), any::<u8>()).prop_map(|(key, mask)| Op::LeaseWhere(key, mask)),
        2 => (key.clone(), 0u8..18).prop_map(|(key, place)| Op::LeaseAt(key, place)),
        6 => key.clone().prop_map(Op::Release),
        3 => (key.clone(), 1u16..4).prop_map(|(key, port)| Op::LeasePort(key, port)),
        3 => (key.clone(), 1u16..4).prop_map(|(key, port)| Op::ReleasePort(key, port)),
        2 => (key.clone(), 0u8..18).prop_map(|(key, place)| Op::Pin(key, place)),
        1 => key.prop_map(Op::Unpin),
        1 => (0u8..18).prop_map(Op::Reserve),
        1 => (0u8..18).prop_map(Op::Unreserve),
        3 => (0u64..40).prop_map(Op::Wait),
        1 => Just(Op::Restart),
        1 => Just(Op::Fold),
        1 => (0u8..4, any::<u8>()).prop_map(|(write, part)| Op::DieAt(write, part)),
    ]
}

fn key(number: u8) -> Key {
    Key::new(&format!("dev/backend/service-{number}")).unwrap()
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn pool(choice: Choice) -> Pool {
    // 14 addresses, and 4 of a prefix that touches nothing.
    Pool::builder()
        .prefixes([
            "10.107.5.128/28".parse().unwrap(),
            "10.107.9.4/31".parse().unwrap(),
        ])
        .strategy(choice)
        .reserve_gateway(false)
        .quarantine(Duration::from_secs(QUARANTINE))
        .build()
        .unwrap()
}

/// Dies at a write.
#[derive(Clone, Debug)]
struct Mortal {
    memory: MemoryStore,
    /// Writes until the last one, and how much of that is done.
    fate: Rc<Cell<Option<(u8, u8)>>>,
    is_dead: Rc<Cell<bool>>,
}

impl Mortal {
    /// Whether this write is done whole; else how much of it.
    fn lives(&self) -> Result<(), u8> {
        match self.fate.get() {
            Some((0, part)) => {
                self.is_dead.set(true);
                Err(part)
            }
            Some((writes, part)) => {
                self.fate.set(Some((writes - 1, part)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn dead() -> Error {
        Error::Io {
            verb: "reach",
            file: "the store".to_owned(),
            source: std::io::Error::other("died"),
        }
    }
}

impl Store for Mortal {
    fn lock(&mut self) -> Result<(), Error> {
        if self.is_dead.get() {
            Err(Self::dead())
        } else {
            self.memory.lock()
        }
    }

    fn unlock(&mut self) {}

    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        if self.is_dead.get() {
            Err(Self::dead())
        } else {
            self.memory.read(part, from, limit)
        }
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if self.is_dead.get() {
            return Err(Self::dead());
        }
        match self.lives() {
            Ok(()) => self.memory.append(at, bytes),
            Err(part) => {
                let done = bytes.len() * usize::from(part) / 255;
                self.memory.append(at, &bytes[..done])?;
                Err(Self::dead())
            }
        }
    }

    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        if self.is_dead.get() {
            return Err(Self::dead());
        }
        match self.lives() {
            Ok(()) => self.memory.replace(part, bytes),
            Err(done) => {
                if done > 127 {
                    self.memory.replace(part, bytes)?;
                }
                Err(Self::dead())
            }
        }
    }

    fn set_aside(&mut self, part: Part) -> Result<Option<String>, Error> {
        self.memory.set_aside(part)
    }

    fn name(&self, part: Part) -> String {
        self.memory.name(part)
    }
}

/// What should be the case.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    live: BTreeMap<Key, IpAddr>,
    whole: BTreeSet<Key>,
    ports: BTreeMap<(Key, u16), u32>,
    /// In the order of release.
    resting: Vec<(Key, IpAddr, u64)>,
    pins: BTreeMap<Key, IpAddr>,
    reserved: BTreeSet<IpAddr>,
}

impl Model {
    /// As the allocator tells of itself.
    fn of(allocator: &Allocator) -> Self {
        let live: BTreeMap<Key, IpAddr> = allocator
            .iter()
            .map(|lease| (lease.key.clone(), lease.address))
            .collect();
        let ports = live.keys().flat_map(|key| {
            allocator
                .ports(key)
                .map(|(port, n)| ((key.clone(), port.get()), n))
        });
        Self {
            ports: ports.collect(),
            live,
            whole: BTreeSet::new(),
            resting: allocator
                .resting()
                .map(|rest| (rest.key.clone(), rest.address, rest.since.as_secs()))
                .collect(),
            pins: allocator
                .pins()
                .map(|(key, address)| (key.clone(), address))
                .collect(),
            reserved: allocator.reservations().map(|range| range.first()).collect(),
        }
    }

    /// What both can tell of themselves; what has rested long enough may be forgotten or not.
    fn seen(&self, now: u64) -> Self {
        let mut seen = Self {
            whole: BTreeSet::new(),
            ..self.clone()
        };
        seen.resting.retain(|(_, _, at)| at + QUARANTINE > now);
        seen
    }

    fn holder(&self, address: IpAddr) -> Option<&Key> {
        self.live
            .iter()
            .find(|(_, at)| **at == address)
            .map(|(key, _)| key)
    }

    fn pinned_to(&self, address: IpAddr) -> Option<&Key> {
        self.pins
            .iter()
            .find(|(_, at)| **at == address)
            .map(|(key, _)| key)
    }

    /// The address that a key left last, unless it has another.
    fn own_rest(&self, key: &Key) -> Option<IpAddr> {
        if self.live.contains_key(key) {
            return None;
        }
        self.resting
            .iter()
            .rev()
            .find(|(whose, ..)| whose == key)
            .map(|(_, at, _)| *at)
    }

    /// Whether a key that holds nothing may have the address.
    fn is_open(&self, key: &Key, address: IpAddr, now: u64) -> bool {
        let rests = self.resting.iter().find(|(_, at, _)| *at == address);
        self.holder(address).is_none()
            && self.pinned_to(address).is_none_or(|owner| owner == key)
            && !self.reserved.contains(&address)
            && rests.is_none_or(|(whose, at, since)| {
                // Of the addresses that a key left, it has the last one back, and the one that is pinned to it.
                let own = self.own_rest(key) == Some(*at) || (whose == key && self.pins.get(key) == Some(at));
                own || since + QUARANTINE <= now
            })
    }

    /// The addresses of a key that holds none, best first.
    fn offers(&self, pool: &Pool, all: &[IpAddr], key: &Key, now: u64) -> Vec<IpAddr> {
        let pin = self.pins.get(key).copied();
        let mut offers: Vec<IpAddr> = pin.into_iter().collect();
        match pool.strategy() {
            Choice::LowestFree => {
                offers.extend(self.own_rest(key));
                let used = |address: &&IpAddr| self.resting.iter().any(|(_, at, _)| at == *address);
                offers.extend(all.iter().filter(|address| !used(address)));
                offers.extend(self.resting.iter().map(|(_, at, _)| at));
            }
            _ => {
                let first = all
                    .iter()
                    .position(|address| *address == pool.first_choice(key))
                    .unwrap();
                offers.extend(all[first..].iter().chain(&all[..first]));
            }
        }
        let mut seen = BTreeSet::new();
        offers.retain(|address| self.is_open(key, *address, now) && seen.insert(*address));
        offers
    }

    fn lease(&mut self, key: &Key, address: IpAddr) {
        self.resting.retain(|(_, at, _)| *at != address);
        self.live.insert(key.clone(), address);
    }

    fn release(&mut self, key: &Key, now: u64) {
        if let Some(address) = self.live.remove(key) {
            self.ports.retain(|(whose, _), _| whose != key);
            self.whole.remove(key);
            self.resting.push((key.clone(), address, now));
        }
    }
}

struct World {
    pool: Pool,
    all: Vec<IpAddr>,
    store: Mortal,
    leases: Persistent<Mortal>,
    model: Model,
    now: u64,
}

impl World {
    fn new(choice: Choice) -> Self {
        let pool = pool(choice);
        let store = Mortal {
            memory: MemoryStore::new(),
            fate: Rc::default(),
            is_dead: Rc::default(),
        };
        let hosts: Vec<IpAddr> = pool.prefixes().iter().flat_map(|prefix| prefix.hosts()).collect();
        let all: Vec<_> = hosts
            .into_iter()
            .filter(|address| pool.contains(*address))
            .collect();
        assert_eq!(all.len() as u128, pool.size());
        let leases = Persistent::open(store.clone(), pool.clone()).unwrap();
        Self {
            pool,
            all,
            store,
            leases,
            model: Model::default(),
            now: 1000,
        }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_secs(self.now)
    }

    fn address(&self, place: u8) -> IpAddr {
        // The last ones are in no pool.
        self.all
            .get(usize::from(place))
            .copied()
            .unwrap_or_else(|| IpAddr::from([10, 0, 0, place]))
    }

    /// Whether the key may have this address by name.
    fn is_open(&self, key: &Key, address: IpAddr) -> bool {
        let model = &self.model;
        let rests = model.resting.iter().find(|(_, at, _)| *at == address);
        self.all.contains(&address)
            && !model.reserved.contains(&address)
            && model.pinned_to(address).is_none_or(|owner| owner == key)
            && model.holder(address).is_none_or(|holder| holder == key)
            && model.live.get(key).is_none_or(|at| *at == address)
            && rests.is_none_or(|(whose, _, since)| since + QUARANTINE <= self.now || whose == key)
    }

    fn restart(&mut self) {
        self.store.fate.set(None);
        self.store.is_dead.set(false);
        self.leases = Persistent::open(self.store.clone(), self.pool.clone()).unwrap();
    }

    /// Does an operation to the real one and to the model, and compares.
    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let before = self.model.clone();
        let result = self.act(op);
        match result {
            Ok(()) => {}
            Err(Some(fault)) => return Err(fault),
            // The process died. What it had been promised is there, and of the last operation a part, or all, or nothing.
            Err(None) => {
                self.restart();
                let found = Model::of(self.leases.allocator());
                let subject = match op {
                    Op::Lease(k)
                    | Op::LeaseWhere(k, _)
                    | Op::LeaseAt(k, _)
                    | Op::Release(k)
                    | Op::LeasePort(k, _)
                    | Op::ReleasePort(k, _) => Some(key(*k)),
                    _ => None,
                };
                for (key, address) in &before.live {
                    if Some(key) != subject.as_ref() {
                        prop_assert_eq!(found.live.get(key), Some(address));
                    }
                }
                prop_assert!(found.live.len().abs_diff(before.live.len()) <= 1);
                let whole = before
                    .whole
                    .iter()
                    .filter(|key| found.live.contains_key(*key))
                    .cloned()
                    .collect();
                self.model = Model { whole, ..found };
                if let Op::Lease(k) | Op::LeaseWhere(k, _) | Op::LeaseAt(k, _) = op
                    && self.model.live.contains_key(&key(*k))
                {
                    // Whether the word that it is a whole lease now was written cannot be seen from outside; say it again.
                    self.step(op)?;
                }
                return Ok(());
            }
        }
        let seen = Model::of(self.leases.allocator()).seen(self.now);
        prop_assert_eq!(seen, self.model.seen(self.now));
        for (key, address) in &self.model.live {
            prop_assert_eq!(self.leases.get(key), Some(*address));
            prop_assert_eq!(self.leases.lookup(*address), Some(key));
            let moved = before.live.get(key).is_some_and(|before| before != address);
            prop_assert!(!moved || matches!(op, Op::LeaseWhere(..)), "{} was moved", key);
        }
        Ok(())
    }

    /// `Err(None)` is the death of the process.
    fn act(&mut self, op: &Op) -> Result<(), Option<TestCaseError>> {
        let now = self.at();
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(Some(TestCaseError::fail(format!("{what} in {op:?}"))))
            }
        };
        let alive = |error: Error| {
            if matches!(error, Error::Io { .. }) {
                Err(None)
            } else {
                Ok(error)
            }
        };
        match op {
            Op::Lease(k) => {
                let key = key(*k);
                let held = self.model.live.get(&key).copied();
                let expected = held.or_else(|| {
                    self.model
                        .offers(&self.pool, &self.all, &key, self.now)
                        .first()
                        .copied()
                });
                match self.leases.lease(&key, now) {
                    Ok(address) => {
                        check(
                            Some(address) == expected,
                            &format!("got {address}, not {expected:?},"),
                        )?;
                        self.model.lease(&key, address);
                        self.model.whole.insert(key);
                    }
                    Err(error) => {
                        let error = alive(error)?;
                        let Error::PoolExhausted { leased, .. } = error else {
                            return check(false, &error.to_string());
                        };
                        check(expected.is_none() && leased == self.model.live.len(), "exhausted")?;
                    }
                }
            }
            Op::LeaseWhere(k, mask) => {
                let key = key(*k);
                let held = self.model.live.get(&key).copied();
                let usable = |address: IpAddr| {
                    let place = self.all.iter().position(|it| *it == address).unwrap();
                    mask >> (place % 8) & 1 == 1
                };
                let offers = self.model.offers(&self.pool, &self.all, &key, self.now);
                let expected = held.into_iter().chain(offers).find(|address| usable(*address));
                match self.leases.lease_where(&key, now, usable) {
                    Ok(address) => {
                        check(
                            Some(address) == expected,
                            &format!("got {address}, not {expected:?},"),
                        )?;
                        if held.is_some() && held != Some(address) {
                            let ports = self.model.ports.clone();
                            self.model.release(&key, self.now);
                            self.model.ports = ports;
                        }
                        self.model.lease(&key, address);
                        self.model.whole.insert(key);
                    }
                    Err(error) => {
                        let error = alive(error)?;
                        check(
                            matches!(error, Error::NoneUsable { .. } | Error::PoolExhausted { .. }),
                            "other error",
                        )?;
                        check(expected.is_none(), "none usable")?;
                    }
                }
            }
            Op::Release(k) => {
                let key = key(*k);
                let expected = self.model.live.get(&key).copied();
                let released = self
                    .leases
                    .release(&key, now)
                    .or_else(|error| alive(error).map(|_| None))?;
                check(released == expected, "released")?;
                self.model.release(&key, self.now);
            }
            Op::LeasePort(k, p) => {
                let key = key(*k);
                let held = self.model.live.get(&key).copied();
                let expected = held.or_else(|| {
                    self.model
                        .offers(&self.pool, &self.all, &key, self.now)
                        .first()
                        .copied()
                });
                match self.leases.lease_port(&key, port(*p), now) {
                    Ok(address) => {
                        check(Some(address) == expected, "address")?;
                        self.model.lease(&key, address);
                        *self.model.ports.entry((key, *p)).or_default() += 1;
                    }
                    Err(error) => {
                        check(
                            matches!(alive(error)?, Error::PoolExhausted { .. }) && expected.is_none(),
                            "exhausted",
                        )?;
                    }
                }
            }
            Op::ReleasePort(k, p) => {
                let key = key(*k);
                let held = self.model.ports.get(&(key.clone(), *p)).copied();
                match self.leases.release_port(&key, port(*p), now) {
                    Ok(freed) => {
                        let address = self.model.live.get(&key).copied();
                        let count = held.unwrap_or(0);
                        check(count > 0, "was not held")?;
                        if count == 1 {
                            self.model.ports.remove(&(key.clone(), *p));
                        } else {
                            self.model.ports.insert((key.clone(), *p), count - 1);
                        }
                        let last = !self.model.ports.keys().any(|(whose, _)| *whose == key);
                        let ends = last && !self.model.whole.contains(&key);
                        check(freed == address.filter(|_| ends), "freed")?;
                        if ends {
                            self.model.release(&key, self.now);
                        }
                    }
                    Err(error) => {
                        check(
                            matches!(alive(error)?, Error::PortNotHeld { .. }) && held.is_none(),
                            "not held",
                        )?;
                    }
                }
            }
            Op::LeaseAt(k, place) => {
                let (key, address) = (key(*k), self.address(*place));
                let is_there = self.model.live.get(&key) == Some(&address);
                let may = is_there || self.is_open(&key, address);
                match self.leases.lease_at(&key, address, now) {
                    Ok(()) => {
                        check(may, "may not be leased")?;
                        self.model.lease(&key, address);
                        self.model.whole.insert(key);
                    }
                    Err(error) => {
                        let error = alive(error)?;
                        check(!may, &format!("may be leased: {error}"))?;
                    }
                }
            }
            Op::Pin(k, place) => {
                let (key, address) = (key(*k), self.address(*place));
                let may = self.is_open(&key, address);
                match self.leases.pin(&key, address, now) {
                    Ok(()) => {
                        check(may, "may not be pinned")?;
                        self.model.pins.insert(key, address);
                    }
                    Err(error) => {
                        let error = alive(error)?;
                        check(!may, &format!("may be pinned: {error}"))?;
                    }
                }
            }
            Op::Unpin(k) => {
                let expected = self.model.pins.get(&key(*k)).copied();
                let unpinned = self
                    .leases
                    .unpin(&key(*k))
                    .or_else(|error| alive(error).map(|_| None))?;
                check(unpinned == expected, "unpinned")?;
                self.model.pins.remove(&key(*k));
            }
            Op::Reserve(place) => {
                let address = self.address(*place);
                match self.leases.reserve(address) {
                    Ok(()) => {
                        check(self.model.pinned_to(address).is_none(), "pinned")?;
                        self.model.reserved.insert(address);
                    }
                    Err(error) => {
                        let error = alive(error)?;
                        check(self.model.pinned_to(address).is_some(), &error.to_string())?;
                    }
                }
            }
            Op::Unreserve(place) => {
                let address = self.address(*place);
                let found = self
                    .leases
                    .unreserve(address)
                    .or_else(|error| alive(error).map(|_| false))?;
                check(found == self.model.reserved.remove(&address), "reserved")?;
            }
            Op::Wait(seconds) => self.now += seconds,
            Op::Restart => self.restart(),
            Op::Fold => self.leases.fold().or_else(|error| alive(error).map(drop))?,
            Op::DieAt(write, part) => self.store.fate.set(Some((*write, *part))),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_sequence_with_crashes_is_as_the_model_by_hash(ops in prop::collection::vec(op(), 1..90)) {
        let mut world = World::new(Choice::ByHash);
        ops.iter().try_for_each(|op| world.step(op))?;
    }

    #[test]
    fn any_sequence_with_crashes_is_as_the_model_lowest_free(ops in prop::collection::vec(op(), 1..90)) {
        let mut world = World::new(Choice::LowestFree);
        ops.iter().try_for_each(|op| world.step(op))?;
    }
}
