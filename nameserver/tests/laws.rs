//! What holds for all packets and all histories.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use domain::base::iana::Rtype;
use nameserver::{Name, Record, Registry, Transport, Verdict};
use proptest::prelude::*;
use support::{query, query_edns, read, responder};

/// Anything that may come: noise, and queries with some bytes changed.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        "[a-z]{1,8}(\\.[a-zA-Z]{1,8}){0,4}",
        "[a-z]{1,4}\\.(Orders|web|backend)\\.devbox\\.test",
        Just("orders.backend".to_owned()),
        Just("2.0.77.127.in-addr.arpa".to_owned()),
    ];
    let queries = (name, any::<u16>(), any::<Option<u16>>()).prop_map(|(name, rtype, edns)| match edns {
        None => query(&name, Rtype::from_int(rtype)),
        Some(len) => query_edns(&name, Rtype::from_int(rtype), len),
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (queries, changes).prop_map(|(mut packet, changes)| {
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..80), changed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn every_reply_is_well_formed_and_answers_its_packet(packet in packets(), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let mut reply = Vec::new();
        match responder().respond(&packet, transport, &mut reply) {
            Verdict::Drop => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
            Verdict::Forward => prop_assert!(false, "nobody to forward to"),
            Verdict::Reply(_) => {
                prop_assert_eq!(&reply[..2], &packet[..2]);
                prop_assert!(tcp || reply.len() <= 1232);
                read(&reply);
            }
        }
    }
}

/// One write: who, which names, whether it is the owner's whole set.
#[derive(Debug, Clone)]
struct Write {
    owner: usize,
    names: BTreeMap<usize, u8>,
    whole: bool,
}

const NAMES: [&str; 6] = ["a", "b.a", "c.b.a", "x.y.z", "y.z", "*.z"];
const OWNERS: [&str; 3] = ["one", "two", "three"];

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (
        0..OWNERS.len(),
        prop::collection::btree_map(0..NAMES.len(), 0_u8..4, 0..5),
        any::<bool>(),
    );
    prop::collection::vec(
        write.prop_map(|(owner, names, whole)| Write { owner, names, whole }),
        0..20,
    )
}

proptest! {
    /// The model: each owner's own map of names.
    #[test]
    fn the_registry_is_the_union_of_what_its_owners_have(writes in writes()) {
        let registry = Registry::default();
        let mut model = vec![BTreeMap::<usize, u8>::new(); OWNERS.len()];
        for Write { owner, names, whole } in writes {
            // An address that ends in 0 stands for a name that is removed.
            let (gone, set): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, last)| *last == 0);
            let record = |(name, last): &(usize, u8)| {
                Record::addresses(NAMES[*name].parse().unwrap(), [[10, 0, 0, *last].into()])
            };
            let records: Vec<_> = set.iter().map(record).collect();
            let gone: Vec<usize> = gone.into_iter().map(|(name, _)| name).collect();
            if whole {
                registry.publish(OWNERS[owner], &records);
                model[owner] = set.into_iter().collect();
            } else {
                let remove: Vec<Name> = gone.iter().map(|name| NAMES[*name].parse().unwrap()).collect();
                registry.update(OWNERS[owner], &records, &remove);
                model[owner].retain(|name, _| !gone.contains(name));
                model[owner].extend(set);
            }
            let snapshot = registry.snapshot();
            let mut with_records = 0;
            for (number, name) in NAMES.iter().enumerate() {
                let wanted: BTreeSet<IpAddr> = model.iter().filter_map(|own| own.get(&number)).map(|last| [10, 0, 0, *last].into()).collect();
                with_records += usize::from(!wanted.is_empty());
                let found: Vec<_> = snapshot.addresses(&name.parse().unwrap()).collect();
                prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
            }
            prop_assert_eq!(snapshot.len(), with_records);
            for last in 1..4 {
                let wanted: BTreeSet<String> = model.iter().flatten().filter(|(_, l)| **l == last).map(|(n, _)| NAMES[*n].to_owned()).collect();
                let found: BTreeSet<String> = snapshot.names_of([10, 0, 0, last].into()).map(ToString::to_string).collect();
                prop_assert_eq!(found, wanted);
            }
        }
        for owner in OWNERS {
            registry.withdraw(owner);
        }
        prop_assert!(registry.snapshot().is_empty());
    }
}
