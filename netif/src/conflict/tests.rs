use super::*;
use crate::observed::{SeenAddress, SeenResolver, SeenRoute, Statistics};

fn interface(name: &str, kind: &str) -> Seen {
    Seen {
        name: name.to_owned(),
        index: 0,
        kind: kind.to_owned(),
        ours: false,
        up: true,
        mtu: 1500,
        alias: None,
        statistics: Statistics::default(),
    }
}

fn route(destination: &str, interface: &str) -> SeenRoute {
    SeenRoute {
        destination: destination.parse().unwrap(),
        interface: interface.to_owned(),
        gateway: None,
        kind: RouteKind::Unicast,
        metric: 0,
        ours: false,
    }
}

fn address(address: &str, interface: &str) -> SeenAddress {
    SeenAddress {
        interface: interface.to_owned(),
        address: address.parse().unwrap(),
        ours: false,
    }
}

fn listener(transport: Transport, address: &str) -> Listener {
    Listener {
        transport,
        address: address.parse().unwrap(),
        uid: None,
        program: None,
    }
}

fn intent(prefix: &str) -> Intent {
    Intent {
        prefixes: vec![prefix.parse().unwrap()],
        ports: vec![(Transport::Tcp, 5432)],
        suffixes: vec![Suffix::new("test").unwrap()],
    }
}

fn texts(observed: &Observed, intent: &Intent) -> Vec<String> {
    conflicts(observed, intent)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A machine as many are: a network, its default route, Docker, and a name server.
fn usual() -> Observed {
    Observed {
        interfaces: vec![
            interface("lo", "loopback"),
            interface("eth0", ""),
            interface("docker0", "bridge"),
        ],
        addresses: vec![
            address("127.0.0.1/8", "lo"),
            address("192.168.1.7/24", "eth0"),
            address("172.17.0.1/16", "docker0"),
        ],
        routes: vec![
            route("0.0.0.0/0", "eth0"),
            route("192.168.1.0/24", "eth0"),
            route("172.17.0.0/16", "docker0"),
            SeenRoute {
                kind: RouteKind::Local,
                ..route("127.0.0.0/8", "lo")
            },
        ],
        resolvers: vec![SeenResolver {
            suffix: String::new(),
            servers: Vec::new(),
            place: "eth0".into(),
            ours: false,
        }],
        listeners: vec![listener(Transport::Tcp, "127.0.0.53:53")],
    }
}

#[test]
fn nothing_is_in_the_way_on_a_usual_machine() {
    for prefix in ["127.77.0.0/16", "10.107.0.0/16", "fd77:6465:76::/64"] {
        assert_eq!(texts(&usual(), &intent(prefix)), [""; 0], "{prefix}");
    }
}

#[test]
fn a_vpn_that_takes_all_private_addresses_blocks_and_something_else_is_found() {
    let mut observed = usual();
    observed.interfaces.push(interface("corp0", "wireguard"));
    observed.routes.push(route("10.0.0.0/8", "corp0"));
    let found = conflicts(&observed, &intent("10.107.0.0/16"));
    assert_eq!((found.len(), found[0].verdict), (1, Verdict::Blocks));
    assert_eq!(
        found[0].to_string(),
        "a route for 10.0.0.0/8 leads to corp0 (a VPN), which 10.107.0.0/16 overlaps; 172.16.0.0/16 is free"
    );
}

#[test]
fn a_network_of_containers_blocks_and_the_next_free_prefix_is_told() {
    let mut observed = usual();
    observed.interfaces.push(interface("br-0a1b", "bridge"));
    observed.addresses.push(address("10.107.0.1/16", "br-0a1b"));
    observed.routes.push(route("10.107.0.0/16", "br-0a1b"));
    assert_eq!(
        texts(&observed, &intent("10.107.0.0/16")),
        [
            "br-0a1b (containers) has the address 10.107.0.1/16 of 10.107.0.0/16; 10.112.0.0/16 is free",
            "a route for 10.107.0.0/16 leads to br-0a1b (containers), which 10.107.0.0/16 overlaps; 10.112.0.0/16 is free",
        ]
    );
}

#[test]
fn what_is_ours_is_not_in_the_way() {
    let mut observed = usual();
    observed.addresses.push(SeenAddress {
        ours: true,
        ..address("10.107.0.1/16", "devbox0")
    });
    observed.routes.push(SeenRoute {
        ours: true,
        ..route("10.107.0.0/16", "devbox0")
    });
    assert!(conflicts(&observed, &intent("10.107.0.0/16")).is_empty());
}

#[test]
fn ranges_of_other_tools_are_a_warning() {
    for (prefix, tool) in [
        ("127.1.0.0/16", "kubefwd"),
        ("127.0.0.0/16", "kftray"),
        ("172.18.0.0/16", "Docker"),
        ("100.100.0.0/16", "Tailscale"),
    ] {
        let found = conflicts(&Observed::default(), &intent(prefix));
        assert!(
            found.iter().all(|conflict| conflict.verdict == Verdict::Warns),
            "{prefix}"
        );
        let told = found.iter().any(
            |conflict| matches!(conflict.clash, Clash::Tool { tool: told, .. } if told.starts_with(tool)),
        );
        assert!(told, "{prefix}: {found:?}");
        assert!(matches!(found[0].fix, Fix::UsePrefix(_)), "{prefix}");
    }
}

#[test]
fn a_vpn_that_has_everything_is_in_nobodys_way() {
    let mut observed = usual();
    for half in ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"] {
        observed.routes.push(route(half, "tun0"));
    }
    for prefix in ["10.107.0.0/16", "fd77:6465:76::/64"] {
        assert_eq!(texts(&observed, &intent(prefix)), [""; 0], "{prefix}");
    }
}

#[test]
fn listeners_on_wanted_ports_block_where_they_take_our_connections() {
    let verdict = |transport, address| {
        let observed = Observed {
            listeners: vec![listener(transport, address)],
            ..Observed::default()
        };
        let found = conflicts(&observed, &intent("127.77.0.0/16"));
        found
            .first()
            .map(|conflict| (conflict.verdict, conflict.fix.clone()))
    };
    let blocks = Some((Verdict::Blocks, Fix::FreePort));
    assert_eq!(verdict(Transport::Tcp, "0.0.0.0:5432"), blocks);
    assert_eq!(verdict(Transport::Tcp, "[::]:5432"), blocks);
    // The prefix has others.
    assert_eq!(
        verdict(Transport::Tcp, "127.77.3.4:5432"),
        Some((Verdict::Warns, Fix::OtherAddress))
    );
    assert_eq!(verdict(Transport::Tcp, "127.0.0.1:5432"), None);
    assert_eq!(verdict(Transport::Tcp, "[::1]:5432"), None);
    assert_eq!(verdict(Transport::Tcp, "0.0.0.0:5433"), None);
    assert_eq!(verdict(Transport::Udp, "0.0.0.0:5432"), None);
    let observed = Observed {
        listeners: vec![listener(Transport::Tcp, "127.77.3.4:5432")],
        ..Observed::default()
    };
    assert_eq!(
        conflicts(&observed, &intent("127.77.3.4/32"))[0].verdict,
        Verdict::Blocks
    );
}

#[test]
fn addresses_of_the_loopback_interface_are_passed_over_by_a_pool_there() {
    let mut observed = usual();
    observed.addresses.push(address("127.77.3.4/32", "lo"));
    let found = conflicts(&observed, &intent("127.77.0.0/16"));
    assert_eq!(
        (found.len(), found[0].verdict, &found[0].fix),
        (1, Verdict::Warns, &Fix::OtherAddress)
    );
}

/// All that a program may read: each kind of clash, verdict and fix.
#[test]
fn snapshot_of_conflicts_as_data() {
    let mut observed = usual();
    observed.interfaces.push(interface("corp0", "wireguard"));
    observed.routes.push(route("10.0.0.0/8", "corp0"));
    observed.addresses.push(address("10.107.0.1/16", "br-0a1b"));
    observed.listeners = vec![
        Listener {
            uid: Some(501),
            program: Some(crate::observed::Program {
                name: "postgres".to_owned(),
                pid: 4242,
            }),
            ..listener(Transport::Tcp, "0.0.0.0:5432")
        },
        Listener {
            uid: Some(105),
            ..listener(Transport::Tcp, "10.107.3.4:5432")
        },
        listener(Transport::Tcp, "[::]:5432"),
    ];
    observed.resolvers.push(SeenResolver {
        suffix: "shop.test".to_owned(),
        servers: vec!["10.0.0.53:53".parse().unwrap()],
        place: "corp0".to_owned(),
        ours: false,
    });
    let mut intent = intent("10.107.0.0/16");
    intent.prefixes.push("127.1.0.0/16".parse().unwrap());
    let found = conflicts(&observed, &intent);
    let lines: Vec<String> = found
        .iter()
        .map(|conflict| format!("{conflict}\n  {}", serde_json::to_string(conflict).unwrap()))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_narrower_rule_of_somebody_else_takes_names_from_ours() {
    let blocked = |suffix: &str| {
        let rule = SeenResolver {
            suffix: suffix.into(),
            servers: Vec::new(),
            place: "wg0".into(),
            ours: false,
        };
        !conflicts(
            &Observed {
                resolvers: vec![rule],
                ..Observed::default()
            },
            &intent("127.77.0.0/16"),
        )
        .is_empty()
    };
    assert!(blocked("test"));
    assert!(blocked("a.test"));
    assert!(!blocked(""));
    assert!(!blocked("example"));
}

#[test]
fn a_prefix_for_which_there_is_no_other_is_told_so() {
    let mut observed = usual();
    observed.routes.push(route("10.0.0.0/8", "wg0"));
    observed.routes.push(route("172.16.0.0/12", "wg0"));
    assert_eq!(
        conflicts(&observed, &intent("10.107.0.0/16"))[0].fix,
        Fix::OtherPrefix
    );
}
