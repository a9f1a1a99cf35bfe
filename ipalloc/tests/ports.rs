//! Endpoints: ports are counted, and where the pool says so, several keys stand at one address.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use ipalloc::store::{MemoryStore, Persistent};
use ipalloc::{Error, Key, Pool, Strategy as Choice, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn shared(prefix: &str, choice: Choice) -> Pool {
    let pool = Pool::builder()
        .prefix(prefix.parse().unwrap())
        .strategy(choice)
        .share_by_port(true);
    pool.reserve_gateway(false)
        .quarantine(Duration::from_secs(60))
        .build()
        .unwrap()
}

#[test]
fn two_ports_may_share_an_address_and_one_port_may_not() {
    let mut leases = Persistent::open(MemoryStore::new(), shared("10.0.0.4/31", Choice::LowestFree)).unwrap();
    let a = leases.lease_port(&key("a"), port(80), NOW).unwrap();
    let b = leases.lease_port(&key("b"), port(443), NOW).unwrap();
    let c = leases.lease_port(&key("c"), port(80), NOW).unwrap();
    assert_eq!(a, b);
    assert_ne!(a, c);
    let holders: BTreeSet<_> = leases.allocator().holders(a).map(Key::as_str).collect();
    assert_eq!(holders, BTreeSet::from(["a", "b"]));

    // Removing b keeps a's address.
    assert_eq!(leases.release_port(&key("b"), port(443), NOW).unwrap(), None);
    assert_eq!(leases.get(&key("a")), Some(a));
    assert_eq!(leases.get(&key("b")), None);
    // And b's port rests: a stale client of b does not reach d.
    let d = leases.lease_port(&key("d"), port(443), NOW).unwrap();
    assert_eq!(d, c);
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!(leases.lease_port(&key("e"), port(443), later).unwrap(), a);

    // A key that has its address cannot take a neighbour's port.
    let refused = leases.lease_port(&key("a"), port(443), later).unwrap_err();
    assert_eq!(refused.to_string(), format!("port 443 of {a} belongs to e"));

    // The last one to leave puts the address to rest.
    assert_eq!(leases.release(&key("a"), later).unwrap(), None);
    assert_eq!(leases.release_port(&key("e"), port(443), later).unwrap(), Some(a));
    assert_eq!(
        leases
            .allocator()
            .resting()
            .map(|rest| rest.address)
            .collect::<Vec<_>>(),
        [a]
    );
}

#[test]
fn a_whole_lease_at_an_address_waits_for_the_ports_of_others_there() {
    let mut leases = Persistent::open(MemoryStore::new(), shared("10.0.0.4/31", Choice::LowestFree)).unwrap();
    let at = leases.lease_port(&key("a"), port(80), NOW).unwrap();
    leases.lease_port(&key("b"), port(443), NOW).unwrap();
    let taken = leases.lease_at(&key("c"), at, NOW).unwrap_err();
    assert!(matches!(taken, Error::AddressTaken { .. }), "{taken}");

    // The entry that rests is that of a, and the port that rests is that of b.
    leases.release(&key("b"), NOW).unwrap();
    leases.release(&key("a"), NOW).unwrap();
    for whose in ["a", "c"] {
        let resting = leases.lease_at(&key(whose), at, NOW).unwrap_err();
        assert!(matches!(resting, Error::AddressResting { .. }), "{resting}");
    }
    let later = NOW.plus(Duration::from_secs(60));
    leases.lease_at(&key("c"), at, later).unwrap();
    leases.lease_at(&key("c"), at, later).unwrap();
    let other = leases
        .lease_at(&key("c"), [10, 0, 0, 5].into(), later)
        .unwrap_err();
    assert!(matches!(other, Error::KeyLive { .. }), "{other}");
}

#[test]
fn endpoints_are_counted() {
    let mut leases = Persistent::open(MemoryStore::new(), Pool::default()).unwrap();
    let orders = key("orders");
    let address = leases.lease_port(&orders, port(80), NOW).unwrap();
    assert_eq!(leases.lease_port(&orders, port(80), NOW).unwrap(), address);
    assert_eq!(leases.lease_port(&orders, port(81), NOW).unwrap(), address);
    assert_eq!(
        leases.allocator().ports(&orders).collect::<Vec<_>>(),
        [(port(80), 2), (port(81), 1)]
    );
    assert_eq!(leases.release_port(&orders, port(80), NOW).unwrap(), None);
    assert_eq!(leases.release_port(&orders, port(81), NOW).unwrap(), None);
    assert!(matches!(
        leases.release_port(&orders, port(81), NOW),
        Err(Error::PortNotHeld { .. })
    ));
    assert_eq!(
        leases.release_port(&orders, port(80), NOW).unwrap(),
        Some(address)
    );
    // Leased as a whole, it stays without ports.
    leases.lease_port(&orders, port(80), NOW).unwrap();
    leases.lease(&orders, NOW).unwrap();
    assert_eq!(leases.release_port(&orders, port(80), NOW).unwrap(), None);
    assert_eq!(leases.get(&orders), Some(address));
}

#[test]
fn many_endpoints_at_few_ports_are_placed_in_reasonable_time() {
    let mut allocator = ipalloc::Allocator::new(shared("10.0.0.0/16", Choice::LowestFree));
    for n in 0..8000 {
        let number = [80, 443, 5432][n % 3];
        allocator
            .lease_port(&key(&format!("service-{n}")), port(number), NOW)
            .unwrap();
    }
    // A third of the endpoints has each port, so they fit on a third of the addresses.
    assert_eq!(allocator.stats().leased, 2667);
}

#[derive(Clone, Debug)]
enum Op {
    Lease(u8),
    LeasePort(u8, u16),
    Release(u8),
    ReleasePort(u8, u16),
    Wait(u64),
    Restart(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0u8..10).prop_map(Op::Lease),
        8 => (0u8..10, 1u16..5).prop_map(|(key, port)| Op::LeasePort(key, port)),
        2 => (0u8..10).prop_map(Op::Release),
        6 => (0u8..10, 1u16..5).prop_map(|(key, port)| Op::ReleasePort(key, port)),
        2 => (0u64..50).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No port of an address ever has two keys, no key is moved, no port reaches another key before it has rested, and a restart changes nothing.
    #[test]
    fn no_endpoint_stands_in_the_way_of_another(ops in prop::collection::vec(op(), 1..80), by_hash: bool) {
        let pool = shared("10.0.0.0/29", if by_hash { Choice::ByHash } else { Choice::LowestFree });
        let store = MemoryStore::new();
        let mut leases = Persistent::open(store.clone(), pool.clone()).unwrap();
        let mut live: BTreeMap<Key, IpAddr> = BTreeMap::new();
        let mut held: BTreeMap<(IpAddr, u16), (Key, u32)> = BTreeMap::new();
        let mut last: BTreeMap<(IpAddr, u16), (Key, u64)> = BTreeMap::new();
        let mut now = 1000;
        for op in &ops {
            let at = Timestamp::from_secs(now);
            match op {
                Op::Lease(k) => {
                    let key = key(&format!("k{k}"));
                    if let Ok(address) = leases.lease(&key, at) {
                        let others = live.iter().any(|(other, at)| *other != key && *at == address);
                        prop_assert!(!others || live.get(&key) == Some(&address));
                        prop_assert!(live.insert(key, address).is_none_or(|before| before == address));
                    }
                }
                Op::LeasePort(k, p) => {
                    let key = key(&format!("k{k}"));
                    match leases.lease_port(&key, port(*p), at) {
                        Ok(address) => {
                            prop_assert!(live.insert(key.clone(), address).is_none_or(|before| before == address));
                            if let Some((whose, left)) = last.get(&(address, *p)) {
                                prop_assert!(*whose == key || left + 60 <= now, "{} reaches {} at {}", whose, key, p);
                            }
                            let hold = held.entry((address, *p)).or_insert((key.clone(), 0));
                            prop_assert_eq!(&hold.0, &key);
                            hold.1 += 1;
                        }
                        Err(Error::PortTaken { address, key: owner, .. }) => {
                            prop_assert_eq!(live.get(&key), Some(&address));
                            let holds = held.get(&(address, *p)).is_some_and(|(holder, _)| *holder == owner);
                            let rests = last.get(&(address, *p)).is_some_and(|(whose, at)| *whose == owner && at + 60 > now);
                            prop_assert!(holds || rests);
                        }
                        Err(Error::PoolExhausted { .. }) => prop_assert!(!live.contains_key(&key)),
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                }
                Op::Release(k) => {
                    let key = key(&format!("k{k}"));
                    let freed = leases.release(&key, at).unwrap();
                    let address = live.remove(&key);
                    prop_assert_eq!(freed, address.filter(|address| !live.values().any(|other| other == address)));
                    held.retain(|(address, p), (holder, _)| {
                        if *holder == key {
                            last.insert((*address, *p), (key.clone(), now));
                        }
                        *holder != key
                    });
                }
                Op::ReleasePort(k, p) => {
                    let key = key(&format!("k{k}"));
                    let address = live.get(&key).copied();
                    if leases.release_port(&key, port(*p), at).is_ok() {
                        let address = address.unwrap();
                        let hold = held.get_mut(&(address, *p)).unwrap();
                        prop_assert_eq!(&hold.0, &key);
                        hold.1 -= 1;
                        if hold.1 == 0 {
                            held.remove(&(address, *p));
                            last.insert((address, *p), (key.clone(), now));
                        }
                        if leases.get(&key).is_none() {
                            prop_assert!(!held.values().any(|(holder, _)| *holder == key));
                            live.remove(&key);
                        }
                    } else {
                        prop_assert!(address.is_none_or(|at| held.get(&(at, *p)).is_none_or(|hold| hold.0 != key)));
                    }
                }
                Op::Wait(seconds) => now += seconds,
                Op::Restart(fold) => {
                    if *fold {
                        leases.fold().unwrap();
                    }
                    leases = Persistent::open(store.clone(), pool.clone()).unwrap();
                }
            }
            let seen: BTreeMap<_, _> =
                leases.allocator().iter().map(|lease| (lease.key.clone(), lease.address)).collect();
            prop_assert_eq!(&seen, &live);
            for (key, address) in &live {
                let ports: Vec<_> = leases.allocator().ports(key).map(|(port, n)| (port.get(), n)).collect();
                let expected: Vec<_> = held
                    .iter()
                    .filter(|((at, _), (holder, _))| at == address && holder == key)
                    .map(|((_, p), (_, n))| (*p, *n))
                    .collect();
                prop_assert_eq!(ports, expected);
            }
        }
    }
}
