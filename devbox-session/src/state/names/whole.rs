//! The names of a session put together from nothing: what taking changes one by one must come to.

use proptest::prelude::*;
use service_catalog::ServiceId;

use super::*;
use crate::key::ProviderId;

/// What all wishes together come to.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    records: Vec<Record>,
    names: BTreeMap<ServiceKey, Vec<Arc<str>>>,
    clashes: Vec<NameClash>,
}

fn whole(wishes: &BTreeMap<ServiceKey, Wish>) -> Whole {
    let mut owners: BTreeMap<Arc<str>, ServiceKey> = BTreeMap::new();
    let mut names: BTreeMap<ServiceKey, Vec<Arc<str>>> = BTreeMap::new();
    let mut clashes = BTreeSet::new();
    let mut by_right: Vec<_> = wishes.iter().collect();
    by_right.sort_by_key(|(_, wish)| wish.right);
    for given in [false, true] {
        for (key, wish) in &by_right {
            let names = names.entry((*key).clone()).or_default();
            for name in if given { &wish.given } else { &wish.own } {
                let owner = owners.entry(Arc::clone(name)).or_insert_with(|| (*key).clone());
                if owner != *key {
                    clashes.insert(NameClash {
                        name: name.to_string(),
                        owner: wishes[owner].shown.clone(),
                        other: wish.shown.clone(),
                    });
                } else if !names.contains(name) {
                    names.push(Arc::clone(name));
                }
            }
        }
    }
    let mut records: BTreeMap<ServiceKey, Record> = BTreeMap::new();
    for (key, wish) in wishes {
        let of = ServiceKey {
            service: wish.behind.service.clone(),
            ..key.clone()
        };
        let is_member = |other: &&ServiceKey| {
            let ServiceId {
                namespace,
                name,
                member,
            } = &other.service;
            member.is_some()
                && of.service.member.is_none()
                && (other.provider, &other.environment) == (of.provider, &of.environment)
                && (namespace, name) == (&of.service.namespace, &of.service.name)
        };
        let members = wishes.keys().filter(is_member);
        let members = members
            .filter_map(|member| names[member].first().cloned())
            .collect();
        let record = records.entry(of.clone()).or_insert_with(|| Record {
            names: Vec::new(),
            addresses: wish.addresses.clone(),
            behind: Some(Behind {
                members,
                ..wish.behind.clone()
            }),
        });
        let at = if *key == of { 0 } else { record.names.len() };
        record.names.splice(at..at, names[key].iter().cloned());
    }
    records.retain(|_, record| !record.names.is_empty());
    Whole {
        records: records.into_values().collect(),
        names,
        clashes: clashes.into_iter().collect(),
    }
}

fn has(names: &Names) -> Whole {
    Whole {
        records: names.wanted.iter().cloned().collect(),
        names: names
            .named
            .iter()
            .map(|(key, named)| (key.clone(), named.names.clone()))
            .collect(),
        clashes: names.clashes(),
    }
}

/// Few services, and fewer names, so that they meet.
fn service() -> impl Strategy<Value = ServiceKey> {
    (
        0_usize..2,
        0_u8..4,
        proptest::option::weighted(0.4, prop_oneof![Just("m0"), Just("m1")]),
    )
        .prop_map(|(provider, number, member)| ServiceKey {
            provider: ProviderId(provider),
            environment: "staging".parse().unwrap(),
            service: ServiceId {
                member: member.map(|member| member.parse().unwrap()),
                ..format!("s{number}.backend").parse().unwrap()
            },
        })
}

fn names() -> impl Strategy<Value = Vec<Arc<str>>> {
    let name = proptest::sample::select(vec!["a", "b", "c", "d", "e", "f", "g", "h"]);
    proptest::collection::vec(name.prop_map(Arc::from), 0..4)
}

fn order() -> impl Strategy<Value = Option<u16>> {
    proptest::option::weighted(0.3, 0_u16..3)
}

/// A service and what it would be called, as another name for a service of its provider or as one of its own.
fn change() -> impl Strategy<Value = (ServiceKey, Option<Wish>)> {
    let wish = (
        names(),
        names(),
        order(),
        order(),
        proptest::option::weighted(0.2, 0_u8..4),
        0_u16..2,
    );
    (service(), proptest::option::weighted(0.75, wish)).prop_map(|(key, wish)| {
        let wish = wish.map(|(own, given, by_user, by_catalog, target, port)| {
            let behind = target.map_or_else(
                || key.service.clone(),
                |target| format!("s{target}.backend").parse().unwrap(),
            );
            Wish {
                service: key.clone(),
                shown: format!("{key} of p{}", key.provider.0),
                addresses: vec![address(key.provider, &behind)],
                behind: Behind {
                    // One thing for all that share it, as is what is behind another name.
                    ports: vec![service_catalog::Port::tcp(
                        (5432 + port * u16::from(target.is_none())).try_into().unwrap(),
                    )],
                    service: behind,
                    environment: key.environment.clone(),
                    members: Vec::new(),
                },
                own,
                given,
                refused: Vec::new(),
                right: Right::new(by_user, key.provider.0, by_catalog),
            }
        });
        (key, wish)
    })
}

/// An address follows from its service.
fn address(provider: ProviderId, service: &ServiceId) -> IpAddr {
    let text = service.to_string();
    let sum = text
        .bytes()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    IpAddr::from([127, 77, u8::try_from(provider.0).unwrap(), sum])
}

/// All that lead to one service have what is behind it from the same catalog.
fn align(wishes: &mut BTreeMap<ServiceKey, Wish>) -> Vec<ServiceKey> {
    let first: BTreeMap<ServiceKey, Behind> = wishes
        .values()
        .rev()
        .map(|wish| (wish.record(), wish.behind.clone()))
        .collect();
    let mut aligned = Vec::new();
    for (key, wish) in wishes {
        let behind = &first[&wish.record()];
        if wish.behind != *behind {
            wish.behind = behind.clone();
            aligned.push(key.clone());
        }
    }
    aligned
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn changes_one_by_one_come_to_what_all_together_are(
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 1..6), 1..20),
    ) {
        let (mut names, mut notices) = (Names::new(vec!["hosts".to_owned()]), Notices::default());
        let mut wishes: BTreeMap<ServiceKey, Wish> = BTreeMap::new();
        let mut told: BTreeSet<NameClash> = BTreeSet::new();
        for round in rounds {
            let mut changed: BTreeSet<ServiceKey> = BTreeSet::new();
            for (key, wish) in round {
                match wish {
                    Some(wish) => drop(wishes.insert(key.clone(), wish)),
                    None => drop(wishes.remove(&key)),
                }
                changed.insert(key);
            }
            changed.extend(align(&mut wishes));
            let changes = changed.into_iter().map(|key| (key.clone(), wishes.get(&key).cloned()));
            names.refresh(changes.collect::<Vec<_>>(), &mut notices);
            let expected = whole(&wishes);
            prop_assert_eq!(&has(&names), &expected);
            // A clash is told when it comes up, unless somebody decided it; and not again while it lasts.
            let now: BTreeSet<_> = expected.clashes.iter().cloned().collect();
            while let Some(event) = notices.poll_event() {
                let Event::NameClash(clash) = event else { panic!("{event:?}") };
                prop_assert!(now.contains(&clash) && !told.contains(&clash), "{:?}", clash);
            }
            told = now;
        }
        let all: Vec<_> = names.named.keys().cloned().map(|key| (key, None)).collect();
        names.refresh(all, &mut notices);
        prop_assert_eq!(has(&names), whole(&BTreeMap::new()));
        prop_assert!(names.sharing.is_empty(), "nothing is left of what is gone");
        prop_assert!(names.claims.is_empty());
    }
}
