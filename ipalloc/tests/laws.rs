//! What holds for every pool and every order.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipalloc::{Allocator, Error, Key, LockFile, Pool, Reason, Strategy as Choice, Timestamp};
use ipnet::IpNet;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn keys(range: std::ops::Range<usize>) -> Vec<Key> {
    range.map(|n| key(&format!("dev/backend/service-{n}"))).collect()
}

fn pool(prefix: &str) -> Pool {
    Pool::new([prefix.parse::<IpNet>().unwrap()]).unwrap()
}

/// What an allocator holds, as a lock file.
fn lock_of(allocator: &Allocator) -> LockFile {
    let mut lock = LockFile::new();
    for lease in allocator.iter() {
        lock.insert(lease.key, lease.address).unwrap();
    }
    lock
}

fn shuffled(count: usize) -> impl Strategy<Value = Vec<Key>> {
    Just(keys(0..count)).prop_shuffle()
}

proptest! {
    #[test]
    fn any_order_of_a_set_gives_the_same_map(order in shuffled(200), lowest: bool) {
        let choice = if lowest { Choice::LowestFree } else { Choice::ByHash };
        // Nearly full, so that nearly everything collides.
        let pool = Pool::builder().prefix("10.0.0.0/24".parse().unwrap()).strategy(choice).build().unwrap();
        let mut allocator = Allocator::new(pool);
        let expected = allocator.assign(&keys(0..200)).unwrap();
        prop_assert_eq!(&allocator.assign(&order).unwrap(), &expected);
        prop_assert_eq!(&allocator.assign(order.iter().chain(&order)).unwrap(), &expected);
        // What is live does not matter.
        for key in &order[..50] {
            allocator.lease(key, NOW).unwrap();
        }
        prop_assert_eq!(&allocator.assign(&order).unwrap(), &expected);
        prop_assert_eq!(expected.values().collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn keys_that_do_not_meet_have_their_first_choice_in_any_order(order in shuffled(60)) {
        let pool = Pool::default();
        let mut allocator = Allocator::new(pool.clone());
        for key in &order {
            prop_assert_eq!(allocator.lease(key, NOW).unwrap(), pool.first_choice(key));
        }
        prop_assert_eq!(allocator.check().unwrap(), vec![]);
        prop_assert_eq!(allocator.stats().displaced, 0);
    }

    #[test]
    fn check_is_silent_or_tells_where_the_live_map_differs(order in shuffled(120)) {
        let mut allocator = Allocator::new(pool("10.0.0.0/24"));
        for key in &order {
            allocator.lease(key, NOW).unwrap();
        }
        let assigned = allocator.assign(&order).unwrap();
        let live: BTreeMap<_, _> = allocator.iter().map(|lease| (lease.key.clone(), lease.address)).collect();
        let differences = allocator.check().unwrap();
        for difference in &differences {
            prop_assert_eq!(live[&difference.key], difference.live);
            prop_assert_eq!(assigned[&difference.key], difference.assigned);
            prop_assert_ne!(difference.live, difference.assigned);
        }
        let differing = live.iter().filter(|(key, address)| assigned[*key] != **address).count();
        prop_assert_eq!(differing, differences.len());
    }

    /// Two machines begin with one lock file, lease what they meet in any order and lock it. Their files either merge into one map, and then
    /// it is the map of the union, or the merge names a key or an address.
    #[test]
    fn two_machines_with_a_lock_file_have_one_map_or_a_named_conflict(
        order in shuffled(90), locked in 0usize..40, split in 0usize..90, both in 0usize..20,
    ) {
        let pool = pool("10.0.0.0/24");
        let (before, rest) = order.split_at(locked.min(order.len()));
        let mut first = Allocator::new(pool.clone());
        for key in before {
            first.lease(key, NOW).unwrap();
        }
        let shared = lock_of(&first);
        let split = split.min(rest.len());
        let (here, there) = rest.split_at(split);
        let work = |keys: &mut dyn Iterator<Item = &Key>| {
            let mut machine = Allocator::new(pool.clone());
            machine.set_lock(&shared).unwrap();
            for key in keys {
                machine.lease(key, NOW).unwrap();
            }
            let mut lock = shared.clone();
            for lease in machine.iter() {
                lock.insert(lease.key, lease.address).unwrap();
            }
            lock
        };
        let one = work(&mut here.iter().chain(before));
        let two = work(&mut here.iter().take(both).chain(there));
        // Adding a key never moves another.
        for (key, address) in shared.iter() {
            prop_assert_eq!((one.get(key), two.get(key)), (Some(address), Some(address)));
        }
        let texts = format!("{one}{}", two.to_string().lines().filter(|line| !one.to_string().contains(line)).map(|line| format!("{line}\n")).collect::<String>());
        match one.merge(&two) {
            Ok(merged) => {
                prop_assert_eq!(&two.merge(&one).unwrap(), &merged);
                prop_assert_eq!(&texts.parse::<LockFile>().unwrap(), &merged);
                let mut all = Allocator::new(pool.clone());
                all.set_lock(&merged).unwrap();
                for key in &order {
                    if let Some(address) = merged.get(key) {
                        prop_assert_eq!(all.lease(key, NOW).unwrap(), address);
                    }
                }
            }
            Err(Error::KeyLive { key, .. } | Error::AddressTaken { key, .. }) => {
                prop_assert!(one.get(&key).is_some() || two.get(&key).is_some());
                let faults = texts.parse::<LockFile>().unwrap_err().to_string();
                prop_assert!(faults.contains(key.as_str()), "{}", faults);
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }

    /// The same, where each machine writes the map of its set: without a conflict, the merge is the map of the union.
    #[test]
    fn assigned_maps_that_merge_are_the_map_of_the_union(order in shuffled(60), locked in 0usize..20, split in 20usize..60) {
        let pool = pool("10.0.0.0/24");
        let mut allocator = Allocator::new(pool);
        let mut shared = LockFile::new();
        for (key, address) in allocator.assign(&order[..locked]).unwrap() {
            shared.insert(&key, address).unwrap();
        }
        allocator.set_lock(&shared).unwrap();
        let lock = |keys: &[Key]| {
            let mut lock = shared.clone();
            allocator.assign(keys).unwrap().iter().for_each(|(key, address)| lock.insert(key, *address).unwrap());
            lock
        };
        if let Ok(merged) = lock(&order[..split]).merge(&lock(&order[split..])) {
            let union: BTreeMap<Key, IpAddr> = merged.iter().map(|(key, address)| (key.clone(), address)).collect();
            prop_assert_eq!(union, allocator.assign(&order).unwrap());
        }
    }

    #[test]
    fn every_prefix_length_gives_its_addresses_and_no_more(v6: bool, bits in 0u8..=64, lowest: bool, salt in "[a-z]{0,3}", avoid: bool) {
        let (base, bits): (IpAddr, u8) =
            if v6 { ("fd77:1:2:3:4:5:6:7".parse().unwrap(), 64 + bits) } else { ("10.9.8.7".parse().unwrap(), 8 + bits % 25) };
        let prefix = IpNet::new(base, bits).unwrap().trunc();
        let choice = if lowest { Choice::LowestFree } else { Choice::ByHash };
        let built = Pool::builder().prefix(prefix).strategy(choice).salt(&salt).avoid_edge_octets(avoid).build();
        // Of a /30 the gateway takes one of two; nothing takes the last one.
        let pool = built.unwrap();
        let mut allocator = Allocator::new(pool.clone());
        let mut given = BTreeSet::new();
        let most = usize::try_from(pool.usable().min(600)).unwrap();
        for key in keys(0..most) {
            let address = allocator.lease(&key, NOW).unwrap();
            prop_assert!(prefix.contains(&address) && pool.contains(address));
            prop_assert!(given.insert(address));
            if prefix.max_prefix_len() - bits >= 2 {
                prop_assert_ne!(address, prefix.network());
                prop_assert!(v6 || address != prefix.broadcast());
            }
            if let (IpAddr::V4(v4), true) = (address, avoid) {
                prop_assert!(!matches!(v4.octets()[3], 0 | 255));
            }
        }
        if pool.usable() <= 600 {
            let refused = allocator.lease(&key("one/too/many"), NOW);
            let full = matches!(refused, Err(Error::PoolExhausted { leased, resting: 0, .. }) if leased == most);
            prop_assert!(full);
        }
        prop_assert_eq!(allocator.assign(&keys(0..most)).unwrap().len(), most);
    }
}

/// The map of the documentation: if this test fails, every user's addresses move.
#[test]
fn the_hash_is_fixed_for_ever() {
    let address = |pool: &Pool, text: &str| pool.first_choice(&key(text)).to_string();
    let build = |prefix: &str| Pool::builder().prefix(prefix.parse().unwrap());
    let plain = Pool::default();
    let salted = build("127.77.0.0/16").salt("acme").build().unwrap();
    let named = build("127.77.0.0/16").name("staging").build().unwrap();
    let v6 = build("fd77:6465:7662::/64").build().unwrap();
    let found: Vec<_> = ["dev/backend/orders", "dev/backend/postgres", "a"]
        .into_iter()
        .flat_map(|text| [&plain, &salted, &named, &v6].map(|pool| address(pool, text)))
        .collect();
    let expected = [
        [
            "127.77.45.67",
            "127.77.132.166",
            "127.77.26.97",
            "fd77:6465:7662:0:2d43:7c07:9021:6573",
        ],
        [
            "127.77.68.179",
            "127.77.91.21",
            "127.77.110.190",
            "fd77:6465:7662:0:44b3:bb85:5ffe:9691",
        ],
        [
            "127.77.9.24",
            "127.77.102.19",
            "127.77.187.37",
            "fd77:6465:7662:0:918:14b5:f8a:f8d4",
        ],
    ];
    assert_eq!(found, expected.as_flattened());
}

#[test]
fn a_full_sixteen_is_filled_to_its_last_address() {
    let open = Pool::builder()
        .prefix("10.1.0.0/16".parse().unwrap())
        .avoid_edge_octets(false)
        .build()
        .unwrap();
    assert_eq!((open.size(), open.usable()), (65_534, 65_534));
    let mut allocator = Allocator::new(open);
    let mut given = BTreeSet::new();
    for key in keys(0..65_534) {
        assert!(given.insert(allocator.lease(&key, NOW).unwrap()));
    }
    let Err(Error::PoolExhausted {
        pool,
        leased: 65_534,
        resting: 0,
    }) = allocator.lease(&key("more"), NOW)
    else {
        panic!("not exhausted");
    };
    assert_eq!(pool, "10.1.0.0/16");
    let stats = allocator.stats();
    assert_eq!((stats.leased, stats.fill), (65_534, 1.0));
    for key in keys(0..65_534) {
        assert_eq!(allocator.lookup(allocator.get(&key).unwrap()), Some(&key));
    }
}

#[test]
fn a_large_pool_is_the_same_with_and_without_a_bit_for_each_place() {
    // A /104 has 2^24 - 1 places; a /100 has more than that, and is looked through by address until one of 64 is taken.
    let large = pool("fd00::/100");
    let mut allocator = Allocator::new(large);
    let many = keys(0..2000);
    for key in &many {
        allocator.lease(key, NOW).unwrap();
    }
    assert_eq!(allocator.check().unwrap(), vec![]);
    // Reserved stretches are stepped over at once.
    let mut most = Pool::builder().prefix("fd00::/64".parse().unwrap());
    most = most.reserve("fd00::/65".parse::<IpNet>().unwrap());
    let mut allocator = Allocator::new(most.build().unwrap());
    for key in &many {
        let IpAddr::V6(address) = allocator.lease(key, NOW).unwrap() else {
            panic!("not v6")
        };
        assert!(address.segments()[4] >= 0x8000, "{address}");
    }
}

#[test]
fn golden_cases_of_the_allocators_before() {
    // ngrokd: network, gateway and broadcast are never given; the first is .2.
    let build = |prefix: &str| {
        Pool::builder()
            .prefix(prefix.parse().unwrap())
            .strategy(Choice::LowestFree)
    };
    let lease =
        |allocator: &mut Allocator, text: &str| allocator.lease(&key(text), NOW).map(|it| it.to_string());
    let mut ngrokd = Allocator::new(build("10.107.0.0/16").build().unwrap());
    assert_eq!(lease(&mut ngrokd, "first").unwrap(), "10.107.0.2");
    assert_eq!(lease(&mut ngrokd, "first").unwrap(), "10.107.0.2");
    // 300 names cross an octet.
    for n in 0..300 {
        lease(&mut ngrokd, &format!("name-{n}")).unwrap();
    }
    assert_eq!(lease(&mut ngrokd, "last").unwrap(), "10.107.1.47");

    let mut quarter = Allocator::new(build("10.107.5.128/25").build().unwrap());
    assert_eq!(lease(&mut quarter, "a").unwrap(), "10.107.5.130");
    let mut four = Allocator::new(build("10.107.5.4/30").build().unwrap());
    assert_eq!(lease(&mut four, "a").unwrap(), "10.107.5.6");
    assert!(matches!(
        lease(&mut four, "b"),
        Err(Error::PoolExhausted {
            leased: 1,
            resting: 0,
            ..
        })
    ));

    // arcbox: three addresses, then none; released to another key only after its rest; taken twice and out of range refused.
    let mut three = build("10.0.0.0/29").reserve_gateway(false);
    for last in [1, 2, 6] {
        three = three.reserve(IpAddr::from([10, 0, 0, last]));
    }
    let mut three = Allocator::new(three.quarantine(Duration::from_secs(60)).build().unwrap());
    let given: Vec<_> = ["a", "b", "c"]
        .map(|text| lease(&mut three, text).unwrap())
        .into();
    assert_eq!(given, ["10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    three.release(&key("b"), NOW);
    let exhausted = three.lease(&key("d"), NOW.plus(Duration::from_secs(59)));
    assert!(matches!(
        exhausted,
        Err(Error::PoolExhausted {
            leased: 2,
            resting: 1,
            ..
        })
    ));
    assert_eq!(
        three
            .lease(&key("d"), NOW.plus(Duration::from_secs(60)))
            .unwrap()
            .to_string(),
        given[1]
    );
    let taken = three.pin(&key("e"), given[0].parse().unwrap(), NOW).unwrap_err();
    assert_eq!(taken.to_string(), "10.0.0.3 belongs to a");
    let outside = three
        .pin(&key("e"), "10.0.1.3".parse().unwrap(), NOW)
        .unwrap_err();
    assert_eq!(
        outside.to_string(),
        "10.0.1.3 is not an address that the pool 10.0.0.0/29 leases"
    );
}

#[test]
fn what_rested_longest_is_given_first() {
    let pool = Pool::builder()
        .prefix("10.0.0.0/29".parse().unwrap())
        .strategy(Choice::LowestFree);
    let mut allocator = Allocator::new(pool.quarantine(Duration::ZERO).build().unwrap());
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    for name in ["a", "b", "c"] {
        allocator.lease(&key(name), at(0)).unwrap();
    }
    for (second, name) in [(1, "b"), (2, "a"), (3, "c")] {
        allocator.release(&key(name), at(second));
    }
    // 10.0.0.5 and .6 were never used; then .3 (b), .2 (a); and c has its own back.
    let next: Vec<_> = ["v", "w", "x", "c", "y"]
        .map(|name| allocator.lease(&key(name), at(4)).unwrap().to_string())
        .into();
    assert_eq!(next, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.4", "10.0.0.2"]);
}

#[test]
fn a_clock_that_goes_back_shortens_no_rest() {
    let pool = Pool::builder()
        .prefix("10.0.0.4/31".parse().unwrap())
        .quarantine(Duration::from_secs(10))
        .build();
    let mut allocator = Allocator::new(pool.unwrap());
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    allocator.lease(&key("a"), at(100)).unwrap();
    allocator.lease(&key("b"), at(100)).unwrap();
    allocator.release(&key("a"), at(100));
    allocator.release(&key("b"), at(0));
    assert!(allocator.lease(&key("c"), at(5)).is_err());
    assert!(allocator.lease(&key("c"), at(109)).is_err());
    assert!(allocator.lease(&key("c"), at(110)).is_ok());
}

#[test]
fn loopback_itself_is_never_given() {
    for prefix in ["127.0.0.0/30", "127.0.0.0/8", "127.0.0.1/32", "::/126", "::1/128"] {
        let pool = Pool::builder()
            .prefix(prefix.parse().unwrap())
            .avoid_edge_octets(false)
            .build();
        let Ok(pool) = pool else {
            assert!(prefix.ends_with("/32") || prefix.ends_with("/128"));
            continue;
        };
        assert!(!pool.contains("127.0.0.1".parse().unwrap()) && !pool.contains("::1".parse().unwrap()));
        let mut allocator = Allocator::new(pool);
        for key in keys(0..2) {
            drop(allocator.lease(&key, NOW));
        }
        assert!(
            allocator
                .iter()
                .all(|lease| !matches!(lease.address.to_string().as_str(), "127.0.0.1" | "::1"))
        );
        let pinned = allocator.pin(&key("k"), "127.0.0.1".parse().unwrap(), NOW);
        assert!(matches!(pinned, Err(Error::OutOfPool { .. })));
    }
}

#[test]
fn a_pool_is_refused_with_its_fault() {
    let build = |prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(|text| text.parse::<IpNet>().unwrap());
        Pool::new(prefixes).unwrap_err().to_string()
    };
    assert_eq!(build(&[]), "the pool (no prefix) contains no usable address");
    assert_eq!(
        build(&["10.0.0.0/32"]),
        "the pool 10.0.0.0/32 contains no usable address"
    );
    assert_eq!(
        build(&["10.0.0.1/8"]),
        "10.0.0.1/8 has host bits; the prefix is 10.0.0.0/8"
    );
    assert_eq!(
        build(&["10.0.0.0/8", "10.1.0.0/16"]),
        "10.0.0.0/8 and 10.1.0.0/16 overlap"
    );
    assert_eq!(
        build(&["fd00::/64", "10.1.0.0/16"]),
        "10.1.0.0/16 and fd00::/64 are of different families; make one pool for each"
    );
}

#[test]
fn a_live_lease_is_sticky_and_check_names_what_it_displaces() {
    // Find two keys with one first choice.
    let small = pool("10.0.0.0/24");
    let many = keys(0..300);
    let mut by_choice: BTreeMap<IpAddr, Vec<&Key>> = BTreeMap::new();
    many.iter()
        .for_each(|key| by_choice.entry(small.first_choice(key)).or_default().push(key));
    let mut allocator = Allocator::new(small.clone());
    let (choice, rivals) = by_choice.iter().find(|(_, keys)| keys.len() >= 2).unwrap();
    let pair = [rivals[0], rivals[1]];
    let assigned = allocator.assign(pair).unwrap();
    let (winner, loser) = if assigned[pair[0]] == *choice {
        (pair[0], pair[1])
    } else {
        (pair[1], pair[0])
    };

    // The loser comes first, and keeps what it has.
    assert_eq!(allocator.lease(loser, NOW).unwrap(), *choice);
    let next = allocator.lease(winner, NOW).unwrap();
    assert_ne!(next, *choice);
    assert_eq!(allocator.get(loser), Some(*choice));
    let differences = allocator.check().unwrap();
    let of_winner = differences
        .iter()
        .find(|difference| difference.key == *winner)
        .unwrap();
    assert_eq!((of_winner.live, of_winner.assigned), (next, *choice));
    assert_eq!(of_winner.reason, Reason::Held { by: loser.clone() });
    assert_eq!(allocator.stats().displaced, 1);

    // Released and leased again in the right order, after the rest, they have the assigned map.
    allocator.release(winner, NOW);
    allocator.release(loser, NOW);
    let later = NOW.plus(small.quarantine());
    allocator.lease(winner, later).unwrap();
    allocator.lease(loser, later).unwrap();
    assert_eq!(allocator.check().unwrap(), vec![]);
}

#[test]
fn pins_and_locks_keep_addresses_for_their_keys() {
    let pool = Pool::default();
    let mut allocator = Allocator::new(pool.clone());
    let (orders, other) = (key("dev/backend/orders"), key("dev/backend/other"));
    let wanted = pool.first_choice(&orders);
    let elsewhere: IpAddr = "127.77.9.9".parse().unwrap();

    // Another key is locked to the address that this one hashes to: it never gets it.
    let mut lock = LockFile::new();
    lock.insert(&other, wanted).unwrap();
    allocator.set_lock(&lock).unwrap();
    assert_ne!(allocator.lease(&orders, NOW).unwrap(), wanted);
    assert_eq!(allocator.lease(&other, NOW).unwrap(), wanted);

    // A pin that contradicts the lock is named; so is a lock that contradicts a pin.
    let refused = allocator.pin(&key("third"), wanted, NOW).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("{wanted} belongs to dev/backend/other")
    );
    allocator.pin(&key("third"), elsewhere, NOW).unwrap();
    lock.insert(&key("fourth"), elsewhere).unwrap();
    assert!(
        matches!(allocator.set_lock(&lock), Err(Error::AddressTaken { key: owner, .. }) if owner == key("third"))
    );
    // The former lock file is still in force.
    assert_eq!(allocator.locked().count(), 1);

    // A live key is pinned where it is, and nowhere else.
    let live = allocator.get(&orders).unwrap();
    assert!(
        matches!(allocator.pin(&orders, "127.77.1.1".parse().unwrap(), NOW), Err(Error::KeyLive { address, .. }) if address == live)
    );
    allocator.pin(&orders, live, NOW).unwrap();
    assert_eq!(allocator.unpin(&orders), Some(live));
    assert_eq!(allocator.get(&orders), Some(live));

    // A lock that comes after the lease does not move it; check tells.
    let mut late = LockFile::new();
    late.insert(&orders, "127.77.1.1".parse().unwrap()).unwrap();
    allocator.set_lock(&late).unwrap();
    assert_eq!(allocator.lease(&orders, NOW).unwrap(), live);
    let differences = allocator.check().unwrap();
    let difference = differences
        .iter()
        .find(|difference| difference.key == orders)
        .unwrap();
    assert_eq!(
        (difference.assigned.to_string().as_str(), &difference.reason),
        ("127.77.1.1", &Reason::Fixed)
    );
}

#[test]
fn a_v6_address_stands_beside_the_v4_one() {
    let pool = Pool::builder()
        .prefix("127.77.0.0/16".parse().unwrap())
        .beside("fd77:6465:7662::/64".parse().unwrap())
        .build()
        .unwrap();
    let mut allocator = Allocator::new(pool.clone());
    let orders = key("dev/backend/orders");
    let v4 = allocator.lease(&orders, NOW).unwrap();
    let v6 = IpAddr::V6(pool.beside(v4).unwrap());
    assert!(v6.to_string().starts_with("fd77:6465:7662::7f4d:"), "{v6}");
    assert_eq!(allocator.lookup(v6), Some(&orders));
    assert_eq!(allocator.lookup("fd77:6465:7662::1:2:3".parse().unwrap()), None);
    let bad = Pool::builder()
        .prefix("127.77.0.0/16".parse().unwrap())
        .beside("fd77::/97".parse().unwrap())
        .build();
    assert!(matches!(bad, Err(Error::BadBeside { .. })));
}
