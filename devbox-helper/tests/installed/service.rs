//! The installed helper, as its callers see it: the real server in a directory of its own, on a machine that is only remembered.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use devbox_helper_client::{
    Client, Endpoint, Error, HelperError, InterfaceKind, NewInterface, NewResolver, Reply, Request,
};

use crate::blocks::block;
use crate::stage::{Caller, ORIGINAL, Place, eventually, strings};

const NOBODY: u32 = 65_534;

fn interface() -> NewInterface {
    NewInterface {
        name: "devbox0".into(),
        kind: InterfaceKind::Tun,
        mtu: Some(1400),
    }
}

fn resolver() -> NewResolver {
    NewResolver {
        interface: "devbox0".into(),
        suffixes: strings(&["shop.internal"]),
        servers: vec!["10.107.0.1:53".parse().unwrap()],
    }
}

/// Everything that one session can have.
fn session(client: &mut Client) {
    client
        .set_hosts(block(
            "devbox-a",
            &[("127.77.0.2", &["orders", "orders.backend"])],
        ))
        .unwrap();
    client.open_pool("10.107.0.0/16").unwrap();
    client.create_interface(interface()).unwrap();
    client
        .add_addresses(
            strings(&["10.107.0.1/24", "10.107.0.2/24"]),
            Some("devbox0".into()),
        )
        .unwrap();
    client.set_resolver(resolver()).unwrap();
}

#[test]
fn everything_is_made_and_undone_when_the_connection_ends() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    session(&mut client);
    assert!(place.hosts_text().contains("127.77.0.2 orders orders.backend"));
    assert_eq!(place.network().len(), 5, "{:?}", place.network());
    let status = client.status().unwrap();
    assert_eq!(status.claims.len(), 1);
    assert_eq!(status.claims[0].names, (2, 0));
    assert_eq!(status.claims[0].addresses.len(), 3);
    drop(client.open_tun("devbox0").unwrap());
    assert!(matches!(
        client.open_tun("devbox1"),
        Err(Error::Helper(HelperError::NotHeld { .. }))
    ));
    drop(client);
    place.await_untouched();
    eventually(|| place.journals() == 0);
}

#[test]
fn sigterm_undoes_everything_before_the_program_ends() {
    let place = Place::new();
    let server = place.start_program();
    let (mut first, mut second) = (place.client(), place.client());
    first.hold(Duration::from_secs(5)).unwrap();
    first
        .set_hosts(block("devbox-a", &[("127.77.0.2", &["orders"])]))
        .unwrap();
    second
        .set_hosts(block("devbox-b", &[("127.77.0.3", &["web"])]))
        .unwrap();
    assert!(place.hosts_text().contains("127.77.0.3 web"));
    server.end();
    place.assert_untouched("after the end");
    assert!(!place.path("socket").exists());
}

#[test]
fn release_undoes_everything_and_the_connection_goes_on() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    for _ in 0..2 {
        session(&mut client);
        assert_eq!(
            client.release().unwrap().removed_block.as_deref(),
            Some("devbox-a")
        );
        place.assert_untouched("after the release");
    }
}

#[test]
fn removing_one_by_one_leaves_nothing() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    session(&mut client);
    assert_eq!(client.clear_resolver(resolver()).unwrap().changed, 1);
    let removed = client.remove_addresses(strings(&["10.107.0.1/24"]), Some("devbox0".into()));
    assert_eq!(removed.unwrap().changed, 1);
    // With the interface goes what is on it.
    client.remove_interface("devbox0").unwrap();
    assert_eq!(place.network(), ["local route 10.107.0.0/16 on loopback"]);
    client.clear_hosts().unwrap();
    assert_eq!(place.hosts_text().as_bytes(), ORIGINAL);
}

/// An interface with tens of thousands of addresses would take minutes.
#[test]
fn many_addresses_of_an_interface_are_routes_and_a_few_are_addresses() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    client.create_interface(interface()).unwrap();
    let numbered = |third: u8| (1..=255u8).map(move |last| format!("10.107.{third}.{last}"));
    let many: Vec<String> = numbered(1).chain(numbered(2)).collect();
    let few = vec!["10.107.3.1/24".to_owned()];
    let on = || Some("devbox0".to_owned());
    assert_eq!(client.add_addresses(many.clone(), on()).unwrap().changed, 510);
    assert_eq!(client.add_addresses(few, on()).unwrap().changed, 1);
    let network = place.network();
    let count = |what: &str| network.iter().filter(|change| change.contains(what)).count();
    assert_eq!(
        (count("local route 10.107."), count("address 10.107.3.1/24")),
        (510, 1),
        "{network:?}"
    );
    assert_eq!(
        client
            .remove_addresses(many[..300].to_vec(), on())
            .unwrap()
            .changed,
        300
    );
    // The rest goes with the interface.
    client.remove_interface("devbox0").unwrap();
    assert_eq!(place.network(), [""; 0]);
}

#[test]
fn addresses_of_an_open_pool_need_no_change_of_their_own() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    client.open_pool("10.107.0.0/16").unwrap();
    let report = client
        .add_addresses(strings(&["10.107.9.9", "127.77.3.3"]), None)
        .unwrap();
    assert_eq!((report.changed, report.unchanged), (0, 2));
    assert_eq!(place.network().len(), 1);
}

#[test]
fn prefix_that_belongs_to_somebody_else_is_refused_with_one_that_is_free() {
    let place = Place::new();
    let vpn = netif::Change::Route(netif::Route {
        destination: "10.0.0.0/8".parse().unwrap(),
        device: netif::InterfaceName::new("wg0").unwrap().into(),
        kind: netif::RouteKind::Unicast,
        metric: None,
    });
    place.machine().add_for(None, &vpn).unwrap();
    let _server = place.start();
    let mut client = place.client();
    match client.open_pool("10.107.0.0/16") {
        Err(Error::Helper(HelperError::Network { message })) => {
            assert!(message.contains("10.0.0.0/8 leads to wg0 (a VPN)"), "{message}");
            assert!(message.contains("172.16.0.0/16 is free"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    place.await_refusal(&["DEVBOX_VERB=open-pool", "wg0"]);
    assert_eq!(place.network().len(), 1);
    // Once it is gone, so is what was in the way.
    place.machine().remove_for(&vpn).unwrap();
    client.open_pool("10.107.0.0/16").unwrap();
    // A second session shares the prefix.
    place.client().open_pool("10.107.0.0/16").unwrap();
}

#[test]
fn displaced_name_returns_when_its_displacer_leaves() {
    let place = Place::new();
    let _server = place.start();
    let (mut old, mut new) = (place.client(), place.client());
    let of = |tag: &str, address: &str| block(tag, &[(address, &["orders", &format!("orders.{tag}")])]);
    old.set_hosts(of("devbox-old", "127.77.0.2")).unwrap();
    let report = new.set_hosts(of("devbox-new", "127.77.0.3")).unwrap();
    assert_eq!(
        (report.held[0].tag.as_str(), &report.held[0].names),
        ("devbox-old", &strings(&["orders"]))
    );
    assert!(place.hosts_text().contains("127.77.0.3 orders.devbox-new "));
    // Whoever asks for it the first time may take it.
    new.clear_hosts().unwrap();
    assert!(
        new.take_hosts(of("devbox-new", "127.77.0.3"))
            .unwrap()
            .held
            .is_empty()
    );
    let text = place.hosts_text();
    assert!(text.contains("127.77.0.3 orders orders.devbox-new"), "{text}");
    assert!(text.contains("127.77.0.2 orders.devbox-old"), "{text}");
    // The other one keeps what is its own, and asking again changes nothing.
    let report = old.take_hosts(of("devbox-old", "127.77.0.2")).unwrap();
    assert_eq!(report.held[0].names, strings(&["orders"]));
    drop(new);
    eventually(|| place.hosts_text().contains("127.77.0.2 orders orders.devbox-old"));
}

#[test]
fn second_user_of_an_address_learns_who_has_it_and_takes_the_next() {
    let place = Place::new();
    let _server = place.start();
    let Some(mut nobody) = Caller::of(&place, NOBODY) else {
        eprintln!(
            "SKIP second_user_of_an_address_learns_who_has_it_and_takes_the_next: only root can be another user"
        );
        return;
    };
    let mut mine = place.client();
    mine.add_addresses(strings(&["127.77.0.2"]), None).unwrap();
    let add = |address: &str| Request::AddAddresses {
        addresses: strings(&[address]),
        interface: None,
    };
    let HelperError::Held { what, holder } = nobody.ask(&add("127.77.0.2")).unwrap_err() else {
        panic!("held");
    };
    assert_eq!(
        (what.as_str(), holder.uid, holder.pid),
        ("the address 127.77.0.2", 0, std::process::id())
    );
    place.await_refusal(&["DEVBOX_UID=65534", "DEVBOX_VERB=add-addresses"]);
    // Neither a name nor a listener gets there in another way.
    let names = Request::SetHosts {
        block: block("devbox-b", &[("127.77.0.2", &["web"])]),
    };
    assert!(matches!(nobody.ask(&names), Err(HelperError::Held { .. })));
    let endpoint = Endpoint::tcp("127.77.0.2:80".parse().unwrap());
    assert!(matches!(
        nobody.ask(&Request::Bind { endpoint }),
        Err(HelperError::Held { .. })
    ));
    place.await_refusal(&["DEVBOX_UID=65534", "DEVBOX_VERB=bind"]);
    nobody.ask(&add("127.77.0.3")).unwrap();
    // Of others' claims only the numbers are told.
    let Reply::Status(status) = nobody.ask(&Request::Status).unwrap() else {
        panic!("status");
    };
    assert_eq!(status.claims.len(), 2);
    assert!(
        status
            .claims
            .iter()
            .all(|claim| claim.addresses.is_empty() == (claim.holder.uid == 0))
    );
    // Nobody takes a name from another user.
    let take = |tag: &str| Request::TakeHosts {
        block: block(tag, &[("127.77.0.3", &["orders"])]),
    };
    mine.set_hosts(block("devbox-a", &[("127.77.0.2", &["orders"])]))
        .unwrap();
    let Reply::Hosts(report) = nobody.ask(&take("devbox-b")).unwrap() else {
        panic!("hosts");
    };
    assert_eq!(report.held[0].names, strings(&["orders"]));
    drop(mine);
    eventually(|| place.hosts_text().contains("127.77.0.3 orders"));
    nobody.kill();
    place.await_untouched();
}

#[test]
fn restarted_client_takes_its_claim_over_within_the_grace() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    let token = client.hold(Duration::from_secs(5)).unwrap();
    session(&mut client);
    let before = (place.hosts_text(), place.network());
    drop(client);
    let mut next = resumed(&place, &token);
    assert_eq!((place.hosts_text(), place.network()), before);
    // It has all rights that the first one had, and the token is good once more.
    next.remove_interface("devbox0").unwrap();
    drop(next);
    let mut third = resumed(&place, &token);
    third.release().unwrap();
    place.assert_untouched("after the release");
}

/// The server may not have seen yet that the former connection is gone.
fn resumed(place: &Place, token: &devbox_helper_client::Token) -> Client {
    let mut client = place.client();
    eventually(|| match client.resume(token.clone()) {
        Ok(()) => true,
        Err(Error::Helper(HelperError::NoSuchClaim)) => false,
        Err(error) => panic!("{error}"),
    });
    client
}

#[test]
fn claim_ends_when_nobody_takes_it_over_in_time() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    let token = client.hold(Duration::from_millis(200)).unwrap();
    session(&mut client);
    let begun = Instant::now();
    drop(client);
    place.await_untouched();
    assert!(
        begun.elapsed() >= Duration::from_millis(190),
        "{:?}",
        begun.elapsed()
    );
    let mut late = place.client();
    assert!(matches!(
        late.resume(token),
        Err(Error::Helper(HelperError::NoSuchClaim))
    ));
}

#[test]
fn stolen_token_gives_another_user_nothing() {
    let place = Place::new();
    let _server = place.start();
    let Some(mut nobody) = Caller::of(&place, NOBODY) else {
        eprintln!("SKIP stolen_token_gives_another_user_nothing: only root can be another user");
        return;
    };
    let mut client = place.client();
    let token = client.hold(Duration::from_secs(5)).unwrap();
    session(&mut client);
    let resume = Request::Resume { token: token.clone() };
    // While the claim is used, and while it waits.
    assert_eq!(nobody.ask(&resume), Err(HelperError::NoSuchClaim));
    place.await_refusal(&["DEVBOX_UID=65534", "DEVBOX_VERB=resume"]);
    assert!(matches!(
        place.client().resume(token.clone()),
        Err(Error::Helper(HelperError::NoSuchClaim))
    ));
    drop(client);
    let mut mine = place.client();
    eventually(|| mine.status().unwrap().claims.iter().any(|claim| claim.waits));
    assert_eq!(nobody.ask(&resume), Err(HelperError::NoSuchClaim));
    place.await_refusal(&["DEVBOX_UID=65534", "DEVBOX_VERB=resume"]);
    mine.resume(token).unwrap();
}

#[test]
fn old_client_of_one_version_is_served() {
    let place = Place::new();
    let _server = place.start();
    let stream = std::os::unix::net::UnixStream::connect(place.path("socket")).unwrap();
    let channel = devbox_helper_client::Channel::of(stream.into()).unwrap();
    let (mut sender, mut receiver) = channel.split();
    sender
        .send(&serde_json::json!({"hello": {"version": 3}}))
        .unwrap();
    let welcome: serde_json::Value = receiver.receive().unwrap().unwrap();
    assert_eq!(welcome["welcome"]["version"], 3);
    sender
        .send(&serde_json::json!({"id": 1, "request": "clear_hosts"}))
        .unwrap();
    let response: serde_json::Value = receiver.receive().unwrap().unwrap();
    assert_eq!(response["reply"]["hosts"]["changed"], false);
}

#[test]
fn whom_the_policy_does_not_list_is_told_so() {
    let place = Place::with_policy("pools = ['127.77.0.0/16']\nusers = [0, 1]");
    let _server = place.start();
    let Some(mut nobody) = Caller::of(&place, NOBODY) else {
        eprintln!("SKIP whom_the_policy_does_not_list_is_told_so: only root can be another user");
        return;
    };
    let Some(Err(HelperError::NotAllowed { what, why })) = nobody.answer() else {
        panic!("not allowed");
    };
    assert_eq!(
        (what.as_str(), why.as_str()),
        (
            "user 65534",
            "the policy lists neither this user nor a group of theirs"
        )
    );
    eventually(|| {
        place
            .logged()
            .iter()
            .any(|entry| entry.contains("DEVBOX_UID=65534") && entry.contains("OUTCOME=refused"))
    });
    // The file is read for each connection.
    place.set_policy("pools = ['127.77.0.0/16']\ngroups = [65534]\nusers = [0,]");
    assert!(Caller::of(&place, NOBODY).unwrap().ask(&Request::Status).is_ok());
}

#[test]
fn policy_that_others_can_write_serves_nobody() {
    let place = Place::new();
    let server = place.start();
    let policy = place.path("policy");
    let open = |mode| std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(mode)).unwrap();
    open(0o664);
    match Client::connect(place.path("socket")) {
        Err(Error::Helper(HelperError::NotAllowed { why, .. })) => {
            assert!(why.contains("chmod go-w"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    drop(server);
    let mut second = place.spawn(&[]);
    assert!(!second.child.wait().unwrap().success());
    assert!(second.last_words().contains("others can write it"));
    open(0o644);
    place.start();
}

/// As systemd starts it. One that ended would be started again and again for as long as somebody is waiting to be served.
#[test]
fn helper_that_a_socket_started_tells_what_is_wrong_with_the_policy_and_stays() {
    let place = Place::new();
    place.set_policy("pools = [");
    let _server = place.start_activated();
    for _ in 0..2 {
        match Client::connect(place.path("socket")) {
            Err(Error::Helper(HelperError::NotAllowed { why, .. })) => {
                assert!(why.contains(place.path("policy").to_str().unwrap()), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    place.set_policy("pools = ['127.77.0.0/16']\nusers = [0,]");
    place.client().status().unwrap();
}

#[test]
fn too_many_callers_of_one_user_are_refused_and_those_that_are_there_are_served() {
    let place = Place::new();
    let _server = place.start();
    let mut clients: Vec<Client> = (0..16).map(|_| place.client()).collect();
    assert!(matches!(
        Client::connect(place.path("socket")),
        Err(Error::Helper(HelperError::Limit { most: 16, .. }))
    ));
    assert_eq!(clients[3].status().unwrap().claims.len(), 16);
    clients.truncate(8);
    eventually(|| Client::connect(place.path("socket")).is_ok());
}

#[test]
fn each_request_is_logged_with_who_and_what() {
    let place = Place::new();
    let _server = place.start();
    let mut client = place.client();
    place.logged();
    client.add_addresses(strings(&["127.77.0.2"]), None).unwrap();
    assert!(client.add_addresses(strings(&["8.8.8.8"]), None).is_err());
    let logged = place.logged();
    let has = |entry: &String, words: &[&str]| words.iter().all(|word| entry.contains(word));
    let pid = format!("DEVBOX_PID={}\n", std::process::id());
    assert_eq!(logged.len(), 2);
    assert!(
        has(
            &logged[0],
            &["DEVBOX_VERB=add-addresses\n", "DEVBOX_OUTCOME=accepted\n", &pid]
        ),
        "{}",
        logged[0]
    );
    assert!(
        has(
            &logged[1],
            &[
                "DEVBOX_OUTCOME=refused\n",
                "DEVBOX_REASON=the helper refused the address 8.8.8.8"
            ]
        ),
        "{}",
        logged[1]
    );
}

#[test]
fn what_was_there_before_stays() {
    let place = Place::new();
    let theirs = netif::Change::Address {
        device: netif::Device::Loopback,
        address: "10.107.0.7/32".parse().unwrap(),
    };
    place.machine().add_for(None, &theirs).unwrap();
    let _server = place.start();
    let mut client = place.client();
    let report = client
        .add_addresses(strings(&["10.107.0.7", "10.107.0.8"]), None)
        .unwrap();
    assert_eq!((report.changed, report.unchanged), (1, 1));
    drop(client);
    eventually(|| place.network() == ["address 10.107.0.7/32 on loopback"]);
}
