//! What every backend promises, on a machine that is only remembered: whatever others do in between, undoing leaves the machine as it would
//! be without us, and what is theirs untouched.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use netif::{
    Applied, Backend, Change, ChangeError, Device, Found, Interface, InterfaceName, Kind, Owner, Recording,
    ResolverRule, Route, RouteKind, Suffix, Undone,
};
use proptest::prelude::*;

fn owner() -> Owner {
    Owner::new("devbox").unwrap()
}

fn name(index: u8) -> InterfaceName {
    InterfaceName::new(&format!("devbox{index}")).unwrap()
}

fn device() -> impl Strategy<Value = Device> {
    prop_oneof![
        Just(Device::Loopback),
        (0..3_u8).prop_map(|index| name(index).into())
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![Just(Kind::Dummy), Just(Kind::Tun)];
    let route_kind = prop_oneof![Just(RouteKind::Local), Just(RouteKind::Unicast)];
    let prefix = prop_oneof![Just("10.107.0.0/16"), Just("10.108.0.0/16"), Just("fd77::/64")];
    let address = prop_oneof![Just("10.107.0.1/32"), Just("10.107.0.2/24"), Just("fd77::1/128")];
    prop_oneof![
        2 => (0..3_u8, kind).prop_map(|(index, kind)| Change::Interface(Interface::new(name(index), kind))),
        4 => (device(), address).prop_map(|(device, address)| Change::Address { device, address: address.parse().unwrap() }),
        2 => (device(), prefix, route_kind).prop_map(|(device, prefix, kind)| {
            Change::Route(Route { destination: prefix.parse().unwrap(), device, kind, metric: None })
        }),
        1 => (0..3_u8).prop_map(|index| Change::Resolver(ResolverRule {
            interface: name(index),
            suffixes: vec![Suffix::new("test").unwrap()],
            servers: vec!["127.77.0.1:53".parse().unwrap()],
        })),
    ]
}

#[derive(Debug, Clone)]
enum Act {
    Apply(Vec<Change>),
    /// One of the batches that were applied.
    Undo(prop::sample::Index),
    /// Another owner, or one who leaves no mark, and where nothing is.
    Others(Change, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => prop::collection::vec(change(), 1..6).prop_map(Act::Apply),
        2 => any::<prop::sample::Index>().prop_map(Act::Undo),
        2 => (change(), any::<bool>()).prop_map(|(change, marked)| Act::Others(change, marked)),
    ]
}

/// What is on the machine of others. What they put on our interfaces goes with them.
fn theirs(machine: &mut Recording) -> BTreeSet<(Change, Option<Owner>)> {
    let all = machine.contents().unwrap();
    all.into_iter()
        .filter(|(_, whose)| *whose != Some(owner()))
        .collect()
}

proptest! {
    #[test]
    fn undoing_leaves_what_is_theirs_and_nothing_of_ours(acts in prop::collection::vec(act(), 1..12)) {
        let mut machine = Recording::new(owner());
        let somebody = Owner::new("vpn").unwrap();
        let mut expected = BTreeSet::new();
        let mut written_down: Vec<Vec<Change>> = Vec::new();
        for act in acts {
            match act {
                Act::Apply(changes) => {
                    // As a helper does: only what is absent is written down and applied.
                    let found = machine.find(&changes);
                    let absent: Vec<_> = changes
                        .into_iter()
                        .zip(found)
                        .filter(|(_, found)| matches!(found, Ok(Found::Absent)))
                        .map(|(change, _)| change)
                        .collect();
                    machine.apply(&absent);
                    written_down.push(absent);
                }
                Act::Undo(which) if !written_down.is_empty() => {
                    let at = which.index(written_down.len());
                    machine.undo(&written_down.remove(at));
                }
                Act::Undo(_) => {}
                Act::Others(change, marked) => {
                    // Nobody takes what is there, and nobody else uses our interfaces.
                    let on_ours = change.needs().is_some();
                    if !on_ours && matches!(machine.find(std::slice::from_ref(&change))[0], Ok(Found::Absent)) {
                        let whose = marked.then_some(&somebody);
                        machine.add_for(whose, &change).unwrap();
                        expected.insert((change, whose.cloned()));
                    }
                }
            }
            prop_assert_eq!(&theirs(&mut machine), &expected);
        }
        for changes in written_down.iter().rev() {
            for undone in machine.undo(changes) {
                prop_assert!(undone.is_ok(), "{undone:?}");
            }
            for undone in machine.undo(changes) {
                prop_assert!(!matches!(undone, Ok(Undone::Removed)), "a second time");
            }
        }
        prop_assert_eq!(machine.contents().unwrap().into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn a_change_that_was_written_down_and_read_again_is_the_same(change in change()) {
        let text = serde_json::to_string(&change).unwrap();
        prop_assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
    }
}

#[test]
fn a_machine_in_a_file_outlives_its_process_and_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine");
    let changes = [
        Change::Interface(Interface::new(name(0), Kind::Dummy)),
        Change::Address {
            device: name(0).into(),
            address: "10.107.0.1/32".parse().unwrap(),
        },
    ];
    let mut first = Recording::at(owner(), &file).unwrap();
    let mut other = Recording::at(owner(), &file).unwrap();
    for (machine, becomes) in [(&mut first, Applied::Added), (&mut other, Applied::Present)] {
        let applied = machine.apply(&changes);
        assert!(
            applied
                .iter()
                .all(|applied| matches!(applied, Ok(applied) if *applied == becomes)),
            "{applied:?}"
        );
    }
    drop(first);
    // Whoever was killed in the middle of a line did not do what it says.
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().append(true).open(&file).unwrap(),
        b"{\"remove\":{\"chan",
    )
    .unwrap();
    let mut second = Recording::at(owner(), &file).unwrap();
    assert!(
        second
            .find(&changes)
            .iter()
            .all(|found| matches!(found, Ok(Found::Ours)))
    );
    assert!(
        second
            .undo(&changes)
            .iter()
            .all(|undone| matches!(undone, Ok(Undone::Removed)))
    );
    assert_eq!(other.contents().unwrap(), []);
}

#[test]
fn a_machine_refuses_what_it_was_told_to_refuse_and_does_the_rest() {
    let address = |text: &str| Change::Address {
        device: Device::Loopback,
        address: text.parse().unwrap(),
    };
    let changes = [address("10.107.0.1/32"), address("10.107.0.2/32")];
    let mut machine = Recording::new(owner());
    machine.refuse(changes[0].clone());
    let applied = machine.apply(&changes);
    assert!(matches!(
        applied[..],
        [Err(ChangeError::System { .. }), Ok(Applied::Added)]
    ));
}
