//! UDP through a link: programs, a listener, the link, the far end, targets.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tunnel_bridge::listener::ConnectionLimit;
use tunnel_bridge::udp::{FLOW_IDLE, FlowCounts, UdpDialer, UdpListener, UdpOptions, bind, relay};
use tunnel_bridge::{
    ByteStream, DatagramFlow, Dialer, End, Link, Refusal, RefusalKind, ResetReason, Role, StreamCarrier,
    Target, refusal_of, reset_of,
};

use crate::support::{Over, over_each_carrier, pair, pair_to_cut, plain_pair, soon, target};

over_each_carrier!(
    datagrams_go_both_ways_and_each_source_has_a_port_of_its_own,
    a_target_that_is_not_listening_and_one_that_is_refused_are_told_apart,
    a_thousand_sources_have_a_thousand_flows,
    a_cut_link_ends_its_flows,
);

/// Connects what the far end is asked for, `host:port`.
fn serve_flows(far: Link) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut flows = JoinSet::new();
        while let Some(incoming) = far.accept_flow().await {
            flows.spawn(async move {
                match UdpDialer::default().dial_datagrams(incoming.target()).await {
                    Ok(flow) => drop(relay(flow, Box::new(incoming.accept()), FLOW_IDLE).await),
                    Err(refusal) => incoming.refuse(refusal),
                }
            });
        }
    })
}

/// Answers each datagram with its source's port, a colon and what it said.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok((len, source)) = socket.recv_from(&mut buffer).await {
            let mut answer = format!("{}:", source.port()).into_bytes();
            answer.extend_from_slice(&buffer[..len]);
            // One that is too long to be answered is for a test of that.
            drop(socket.send_to(&answer, source).await);
        }
    });
    address
}

struct Udp {
    listener: UdpListener,
    changed: Arc<Notify>,
}

fn listen(dialer: Arc<dyn Dialer>, to: impl std::fmt::Display, options: UdpOptions) -> Udp {
    let changed = Arc::new(Notify::new());
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = UdpListener::spawn(socket, target(to), dialer, options, Arc::clone(&changed)).unwrap();
    Udp { listener, changed }
}

impl Udp {
    async fn program(&self) -> UdpSocket {
        let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        program.connect(self.listener.local_addr()).await.unwrap();
        program
    }

    async fn until(&self, what: &str, wanted: impl Fn(&FlowCounts) -> bool) -> FlowCounts {
        soon(what, async {
            loop {
                let counts = self.listener.counts();
                if wanted(&counts) {
                    return counts;
                }
                // Datagrams are counted in silence.
                drop(tokio::time::timeout(Duration::from_millis(20), self.changed.notified()).await);
            }
        })
        .await
    }
}

/// Sends, and receives what comes back: the far port, and what was said.
async fn ask(program: &UdpSocket, what: &[u8]) -> (u16, Vec<u8>) {
    program.send(what).await.unwrap();
    answer(program).await
}

async fn answer(program: &UdpSocket) -> (u16, Vec<u8>) {
    let mut buffer = vec![0; 65536];
    let len = soon("an answer", program.recv(&mut buffer)).await.unwrap();
    let colon = buffer.iter().position(|&byte| byte == b':').unwrap();
    let port = std::str::from_utf8(&buffer[..colon]).unwrap().parse().unwrap();
    (port, buffer[colon + 1..len].to_vec())
}

async fn send(flow: &mut dyn DatagramFlow, datagram: impl Into<Bytes>) -> io::Result<()> {
    let datagram = datagram.into();
    poll_fn(|cx| flow.poll_send(cx, &datagram)).await
}

async fn receive(flow: &mut dyn DatagramFlow) -> io::Result<Option<Bytes>> {
    soon("a datagram", poll_fn(|cx| flow.poll_receive(cx))).await
}

/// Dials to whichever target is set.
struct Aimed(std::sync::Mutex<SocketAddr>);

#[async_trait::async_trait]
impl Dialer for Aimed {
    async fn dial(&self, _target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        Err(Refusal::new(RefusalKind::NotAllowed, "datagrams only"))
    }

    async fn dial_datagrams(&self, _target: &Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        let to = *self.0.lock().unwrap();
        UdpDialer::default().dial_datagrams(&target(to)).await
    }
}

#[tokio::test]
async fn flows_that_were_ended_are_dialed_anew_with_the_next_datagram() {
    let (before, after) = (echo().await, echo().await);
    let aimed = Arc::new(Aimed(std::sync::Mutex::new(before)));
    let udp = listen(Arc::clone(&aimed) as _, before, UdpOptions::default());
    let program = udp.program().await;
    let (port, _) = ask(&program, b"one").await;
    assert_eq!(ask(&program, b"two").await.0, port);

    *aimed.0.lock().unwrap() = after;
    udp.listener.end_flows();
    assert_eq!(ask(&program, b"three").await.1, b"three");
    let counts = udp.until("the old flow's end", |counts| counts.active == 1).await;
    assert_eq!((counts.flows, counts.dropped.total()), (2, 0));
    udp.listener.close().await;
}

async fn datagrams_go_both_ways_and_each_source_has_a_port_of_its_own(over: Over) {
    let (near, far) = pair(over).await;
    serve_flows(far);
    let udp = listen(near.dialer(), echo().await, UdpOptions::default());
    let (one, other) = (udp.program().await, udp.program().await);
    let (port, said) = ask(&one, b"hello").await;
    assert_eq!(said, b"hello");
    let (other_port, _) = ask(&other, b"").await;
    assert_ne!(port, other_port);
    for round in 0..100u8 {
        let long = vec![round; usize::from(round) * 600];
        assert_eq!(ask(&one, &long).await, (port, long));
        assert_eq!(ask(&other, &[round]).await, (other_port, vec![round]));
    }
    let counts = udp.listener.counts();
    assert_eq!((counts.flows, counts.active, counts.dropped.total()), (2, 2, 0));
    assert_eq!((counts.sent, counts.received), (202, 202));
    assert_eq!(counts.max_datagram, Some(65_507));
    assert_eq!(near.are_datagrams_carried(), Some(true));

    // Closed, the port is free at once and nothing comes any more.
    let local = udp.listener.local_addr();
    udp.listener.close().await;
    drop(bind(local).unwrap());
}

async fn a_target_that_is_not_listening_and_one_that_is_refused_are_told_apart(over: Over) {
    let (near, far) = pair(over).await;
    serve_flows(far);
    // A port that was free a moment ago.
    let free = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut flow = near.dial_datagrams(&target(free)).await.unwrap();
    send(&mut *flow, "anybody?").await.unwrap();
    let error = receive(&mut *flow).await.unwrap_err();
    assert_eq!(reset_of(&error), Some(ResetReason::SocketReset), "{error}");
    assert!(send(&mut *flow, "again").await.is_err());

    let mut flow = near
        .dial_datagrams(&target("no-such-host.invalid:53"))
        .await
        .unwrap();
    let error = receive(&mut *flow).await.unwrap_err();
    assert_eq!(
        refusal_of(&error).map(|refusal| refusal.kind),
        Some(RefusalKind::Unreachable)
    );

    // A listener tells of it, and comes back once somebody listens.
    let udp = listen(near.dialer(), free, UdpOptions::default());
    let program = udp.program().await;
    program.send(b"anybody?").await.unwrap();
    let counts = udp
        .until("the failure", |counts| counts.last_failure.is_some())
        .await;
    assert!(
        matches!(&counts.last_failure, Some(End::Refused(refusal)) if refusal.kind == RefusalKind::Refused),
        "{counts:?}"
    );
    let server = UdpSocket::bind(free).await.unwrap();
    let mut buffer = [0; 16];
    soon("the next flow", async {
        loop {
            program.send(b"anybody?").await.unwrap();
            let received = tokio::time::timeout(Duration::from_millis(100), server.recv_from(&mut buffer));
            if let Ok(received) = received.await {
                return received.unwrap();
            }
        }
    })
    .await;
}

async fn a_thousand_sources_have_a_thousand_flows(over: Over) {
    let (near, far) = pair(over).await;
    serve_flows(far);
    let udp = listen(near.dialer(), echo().await, UdpOptions::default());
    let mut programs = Vec::new();
    for _ in 0..1000 {
        programs.push(udp.program().await);
    }
    let mut ports = BTreeSet::new();
    for round in 0..2 {
        for (number, program) in programs.iter().enumerate() {
            program
                .send(format!("{round} {number}").as_bytes())
                .await
                .unwrap();
            let (port, said) = answer(program).await;
            assert_eq!(said, format!("{round} {number}").into_bytes());
            ports.insert(port);
        }
    }
    assert_eq!(ports.len(), 1000, "each kept its port");
    let counts = udp.listener.counts();
    assert_eq!((counts.flows, counts.active, counts.evicted), (1000, 1000, 0));
}

async fn a_cut_link_ends_its_flows(over: Over) {
    let (near, far, relay) = pair_to_cut(over).await;
    serve_flows(far);
    let to = echo().await;
    let mut flow = near.dial_datagrams(&target(to)).await.unwrap();
    send(&mut *flow, "hello").await.unwrap();
    receive(&mut *flow).await.unwrap().unwrap();
    relay.cut();
    let error = receive(&mut *flow).await.unwrap_err();
    assert!(tunnel_bridge::is_link_lost(&error), "{error}");
    let refusal = near.dial_datagrams(&target(to)).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::LinkLost);
}

#[tokio::test]
async fn the_far_end_refuses_in_its_own_words_and_the_listener_passes_them_on() {
    let (near, far) = plain_pair();
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counting = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(incoming) = far.accept_flow().await {
            counting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            incoming.refuse(Refusal::new(RefusalKind::NotFound, "no such port"));
        }
    });
    let (refusals, mut refused) = tokio::sync::mpsc::channel(4);
    let options = UdpOptions {
        refusals: Some(refusals),
        ..UdpOptions::default()
    };
    let udp = listen(near.dialer(), "udp/x/y/1", options);
    let program = udp.program().await;
    for _ in 0..50 {
        program.send(b"?").await.unwrap();
    }
    let (local, refusal) = soon("the refusal", refused.recv()).await.unwrap();
    assert_eq!(local, udp.listener.local_addr());
    assert_eq!(
        (refusal.kind, refusal.message.as_str()),
        (RefusalKind::NotFound, "no such port")
    );
    // It is not asked again for each datagram.
    program.send(b"?").await.unwrap();
    udp.until("the drop", |counts| counts.dropped.not_connected > 0)
        .await;
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn flows_beyond_the_caps_are_dropped_and_counted() {
    let (near, far) = plain_pair();
    serve_flows(far);
    let to = echo().await;
    let limit = Arc::new(ConnectionLimit::new(3));
    let per_client = UdpOptions {
        max_flows_per_client: 2,
        ..UdpOptions::default()
    };
    let all = UdpOptions {
        max_flows: 2,
        ..UdpOptions::default()
    };
    let shared = UdpOptions {
        limit,
        ..UdpOptions::default()
    };
    for (options, most) in [(per_client, 2), (all, 2), (shared, 3)] {
        let udp = listen(near.dialer(), to, options);
        let mut programs = Vec::new();
        for _ in 0..most {
            let program = udp.program().await;
            ask(&program, b"in").await;
            programs.push(program);
        }
        let one_too_many = udp.program().await;
        one_too_many.send(b"out").await.unwrap();
        udp.until("the drop", |counts| counts.dropped.too_many_flows == 1)
            .await;
        // Those that are there go on.
        for program in &programs {
            ask(program, b"still in").await;
        }
    }
}

#[tokio::test]
async fn the_flow_that_rested_longest_gives_way() {
    let (near, far) = plain_pair();
    serve_flows(far);
    let options = UdpOptions {
        max_flows: 2,
        ..UdpOptions::default()
    };
    let udp = listen(near.dialer(), echo().await, options);
    let (first, second, third) = (udp.program().await, udp.program().await, udp.program().await);
    ask(&first, b"1").await;
    let (second_port, _) = ask(&second, b"2").await;
    soon("the third's turn", async {
        let mut buffer = [0; 64];
        loop {
            // The second is in use all the time.
            assert_eq!(ask(&second, b"2").await.0, second_port);
            third.send(b"3").await.unwrap();
            let received = tokio::time::timeout(Duration::from_millis(50), third.recv(&mut buffer));
            if received.await.is_ok() {
                return;
            }
        }
    })
    .await;
    let counts = udp.listener.counts();
    assert_eq!(
        (counts.flows, counts.active, counts.evicted),
        (3, 2, 1),
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn flows_that_rest_end_at_both_ends() {
    let (near, far) = plain_pair();
    let (ended_sender, mut ended) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(incoming) = far.accept_flow().await {
            let ended = ended_sender.clone();
            tokio::spawn(async move {
                let answers = incoming.target().as_str() == "answers";
                let mut flow = incoming.accept();
                while let Ok(Some(datagram)) = poll_fn(|cx| flow.poll_receive(cx)).await {
                    if answers {
                        send(&mut flow, datagram).await.unwrap();
                    }
                }
                ended.send(()).await.unwrap();
            });
        }
    });
    for (to, idle) in [("answers", 120), ("silent", 30)] {
        let udp = listen(near.dialer(), to, UdpOptions::default());
        let program = udp.program().await;
        // The clock stands still until the datagram, which takes real time, has come.
        program.send(b"?").await.unwrap();
        let began = Instant::now();
        let started = loop {
            assert!(
                began.elapsed() < crate::support::SOON,
                "{:?}",
                udp.listener.counts()
            );
            if udp.listener.counts().sent == 1 && (to == "silent" || udp.listener.counts().received == 1) {
                break tokio::time::Instant::now();
            }
            tokio::task::yield_now().await;
        };
        ended.recv().await.unwrap();
        let rested = started.elapsed();
        assert!(
            (rested.as_secs_f64() - f64::from(idle)).abs() < 1.0,
            "{to}: {rested:?}"
        );
        assert_eq!(udp.listener.counts().last_failure, None);
    }
}

#[tokio::test]
async fn what_is_not_taken_in_time_is_dropped_and_counted_and_stops_no_stream() {
    let (near, far) = plain_pair();
    let mut flow = near.dial_datagrams(&target("slow")).await.unwrap();
    let incoming = soon("the request", far.accept_flow()).await.unwrap();
    let mut taken = incoming.accept();
    // Nobody receives at the far end.
    for number in 0..2000u32 {
        send(&mut *flow, number.to_be_bytes().to_vec()).await.unwrap();
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // A stream beside it works.
    let mut stream = near.open(&target("stream")).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut accepted = soon("the stream", far.accept()).await.unwrap().accept();
    let mut buffer = [0; 5];
    soon("its bytes", accepted.read_exact(&mut buffer)).await.unwrap();

    let (mut arrived, mut last) = (0, None);
    while let Ok(received) =
        tokio::time::timeout(Duration::from_millis(200), poll_fn(|cx| taken.poll_receive(cx))).await
    {
        let number = u32::from_be_bytes(received.unwrap().unwrap()[..].try_into().unwrap());
        assert!(last.is_none_or(|last| number > last), "in order");
        last = Some(number);
        arrived += 1;
    }
    assert!(arrived <= 256, "{arrived}");
    assert_eq!(arrived + flow.dropped() + taken.dropped(), 2000);
    // Too long for the link: dropped, and the flow goes on.
    send(&mut *flow, vec![0; 65_508]).await.unwrap();
    send(&mut *flow, vec![7; 65_507]).await.unwrap();
    assert_eq!(receive(&mut taken).await.unwrap().unwrap().len(), 65_507);
}

/// A relay that lets `rate` bytes a second through each way, with little waiting in it.
async fn slow_pair(rate: usize) -> (Link, Link) {
    let (near, near_wire) = tokio::io::duplex(16 * 1024);
    let (far_wire, far) = tokio::io::duplex(16 * 1024);
    let slow = |mut from: tokio::io::ReadHalf<tokio::io::DuplexStream>,
                mut to: tokio::io::WriteHalf<tokio::io::DuplexStream>| async move {
        let mut buffer = vec![0; 4096];
        let mut free_at = tokio::time::Instant::now();
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            free_at =
                free_at.max(tokio::time::Instant::now()) + Duration::from_secs_f64(len as f64 / rate as f64);
            tokio::time::sleep_until(free_at).await;
            if to.write_all(&buffer[..len]).await.is_err() {
                break;
            }
        }
    };
    let (near_read, near_write) = tokio::io::split(near_wire);
    let (far_read, far_write) = tokio::io::split(far_wire);
    tokio::spawn(slow(near_read, far_write));
    tokio::spawn(slow(far_read, near_write));
    (
        Link::over(StreamCarrier::new(near), Role::Client),
        Link::over(StreamCarrier::new(far), Role::Server),
    )
}

/// Virtual time: what is measured is the order on the wire, not this machine.
#[tokio::test(start_paused = true)]
async fn datagrams_do_not_wait_behind_bulk() {
    let rate = 1_000_000;
    let (near, far) = slow_pair(rate).await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(stream) = far.accept() => {
                    let mut stream = stream.accept();
                    tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
                }
                Some(flow) = far.accept_flow() => {
                    let mut flow = flow.accept();
                    tokio::spawn(async move {
                        while let Ok(Some(datagram)) = poll_fn(|cx| flow.poll_receive(cx)).await {
                            send(&mut flow, datagram).await.unwrap();
                        }
                    });
                }
                else => return,
            }
        }
    });
    let mut flow = near.dial_datagrams(&target("echo")).await.unwrap();
    let round_trips = async |flow: &mut Box<dyn DatagramFlow>| {
        let mut took = Vec::new();
        for _ in 0..20 {
            let before = tokio::time::Instant::now();
            send(&mut **flow, vec![1; 200]).await.unwrap();
            poll_fn(|cx| flow.poll_receive(cx)).await.unwrap().unwrap();
            took.push(before.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        took.sort();
        took[took.len() / 2]
    };
    let floor = round_trips(&mut flow).await;
    let mut bulk = JoinSet::new();
    for _ in 0..4 {
        let mut stream = near.open(&target("bulk")).await.unwrap();
        bulk.spawn(async move {
            let block = vec![0; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {}
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let beside = round_trips(&mut flow).await;
    // What stands before it has left the scheduler: it is with the carrier, and on this test's wire. Megabytes of bulk wait behind it.
    let buffers = 384 * 1024;
    let most = floor + Duration::from_secs_f64(f64::from(buffers) / rate as f64);
    assert!(
        beside <= most,
        "{beside:?} beside bulk, {floor:?} without, at most {most:?}"
    );
    println!("beside bulk {beside:?}, without {floor:?}");
}

/// An end of a link that is written by hand.
async fn by_hand(frames: Vec<u8>) -> (Link, tokio::io::DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let link = Link::over(StreamCarrier::new(ours), Role::Server);
    theirs.write_all(&frames).await.unwrap();
    (link, theirs)
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (u32::from(kind) << 24 | u32::try_from(payload.len()).unwrap())
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn hello(features: u8) -> Vec<u8> {
    let mut payload = vec![0, 1, 0, features];
    for number in [16 * 1024u32, 64 * 1024, 16_448, 256] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    frame(0x01, 0, &payload)
}

#[tokio::test]
async fn an_older_far_end_carries_none_and_says_so() {
    let (link, _theirs) = by_hand(hello(0)).await;
    let refusal = soon("the refusal", link.dial_datagrams(&target("udp/x/y/1"))).await;
    assert_eq!(
        refusal.err().map(|refusal| refusal.kind),
        Some(RefusalKind::Unsupported)
    );
    assert_eq!(link.are_datagrams_carried(), Some(false));
    assert!(!link.dialer().carries_datagrams());
}

#[tokio::test]
async fn hostile_ends_are_refused_or_cut_off_and_cost_little() {
    // A flood of requests that nobody takes.
    let mut flood = hello(2);
    for number in 0..100_000u32 {
        flood.extend_from_slice(&frame(0x20, 2 * number + 1, b"udp/x/y/1"));
    }
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let link = Link::over(StreamCarrier::new(ours), Role::Server);
    let (mut read, mut write) = tokio::io::split(theirs);
    let reading = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    soon("the flood", write.write_all(&flood)).await.unwrap();
    let first = soon("the first", link.accept_flow()).await.unwrap();
    assert_eq!(first.target().as_str(), "udp/x/y/1");
    assert!(!link.is_closed());
    drop(reading);

    let flow = || [hello(2), frame(0x20, 1, b"x")].concat();
    for (what, frames) in [
        ("too long", [flow(), frame(0x21, 1, &[0; 65_508])].concat()),
        ("never opened", [flow(), frame(0x21, 3, b"x")].concat()),
        ("bytes", [flow(), frame(0x13, 1, b"x")].concat()),
        ("without the feature", [hello(1), frame(0x20, 1, b"x")].concat()),
    ] {
        let (link, _theirs) = by_hand(frames).await;
        let end = soon(what, link.closed()).await;
        assert!(
            matches!(end, tunnel_bridge::LinkEnd::Protocol { .. }),
            "{what}: {end}"
        );
    }

    // Datagrams without end on many flows that nobody receives: the link holds 8 MiB of them at most, and counts the rest.
    let mut frames = hello(2);
    for number in 0..200u32 {
        frames.extend_from_slice(&frame(0x20, 2 * number + 1, b"x"));
    }
    for _ in 0..200 {
        for number in 0..200u32 {
            frames.extend_from_slice(&frame(0x21, 2 * number + 1, &[0; 1200]));
        }
    }
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let link = Link::over(StreamCarrier::new(ours), Role::Server);
    let (_read, mut write) = tokio::io::split(theirs);
    let before = Instant::now();
    soon("all of it", write.write_all(&frames)).await.unwrap();
    let mut kept = 0;
    let mut dropped = 0;
    for _ in 0..200 {
        let mut flow = soon("a flow", link.accept_flow()).await.unwrap().accept();
        while let Ok(received) =
            tokio::time::timeout(Duration::ZERO, poll_fn(|cx| flow.poll_receive(cx))).await
        {
            kept += received.unwrap().unwrap().len();
        }
        dropped += flow.dropped();
    }
    assert!(kept <= 9 * 1024 * 1024, "{kept}");
    assert!(dropped > 20_000, "{dropped} dropped in {:?}", before.elapsed());
}
