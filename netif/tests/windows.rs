//! The real registry of a Windows machine, or of Wine, as an administrator.
#![cfg(windows)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use netif::{
    Applied, Backend, Change, ChangeError, Found, Interface, InterfaceName, Kind, Owner, Place, Reason,
    ResolverRule, Subnet, Suffix, Support, Undone, Wanted, plan,
};
use windows_registry::LOCAL_MACHINE;

const RULES: &str = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig";

fn rule(suffixes: &[&str], server: &str) -> Change {
    Change::Resolver(ResolverRule {
        interface: InterfaceName::new("devbox0").unwrap(),
        suffixes: suffixes
            .iter()
            .map(|suffix| Suffix::new(suffix).unwrap())
            .collect(),
        servers: vec![server.parse().unwrap()],
    })
}

fn machine() -> Box<dyn Backend> {
    netif::system(&Owner::new("devbox").unwrap()).unwrap()
}

fn only<T>(mut outcomes: Vec<Result<T, ChangeError>>) -> Result<T, ChangeError> {
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

#[test]
fn a_rule_is_written_to_the_registry_found_by_another_process_and_removed() {
    let wanted = [rule(&["one.example", "two.example"], "127.77.0.1:53")];
    assert_eq!(only(machine().apply(&wanted)).unwrap(), Applied::Added);
    let key = LOCAL_MACHINE
        .open(format!(r"{RULES}\netif-devbox-one.example"))
        .unwrap();
    assert_eq!(key.get_multi_string("Name").unwrap()[0], ".one.example");
    assert_eq!(key.get_string("GenericDNSServers").unwrap(), "127.77.0.1");
    assert_eq!(
        (
            key.get_u32("ConfigOptions").unwrap(),
            key.get_u32("Version").unwrap()
        ),
        (8, 2)
    );
    drop(key);
    // As another one would, after a crash.
    assert_eq!(only(machine().find(&wanted)).unwrap(), Found::Ours);
    let other = rule(&["one.example"], "127.77.0.2:53");
    assert!(matches!(
        only(machine().apply(&[other])),
        Err(ChangeError::Differs { .. })
    ));
    assert_eq!(only(machine().undo(&wanted)).unwrap(), Undone::Removed);
    assert_eq!(only(machine().undo(&wanted)).unwrap(), Undone::Gone);
    assert!(
        LOCAL_MACHINE
            .open(format!(r"{RULES}\netif-devbox-one.example"))
            .is_err()
    );
}

#[test]
fn a_rule_that_an_administrator_made_stays() {
    let theirs = format!(r"{RULES}\{{5D0CFF7A-9B5C-4D4F-8E8D-6A3E0B5B7A10}}");
    let key = LOCAL_MACHINE.create(&theirs).unwrap();
    key.set_multi_string("Name", &[".three.example"]).unwrap();
    key.set_string("GenericDNSServers", "10.0.0.1").unwrap();
    let wanted = [rule(&["three.example"], "127.77.0.1:53")];
    assert!(matches!(
        only(machine().apply(&wanted)),
        Err(ChangeError::Foreign { .. })
    ));
    assert!(matches!(only(machine().undo(&wanted)), Ok(Undone::Left { .. })));
    assert_eq!(key.get_string("GenericDNSServers").unwrap(), "10.0.0.1");
    drop(key);
    LOCAL_MACHINE.remove_tree(&theirs).unwrap();
}

#[test]
fn a_server_at_another_port_is_refused() {
    let refused = only(machine().apply(&[rule(&["four.example"], "127.77.0.1:5353")]));
    assert!(
        matches!(refused, Err(ChangeError::Unsupported { .. })),
        "{refused:?}"
    );
}

/// `wintun.dll` comes with whoever wants interfaces, beside their program; there is none beside this one.
#[test]
fn without_wintun_there_is_no_interface_and_a_plan_takes_loopback_and_says_why() {
    let mut machine = machine();
    let can = machine.capabilities();
    let Support::Missing(why) = &can.tun else {
        panic!("there is a wintun.dll beside this test")
    };
    assert!(
        why.starts_with("there is no ") && why.ends_with(r"\wintun.dll"),
        "{why}"
    );
    let name = InterfaceName::new("devbox0").unwrap();
    let wanted = Change::Interface(Interface::new(name.clone(), Kind::Tun));
    let refused = only(machine.apply(std::slice::from_ref(&wanted)));
    assert!(
        matches!(&refused, Err(ChangeError::Unsupported { what }) if what.contains(why)),
        "{refused:?}"
    );
    assert_eq!(only(machine.undo(&[wanted])).unwrap(), Undone::Gone);
    assert!(matches!(
        machine.open_tun(&name),
        Err(ChangeError::Missing { .. })
    ));
    let plan = plan(
        &can,
        &Wanted {
            place: Place::Tun,
            interface: name,
            mtu: None,
            metric: None,
            subnets: vec![Subnet {
                prefix: "10.107.0.0/16".parse().unwrap(),
                addresses: vec!["10.107.3.4".parse().unwrap()],
            }],
            resolver: None,
        },
    );
    assert_eq!(
        plan.reasons,
        [Reason::Fallback {
            from: Place::Tun,
            to: Place::Loopback,
            why: why.clone()
        }]
    );
    assert_eq!(plan.changes[0].to_string(), "address 10.107.3.4/32 on loopback");
}

#[test]
fn what_is_there_is_seen_with_the_names_of_its_interfaces() {
    let seen = machine().observe().unwrap();
    let loopback = seen
        .interfaces
        .iter()
        .find(|interface| interface.kind == "loopback");
    let loopback = loopback.unwrap_or_else(|| panic!("{:?}", seen.interfaces));
    assert!(loopback.up && !loopback.name.is_empty(), "{loopback:?}");
    let is_local = |address: &&netif::observed::SeenAddress| address.address.addr().is_loopback();
    let local: Vec<_> = seen.addresses.iter().filter(is_local).collect();
    assert!(
        !local.is_empty() && local.iter().all(|address| address.interface == loopback.name),
        "{local:?}"
    );
    for route in &seen.routes {
        assert!(
            seen.interface(&route.interface).is_some() && !route.ours,
            "{route:?}"
        );
    }
}
