//! The async client against peers that follow a script.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "also outside the functions marked as tests"
)]

#[path = "scripted/peer.rs"]
mod peer;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use devbox_helper_client::{AsyncClient, Client, Endpoint, Error, HelperError, HostsBlock, VERSION};
use peer::{Stopped, script};

/// So many asks wait without waiting for a place.
const QUEUE: u32 = 16;

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn obliging() {
    peer::obliging(VERSION);
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn silent() {
    peer::silent();
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn plain_first() {
    peer::in_pairs(false);
}

#[test]
#[ignore = "a script that other tests run as a process of its own"]
fn listener_first() {
    peer::in_pairs(true);
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
#[ignore = "a script that other tests run as a process of its own"]
fn forgetful() {
    peer::forgetful();
}

fn start() -> AsyncClient {
    start_script("obliging")
}

fn start_script(name: &str) -> AsyncClient {
    AsyncClient::new(Client::start_with(&script(name)).unwrap()).unwrap()
}

fn any_port() -> Endpoint {
    Endpoint::tcp("127.0.0.1:0".parse().unwrap())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("it comes within 10 s")
}

#[tokio::test]
async fn answers_come_to_their_askers_in_order() {
    let client = start();
    let mut asks = tokio::task::JoinSet::new();
    for index in 0..50 {
        let client = client.clone();
        asks.spawn(async move { (index, client.sweep().await.unwrap()) });
    }
    // More asks than fit into the queue. On a runtime of one thread they start in the order of their spawning, and those that fit keep that;
    // one that waited for a place may be overtaken before it takes it.
    let mut answers = Vec::new();
    while let Some(answer) = soon(asks.join_next()).await {
        let (index, report) = answer.unwrap();
        let number: u32 = report.file.to_str().unwrap()[1..].parse().unwrap();
        if index < QUEUE {
            assert_eq!(number, index + 1);
        }
        answers.push(number);
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=50).collect::<Vec<_>>());
    let block = HostsBlock {
        tag: "devbox-a".into(),
        entries: Vec::new(),
    };
    let refused = soon(client.set_hosts(block)).await;
    assert!(
        matches!(refused, Err(Error::Helper(HelperError::NotAllowed { .. }))),
        "{refused:?}"
    );
    soon(client.release()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_puts_nothing_out_of_step() {
    let client = start();
    for _ in 0..5 {
        let mut ask = Box::pin(client.bind(any_port()));
        // Polled once, so that the request is under way, then dropped.
        std::future::poll_fn(|cx| std::task::Poll::Ready(ask.as_mut().poll(cx).is_ready())).await;
        drop(ask);
        let listener = soon(client.bind(any_port())).await.unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        soon(client.sweep()).await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_helper_is_seen_while_nothing_is_asked() {
    let client = start();
    let before = tokio::time::timeout(Duration::from_millis(50), client.closed()).await;
    assert!(before.is_err(), "it lives, yet {before:?}");
    let kill = std::process::Command::new("kill")
        .args(["-9", &client.pid().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let status = soon(client.closed()).await.expect("it was reaped");
    assert!(!status.success());
    assert!(matches!(
        soon(client.sweep()).await,
        Err(Error::Ended { status: Some(_) })
    ));
}

#[tokio::test]
async fn a_helper_that_ends_fails_the_request_under_way() {
    let client = start();
    match soon(client.clear_hosts()).await {
        Err(Error::Ended { status }) => assert_eq!(status.and_then(|s| s.code()), Some(7)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_last_handle_ends_the_helper() {
    let client = start();
    let mut end = Box::pin({
        let client = client.clone();
        async move { client.closed().await }
    });
    drop(client);
    // The future holds a handle, so the helper lives.
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut end)
            .await
            .is_err()
    );
    let dir = tempfile::tempdir().unwrap();
    let leaves = dir.path().join("ended");
    drop(end);
    // A helper of its own for the environment that tells where it leaves its sign.
    let exe = std::env::current_exe().unwrap();
    let inner = format!(
        "SCRIPT_LEAVES={} exec {} --exact obliging --ignored --nocapture",
        leaves.display(),
        exe.display()
    );
    let client = AsyncClient::new(Client::start("/bin/sh", ["-c", &inner]).unwrap()).unwrap();
    soon(client.sweep()).await.unwrap();
    assert!(!leaves.exists());
    drop(client);
    soon(async {
        while !leaves.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_goes_to_the_request_it_was_bound_for_in_either_order_of_the_replies() {
    for name in ["plain_first", "listener_first"] {
        let client = start_script(name);
        for _ in 0..100 {
            let (bound, swept) = soon(async { tokio::join!(client.bind(any_port()), client.sweep()) }).await;
            assert!(bound.unwrap().local_addr().unwrap().ip().is_loopback());
            swept.unwrap();
        }
    }
}

#[tokio::test]
async fn a_listener_that_was_forgotten_is_not_replaced_by_the_next_one() {
    let client = start_script("forgetful");
    for _ in 0..20 {
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [one, other] = free.map(|listener| Endpoint::tcp(listener.local_addr().unwrap()));
        let bound = soon(async { tokio::join!(client.bind(one), client.bind(other)) }).await;
        assert!(matches!(bound.0, Err(Error::Unexpected { .. })), "{bound:?}");
        if let Ok(listener) = bound.1 {
            assert_eq!(listener.local_addr().unwrap(), other.socket_addr());
        }
    }
}

#[tokio::test]
async fn a_late_reply_is_dropped_with_its_listener_and_later_requests_work() {
    let client = start_script("one_behind");
    let hasty = client.clone().with_timeout(Duration::from_millis(100));
    for _ in 0..3 {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let late = soon(hasty.bind(Endpoint::tcp(address))).await;
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
        soon(client.sweep()).await.unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn a_reply_to_a_request_that_was_never_made_ends_the_helper() {
    let client = start_script("confused");
    assert!(matches!(soon(client.sweep()).await, Err(Error::Ended { .. })));
}

#[tokio::test]
async fn requests_to_a_stopped_helper_time_out_and_those_not_sent_are_never_carried_out() {
    let client = start();
    let hasty = client.clone().with_timeout(Duration::from_millis(300));
    {
        let _stopped = Stopped::new(client.pid());
        // More than the socket takes, so that the writing thread is blocked and the queue full.
        let block = HostsBlock {
            tag: "x".repeat(1 << 20),
            entries: Vec::new(),
        };
        let mut asks = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let (hasty, block) = (hasty.clone(), block.clone());
            asks.spawn(async move { hasty.set_hosts(block).await });
        }
        while let Some(result) = soon(asks.join_next()).await {
            let result = result.unwrap();
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        }
    }
    // The one whose writing had begun, and this.
    assert_eq!(soon(client.sweep()).await.unwrap().file.to_str(), Some("/2"));
}

#[tokio::test]
async fn dropping_the_handles_of_a_stopped_helper_waits_for_nothing() {
    let client = start();
    let pid = rustix::process::Pid::from_raw(client.pid().try_into().unwrap()).unwrap();
    let stopped = Stopped::new(client.pid());
    let block = HostsBlock {
        tag: "x".repeat(1 << 20),
        entries: Vec::new(),
    };
    let hasty = client.clone().with_timeout(Duration::from_millis(50));
    assert!(matches!(
        hasty.set_hosts(block).await,
        Err(Error::TimedOut { .. })
    ));
    let (dropped, is_dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop((client, hasty));
        dropped.send(()).unwrap();
    });
    // Well below the 3 s for which a helper's end is waited for elsewhere.
    is_dropped.recv_timeout(Duration::from_secs(2)).unwrap();
    // Once it runs again it sees the end of its stream.
    drop(stopped);
    soon(async {
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
