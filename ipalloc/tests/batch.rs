//! Leasing many keys at once: what comes out is a function of the set.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ipalloc::store::{MemoryStore, Part, Persistent, Store};
use ipalloc::{Allocator, Error, Key, Pool, Strategy as Choice, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const LATER: Timestamp = Timestamp::from_secs(1_700_000_000 + 2 * QUARANTINE);
const QUARANTINE: u64 = 600;

fn keys(range: std::ops::Range<usize>) -> Vec<Key> {
    range
        .map(|n| Key::new(&format!("dev/backend/service-{n}")).unwrap())
        .collect()
}

fn pool(prefix: &str, choice: Choice) -> Pool {
    Pool::builder()
        .prefix(prefix.parse().unwrap())
        .strategy(choice)
        .quarantine(Duration::from_secs(QUARANTINE))
        .build()
        .unwrap()
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![Just(Choice::ByHash), Just(Choice::LowestFree)]
}

/// Addresses, and `None` for a key that got none because the pool is exhausted.
fn outcome(leased: BTreeMap<Key, Result<IpAddr, Error>>) -> BTreeMap<Key, Option<IpAddr>> {
    let address = |result: Result<IpAddr, Error>| match result {
        Ok(address) => Some(address),
        Err(Error::PoolExhausted { .. }) => None,
        Err(other) => panic!("{other}"),
    };
    leased
        .into_iter()
        .map(|(key, result)| (key, address(result)))
        .collect()
}

/// An allocator with a past: leases, rests of every age, and pins.
fn with_a_past(pool: Pool, live: &[Key], rested: &[Key], resting: &[Key], pinned: &[Key]) -> Allocator {
    let mut allocator = Allocator::new(pool);
    for key in live.iter().chain(rested).chain(resting) {
        allocator.lease(key, NOW).unwrap();
    }
    for key in rested {
        allocator.release(key, NOW);
    }
    for key in resting {
        allocator.release(key, LATER);
    }
    let free = Allocator::new(allocator.pool().clone())
        .assign(&keys(0..240))
        .unwrap();
    for key in pinned {
        // Some of these are held or at rest; then the key goes without a pin.
        allocator.pin(key, free[key], NOW).ok();
    }
    allocator
}

proptest! {
    /// A /24 that is nearly or entirely full, with any past.
    #[test]
    fn any_order_gives_the_same_map(
        order in Just(keys(0..240)).prop_shuffle(),
        set in 1usize..240,
        past in prop::collection::vec(0usize..60, 3),
        choice in choice(),
    ) {
        let all = keys(0..300);
        // Some of the past's keys are in the set, others are not.
        let parts: Vec<&[Key]> = (1..).zip(past).map(|(part, count)| &all[part * 60..part * 60 + count]).collect();
        let before = with_a_past(pool("10.0.0.0/24", choice), parts[2], parts[1], parts[0], &order[..5]);
        let set = &order[..set];
        let mut sorted = set.to_vec();
        sorted.sort();
        let (mut one, mut other) = (before.clone(), before.clone());
        let expected = outcome(one.lease_all(&sorted, LATER));
        prop_assert_eq!(&outcome(other.lease_all(set.iter().chain(set), LATER)), &expected);
        prop_assert_eq!(expected.keys().collect::<BTreeSet<_>>(), set.iter().collect::<BTreeSet<_>>());
        // No lease that was live is moved, in the set or not.
        for lease in before.iter() {
            prop_assert_eq!(one.get(lease.key), Some(lease.address));
        }
        // What the map says is what is held, and nobody shares.
        for (key, address) in &expected {
            prop_assert_eq!(one.get(key), *address);
        }
        let held: Vec<IpAddr> = one.iter().map(|lease| lease.address).collect();
        prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
        // Once more changes nothing.
        prop_assert_eq!(&outcome(one.lease_all(set, LATER)), &expected);
    }

    #[test]
    fn an_empty_allocator_gives_what_assign_does(
        order in Just(keys(0..250)).prop_shuffle(), set in 0usize..=250, choice in choice(),
    ) {
        let mut allocator = Allocator::new(pool("10.0.0.0/24", choice));
        let assigned = allocator.assign(&order[..set]).unwrap();
        let leased = outcome(allocator.lease_all(&order[..set], NOW));
        let leased: BTreeMap<Key, IpAddr> = leased.into_iter().map(|(key, address)| (key, address.unwrap())).collect();
        prop_assert_eq!(leased, assigned);
    }

    #[test]
    fn a_pool_that_is_too_small_leaves_the_same_keys_without(
        order in Just(keys(0..300)).prop_shuffle(), choice in choice(),
    ) {
        let pool = pool("10.0.0.0/24", choice);
        let fits = usize::try_from(Allocator::new(pool.clone()).stats().usable).unwrap();
        let expected = outcome(Allocator::new(pool.clone()).lease_all(&keys(0..300), NOW));
        prop_assert_eq!(expected.values().flatten().count(), fits);
        prop_assert_eq!(&outcome(Allocator::new(pool).lease_all(&order, NOW)), &expected);
    }
}

/// Two keys with one first choice: the loser gets it once the winner is gone and its rest is over, whether or not the address
/// that the loser had meanwhile is still remembered.
#[test]
fn a_displaced_key_goes_back_to_its_own_address() {
    let pool = pool("10.0.0.0/24", Choice::ByHash);
    let all = keys(0..200);
    let (winner, loser) = all
        .iter()
        .enumerate()
        .flat_map(|(at, one)| all[..at].iter().map(move |other| (one, other)))
        .find(|(one, other)| pool.first_choice(one) == pool.first_choice(other))
        .unwrap();
    let first = pool.first_choice(loser);
    let mut allocator = Allocator::new(pool);
    allocator.lease(winner, NOW).unwrap();
    let displaced = outcome(allocator.lease_all([loser], NOW))[loser].unwrap();
    assert_ne!(displaced, first);
    allocator.release(winner, NOW);
    // As long as it is live, it stays.
    assert_eq!(
        outcome(allocator.lease_all([loser], LATER))[loser],
        Some(displaced)
    );
    allocator.release(loser, LATER);
    assert_eq!(outcome(allocator.lease_all([loser], LATER))[loser], Some(first));
}

#[test]
fn a_key_without_an_address_of_its_own_takes_no_other_keys_last_one_while_that_is_in_the_batch() {
    let pool = pool("10.0.0.0/29", Choice::LowestFree);
    let mut allocator = Allocator::new(pool);
    let all = keys(0..9);
    let (old, new) = all.split_at(4);
    let had = outcome(allocator.lease_all(old, NOW));
    for key in old {
        allocator.release(key, NOW);
    }
    let now = outcome(allocator.lease_all(new.iter().chain(old), LATER));
    for key in old {
        assert_eq!(now[key], had[key], "{key}");
    }
}

/// A memory that counts what is appended to its journal.
#[derive(Clone, Debug, Default)]
struct Counting {
    memory: MemoryStore,
    appends: Rc<Cell<usize>>,
}

impl Store for Counting {
    fn lock(&mut self) -> Result<(), Error> {
        self.memory.lock()
    }

    fn unlock(&mut self) {
        self.memory.unlock();
    }

    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        self.memory.read(part, from, limit)
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.appends.set(self.appends.get() + 1);
        self.memory.append(at, bytes)
    }

    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        self.memory.replace(part, bytes)
    }

    fn set_aside(&mut self, part: Part) -> Result<Option<String>, Error> {
        self.memory.set_aside(part)
    }

    fn name(&self, part: Part) -> String {
        self.memory.name(part)
    }
}

#[test]
fn a_batch_is_one_write() {
    let store = Counting::default();
    let mut leases = Persistent::open(store.clone(), Pool::default()).unwrap();
    let leased = outcome(leases.lease_all(&keys(0..250), NOW).unwrap());
    assert_eq!(store.appends.get(), 1);
    let again = Persistent::open(store, Pool::default()).unwrap();
    for (key, address) in leased {
        assert_eq!(again.get(&key), address);
    }
}
