//! The server's side, and clients that want what is not theirs: they speak by hand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tunnel_bridge::resume::{Desk, DeskError, DeskOptions, Received};
use tunnel_bridge::{Link, LinkEnd, LinkStatus, StreamCarrier, is_link_lost};

use crate::network::{Network, exchange, pattern, soon, target, until};

/// HELLO of version 1 that offers to take links up again: window 256 KiB, frames of 64 KiB, 4096 streams, 256 unanswered opens.
fn hello() -> Vec<u8> {
    let mut payload = vec![0, 1, 0, 1];
    for number in [256 * 1024u32, 64 * 1024, 4096, 256] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    frame(0x01, 0, &payload)
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_u32(u32::from(kind) << 24 | u32::try_from(payload.len()).unwrap());
    bytes.put_u32(stream);
    bytes.put_slice(payload);
    bytes.to_vec()
}

fn resume(token: &[u8], received: u64) -> Vec<u8> {
    let mut payload = token.to_vec();
    payload.extend_from_slice(&received.to_be_bytes());
    frame(0x40, 0, &payload)
}

/// A client that speaks by hand.
struct Raw {
    socket: DuplexStream,
    /// Bytes of the link that it has read.
    received: u64,
}

impl Raw {
    /// The next frame; `None` at the connection's end.
    async fn frame(&mut self) -> Option<(u8, Bytes)> {
        let mut head = [0; 8];
        soon("a head", self.socket.read_exact(&mut head)).await.ok()?;
        let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let mut payload = vec![0; len];
        soon("a payload", self.socket.read_exact(&mut payload))
            .await
            .ok()?;
        self.received += 8 + len as u64;
        Some((head[0], payload.into()))
    }

    async fn frame_of(&mut self, kind: u8) -> Option<Bytes> {
        loop {
            match self.frame().await {
                Some((found, payload)) if found == kind => return Some(payload),
                Some(_) => {}
                None => return None,
            }
        }
    }
}

/// Connects by hand and says `words`; what the desk makes of it comes with it.
fn say(
    desk: &Desk,
    owner: &str,
    words: &[u8],
) -> (Raw, impl Future<Output = Result<Received, DeskError>> + use<>) {
    let (mut socket, far) = duplex(1024 * 1024);
    let (desk, owner, words) = (desk.clone(), owner.to_owned(), words.to_vec());
    let came = async move { desk.receive(StreamCarrier::new(far), &owner).await };
    // There is room for it.
    let now = futures_util::FutureExt::now_or_never(socket.write_all(&words));
    now.unwrap().unwrap();
    (Raw { socket, received: 0 }, came)
}

/// A link by hand, with its token.
async fn raw_link(desk: &Desk, owner: &str) -> (Raw, Link, Bytes) {
    let (mut raw, came) = say(desk, owner, &hello());
    let Received::New(link) = soon("a link", came).await.unwrap() else {
        panic!("no new link");
    };
    let mut token = raw.frame_of(0x43).await.unwrap();
    assert_eq!(token.len(), 22);
    let secret = token.split_to(16);
    assert_eq!((token.get_u16(), token.get_u32()), (60, 16 * 1024 * 1024));
    (raw, link, secret)
}

/// What the client is told when it asks with this.
async fn refused(desk: &Desk, owner: &str, token: &[u8], received: u64) -> u16 {
    let (mut raw, came) = say(desk, owner, &resume(token, received));
    let told = async {
        let code = raw.frame_of(0x44).await.unwrap().get_u16();
        assert!(raw.frame().await.is_none(), "and closed");
        code
    };
    let (code, came) = tokio::join!(told, soon("a refusal", came));
    assert!(matches!(came, Err(DeskError::NotResumed { .. })), "{came:?}");
    code
}

#[tokio::test(start_paused = true)]
async fn only_who_has_the_token_and_was_admitted_as_its_owner_takes_a_link_up() {
    let desk = Desk::new(DeskOptions::default());
    let (mut raw, link, token) = raw_link(&desk, "me").await;
    let (_, other_link, other_token) = raw_link(&desk, "you").await;
    assert_ne!(token, other_token);
    let received = raw.received;
    let mut almost = token.to_vec();
    almost[15] ^= 1;
    assert_eq!(refused(&desk, "me", &almost, received).await, 1, "a wrong token");
    assert_eq!(
        refused(&desk, "you", &token, received).await,
        1,
        "another owner's"
    );
    assert_eq!(
        refused(&desk, "me", &other_token, received).await,
        1,
        "another owner's"
    );
    let anew = Desk::new(DeskOptions::default());
    assert_eq!(
        refused(&anew, "me", &token, received).await,
        1,
        "a desk that was started anew"
    );
    // More than was ever sent.
    assert_eq!(refused(&desk, "me", &token, received + 1_000_000).await, 2);
    assert_eq!(refused(&desk, "me", &token, u64::MAX).await, 2);
    // None of this has touched the link: its connection still carries.
    raw.socket.write_all(&frame(0x10, 1, b"x")).await.unwrap();
    let incoming = soon("a request", link.accept()).await.unwrap();
    assert_eq!(incoming.target().as_str(), "x");
    assert_eq!(link.status(), LinkStatus::Up { resumes: 0 });
    drop(other_link);
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_not_sent_again_and_cannot_be_asked_for() {
    let desk = Desk::new(DeskOptions::default());
    let (mut raw, link, token) = raw_link(&desk, "me").await;
    let before = raw.received;
    let mut sent = hello().len();
    let words = [frame(0x42, 0, &before.to_be_bytes()), frame(0x10, 1, b"x")].concat();
    raw.socket.write_all(&words).await.unwrap();
    sent += words.len();
    let mut stream = soon("a request", link.accept()).await.unwrap().accept();
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(&raw.frame_of(0x13).await.unwrap()[..], b"hello");
    assert_eq!(refused(&desk, "me", &token, before - 1).await, 2);
    // From where it was acknowledged all comes again: ACCEPT and the data, on each connection.
    for resumes in 1..=50 {
        let (mut again, came) = say(&desk, "me", &resume(&token, before));
        let came = soon("the link", came).await.unwrap();
        assert!(matches!(came, Received::Resumed(_)), "{came:?}");
        let resumed = again.frame_of(0x41).await.unwrap().get_u64();
        assert_eq!(resumed, sent as u64, "what the server has of ours");
        assert_eq!(&again.frame_of(0x13).await.unwrap()[..], b"hello");
        assert_eq!(link.status(), LinkStatus::Up { resumes });
        // The former connection is closed.
        while raw.frame().await.is_some() {}
        raw = again;
    }
    // The stream is the same.
    raw.socket.write_all(&frame(0x14, 1, b"bye")).await.unwrap();
    let mut said = String::new();
    soon("bye", stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "bye");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_for_links_leaves_the_desk_as_it_was() {
    let desk = Desk::new(DeskOptions::default());
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, mut served) = exchange(&near, &far).await;
    let network_desk = network.desk();
    for n in 0..500u64 {
        for desk in [&desk, &network_desk] {
            assert_eq!(refused(desk, "me", &pattern(16, n), n).await, 1);
        }
    }
    asked.write_all(b"still").await.unwrap();
    let mut five = [0; 5];
    soon("still", served.read_exact(&mut five)).await.unwrap();
    assert_eq!(near.status(), LinkStatus::Up { resumes: 0 });
    assert_eq!((desk.detached_count(), network_desk.detached_count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn first_frames_that_make_no_sense_are_answered_and_closed() {
    let desk = Desk::new(DeskOptions::default());
    for (what, words) in [
        ("a PING first", frame(0x02, 0, &[0; 8])),
        ("RESUMED first", frame(0x41, 0, &[0; 8])),
        ("NOT_RESUMED first", frame(0x44, 0, &[0, 1])),
        ("a short RESUME", frame(0x40, 0, &[1; 23])),
        ("RESUME on a stream", frame(0x40, 1, &[1; 24])),
        ("a long RESUME", frame(0x40, 0, &[1; 3000])),
        ("noise", pattern(64, 3)),
    ] {
        let (mut raw, came) = say(&desk, "me", &words);
        let (goodbye, came) = tokio::join!(raw.frame_of(0x04), soon(what, came));
        assert!(
            matches!(came, Err(DeskError::BadFirstFrame { .. })),
            "{what}: {came:?}"
        );
        assert_eq!(goodbye.unwrap().get_u16(), 3, "{what}");
    }
    // Cut anywhere, and at any pace.
    let whole = resume(&[1; 16], 5);
    for at in 0..whole.len() {
        let (mut raw, came) = say(&desk, "me", &whole[..at]);
        let rest = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            raw.socket.write_all(&whole[at..]).await.unwrap();
            raw.frame_of(0x44).await.unwrap().get_u16()
        };
        let (code, came) = tokio::join!(rest, soon("a refusal", came));
        assert!(
            code == 1 && matches!(came, Err(DeskError::NotResumed { .. })),
            "{came:?}"
        );
        let (raw, came) = say(&desk, "me", &whole[..at]);
        drop(raw);
        let came = soon("the end", came).await;
        assert!(matches!(came, Err(DeskError::Ended(_))), "{came:?}");
        let (_raw, came) = say(&desk, "me", &whole[..at]);
        let came = soon("the deadline", came).await;
        assert!(matches!(came, Err(DeskError::TimedOut { .. })), "{came:?}");
    }
}

/// RESUME, RESUMED, NOT_RESUMED and TOKEN have no place within a link, and ACK only for what was sent.
#[tokio::test(start_paused = true)]
async fn frames_out_of_place_end_the_link_for_good() {
    let desk = Desk::new(DeskOptions::default());
    for (what, words) in [
        ("RESUME", resume(&[1; 16], 0)),
        ("RESUMED", frame(0x41, 0, &[0; 8])),
        ("TOKEN", frame(0x43, 0, &[0; 22])),
        ("NOT_RESUMED", frame(0x44, 0, &[0, 1])),
        ("ACK ahead", frame(0x42, 0, &1_000_000u64.to_be_bytes())),
        ("a short ACK", frame(0x42, 0, &[0; 7])),
        ("ACK on a stream", frame(0x42, 1, &[0; 8])),
    ] {
        let (mut raw, link, token) = raw_link(&desk, "me").await;
        raw.socket.write_all(&words).await.unwrap();
        assert_eq!(raw.frame_of(0x04).await.unwrap().get_u16(), 3, "{what}");
        let received = raw.received;
        drop(raw);
        let end = soon("the end", link.closed()).await;
        assert!(
            matches!(end, tunnel_bridge::LinkEnd::Protocol { .. }),
            "{what}: {end:?}"
        );
        assert_eq!(refused(&desk, "me", &token, received).await, 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_acknowledges_nothing_stops_its_own_streams_and_no_memory_grows() {
    let mut options = DeskOptions::default();
    // The least that is taken.
    options.replay_bytes = 0;
    let desk = Desk::new(options);
    let (mut raw, came) = say(&desk, "me", &hello());
    let Received::New(link) = soon("a link", came).await.unwrap() else {
        panic!("no new link");
    };
    let open = [frame(0x10, 1, b"x"), frame(0x16, 1, &(1u32 << 30).to_be_bytes())].concat();
    raw.socket.write_all(&open).await.unwrap();
    let mut stream = soon("a request", link.accept()).await.unwrap().accept();
    let sender = tokio::spawn(async move {
        stream.write_all(&pattern(8 * 1024 * 1024, 1)).await.unwrap();
        stream
    });
    // All that comes without an acknowledgement.
    let mut got = 0;
    while let Ok(Some((kind, payload))) = tokio::time::timeout(Duration::from_secs(3), async {
        let mut head = [0; 8];
        raw.socket.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let mut payload = vec![0; len];
        raw.socket.read_exact(&mut payload).await.ok()?;
        raw.received += 8 + len as u64;
        Some((head[0], payload))
    })
    .await
    {
        if kind == 0x13 {
            got += payload.len();
        }
    }
    assert!((1024 * 1024 - 1024..=1280 * 1024).contains(&got), "{got}");
    assert!(!sender.is_finished());
    // Each one that comes lets it go on.
    let mut seen = got;
    while seen < 8 * 1024 * 1024 {
        let ack = frame(0x42, 0, &raw.received.to_be_bytes());
        raw.socket.write_all(&ack).await.unwrap();
        seen += raw.frame_of(0x13).await.unwrap().len();
    }
    drop(soon("the sender", sender).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn links_that_wait_are_bounded_by_number_and_by_what_they_hold() {
    let mut options = DeskOptions::default();
    options.max_detached = 2;
    let (network, mut coming) = Network::new(options);
    let mut links = Vec::new();
    for _ in 0..4 {
        let (near, far) = network.link(&mut coming).await;
        let streams = exchange(&near, &far).await;
        links.push((near, far, streams));
    }
    network.refuse(true);
    network.cut();
    for (near, ..) in &links {
        until("the loss", &mut near.watch_status(), |status| !status.is_up()).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(network.desk().detached_count(), 2);
    assert_eq!(links.iter().filter(|(_, far, _)| far.is_closed()).count(), 2);
    network.refuse(false);
    let mut whole = 0;
    for (near, far, (mut asked, mut served)) in links {
        if far.is_closed() {
            let error = soon("the reset", asked.read_u8()).await.unwrap_err();
            assert!(is_link_lost(&error), "{error}");
        } else {
            served.write_all(b"x").await.unwrap();
            assert_eq!(soon("x", asked.read_u8()).await.unwrap(), b'x');
            whole += 1;
        }
        drop(near);
    }
    assert_eq!((whole, network.desk().detached_count()), (2, 0));

    let mut options = DeskOptions::default();
    options.max_detached_bytes = 0;
    let (network, mut coming) = Network::new(options);
    let (near, far) = network.link(&mut coming).await;
    let _streams = exchange(&near, &far).await;
    network.cut();
    soon("the end", far.closed()).await;
    assert_eq!(network.desk().detached_count(), 0);
}

/// One client that comes and goes leaves room for the others.
#[tokio::test(start_paused = true)]
async fn of_an_owner_with_too_many_links_that_wait_the_oldest_ends() {
    let mut options = DeskOptions::default();
    options.max_detached = 4;
    options.max_detached_per_owner = 2;
    let desk = Desk::new(options);
    let mut links = Vec::new();
    for owner in ["greedy", "greedy", "greedy", "modest", "greedy"] {
        let (raw, link, token) = raw_link(&desk, owner).await;
        let received = raw.received;
        drop(raw);
        until("the loss", &mut link.watch_status(), |status| !status.is_up()).await;
        links.push((owner, link, token, received));
    }
    for ended in [0, 1] {
        let end = soon("the end", links[ended].1.closed()).await;
        assert!(
            matches!(end, LinkEnd::PeerClosed { .. } | LinkEnd::Lost { .. }),
            "{end:?}"
        );
    }
    assert_eq!(desk.detached_count(), 3);
    for (number, (owner, link, token, received)) in links.iter().enumerate() {
        if number < 2 {
            assert_eq!(refused(&desk, owner, token, *received).await, 1);
        } else {
            let (_raw, came) = say(&desk, owner, &resume(token, *received));
            let came = soon("the link", came).await;
            assert!(matches!(came, Ok(Received::Resumed(_))), "{number}: {came:?}");
            assert!(!link.is_closed());
        }
    }
}

/// What nobody has read counts as held.
#[tokio::test(start_paused = true)]
async fn what_was_received_and_not_read_counts_as_held() {
    for (most, waits) in [(200 * 1024, false), (400 * 1024, true)] {
        let mut options = DeskOptions::default();
        options.max_detached_bytes = most;
        let (network, mut coming) = Network::new(options);
        let (near, far) = network.link(&mut coming).await;
        let (mut asked, served) = exchange(&near, &far).await;
        // All of the first window.
        let sent = tokio::spawn(async move { asked.write_all(&pattern(1024 * 1024, 1)).await });
        tokio::time::sleep(Duration::from_secs(2)).await;
        network.refuse(true);
        network.cut();
        until("the loss", &mut near.watch_status(), |status| !status.is_up()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(network.desk().detached_count(), usize::from(waits), "{most}");
        assert_eq!(far.is_closed(), !waits, "{most}");
        drop((near, far, served));
        sent.abort();
    }
}

/// A runtime that is closing drops the tasks that are spawned on it at once, on the thread of who spawns them.
#[test]
fn a_link_that_begins_while_the_runtime_closes_ends() {
    let (done, when_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _context = handle.enter();
        let desk = Desk::new(DeskOptions::default());
        let (_raw, came) = say(&desk, "me", &hello());
        let came = futures_util::FutureExt::now_or_never(came).unwrap();
        let Ok(Received::New(link)) = came else {
            panic!("{came:?}");
        };
        drop(link);
        done.send(desk.detached_count()).unwrap();
    });
    assert_eq!(when_done.recv_timeout(Duration::from_secs(40)), Ok(0));
    thread.join().unwrap();
}

/// Also when it is told by name: who is admitted as somebody else after the loss gets nothing.
#[tokio::test(start_paused = true)]
async fn a_client_whose_credentials_changed_begins_anew() {
    let (network, mut coming) = Network::new(DeskOptions::default());
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, _served) = exchange(&near, &far).await;
    network.admit_as("somebody else");
    network.cut();
    let error = soon("the reset", asked.read_u8()).await.unwrap_err();
    assert!(is_link_lost(&error), "{error}");
    let end = soon("the end", near.closed()).await;
    assert!(
        matches!(end, tunnel_bridge::LinkEnd::NotResumed { .. }),
        "{end:?}"
    );
    assert_eq!(network.dials.load(Ordering::SeqCst), 1, "it is not tried again");
    assert_eq!(far.status().resumes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_window_may_be_shorter_and_the_client_is_told() {
    let mut options = DeskOptions::default();
    options.window = Duration::from_secs(5);
    let (network, mut coming) = Network::new(options);
    let (near, far) = network.link(&mut coming).await;
    let (mut asked, _served) = exchange(&near, &far).await;
    network.refuse(true);
    network.cut();
    let since = tokio::time::Instant::now();
    asked.write_all(b"x").await.unwrap();
    let error = soon("the reset", asked.read_u8()).await.unwrap_err();
    assert!(is_link_lost(&error), "{error}");
    let took = since.elapsed();
    assert!(
        (Duration::from_secs(5)..Duration::from_millis(5100)).contains(&took),
        "{took:?}"
    );
    let refusal = near.open(&target("x")).await.err();
    assert!(refusal.is_some() || near.is_closed());
    soon("the end", far.closed()).await;
}
