use std::fs;

use super::*;
use crate::backend::{Applied, Backend, ChangeError, Found, Undone};
use crate::{Change, Device, Interface, InterfaceName, Kind, ResolverRule, Route, RouteKind, Suffix};

fn owner() -> Owner {
    Owner::new("devbox").unwrap()
}

fn name() -> InterfaceName {
    InterfaceName::new("devbox0").unwrap()
}

fn tun() -> Change {
    Change::Interface(Interface {
        mtu: Some(1400),
        ..Interface::new(name(), Kind::Tun)
    })
}

fn address(device: Device, text: &str) -> Change {
    Change::Address {
        device,
        address: text.parse().unwrap(),
    }
}

fn route(destination: &str, metric: Option<u32>) -> Change {
    Change::Route(Route {
        destination: destination.parse().unwrap(),
        device: name().into(),
        kind: RouteKind::Unicast,
        metric,
    })
}

fn rule() -> Change {
    Change::Resolver(ResolverRule {
        interface: name(),
        suffixes: vec![Suffix::new("test").unwrap()],
        servers: vec!["127.77.0.1:5353".parse().unwrap()],
    })
}

/// A machine, and what it has run since it was last asked.
struct Stage {
    folder: tempfile::TempDir,
    told: usize,
}

impl Stage {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            told: 0,
        }
    }

    fn machine(&self) -> Aliases<Bsd<Rehearsal>> {
        let os = Rehearsal::to(&self.folder.path().join("script")).unwrap();
        macos(owner(), os, &self.folder.path().join("resolver"))
    }

    fn run(&mut self) -> String {
        let all = fs::read_to_string(self.folder.path().join("script")).unwrap();
        let new = all[self.told..].to_owned();
        self.told = all.len();
        new
    }
}

fn all_are<T: PartialEq + std::fmt::Debug>(outcomes: Vec<Result<T, ChangeError>>, what: &T) {
    for outcome in outcomes {
        assert_eq!(&outcome.unwrap(), what);
    }
}

#[test]
fn snapshot_of_a_macs_commands() {
    let mut stage = Stage::new();
    let mut machine = stage.machine();
    let changes = [
        address(Device::Loopback, "127.77.3.4/32"),
        address(Device::Loopback, "fd77::4/128"),
        tun(),
        address(name().into(), "10.107.0.1/32"),
        address(name().into(), "fd77:1::1/64"),
        route("10.107.0.0/16", None),
        route("fd77:2::/64", None),
        rule(),
    ];
    all_are(machine.find(&changes[..3]), &Found::Absent);
    assert_eq!(stage.run(), "", "to look changes nothing");
    all_are(machine.apply(&changes), &Applied::Added);
    let applied = stage.run();
    all_are(machine.apply(&changes), &Applied::Present);
    assert_eq!(stage.run(), "", "what is there is not added again");
    all_are(machine.undo(&changes), &Undone::Removed);
    let undone = stage.run();
    all_are(machine.undo(&changes), &Undone::Gone);
    assert_eq!(stage.run(), "", "what is gone is not removed again");
    insta::assert_snapshot!(format!("{applied}\n# undone\n{undone}"));
}

#[test]
fn what_is_on_an_interface_goes_before_it() {
    let mut stage = Stage::new();
    let mut machine = stage.machine();
    let on_it = [
        address(name().into(), "10.107.0.1/32"),
        route("10.107.0.0/16", None),
    ];
    all_are(machine.apply(&[tun()]), &Applied::Added);
    all_are(machine.apply(&on_it), &Applied::Added);
    stage.run();
    all_are(machine.undo(&[tun()]), &Undone::Removed);
    assert_eq!(
        stage.run(),
        "/sbin/route -n delete -inet 10.107.0.0/16 -interface utun4\n\
         /sbin/ifconfig utun4 inet 10.107.0.1 -alias\n/sbin/ifconfig utun4 down\n"
    );
    all_are(machine.undo(&on_it), &Undone::Gone);
}

#[test]
fn an_interface_of_another_process_is_none_of_this_one() {
    let stage = Stage::new();
    let mut machine = stage.machine();
    all_are(machine.apply(&[tun()]), &Applied::Added);
    // As after a crash: the interface went with its process.
    let mut next = stage.machine();
    let on_it = address(name().into(), "10.107.0.1/32");
    all_are(next.undo(&[tun(), on_it.clone()]), &Undone::Gone);
    assert!(matches!(
        next.apply(&[on_it]).remove(0),
        Err(ChangeError::Missing { .. })
    ));
    assert!(matches!(next.open_tun(&name()), Err(ChangeError::Missing { .. })));
    assert!(matches!(
        machine.open_tun(&name()),
        Err(ChangeError::Unsupported { .. })
    ));
}

#[test]
fn an_interface_is_found_only_as_it_was_wanted() {
    let stage = Stage::new();
    let mut machine = stage.machine();
    all_are(machine.apply(&[tun()]), &Applied::Added);
    all_are(machine.find(&[tun()]), &Found::Ours);
    let other = Change::Interface(Interface::new(name(), Kind::Tun));
    assert!(matches!(
        machine.find(&[other]).remove(0),
        Err(ChangeError::Differs { .. })
    ));
}

#[test]
fn what_a_mac_lacks_is_refused_before_anything_is_run() {
    let mut stage = Stage::new();
    let mut machine = stage.machine();
    let with_metric = Change::Interface(Interface {
        metric: Some(5),
        ..Interface::new(name(), Kind::Tun)
    });
    let local = Change::Route(Route {
        destination: "10.107.0.0/16".parse().unwrap(),
        device: Device::Loopback,
        kind: RouteKind::Local,
        metric: None,
    });
    let dummy = Change::Interface(Interface::new(name(), Kind::Dummy));
    for change in [with_metric, route("10.107.0.0/16", Some(5)), local, dummy] {
        let refused = machine.apply(std::slice::from_ref(&change)).remove(0);
        assert!(
            matches!(refused, Err(ChangeError::Unsupported { .. })),
            "{change}: {refused:?}"
        );
    }
    assert_eq!(stage.run(), "");
}

#[test]
fn snapshot_of_a_freebsd_machines_commands() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let mut machine = freebsd(owner(), Rehearsal::to(&script).unwrap());
    let changes = ["127.77.3.4/32", "fd77::4/128"].map(|text| address(Device::Loopback, text));
    all_are(machine.apply(&changes), &Applied::Added);
    all_are(machine.undo(&changes), &Undone::Removed);
    for change in [tun(), rule()] {
        let refused = machine.apply(&[change]).remove(0);
        assert!(
            matches!(refused, Err(ChangeError::Unsupported { .. })),
            "{refused:?}"
        );
    }
    insta::assert_snapshot!(fs::read_to_string(&script).unwrap());
}

/// What stands in the way on a Mac with a VPN, before anything is changed.
#[test]
fn conflicts_on_a_mac_are_found_in_what_its_programs_tell() {
    use crate::conflict::{Clash, Intent, Verdict, conflicts};

    let stage = Stage::new();
    let rules = stage.folder.path().join("resolver");
    let os = Rehearsal::to(&stage.folder.path().join("script"))
        .unwrap()
        .answering(
            &ifconfig::routes(),
            include_str!("../parse/samples/netstat-macos-13.txt"),
        )
        .answering(
            &ifconfig::resolvers(),
            include_str!("../parse/samples/scutil-dns.txt"),
        );
    let mut machine = macos(owner(), os, &rules);
    // The system tells of it as of everybody's.
    let ours = Change::Resolver(ResolverRule {
        interface: name(),
        suffixes: vec![Suffix::new("shop.test").unwrap()],
        servers: vec!["127.0.0.1:5353".parse().unwrap()],
    });
    all_are(machine.apply(&[ours]), &Applied::Added);
    let observed = machine.observe().unwrap();
    let told = |prefix: &str, suffix: &str| {
        let intent = Intent {
            prefixes: vec![prefix.parse().unwrap()],
            ports: Vec::new(),
            suffixes: vec![Suffix::new(suffix).unwrap()],
        };
        let found = conflicts(&observed, &intent);
        let blocks = found.iter().filter(|conflict| {
            conflict.verdict == Verdict::Blocks || matches!(conflict.clash, Clash::Tool { .. })
        });
        blocks.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("10.107.0.0/16", "test"), [""; 0]);
    assert_eq!(
        told("10.33.4.0/24", "corp.example"),
        [
            "a route for 10.33.0.0/16 leads to utun4 (a VPN), which 10.33.4.0/24 overlaps; 10.107.0.0/24 is free",
            "names with corp.example are asked elsewhere (utun4), and corp.example covers them; take another suffix, or \
             remove that rule",
        ]
    );
    assert_eq!(told("127.77.0.0/16", "local").len(), 1);
}
