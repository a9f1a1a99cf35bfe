//! The blocking client against peers that follow a script.
#![cfg(unix)]

#[path = "scripted/peer.rs"]
mod peer;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use devbox_helper_client::{Client, Endpoint, Error, HelperError, HostsBlock, Request, VERSION};
use peer::{Stopped, script};

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn obliging() {
    peer::obliging(VERSION);
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn newer() {
    peer::obliging(VERSION + 1);
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn silent() {
    peer::silent();
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn older() {
    peer::older();
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn one_behind() {
    peer::one_behind();
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn confused() {
    peer::confused();
}

#[test]
fn a_refusal_leaves_the_client_usable() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    let block = HostsBlock {
        tag: "devbox-a".into(),
        entries: Vec::new(),
    };
    match client.set_hosts(block) {
        Err(Error::Helper(HelperError::NotAllowed { what, .. })) => assert_eq!(what, "devbox-a"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.sweep().unwrap().file.to_str(), Some("/2"));
    assert!(client.close().unwrap().success());
}

#[test]
fn a_request_that_is_too_long_leaves_the_client_usable() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    let block = HostsBlock {
        tag: "x".repeat(5 << 20),
        entries: Vec::new(),
    };
    assert!(matches!(client.set_hosts(block), Err(Error::Frame(_))));
    assert_eq!(client.sweep().unwrap().file.to_str(), Some("/1"));
}

#[test]
fn a_listener_comes_over_and_works() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    let listener = client
        .bind(Endpoint::tcp("127.0.0.1:0".parse().unwrap()))
        .unwrap();
    let address = listener.local_addr().unwrap();
    assert!(client.close().unwrap().success());
    let mut there = TcpStream::connect(address).unwrap();
    let (mut here, _) = listener.accept().unwrap();
    there.write_all(b"hello").unwrap();
    drop(there);
    let mut text = String::new();
    here.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn an_answer_to_something_else_is_an_error() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    assert!(matches!(
        client.edit_hosts(Vec::new()),
        Err(Error::Unexpected { .. })
    ));
}

#[test]
fn a_peer_that_ends_is_told_with_its_status() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    for _ in 0..2 {
        match client.clear_hosts() {
            Err(Error::Ended { status }) => assert_eq!(status.and_then(|s| s.code()), Some(7)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_newer_peer_is_refused_with_its_version() {
    match Client::start_with(&script("newer")) {
        Err(Error::Version {
            ours: VERSION,
            helper,
        }) => assert_eq!(helper, VERSION + 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_in_the_form_of_version_1_is_understood() {
    match Client::start_with(&script("older")) {
        Err(Error::Version {
            ours: VERSION,
            helper: 1,
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_reply_is_dropped_with_its_listener_and_later_requests_work() {
    let mut options = script("one_behind");
    options.reply_timeout = Duration::from_millis(300);
    let mut client = Client::start_with(&options).unwrap();
    // Free at this moment, and asked for nowhere else.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let late = client.bind(Endpoint::tcp(address));
    assert!(
        matches!(late, Err(Error::TimedOut { after }) if after == options.reply_timeout),
        "{late:?}"
    );
    assert_eq!(client.sweep().unwrap().file.to_str(), Some("/2"));
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_request_to_a_stopped_helper_times_out_and_the_next_one_is_answered() {
    let mut options = script("obliging");
    options.reply_timeout = Duration::from_millis(300);
    let mut client = Client::start_with(&options).unwrap();
    // More than the socket takes, so that the deadline passes in the middle of a frame.
    let long = || HostsBlock {
        tag: "x".repeat(3 << 20),
        entries: Vec::new(),
    };
    {
        let _stopped = Stopped::new(client.pid());
        for _ in 0..2 {
            let result = client.set_hosts(long());
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        }
    }
    // The first request was begun and is completed; the second was never begun.
    let mut client = client.with_timeout(Duration::from_secs(60));
    assert_eq!(client.sweep().unwrap().file.to_str(), Some("/2"));
}

#[test]
fn a_reply_to_a_request_that_was_never_made_ends_the_use_of_the_client() {
    let mut client = Client::start_with(&script("confused")).unwrap();
    assert!(matches!(client.sweep(), Err(Error::Unexpected { .. })));
    assert!(matches!(client.sweep(), Err(Error::Ended { .. })));
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut options = script("silent");
    options.reply_timeout = Duration::from_millis(200);
    let start = Instant::now();
    assert!(matches!(
        Client::start_with(&options),
        Err(Error::TimedOut { .. })
    ));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn programs_that_are_none_are_told_apart_from_those_that_end() {
    let missing = Client::start("/nowhere/devbox", ["x"]);
    assert!(matches!(missing, Err(Error::Start { .. })), "{missing:?}");
    match Client::start("/bin/sh", ["-c", "echo 'no such  pool' >&2; exit 3"]) {
        Err(error @ Error::NoWelcome { .. }) => {
            assert_eq!(
                error.to_string(),
                "the helper did not start (exit status: 3): no such pool"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_else_inherits_the_stream() {
    let mut client = Client::start_with(&script("obliging")).unwrap();
    // A child started meanwhile outlives the client and must not keep its stream open.
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    client.request(&Request::Sweep).unwrap();
    let start = Instant::now();
    assert!(client.close().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    other.kill().unwrap();
    other.wait().unwrap();
}
