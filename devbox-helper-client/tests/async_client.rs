//! The async client against peers that follow a script.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "also outside the functions marked as tests"
)]

#[path = "scripted/peer.rs"]
mod peer;

use std::time::{Duration, Instant};

use devbox_helper_client::{AsyncClient, Client, Endpoint, Error, HelperError, HostsBlock, VERSION};
use peer::script;

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

fn start() -> AsyncClient {
    AsyncClient::new(Client::start_with(&script("obliging")).unwrap()).unwrap()
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
    // More asks than fit into the queue; on a runtime of one thread they start in the order of their spawning.
    while let Some(answer) = soon(asks.join_next()).await {
        let (index, report) = answer.unwrap();
        assert_eq!(report.file.to_str(), Some(format!("/{}", index + 2).as_str()));
    }
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
        let mut ask = Box::pin(client.bind(Endpoint::tcp("127.0.0.1:0".parse().unwrap())));
        // Polled once, so that the request is under way, then dropped.
        std::future::poll_fn(|cx| std::task::Poll::Ready(ask.as_mut().poll(cx).is_ready())).await;
        drop(ask);
        let listener = soon(client.bind(Endpoint::tcp("127.0.0.1:0".parse().unwrap())))
            .await
            .unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        soon(client.sweep()).await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_helper_is_seen_while_nothing_is_asked() {
    let client = start();
    let before = tokio::time::timeout(Duration::from_millis(50), client.closed()).await;
    assert!(before.is_err(), "it lives, yet {before:?}");
    let started = Instant::now();
    let kill = std::process::Command::new("kill")
        .args(["-9", &client.pid().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let status = soon(client.closed()).await.expect("it was reaped");
    assert!(!status.success());
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
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
