//! What callers of the installed helper must not get: each is refused with a reason, is in the log, and changes nothing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use devbox_helper_client::{
    Client, Endpoint, Error, Handshake, HelperError, InterfaceKind, NewInterface, NewResolver, Request,
    Token, UserEdit, encode,
};

use crate::blocks::block;
use crate::stage::{Place, strings};

fn add(address: &str) -> Request {
    Request::AddAddresses {
        addresses: strings(&[address]),
        interface: None,
    }
}

fn add_on(address: &str, interface: &str) -> Request {
    Request::AddAddresses {
        addresses: strings(&[address]),
        interface: Some(interface.into()),
    }
}

fn pool(pool: &str) -> Request {
    Request::OpenPool { pool: pool.into() }
}

fn interface(name: &str, mtu: Option<u32>) -> Request {
    Request::CreateInterface {
        interface: NewInterface {
            name: name.into(),
            kind: InterfaceKind::Dummy,
            mtu,
        },
    }
}

fn resolver(interface: &str, suffixes: &[&str], servers: &[&str]) -> Request {
    Request::SetResolver {
        rule: NewResolver {
            interface: interface.into(),
            suffixes: strings(suffixes),
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
        },
    }
}

fn name(name: &str) -> Request {
    Request::SetHosts {
        block: block("devbox-x", &[("127.77.0.9", &[name])]),
    }
}

fn hosts(tag: &str, address: &str) -> Request {
    Request::SetHosts {
        block: block(tag, &[(address, &["web"])]),
    }
}

fn bind(address: &str) -> Request {
    Request::Bind {
        endpoint: Endpoint::tcp(address.parse().unwrap()),
    }
}

fn forbidden() -> Vec<Request> {
    let long = format!("devbox{}", "0".repeat(20));
    let mut all = vec![
        Request::EditHosts {
            edits: vec![UserEdit::RemoveBlock { tag: "mine".into() }],
        },
        Request::RestoreHosts { content: Vec::new() },
        Request::Another,
        Request::Hold { grace_ms: 5001 },
        Request::Hold { grace_ms: u32::MAX },
        Request::Resume {
            token: Token(String::new()),
        },
        Request::Resume {
            token: Token("0".repeat(32)),
        },
        Request::OpenTun {
            name: "devbox9".into(),
        },
        Request::OpenTun { name: "tun0".into() },
        Request::RemoveInterface { name: "eth0".into() },
        Request::RemoveInterface {
            name: "devbox9".into(),
        },
        Request::RemoveAddresses {
            addresses: strings(&["127.77.0.99"]),
            interface: None,
        },
        Request::RemoveAddresses {
            addresses: strings(&["10.0.0.1/33"]),
            interface: None,
        },
        interface("eth0", None),
        interface("lo", None),
        interface("docker0", None),
        interface("devbox 0", None),
        interface("devbox\n0", None),
        interface("devbox/0", None),
        interface("../devbox0", None),
        interface("DEVBOX0", None),
        interface("", None),
        interface(&long, None),
        interface("devbox8", Some(0)),
        interface("devbox8", Some(1279)),
        interface("devbox8", Some(u32::MAX)),
        // Another claim's.
        interface("devbox1", None),
        resolver("devbox1", &["shop.internal"], &["127.77.0.2:53"]),
        resolver("eth0", &["shop.internal"], &["127.77.0.2:53"]),
        resolver("devbox9", &[], &["127.77.0.2:53"]),
        resolver("devbox9", &["shop.internal"], &[]),
        Request::ClearResolver {
            rule: NewResolver {
                interface: "devbox1".into(),
                suffixes: strings(&["held.internal"]),
                servers: vec!["127.77.0.2:53".parse().unwrap()],
            },
        },
        hosts("mine", "127.77.0.9"),
        hosts("devbox-", "127.77.0.9"),
        hosts("devbox-x y", "127.77.0.9"),
        hosts("devbox-x\n10.0.0.1 bank.com", "127.77.0.9"),
        hosts("devbox-x", "8.8.8.8"),
        hosts("devbox-x", "127.0.0.1"),
        hosts("devbox-x", "0.0.0.0"),
        hosts("devbox-x", "::1"),
        hosts("devbox-held", "127.77.0.9"),
        bind("127.77.0.9:0"),
        bind("127.0.0.1:80"),
        bind("0.0.0.0:80"),
        bind("192.168.1.1:22"),
        bind("[::]:80"),
    ];
    all.extend(
        [
            "",
            "x",
            "10.107.0.1/33",
            "10.107.0.1/-1",
            "10.107.0.256",
            "fd00:77::1/129",
            "10.107.0.1 ",
            "10.107.0.1/16/16",
        ]
        .map(add),
    );
    all.extend(
        [
            "10.107.0.0/16",
            "10.107.255.255/16",
            "10.107.0.1/8",
            "8.8.8.8",
            "127.0.0.1",
            "127.0.0.53",
            "0.0.0.0",
            "::1",
        ]
        .map(add),
    );
    all.extend(["10.107.0.1/24"].map(|address| add_on(address, "devbox1")));
    all.extend(["eth0", "lo", "devbox9", "", "a\nb"].map(|interface| add_on("10.107.0.1/24", interface)));
    all.extend(
        [
            "10.107.0.1/16",
            "10.107.0.0/33",
            "10.107.0.0",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "8.8.8.0/24",
            "::/0",
            "fd00:78::/64",
            "",
        ]
        .map(pool),
    );
    all.extend(
        [
            "localhost",
            "web.localhost",
            "ip6-loopback",
            "wpad",
            "a b",
            "a\nb",
            "a\tb",
            "..",
            "a..b",
            ".a",
            "a.",
            "UP.x",
            "a#b",
            "127.0.0.1",
            "web.7",
            "",
            "bank.com",
            "www.bank.com",
            "example.com",
            "gov.uk",
            "printer.local",
        ]
        .map(name),
    );
    all.extend(
        [
            ".",
            "",
            "com",
            "co.uk",
            "bank.com",
            "localhost",
            "a b",
            "a\nb",
            "..",
            "UP",
        ]
        .map(|suffix| resolver("devbox2", &[suffix], &["127.77.0.2:53"])),
    );
    all.extend(
        ["8.8.8.8:53", "127.0.0.53:53", "0.0.0.0:53"]
            .map(|server| resolver("devbox2", &["shop.internal"], &[server])),
    );
    // The suffix of another claim.
    all.push(resolver("devbox2", &["held.internal"], &["127.77.0.2:53"]));
    all
}

#[test]
fn forbidden_requests_are_refused_with_a_reason_and_logged() {
    let place = Place::new();
    let _server = place.start();
    let mut holder = place.client();
    holder
        .set_hosts(block("devbox-held", &[("127.77.0.8", &["held"])]))
        .unwrap();
    holder.request(&interface("devbox1", None)).unwrap();
    holder
        .request(&resolver("devbox1", &["held.internal"], &["127.77.0.8:53"]))
        .unwrap();
    let mut client = place.client();
    client.request(&interface("devbox2", None)).unwrap();
    let before = (place.hosts_text(), place.network());
    let forbidden = forbidden();
    assert!(forbidden.len() >= 100, "{}", forbidden.len());
    place.logged();
    for request in forbidden {
        match client.request(&request) {
            Err(Error::Helper(error)) => {
                let reason = error.to_string();
                assert!(reason.len() > 10, "{request:?}: {reason}");
                let logged = place.logged();
                assert_eq!(logged.len(), 1, "{request:?}");
                assert!(
                    logged[0].contains("DEVBOX_OUTCOME=refused"),
                    "{request:?}: {logged:?}"
                );
                assert!(logged[0].contains(&reason), "{request:?}: {reason}: {logged:?}");
            }
            other => panic!("{request:?}: {other:?}"),
        }
        assert_eq!((place.hosts_text(), place.network()), before, "{request:?}");
    }
    drop((client, holder));
    place.await_untouched();
}

/// A connection that writes what it likes.
fn raw(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.path("socket")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// What comes until the other end closes.
fn rest(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well: what it had not read is lost.
    stream.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_writer_is_let_go() {
    let place = Place::new();
    let _server = place.start();
    let hello = encode(&Handshake::hello()).unwrap();
    let mut idle = place.client();
    // No hello, half of one, and half a request: the server's patience is 300 ms here.
    let begun = Instant::now();
    for sent in [Vec::new(), hello[..5].to_vec(), [&hello[..], &[0, 0, 1]].concat()] {
        let mut stream = raw(&place);
        stream.write_all(&sent).unwrap();
        rest(stream);
        place.await_refusal(&["DEVBOX_VERB=?"]);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Who was only idle all the while stays.
    idle.status().unwrap();
}

#[test]
fn reader_that_does_not_read_is_let_go_and_others_are_served() {
    let place = Place::new();
    let _server = place.start();
    let mut greedy = raw(&place);
    greedy.write_all(&encode(&Handshake::hello()).unwrap()).unwrap();
    greedy.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let frame = encode(&devbox_helper_client::Call {
        id: 1,
        request: Request::Status,
    })
    .unwrap();
    // Until its replies fill what the kernel holds, and the server gives up on it.
    std::thread::scope(|scope| {
        // A log that nobody reads is full soon.
        let logged = scope.spawn(|| place.await_refusal(&["the caller does not read"]));
        while greedy.write_all(&frame).is_ok() {}
        logged.join().unwrap();
    });
    assert_eq!(place.client().status().unwrap().claims.len(), 1);
}

#[test]
fn frame_beyond_the_limit_ends_the_connection() {
    let place = Place::new();
    let _server = place.start();
    let mut stream = raw(&place);
    stream.write_all(&encode(&Handshake::hello()).unwrap()).unwrap();
    stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(rest(stream).contains("longer than"));
    place.await_refusal(&["longer than"]);
}

#[test]
fn versions_that_nobody_speaks_are_refused_with_both_ranges() {
    let place = Place::new();
    let _server = place.start();
    for (oldest, newest) in [(0, 0), (1, 2), (5, 9), (u32::MAX, u32::MAX), (9, 1)] {
        let mut stream = raw(&place);
        let hello = serde_json::json!({"hello": {"version": newest, "oldest": oldest}});
        stream.write_all(&encode(&hello).unwrap()).unwrap();
        let text = rest(stream);
        assert!(
            text.contains("version_mismatch") && text.contains("\"server_oldest\":3"),
            "{text}"
        );
        place.await_refusal(&["version"]);
    }
}

#[test]
fn descriptors_that_are_sent_are_closed() {
    let place = Place::new();
    let server = place.start();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).map_or(0, Iterator::count);
    let stream = raw(&place);
    let (mut sender, mut receiver) = devbox_helper_client::Channel::of(stream.into()).unwrap().split();
    sender.send(&Handshake::hello()).unwrap();
    assert!(matches!(
        receiver.receive().unwrap(),
        Some(Handshake::Welcome { .. })
    ));
    let before = open();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for id in 0..1000 {
        let call = devbox_helper_client::Call {
            id,
            request: Request::Hold { grace_ms: 9999 },
        };
        sender.send_with_listener(&call, &listener).unwrap();
        receiver.receive_response().unwrap().unwrap();
        place.await_refusal(&["DEVBOX_VERB=hold"]);
    }
    assert!(open() <= before + 2, "{} became {}", before, open());
}

#[test]
fn claim_that_is_too_large_is_refused_whole() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    let names: Vec<String> = (0..=100_000).map(|n| format!("n{n}")).collect();
    let entries: Vec<(&str, Vec<&str>)> = names
        .chunks(8)
        .map(|names| ("127.77.0.2", names.iter().map(String::as_str).collect()))
        .collect();
    let entries: Vec<(&str, &[&str])> = entries
        .iter()
        .map(|(address, names)| (*address, names.as_slice()))
        .collect();
    match client.set_hosts(block("devbox-x", &entries)) {
        Err(Error::Helper(HelperError::Limit { most: 100_000, .. })) => {}
        other => panic!("{other:?}"),
    }
    place.await_refusal(&["DEVBOX_VERB=set-hosts", "100000"]);
    assert_eq!(place.hosts_text().as_bytes(), crate::stage::ORIGINAL);
    Client::connect(place.path("socket")).unwrap().status().unwrap();
}

/// Prints what it took (`--show-output`); the bound only says that it does not hang.
#[test]
fn thousand_names_are_applied_and_undone() {
    let place = Place::new();
    let server = place.start_program();
    let mut client = place.client();
    let names: Vec<String> = (0..1000).map(|n| format!("svc{n}.backend")).collect();
    let addresses: Vec<String> = (0..1000)
        .map(|n| format!("127.77.{}.{}", 1 + n / 250, 1 + n % 250))
        .collect();
    let entries: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let entries: Vec<(&str, &[&str])> = addresses
        .iter()
        .zip(&entries)
        .map(|(address, names)| (address.as_str(), &names[..]))
        .collect();
    let begun = Instant::now();
    client.set_hosts(block("devbox-x", &entries)).unwrap();
    let applied = begun.elapsed();
    let begun = Instant::now();
    client.release().unwrap();
    let undone = begun.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap_or_default();
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    eprintln!("1,000 names: applied in {applied:?}, undone in {undone:?}; {resident:?}");
    assert!(applied < Duration::from_secs(5) && undone < Duration::from_secs(5));
    place.assert_untouched("after the release");
}
