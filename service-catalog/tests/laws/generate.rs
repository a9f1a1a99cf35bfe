//! Catalogs and updates out of nothing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use service_catalog::{Catalog, Health, Label, Port, Protocol, Service, ServiceId, Update};

fn label() -> impl Strategy<Value = Label> {
    // Few short ones, so that two catalogs share names; and some of any length.
    prop_oneof![3 => "[ab]", 1 => "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"].prop_map(|text| text.parse().unwrap())
}

fn id() -> impl Strategy<Value = ServiceId> {
    (label(), label()).prop_map(|(namespace, name)| ServiceId { namespace, name })
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let key = (1u16..=4, prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]);
    let rest = (option::of(label()), option::of("[ -~]{1,255}"));
    let unique = |ports: BTreeMap<_, _>| {
        // A second port of the same name loses it: only what is allowed is made.
        let mut names = BTreeSet::new();
        let port =
            |((port, protocol), (name, target)): ((u16, Protocol), (Option<Label>, Option<String>))| Port {
                name: name.filter(|name| names.insert(name.clone())),
                port: port.try_into().unwrap(),
                protocol,
                target,
            };
        ports.into_iter().map(port).collect::<Vec<_>>()
    };
    btree_map(key, rest, 1..4).prop_map(unique).prop_shuffle()
}

fn service() -> impl Strategy<Value = Service> {
    (id(), ports()).prop_map(|(id, ports)| Service::new(id, ports).unwrap())
}

pub(super) fn catalog() -> impl Strategy<Value = Catalog> {
    (label(), btree_map(id(), ports(), 0..6)).prop_map(|(environment, services)| {
        let services = services
            .into_iter()
            .map(|(id, ports)| Service::new(id, ports).unwrap());
        Catalog::new(environment, services).unwrap()
    })
}

pub(super) fn update() -> impl Strategy<Value = Update> {
    let changed = (vec(service(), 0..4), btree_set(id(), 0..4)).prop_map(|(services, removed)| {
        let mut seen = removed.clone();
        Update::Changed {
            upserted: services
                .into_iter()
                .filter(|service| seen.insert(service.id.clone()))
                .collect(),
            removed: removed.into_iter().collect(),
        }
    });
    prop_oneof![
        catalog().prop_map(Update::Snapshot),
        changed,
        Just(Update::Health(Health::Live)),
        any::<String>().prop_map(|reason| Update::Health(Health::stale(&reason))),
    ]
}
