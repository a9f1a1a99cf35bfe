//! Catalogs and updates out of nothing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use service_catalog::{Catalog, Health, Label, Port, Protocol, Readiness, Service, ServiceId, Update};

fn label() -> impl Strategy<Value = Label> {
    // Few short ones, so that two catalogs share names; and some of any length.
    prop_oneof![3 => "[ab]", 1 => "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"].prop_map(|text| text.parse().unwrap())
}

fn id() -> impl Strategy<Value = ServiceId> {
    (label(), label(), option::weighted(0.2, label())).prop_map(|(namespace, name, member)| ServiceId {
        namespace,
        name,
        member,
    })
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
    btree_map(key, rest, 0..4).prop_map(unique).prop_shuffle()
}

fn readiness() -> impl Strategy<Value = Readiness> {
    prop_oneof![
        3 => Just(Readiness::Ready),
        1 => any::<String>().prop_map(|reason| Readiness::not_ready(&reason)),
    ]
}

fn service_of(id: ServiceId) -> impl Strategy<Value = Service> {
    let wanted = (option::of(any::<std::net::IpAddr>()), option::of(any::<u16>()));
    let listed = (ports(), readiness(), btree_set(label(), 0..3), wanted);
    prop_oneof![
        6 => (Just(id.clone()), listed).prop_map(|(id, (ports, readiness, mut aliases, (pin, order)))| {
            aliases.remove(&id.name);
            let aliases = aliases.into_iter().collect();
            let service = Service { readiness, aliases, pin, order, ..Service::new(id, ports).unwrap() };
            service.check().unwrap();
            service
        }),
        1 => (Just(id), self::id()).prop_map(|(id, target)| Service::alias(id, target)),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    id().prop_flat_map(service_of)
}

pub(super) fn catalog() -> impl Strategy<Value = Catalog> {
    let services =
        btree_set(id(), 0..6).prop_flat_map(|ids| ids.into_iter().map(service_of).collect::<Vec<_>>());
    let notes = vec(any::<String>(), 0..3);
    (label(), services, notes).prop_map(|(environment, services, notes)| {
        let mut catalog = Catalog::new(environment, services).unwrap();
        for text in &notes {
            catalog.note(text);
        }
        catalog
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
