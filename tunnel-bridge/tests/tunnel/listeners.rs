//! From a local port to a target: the ends of connections as programs see them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tunnel_bridge::listener::{ConnectionLimit, Listener, ListenerOptions, bind};
use tunnel_bridge::{End, RefusalKind, Side};

use crate::support::{
    Over, any_port_aside, dialer, echo_service, listen, over_each_carrier, pair, pair_to_cut, pattern,
    read_all, refusing_port, request, road, serve, service, soon, target,
};

over_each_carrier! {
    a_request_and_its_answer_go_through_and_are_counted,
    a_megabyte_comes_back_after_the_request_was_half_closed,
    a_refused_target_resets_the_program_within_a_second,
    a_reset_by_the_target_is_a_reset_for_the_program,
    a_reset_by_the_program_is_a_reset_for_the_target,
    a_reset_after_half_close_is_noticed_as_well,
    what_a_target_sent_before_it_closed_arrives_however_slowly_it_is_read,
    a_lost_link_resets_programs_in_the_middle_of_a_download,
    two_hundred_programs_at_once_have_their_own_bytes_back,
    sixteen_kibibytes_go_and_come_without_nagles_delay,
    a_failure_is_told_until_a_later_connection_finishes,
    closing_lets_connections_finish_and_resets_the_rest_at_the_deadline,
    fifty_listeners_start_and_stop_twenty_times_without_a_bind_failure,
}

async fn a_request_and_its_answer_go_through_and_are_counted(over: Over) {
    let echo = echo_service().await;
    let road = road(over, echo).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    request(&mut program, b"ping").await;
    let mut answer = [0; 4];
    soon("the answer", program.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"ping");
    // Bytes are counted while the connection is open.
    let open = road.listening.counts.read();
    assert_eq!(
        (
            open.connections,
            open.active,
            open.sent_bytes,
            open.received_bytes
        ),
        (1, 1, 4, 4)
    );
    program.shutdown().await.unwrap();
    assert!(soon("the end", read_all(&mut program)).await.unwrap().is_empty());
    assert_eq!(road.listening.closed(1).await, (4, 4, None));
}

async fn a_megabyte_comes_back_after_the_request_was_half_closed(over: Over) {
    let answer = pattern(1024 * 1024, 11);
    let wanted = answer.clone();
    let to = service(move |mut stream| {
        let answer = answer.clone();
        async move {
            let asked = read_all(&mut stream).await.unwrap();
            assert_eq!(asked, b"all of it, please");
            stream.write_all(&answer).await.unwrap();
        }
    })
    .await;
    let road = road(over, to).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    request(&mut program, b"all of it, please").await;
    program.shutdown().await.unwrap();
    assert!(soon("the answer", read_all(&mut program)).await.unwrap() == wanted);
    assert_eq!(road.listening.closed(1).await, (17, 1024 * 1024, None));
}

async fn a_refused_target_resets_the_program_within_a_second(over: Over) {
    let (_refuses, port) = refusing_port();
    let road = road(over, port).await;
    let since = Instant::now();
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    let error = soon("the reset", program.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "took {:?}",
        since.elapsed()
    );
    match road.listening.closed(1).await {
        (0, 0, Some(End::Refused(refusal))) => assert_eq!(refusal.kind, RefusalKind::Refused),
        other => panic!("{other:?}"),
    }
}

async fn a_reset_by_the_target_is_a_reset_for_the_program(over: Over) {
    let to = service(|mut stream| async move {
        let mut some = [0; 5];
        stream.read_exact(&mut some).await.unwrap();
        stream.write_all(b"half an").await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let road = road(over, to).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    request(&mut program, b"hello").await;
    let mut bytes = Vec::new();
    let error = soon("the reset", program.read_to_end(&mut bytes))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        road.listening.closed(1).await.2,
        Some(End::Reset { by: Side::Remote })
    );
}

async fn a_reset_by_the_program_is_a_reset_for_the_target(over: Over) {
    let (ends, mut seen) = mpsc::channel(1);
    let to = service(move |mut stream| {
        let ends = ends.clone();
        async move {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).await.map_err(|error| error.kind());
            ends.send(end).await.unwrap();
        }
    })
    .await;
    let road = road(over, to).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    request(&mut program, b"hello").await;
    road.listening
        .until("the connection", |counts| counts.active == 1)
        .await;
    program.set_zero_linger().unwrap();
    drop(program);
    assert_eq!(
        soon("the reset", seen.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(
        road.listening.closed(1).await.2,
        Some(End::Reset { by: Side::Local })
    );
}

async fn what_a_target_sent_before_it_closed_arrives_however_slowly_it_is_read(over: Over) {
    const ALL: usize = 4 * 1024 * 1024;
    let (closed, mut closes) = mpsc::channel(1);
    let to = service(move |mut stream| {
        let closed = closed.clone();
        async move {
            stream.write_all(&pattern(ALL, 5)).await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let road = road(over, to).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    let mut bytes = vec![0; ALL / 4];
    soon("the beginning", program.read_exact(&mut bytes))
        .await
        .unwrap();
    // For longer than it takes to notice that the target has gone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    soon("the rest", program.read_to_end(&mut bytes)).await.unwrap();
    assert!(bytes == pattern(ALL, 5));
    soon("the target's end", closes.recv()).await.unwrap();
    drop(program);
    assert_eq!(road.listening.closed(1).await, (0, ALL as u64, None));
}

/// The program has half-closed, so that nobody reads from it any more, and is reset then.
async fn a_reset_after_half_close_is_noticed_as_well(over: Over) {
    let (ends, mut seen) = mpsc::channel(1);
    let to = service(move |mut stream| {
        let ends = ends.clone();
        async move {
            read_all(&mut stream).await.unwrap();
            ends.send(()).await.unwrap();
            // Says nothing and waits for its client, whose reset shows as an error of the socket.
            stream.ready(tokio::io::Interest::ERROR).await.unwrap();
            ends.send(()).await.unwrap();
        }
    })
    .await;
    let road = road(over, to).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    program.shutdown().await.unwrap();
    soon("the half-close", seen.recv()).await.unwrap();
    program.set_zero_linger().unwrap();
    drop(program);
    soon("the reset", seen.recv()).await.unwrap();
    assert_eq!(
        road.listening.closed(1).await.2,
        Some(End::Reset { by: Side::Local })
    );
}

async fn a_lost_link_resets_programs_in_the_middle_of_a_download(over: Over) {
    let to = service(|mut stream| async move {
        let bytes = pattern(256 * 1024, 2);
        while stream.write_all(&bytes).await.is_ok() {}
    })
    .await;
    let (near, far, relay) = pair_to_cut(over).await;
    serve(far);
    let listening = listen(&near, to);
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let mut some = vec![0; 1024 * 1024];
    soon("the first megabyte", program.read_exact(&mut some))
        .await
        .unwrap();
    relay.cut();
    let mut rest = Vec::new();
    let error = soon("the loss", program.read_to_end(&mut rest))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(listening.closed(1).await.2, Some(End::LinkLost));
    // While there is no link, programs are reset as well; the port stays.
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let error = soon("the reset", program.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let Some(End::Refused(refusal)) = listening.closed(2).await.2 else {
        panic!("it is told why");
    };
    assert_eq!(refusal.kind, RefusalKind::LinkLost);
}

async fn two_hundred_programs_at_once_have_their_own_bytes_back(over: Over) {
    let echo = echo_service().await;
    let road = road(over, echo).await;
    let address = road.listening.address();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200u64 {
        all.spawn(async move {
            let sent = pattern(100_000 + usize::try_from(number).unwrap() * 13, number + 1);
            let mut program = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = program.split();
            let write_all = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), received) = tokio::join!(write_all, read_all(&mut read));
            assert!(
                received.unwrap() == sent,
                "connection {number} got something else"
            );
        });
    }
    soon("200 programs", async {
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    })
    .await;
}

/// With Nagle's delay on any leg this takes 40 ms a round (its other half is the delayed acknowledgement).
async fn sixteen_kibibytes_go_and_come_without_nagles_delay(over: Over) {
    let echo = echo_service().await;
    let road = road(over, echo).await;
    let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
    program.set_nodelay(true).unwrap();
    let mut buffer = vec![7; 16 * 1024];
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let since = Instant::now();
        program.write_all(&buffer).await.unwrap();
        soon("the answer", program.read_exact(&mut buffer)).await.unwrap();
        fastest = fastest.min(since.elapsed());
    }
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
}

async fn a_failure_is_told_until_a_later_connection_finishes(over: Over) {
    let road = road(over, echo_service().await).await;
    let begin = async || {
        let mut program = TcpStream::connect(road.listening.address()).await.unwrap();
        request(&mut program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
        program
    };
    let finish = async |mut program: TcpStream| {
        program.shutdown().await.unwrap();
        soon("the end", read_all(&mut program)).await.unwrap();
    };
    let before = begin().await;
    let failing = begin().await;
    failing.set_zero_linger().unwrap();
    drop(failing);
    road.listening
        .until("the failure", |counts| {
            counts.active == 1 && counts.last_failure.is_some()
        })
        .await;
    finish(before).await;
    assert_ne!(road.listening.closed(2).await.2, None);
    finish(begin().await).await;
    assert_eq!(road.listening.closed(3).await.2, None);
}

async fn closing_lets_connections_finish_and_resets_the_rest_at_the_deadline(over: Over) {
    let echo = echo_service().await;
    let road = road(over, echo).await;
    let address = road.listening.address();
    let mut finishing = TcpStream::connect(address).await.unwrap();
    let mut staying = TcpStream::connect(address).await.unwrap();
    for program in [&mut finishing, &mut staying] {
        request(program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
    }
    let closing = tokio::spawn(road.listening.listener.close(Duration::from_millis(300)));
    // The port is closed at once: a new program is refused, or reset if it came before the close.
    soon("the port's end", async {
        loop {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    // The one that goes on in the meantime ends in good order.
    request(&mut finishing, b"y").await;
    assert_eq!(soon("the echo", finishing.read_u8()).await.unwrap(), b'y');
    finishing.shutdown().await.unwrap();
    assert!(
        soon("its end", read_all(&mut finishing))
            .await
            .unwrap()
            .is_empty()
    );
    let error = soon("the reset", staying.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    soon("closing", closing).await.unwrap();
    let counts = road.listening.counts.read();
    assert_eq!((counts.connections, counts.active), (2, 0));
    assert_eq!(counts.last_failure, Some(End::Reset { by: Side::Neither }));
    assert!(!road.near.is_closed());
}

async fn fifty_listeners_start_and_stop_twenty_times_without_a_bind_failure(over: Over) {
    let echo = echo_service().await;
    let (near, far) = pair(over).await;
    serve(far);
    let changed = Arc::new(Notify::new());
    let mut addresses = vec![any_port_aside(); 50];
    for round in 0..20 {
        let mut listeners = Vec::new();
        for address in &mut addresses {
            let socket = bind(*address).unwrap_or_else(|error| panic!("round {round}, {address}: {error}"));
            *address = socket.local_addr().unwrap();
            let options = ListenerOptions::default();
            let listener =
                Listener::spawn(socket, target(echo), dialer(&near), options, Arc::clone(&changed)).unwrap();
            listeners.push(listener);
        }
        // Some live connections, left in different states.
        let mut program = TcpStream::connect(addresses[round % 50]).await.unwrap();
        request(&mut program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
        for listener in listeners {
            listener.close(Duration::ZERO).await;
        }
    }
}

#[tokio::test]
async fn listeners_share_a_limit_and_what_exceeds_it_is_reset_and_counted() {
    let echo = echo_service().await;
    let (near, far) = pair(Over::Plain).await;
    serve(far);
    let limit = Arc::new(ConnectionLimit::new(3));
    let changed = Arc::new(Notify::new());
    let listeners = [(), ()].map(|()| {
        let options = ListenerOptions {
            limit: Arc::clone(&limit),
            ..ListenerOptions::default()
        };
        let socket = bind(any_port_aside()).unwrap();
        Listener::spawn(socket, target(echo), dialer(&near), options, Arc::clone(&changed)).unwrap()
    });
    let mut open = Vec::new();
    for at in [0, 1, 0] {
        let mut program = TcpStream::connect(listeners[at].local_addr()).await.unwrap();
        request(&mut program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
        open.push(program);
    }
    for listener in &listeners {
        let mut program = TcpStream::connect(listener.local_addr()).await.unwrap();
        assert!(soon("the reset", program.read_u8()).await.is_err());
        assert_eq!(listener.counts().rejected, 1);
    }
    assert_eq!((limit.open(), limit.rejected()), (3, 2));
    drop(open.pop());
    soon("room", async {
        while limit.open() == 3 {
            changed.notified().await;
        }
    })
    .await;
    let mut program = TcpStream::connect(listeners[1].local_addr()).await.unwrap();
    request(&mut program, b"x").await;
    soon("the echo", program.read_u8()).await.unwrap();
}
