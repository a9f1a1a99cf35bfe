use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> BTreeSet<HostName> {
    texts.iter().map(|text| name(text)).collect()
}

fn address(last: u8) -> Resource {
    Resource::Address([10, 107, 0, last].into())
}

fn interface() -> Resource {
    Resource::Interface(InterfaceName::new("devbox0").unwrap())
}

#[test]
fn second_user_of_an_address_is_told_who_holds_it() {
    let mut claims = Claims::default();
    let ana = claims.enter(1000, 10).unwrap();
    let bo = claims.enter(1001, 20).unwrap();
    claims.acquire(ana, &[address(1)]).unwrap();
    let refused = claims.acquire(bo, &[address(2), address(1)]).unwrap_err();
    let holder = Holder {
        uid: 1000,
        pid: 10,
        claim: ana.0,
    };
    let what = "the address 10.107.0.1".to_owned();
    assert_eq!(refused, Refusal::Held { what, holder });
    assert!(!claims.holds(bo, &address(2)), "all or nothing");
    // The next candidate is free, and the first one is once its holder has left.
    claims.acquire(bo, &[address(2)]).unwrap();
    assert_eq!(claims.leave(ana).resources, [address(1)]);
    claims.acquire(bo, &[address(1)]).unwrap();
}

#[test]
fn sessions_of_one_user_share_an_address_and_the_last_one_takes_it_away() {
    let mut claims = Claims::default();
    let first = claims.enter(1000, 10).unwrap();
    let second = claims.enter(1000, 11).unwrap();
    claims.acquire(first, &[address(1)]).unwrap();
    claims.acquire(second, &[address(1)]).unwrap();
    assert_eq!(claims.give_up(first, &address(1)), Ok(false));
    assert!(matches!(
        claims.give_up(first, &address(1)),
        Err(Refusal::NotHeld { .. })
    ));
    assert_eq!(claims.leave(second).resources, [address(1)]);
}

#[test]
fn interface_is_its_claims_alone_and_a_prefix_is_everybodys() {
    let mut claims = Claims::default();
    let first = claims.enter(1000, 10).unwrap();
    let second = claims.enter(1000, 11).unwrap();
    let third = claims.enter(1001, 12).unwrap();
    claims.acquire(first, &[interface()]).unwrap();
    assert!(claims.acquire(second, &[interface()]).is_err());
    let pool = Resource::Pool("10.107.0.0/16".parse().unwrap());
    for id in [first, second, third] {
        claims.acquire(id, std::slice::from_ref(&pool)).unwrap();
    }
    assert!(!claims.leave(first).resources.contains(&pool));
    assert!(!claims.leave(third).resources.contains(&pool));
    assert!(claims.leave(second).resources.contains(&pool));
}

#[test]
fn displaced_name_returns_when_its_displacer_leaves() {
    let mut claims = Claims::default();
    let old = claims.enter(1000, 10).unwrap();
    let new = claims.enter(1000, 11).unwrap();
    claims
        .set_names(old, &names(&["orders", "orders.backend"]), false)
        .unwrap();
    let shifted = claims.set_names(new, &names(&["orders"]), true).unwrap();
    assert_eq!(shifted.poorer, [old].into());
    assert_eq!(claims.name_holder(&name("orders")), Some(new));
    assert_eq!(claims.count_names(old), (1, 1));
    // Asking again takes nothing back.
    let others = claims
        .set_names(old, &names(&["orders", "orders.backend"]), true)
        .unwrap();
    assert_eq!(others, Shifted::default());
    assert_eq!(claims.leave(new).richer, [old].into());
    assert_eq!(claims.count_names(old), (2, 0));
}

#[test]
fn nobody_takes_a_name_from_another_user() {
    let mut claims = Claims::default();
    let ana = claims.enter(1000, 10).unwrap();
    let bo = claims.enter(1001, 20).unwrap();
    let eve = claims.enter(1001, 21).unwrap();
    claims.set_names(ana, &names(&["orders"]), false).unwrap();
    claims.set_names(bo, &names(&["orders"]), false).unwrap();
    assert_eq!(
        claims.set_names(eve, &names(&["orders"]), true).unwrap(),
        Shifted::default()
    );
    assert_eq!(claims.name_holder(&name("orders")), Some(ana));
    // Among her own user's claims the taker comes first.
    assert_eq!(claims.leave(ana).richer, [eve].into());
}

#[test]
fn limits_are_told() {
    let limits = Limits {
        claims: 3,
        claims_of_a_user: 2,
        names: 2,
        resources: 2,
    };
    let mut claims = Claims::new(limits);
    let id = claims.enter(1000, 1).unwrap();
    claims.enter(1000, 2).unwrap();
    assert!(matches!(
        claims.enter(1000, 3),
        Err(Refusal::Limit { most: 2, .. })
    ));
    claims.enter(1001, 3).unwrap();
    assert!(matches!(
        claims.enter(1002, 3),
        Err(Refusal::Limit { most: 3, .. })
    ));
    assert!(claims.set_names(id, &names(&["a", "b", "c"]), false).is_err());
    assert!(claims.acquire(id, &[address(1), address(2), address(3)]).is_err());
    claims.leave(id);
    claims.enter(1002, 4).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Enter { uid: u32 },
    Names { who: usize, which: Vec<u8>, take: bool },
    Acquire { who: usize, what: Vec<u8> },
    GiveUp { who: usize, what: u8 },
    Leave { who: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let few = || prop::collection::vec(0u8..6, 0..5);
    prop_oneof![
        (0u32..3).prop_map(|uid| Step::Enter { uid }),
        (0usize..8, few(), any::<bool>()).prop_map(|(who, which, take)| Step::Names { who, which, take }),
        (0usize..8, few()).prop_map(|(who, what)| Step::Acquire { who, what }),
        (0usize..8, 0u8..6).prop_map(|(who, what)| Step::GiveUp { who, what }),
        (0usize..8).prop_map(|who| Step::Leave { who }),
    ]
}

fn resource(number: u8) -> Resource {
    match number {
        0..3 => address(number),
        3 => interface(),
        4 => Resource::Pool("10.107.0.0/16".parse().unwrap()),
        _ => Resource::Suffix(Suffix::new("backend.internal").unwrap()),
    }
}

proptest! {
    /// A machine that does what it is told has, after every step, what the living claims hold and nothing else; a name is in one block.
    #[test]
    fn any_interleaving_leaves_one_owner_for_each_name_and_nothing_in_the_end(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut claims = Claims::default();
        let mut living: Vec<(ClaimId, u32)> = Vec::new();
        let mut made: BTreeSet<Resource> = BTreeSet::new();
        // As the blocks in the file are: rewritten for whoever is told to be affected, and for nobody else.
        let mut blocks: BTreeMap<ClaimId, BTreeSet<HostName>> = BTreeMap::new();
        let end = std::iter::repeat_n(Step::Leave { who: 0 }, 80);
        for step in steps.into_iter().chain(end) {
            let mut affected = BTreeSet::new();
            let chosen = |who: usize| living.get(who % living.len().max(1)).copied();
            match step {
                Step::Enter { uid } => living.extend(claims.enter(uid, 1).ok().map(|id| (id, uid))),
                Step::Names { who, which, take } => if let Some((id, _)) = chosen(who) {
                    let wanted: BTreeSet<HostName> = which.iter().map(|n| name(&format!("n{n}"))).collect();
                    let shifted = claims.set_names(id, &wanted, take).unwrap();
                    affected = &shifted.poorer | &shifted.richer;
                    affected.insert(id);
                },
                Step::Acquire { who, what } => if let Some((id, _)) = chosen(who) {
                    let what: Vec<Resource> = what.into_iter().map(resource).collect();
                    if claims.acquire(id, &what).is_ok() {
                        made.extend(what);
                    }
                },
                Step::GiveUp { who, what } => if let Some((id, _)) = chosen(who) {
                    let what = resource(what);
                    if claims.give_up(id, &what) == Ok(true) {
                        prop_assert!(made.remove(&what), "{what} is undone twice");
                    }
                },
                Step::Leave { who } => if let Some((id, _)) = chosen(who) {
                    let left = claims.leave(id);
                    for gone in left.resources {
                        prop_assert!(made.remove(&gone), "{gone} is undone twice");
                    }
                    affected = left.richer;
                    living.retain(|(other, _)| *other != id);
                    blocks.remove(&id);
                },
            }
            for id in affected {
                let has = |name: &&HostName| claims.name_holder(name) == Some(id);
                blocks.insert(id, claims.claims[&id].names.iter().filter(has).cloned().collect());
            }
            let mut seen = BTreeSet::new();
            for name in blocks.values().flatten() {
                prop_assert!(seen.insert(name.clone()), "{name:?} is in two blocks");
            }
            let wanted: BTreeSet<&HostName> = claims.claims.values().flat_map(|claim| &claim.names).collect();
            prop_assert_eq!(seen.iter().collect::<BTreeSet<_>>(), wanted, "a name that somebody wants is in a block");
            let held: BTreeSet<Resource> = living.iter().flat_map(|(id, _)| claims.resources(*id).cloned()).collect();
            prop_assert_eq!(&held, &made);
            for what in &held {
                let users: BTreeSet<u32> = living.iter().filter(|(id, _)| claims.holds(*id, what)).map(|(_, uid)| *uid).collect();
                prop_assert!(users.len() == 1 || matches!(what, Resource::Pool(_)), "{what} has {users:?}");
            }
        }
        prop_assert!(living.is_empty() && made.is_empty() && blocks.is_empty());
        prop_assert!(claims.names.is_empty() && claims.holders.is_empty());
    }
}
