//! The client's side: when it dials again, and when it gives up.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tunnel_bridge::resume::{DeskOptions, Options, Received, Redial, RedialError};
use tunnel_bridge::{
    Carrier, Dialer, Link, LinkEnd, LinkStatus, RefusalKind, Role, StreamCarrier, is_link_lost,
};

use crate::network::{Dial, Network, exchange, soon, target, until};

#[tokio::test(start_paused = true)]
async fn streams_go_on_over_another_connection_as_if_nothing_had_happened() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, mut served) = exchange(&near, &far).await;
    let mut status = near.watch_status();
    network.refuse(true);
    network.cut();
    until("the loss", &mut status, |status| !status.is_up()).await;
    // Both ends write while there is no connection, and a stream that is opened waits as well.
    asked.write_all(b"up").await.unwrap();
    asked.shutdown().await.unwrap();
    served.write_all(b"down").await.unwrap();
    let mut another = near.open(&target("another")).await.unwrap();
    another.write_all(b"hi").await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    network.refuse(false);
    let up = until("another connection", &mut status, |status| status.is_up()).await;
    assert_eq!(up, LinkStatus::Up { resumes: 1 });
    let mut said = String::new();
    soon("up", served.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "up");
    served.shutdown().await.unwrap();
    said.clear();
    soon("down", asked.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "down");
    let incoming = soon("the other stream", far.accept()).await.unwrap();
    assert_eq!(incoming.target().as_str(), "another");
    let resumed = soon("the desk's word", coming.recv()).await.unwrap().unwrap();
    assert!(matches!(resumed, Received::Resumed(_)), "{resumed:?}");
    assert_eq!(network.desk().detached_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn attempts_come_at_once_then_with_growing_pauses_until_the_window_is_over() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, mut served) = exchange(&near, &far).await;
    network.refuse(true);
    let cut_at = tokio::time::Instant::now();
    network.cut();
    let mut status = near.watch_status();
    let LinkStatus::Detached { since, until, .. } =
        until("the loss", &mut status, |status| !status.is_up()).await
    else {
        panic!("up");
    };
    assert!(since - cut_at < Duration::from_millis(50) && until - since == Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(
        network.dials.load(Ordering::SeqCst),
        1,
        "the first one is made at once"
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let first = network.dials.load(Ordering::SeqCst);
    // 0.1, 0.2, 0.4 … 5 s, each by half more or less.
    assert!((5..=11).contains(&first), "{first}");
    assert_eq!(network.desk().detached_count(), 1);
    let error = soon_or_later(asked.read_u8()).await.unwrap_err();
    assert!(is_link_lost(&error), "{error}");
    let error = soon_or_later(served.read_u8()).await.unwrap_err();
    assert!(is_link_lost(&error), "{error}");
    let took = cut_at.elapsed();
    assert!(
        (Duration::from_secs(60)..Duration::from_secs(61)).contains(&took),
        "{took:?}"
    );
    let dials = network.dials.load(Ordering::SeqCst);
    assert!(
        (first + 6..=first + 25).contains(&dials),
        "{first} and then {dials}"
    );
    for link in [near, far] {
        let end = link.closed().await;
        assert!(matches!(end, LinkEnd::Lost { .. }), "{end:?}");
    }
    assert_eq!(network.desk().detached_count(), 0);
}

/// With a clock that jumps, minutes are soon.
async fn soon_or_later<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), future)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_an_attempt_at_once() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    network.refuse(true);
    network.cut();
    let mut status = near.watch_status();
    until("the loss", &mut status, |status| !status.is_up()).await;
    // Pauses are seconds long by then.
    tokio::time::sleep(Duration::from_secs(20)).await;
    network.refuse(false);
    let asked_at = tokio::time::Instant::now();
    near.check_now();
    until("another connection", &mut status, |status| status.is_up()).await;
    assert!(
        asked_at.elapsed() < Duration::from_millis(50),
        "{:?}",
        asked_at.elapsed()
    );
}

/// Whose connections take half a second.
struct Slow(Arc<Network>);

#[async_trait]
impl Redial for Slow {
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Dial(Arc::clone(&self.0)).redial().await
    }
}

#[tokio::test(start_paused = true)]
async fn checks_one_after_the_other_leave_an_attempt_the_time_that_it_takes() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let carrier = StreamCarrier::new(network.connect());
    let near = Link::resumable(carrier, Slow(Arc::clone(&network)), Options::default());
    let Some(Ok(Received::New(far))) = soon("a link", coming.recv()).await else {
        panic!("no new link");
    };
    let _streams = exchange(&near, &far).await;
    network.cut();
    let mut status = near.watch_status();
    until("the loss", &mut status, |status| !status.is_up()).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        near.check_now();
    }
    assert_eq!(status.borrow().resumes(), 1);
}

#[tokio::test(start_paused = true)]
async fn datagrams_for_a_link_without_a_connection_are_counted_as_dropped() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    let dialer = near.dialer();
    let to = target("udp/x");
    let mut flow = soon("a flow", dialer.dial_datagrams(&to)).await.unwrap();
    network.refuse(true);
    network.cut();
    let mut status = near.watch_status();
    until("the loss", &mut status, |status| !status.is_up()).await;
    for _ in 0..7 {
        let datagram = Bytes::from_static(b"late");
        soon("room", poll_fn(|cx| flow.poll_send(cx, &datagram)))
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(flow.dropped(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_check_of_a_connection_that_carries_nothing_any_more_takes_a_second() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    // The client's end of this one is open, and nobody reads or writes at its other end any more.
    let (near_end, mut middle) = duplex(64 * 1024);
    let mut to_desk = network.connect();
    let near = Link::resumable(
        StreamCarrier::new(near_end),
        Dial(network.clone()),
        Options::default(),
    );
    let (held, mut hold) = tokio::sync::oneshot::channel::<()>();
    let pump = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut middle, &mut to_desk) => {}
            _ = &mut hold => {}
        }
        // Held open.
        (middle, to_desk)
    });
    let Some(Ok(Received::New(far))) = soon("a link", coming.recv()).await else {
        panic!("no new link");
    };
    let (mut asked, mut served) = exchange(&near, &far).await;
    let mut status = near.watch_status();
    near.check_now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(near.status(), LinkStatus::Up { resumes: 0 }, "it answered");
    held.send(()).unwrap();
    let black_hole = soon("the pump", pump).await.unwrap();
    let since = tokio::time::Instant::now();
    asked.write_all(b"still").await.unwrap();
    near.check_now();
    until("another connection", &mut status, |status| status.resumes() == 1).await;
    assert!(
        since.elapsed() <= Duration::from_millis(1050),
        "{:?}",
        since.elapsed()
    );
    // The server leaves the connection that it thought alive for the new one.
    let mut five = [0; 5];
    soon("still", served.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"still");
    drop(black_hole);
    served.write_all(b"there").await.unwrap();
    soon("there", asked.read_exact(&mut five)).await.unwrap();
    assert_eq!(near.status(), LinkStatus::Up { resumes: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_dial_without_a_connection_waits_for_one_or_for_the_links_end() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    network.refuse(true);
    network.cut();
    let mut status = near.watch_status();
    until("the loss", &mut status, |status| !status.is_up()).await;
    let dial = {
        let near = near.clone();
        tokio::spawn(async move { near.dial(&target("late")).await.map(drop) })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!dial.is_finished());
    network.refuse(false);
    soon("the dial", dial).await.unwrap().unwrap();
    let incoming = soon("the request", far.accept()).await.unwrap();
    assert_eq!(incoming.target().as_str(), "late");

    network.refuse(true);
    network.cut();
    until("the loss", &mut status, |status| !status.is_up()).await;
    let refusal = soon_or_later(near.dial(&target("never"))).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::LinkLost, "another link can take it");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_in_good_order_is_not_waited_for() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, _served) = exchange(&near, &far).await;
    let since = tokio::time::Instant::now();
    far.shutdown().await;
    let error = soon("the reset", asked.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let end = soon("the end", near.closed()).await;
    assert!(matches!(end, LinkEnd::PeerClosed { .. }), "{end:?}");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(
        (
            network.dials.load(Ordering::SeqCst),
            network.desk().detached_count()
        ),
        (0, 0)
    );

    // And who has no connection has nobody to wait for.
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    network.refuse(true);
    network.cut();
    let mut status = near.watch_status();
    until("the loss", &mut status, |status| !status.is_up()).await;
    let since = tokio::time::Instant::now();
    soon("leaving", near.shutdown()).await;
    soon("closing", far.shutdown()).await;
    assert!(
        since.elapsed() < Duration::from_millis(50),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(network.desk().detached_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_a_peer_that_offers_nothing_a_link_ends_with_its_connection() {
    // An old server.
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near_end, far_end) = duplex(64 * 1024);
    let near = Link::resumable(
        StreamCarrier::new(near_end),
        Dial(network.clone()),
        Options::default(),
    );
    let far = Link::over(StreamCarrier::new(far_end), Role::Server);
    let (mut asked, served) = exchange(&near, &far).await;
    drop(served);
    drop(far);
    let error = soon("the reset", asked.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    soon("the end", near.closed()).await;
    assert_eq!(network.dials.load(Ordering::SeqCst), 0);

    // An old client.
    let near = Link::over(StreamCarrier::new(network.connect()), Role::Client);
    let Some(Ok(Received::New(far))) = soon("a link", coming.recv()).await else {
        panic!("no new link");
    };
    let (_asked, mut served) = exchange(&near, &far).await;
    network.cut();
    let error = soon("the loss", served.read_u8()).await.unwrap_err();
    assert!(is_link_lost(&error), "{error}");
    for link in [near, far] {
        let end = soon("the end", link.closed()).await;
        assert!(matches!(end, LinkEnd::Lost { .. }), "{end:?}");
    }
    assert_eq!(network.desk().detached_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_names_its_successor() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    far.drain_to("moving", "wss://other.example/tunnel");
    let word = soon("the word", near.leaving()).await.unwrap();
    assert_eq!(
        (word.message.as_str(), word.successor.as_deref()),
        ("moving", Some("wss://other.example/tunnel"))
    );
    // What is no URL is left out.
    let (near, far) = network.link(&mut coming).await;
    far.drain_to("moving", "two words");
    let word = soon("the word", near.leaving()).await.unwrap();
    assert_eq!(word.successor, None);
}
