//! The real kernel. Each test has a network namespace of its own, in which ip(8) is somebody else.
//!
//! What a kernel lacks is skipped: `cargo xtask vm-test` runs these tests on a distribution's kernel, which has everything.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netif::observed::{Listener, Transport};
use netif::{
    Applied, Backend, Change, ChangeError, Device, Found, Interface, InterfaceName, Kind, Observed, Owner,
    Route, RouteKind, Support, Undone,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread that is alone in a network namespace; what it starts is in it as well.
fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("SKIP {name}: no network namespace can be made: {error}");
                return;
            }
            if Command::new("ip").arg("-V").output().is_err() {
                eprintln!("SKIP {name}: there is no ip(8), of iproute2");
                return;
            }
            ip("link set lo up");
            test();
        });
        if let Err(panic) = running.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `test` with each kind of interface that this kernel has, each in a namespace of its own.
fn with_each_kind(name: &str, test: fn(Kind)) {
    for kind in [Kind::Dummy, Kind::Tun] {
        in_namespace(name, || {
            let capabilities = machine().capabilities();
            let support = match kind {
                Kind::Dummy => capabilities.dummy,
                Kind::Tun => capabilities.tun,
            };
            match support {
                Support::Available => test(kind),
                Support::Missing(why) => eprintln!("SKIP {name}: {why}"),
            }
        });
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {said}");
}

fn owner() -> Owner {
    Owner::new("devbox").unwrap()
}

fn machine() -> Box<dyn Backend> {
    netif::system(&owner()).unwrap()
}

fn name() -> InterfaceName {
    InterfaceName::new("devbox0").unwrap()
}

fn interface(kind: Kind) -> Change {
    Change::Interface(Interface::new(name(), kind))
}

fn address(device: Device, address: &str) -> Change {
    Change::Address {
        device,
        address: address.parse().unwrap(),
    }
}

fn local_route(device: Device, destination: &str) -> Change {
    let destination = destination.parse().unwrap();
    Change::Route(Route {
        destination,
        device,
        kind: RouteKind::Local,
        metric: None,
    })
}

/// Applies what is expected to be new.
fn add(machine: &mut dyn Backend, changes: &[Change]) {
    for (change, outcome) in changes.iter().zip(machine.apply(changes)) {
        assert_eq!(outcome.unwrap(), Applied::Added, "{change}");
    }
}

/// Undoes what is expected to be there.
fn remove(machine: &mut dyn Backend, changes: &[Change]) {
    for (change, outcome) in changes.iter().zip(machine.undo(changes)) {
        assert_eq!(outcome.unwrap(), Undone::Removed, "{change}");
    }
}

fn only<T>(mut outcomes: Vec<Result<T, ChangeError>>) -> Result<T, ChangeError> {
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// All but what changes by itself.
fn seen(machine: &mut dyn Backend) -> Observed {
    let mut observed = machine.observe().unwrap();
    for interface in &mut observed.interfaces {
        interface.statistics = netif::observed::Statistics::default();
    }
    observed.addresses.sort();
    observed.routes.sort();
    observed
}

/// Whether a connection to the address arrives.
fn carries(address: IpAddr) {
    let listener = TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
    let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    caller.write_all(b"x").unwrap();
    let (mut callee, from) = listener.accept().unwrap();
    let mut byte = [0];
    callee.read_exact(&mut byte).unwrap();
    // From 127.0.0.1 to any other address of its prefix.
    assert!(from.ip() == address || address.is_loopback(), "{from}");
    assert_eq!(byte, *b"x");
}

fn bindable(address: &str) -> bool {
    UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).is_ok()
}

#[test]
fn an_interface_has_addresses_of_both_families_and_is_undone() {
    with_each_kind(
        "an_interface_has_addresses_of_both_families_and_is_undone",
        |kind| {
            let mut machine = machine();
            let before = seen(&mut *machine);
            let changes = [
                Change::Interface(Interface {
                    mtu: Some(1400),
                    metric: Some(77),
                    ..Interface::new(name(), kind)
                }),
                address(name().into(), "10.107.3.4/24"),
                address(name().into(), "10.108.0.1/32"),
                address(name().into(), "fd77::4/64"),
                local_route(name().into(), "10.109.0.0/16"),
            ];
            add(&mut *machine, &changes);
            for address in ["10.107.3.4", "10.108.0.1", "fd77::4", "10.109.77.1"] {
                carries(address.parse().unwrap());
            }
            let observed = machine.observe().unwrap();
            let made = observed.interface("devbox0").unwrap();
            let found = (made.ours, made.up, made.mtu, made.alias.as_deref());
            assert_eq!(found, (true, true, 1400, Some("devbox:netif metric 77")));
            let prefix: IpNet = "10.107.3.0/24".parse().unwrap();
            let route = observed
                .routes
                .iter()
                .find(|route| route.destination == prefix)
                .unwrap();
            assert_eq!((route.metric, route.interface.as_str()), (77, "devbox0"));
            for found in machine.find(&changes) {
                assert_eq!(found.unwrap(), Found::Ours);
            }
            for outcome in machine.apply(&changes) {
                assert_eq!(outcome.unwrap(), Applied::Present);
            }
            remove(&mut *machine, &changes);
            assert_eq!(seen(&mut *machine), before);
            for outcome in machine.undo(&changes) {
                assert_eq!(outcome.unwrap(), Undone::Gone);
            }
        },
    );
}

#[test]
fn another_process_undoes_what_one_left() {
    with_each_kind("another_process_undoes_what_one_left", |kind| {
        let mut first = machine();
        let before = seen(&mut *first);
        let changes = [
            interface(kind),
            address(name().into(), "10.107.3.4/32"),
            address(Device::Loopback, "10.99.0.1/32"),
            local_route(Device::Loopback, "10.98.0.0/16"),
        ];
        add(&mut *first, &changes);
        drop(first);
        let mut second = machine();
        let outcomes: Vec<_> = second.undo(&changes).into_iter().map(Result::unwrap).collect();
        // The kernel removes a TUN interface with its last descriptor, and what was on it.
        let interfaces = match kind {
            Kind::Dummy => Undone::Removed,
            Kind::Tun => Undone::Gone,
        };
        assert_eq!(
            outcomes,
            [interfaces.clone(), interfaces, Undone::Removed, Undone::Removed]
        );
        assert_eq!(seen(&mut *second), before);
    });
}

#[test]
fn a_dummy_whose_maker_was_killed_before_it_was_marked_is_ours() {
    in_namespace(
        "a_dummy_whose_maker_was_killed_before_it_was_marked_is_ours",
        || {
            let mut machine = machine();
            if let Support::Missing(why) = machine.capabilities().dummy {
                eprintln!("SKIP a_dummy_whose_maker_was_killed_before_it_was_marked_is_ours: {why}");
                return;
            }
            ip("link add devbox0 type dummy");
            assert_eq!(
                only(machine.undo(&[interface(Kind::Dummy)])).unwrap(),
                Undone::Removed
            );
        },
    );
}

#[test]
fn a_prefix_is_this_machines_own_by_one_route() {
    in_namespace("a_prefix_is_this_machines_own_by_one_route", || {
        let mut machine = machine();
        let before = seen(&mut *machine);
        let change = local_route(Device::Loopback, "10.107.0.0/16");
        assert!(!bindable("10.107.255.254"));
        let start = Instant::now();
        add(&mut *machine, std::slice::from_ref(&change));
        let took = start.elapsed();
        eprintln!("65,536 addresses by one route: {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        carries("10.107.0.1".parse().unwrap());
        carries("10.107.255.254".parse().unwrap());
        remove(&mut *machine, &[change]);
        assert!(!bindable("10.107.255.254"));
        assert_eq!(seen(&mut *machine), before);
    });
}

#[test]
fn addresses_of_127_need_no_change() {
    in_namespace("addresses_of_127_need_no_change", || {
        assert!(machine().capabilities().whole_127);
        carries("127.77.3.4".parse().unwrap());
    });
}

/// The most capable kind of interface that this kernel has.
fn best_kind(machine: &mut dyn Backend) -> Option<Kind> {
    let capabilities = machine.capabilities();
    let kinds = [(Kind::Dummy, capabilities.dummy), (Kind::Tun, capabilities.tun)];
    kinds
        .into_iter()
        .find(|(_, support)| support.is_available())
        .map(|(kind, _)| kind)
}

#[test]
fn single_addresses_of_a_whole_pool_are_there_within_seconds() {
    in_namespace(
        "single_addresses_of_a_whole_pool_are_there_within_seconds",
        || {
            let mut machine = machine();
            let pool: IpNet = "10.107.0.0/16".parse().unwrap();
            let kind = best_kind(&mut *machine);
            let device = kind.map_or(Device::Loopback, |_| name().into());
            let made: Vec<_> = kind.map(interface).into_iter().collect();
            add(&mut *machine, &made);
            let before = seen(&mut *machine);
            let each = |address: IpAddr| local_route(device.clone(), &IpNet::from(address).to_string());
            let changes: Vec<_> = pool.hosts().map(each).collect();
            let start = Instant::now();
            add(&mut *machine, &changes);
            let added = start.elapsed();
            carries("10.107.255.254".parse().unwrap());
            let start = Instant::now();
            assert_eq!(only(machine.find(&changes[..1])).unwrap(), Found::Ours);
            let found = start.elapsed();
            let start = Instant::now();
            remove(&mut *machine, &changes);
            let removed = start.elapsed();
            eprintln!(
                "{} single addresses on {device} ({kind:?}): added in {added:?}, one found in {found:?}, removed in {removed:?}",
                changes.len()
            );
            // An emulated processor is twenty times as slow as the one it runs on; `tests/vm/run` says so.
            let emulated = std::env::var_os("DEVBOX_EMULATED").is_some();
            let limit = Duration::from_secs(if emulated { 120 } else { 10 });
            assert!(added < limit, "{added:?}");
            assert!(removed < limit, "{removed:?}");
            assert_eq!(seen(&mut *machine), before);
        },
    );
}

#[test]
fn a_thousand_addresses_of_an_interface_are_added_and_removed_in_batches() {
    in_namespace(
        "a_thousand_addresses_of_an_interface_are_added_and_removed_in_batches",
        || {
            let mut machine = machine();
            let before = seen(&mut *machine);
            let kind = best_kind(&mut *machine);
            let device = kind.map_or(Device::Loopback, |_| name().into());
            let v4 = (0..1000).map(|index| format!("10.107.{}.{}/32", index / 250, index % 250 + 1));
            let v6 = (1..=1000).map(|index| format!("fd77::{index:x}/128"));
            let mut changes: Vec<_> = kind.map(interface).into_iter().collect();
            changes.extend(v4.chain(v6).map(|text| address(device.clone(), &text)));
            let start = Instant::now();
            add(&mut *machine, &changes);
            eprintln!(
                "{} addresses on {device} ({kind:?}): {:?}",
                changes.len(),
                start.elapsed()
            );
            carries("10.107.3.250".parse().unwrap());
            carries("fd77::3e8".parse().unwrap());
            remove(&mut *machine, &changes);
            assert_eq!(seen(&mut *machine), before);
        },
    );
}

#[test]
fn what_is_somebody_elses_is_used_and_stays() {
    in_namespace("what_is_somebody_elses_is_used_and_stays", || {
        let mut machine = machine();
        ip("addr add 10.9.0.1/32 dev lo");
        ip("-6 addr add fd99::1/128 dev lo");
        ip("route add local 10.8.0.0/16 dev lo");
        let before = seen(&mut *machine);
        let changes = [
            address(Device::Loopback, "10.9.0.1/32"),
            address(Device::Loopback, "fd99::1/128"),
            local_route(Device::Loopback, "10.8.0.0/16"),
        ];
        for found in machine.find(&changes) {
            assert_eq!(found.unwrap(), Found::Theirs);
        }
        for applied in machine.apply(&changes) {
            assert_eq!(applied.unwrap(), Applied::Present);
        }
        for undone in machine.undo(&changes) {
            assert!(matches!(undone, Ok(Undone::Left { .. })), "{undone:?}");
        }
        assert_eq!(seen(&mut *machine), before);
    });
}

#[test]
fn an_interface_of_somebody_else_is_never_touched() {
    in_namespace("an_interface_of_somebody_else_is_never_touched", || {
        let mut machine = machine();
        // It has one of our names.
        ip("link add devbox0 type veth peer name other");
        ip("link set devbox0 alias vpn");
        let before = seen(&mut *machine);
        let changes = [
            interface(Kind::Tun),
            address(name().into(), "10.107.3.4/32"),
            local_route(name().into(), "10.8.0.0/16"),
        ];
        for outcome in machine.apply(&changes) {
            assert!(matches!(outcome, Err(ChangeError::Foreign { .. })), "{outcome:?}");
        }
        for undone in machine.undo(&changes) {
            assert!(matches!(undone, Ok(Undone::Left { .. })), "{undone:?}");
        }
        let stranger = [address(
            InterfaceName::new("other").unwrap().into(),
            "10.107.3.4/32",
        )];
        assert!(matches!(
            only(machine.apply(&stranger)),
            Err(ChangeError::Name { .. })
        ));
        assert!(matches!(
            only(machine.undo(&stranger)),
            Err(ChangeError::Name { .. })
        ));
        assert_eq!(seen(&mut *machine), before);
    });
}

#[test]
fn one_failure_leaves_the_others_and_is_told() {
    in_namespace("one_failure_leaves_the_others_and_is_told", || {
        let mut machine = machine();
        let before = seen(&mut *machine);
        let changes = [
            address(Device::Loopback, "10.9.0.1/32"),
            address(name().into(), "10.9.0.2/32"),
            local_route(Device::Loopback, "10.8.0.1/16"),
            address(Device::Loopback, "224.0.0.1/32"),
            address(Device::Loopback, "10.9.0.3/32"),
        ];
        let outcomes = machine.apply(&changes);
        assert!(matches!(
            &outcomes[..],
            [
                Ok(Applied::Added),
                Err(ChangeError::Missing { .. }),
                Err(ChangeError::Invalid { .. }),
                Err(ChangeError::Invalid { .. }),
                Ok(Applied::Added)
            ]
        ));
        carries("10.9.0.3".parse().unwrap());
        machine.undo(&changes);
        assert_eq!(seen(&mut *machine), before);
    });
}

#[test]
fn packets_of_a_tun_interface_come_by_its_descriptor() {
    in_namespace("packets_of_a_tun_interface_come_by_its_descriptor", || {
        let mut machine = machine();
        if let Support::Missing(why) = machine.capabilities().tun {
            eprintln!("SKIP packets_of_a_tun_interface_come_by_its_descriptor: {why}");
            return;
        }
        assert!(matches!(
            machine.open_tun(&name()),
            Err(ChangeError::Missing { .. })
        ));
        add(
            &mut *machine,
            &[interface(Kind::Tun), address(name().into(), "10.107.3.4/24")],
        );
        let handle = machine.open_tun(&name()).unwrap();
        let socket = UdpSocket::bind("10.107.3.4:0").unwrap();
        socket
            .send_to(b"to somebody in the prefix", "10.107.3.9:7")
            .unwrap();
        // The kernel may send packets of its own first (router solicitations).
        let mut packet = [0; 2048];
        let deadline = Instant::now() + Duration::from_secs(10);
        let read = loop {
            match nix::unistd::read(&handle, &mut packet) {
                Ok(length) if packet[..length].ends_with(b"to somebody in the prefix") => break length,
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < deadline, "the packet did not come");
        };
        assert_eq!(
            (packet[0] >> 4, &packet[16..20]),
            (4, &[10, 107, 3, 9][..]),
            "{read}"
        );
        let carried = machine
            .observe()
            .unwrap()
            .interface("devbox0")
            .unwrap()
            .statistics;
        assert!(
            carried.sent_packets >= 1 && carried.sent_bytes >= 53,
            "{carried:?}"
        );
    });
}

#[test]
fn sockets_that_listen_are_seen() {
    in_namespace("sockets_that_listen_are_seen", || {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let expected = |transport, address: SocketAddr| Listener {
            transport,
            address,
            uid: Some(nix::unistd::getuid().as_raw()),
            program: None,
        };
        let listeners = machine().observe().unwrap().listeners;
        assert!(
            listeners.contains(&expected(Transport::Tcp, tcp.local_addr().unwrap())),
            "{listeners:?}"
        );
        assert!(
            listeners.contains(&expected(Transport::Udp, udp.local_addr().unwrap())),
            "{listeners:?}"
        );
    });
}
