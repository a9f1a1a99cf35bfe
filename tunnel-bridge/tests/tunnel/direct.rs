//! Without a link: two TCP connections joined, and the rules of a listener.

use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::listener::{Access, Bandwidth, ConnectionLimit, ListenerOptions, Rules, Stranger, bind};
use tunnel_bridge::{End, Side, listener::Listener};

use crate::support::{
    Listening, any_port_aside, echo_service, listen_with, pattern, read_all, request, service, soon, target,
};

fn listen_directly(to: std::net::SocketAddr) -> Listening {
    listen_with(Arc::new(TcpDialer::default()), to)
}

fn with_rules(to: std::net::SocketAddr, rules: Rules) -> Listening {
    let options = ListenerOptions {
        rules,
        ..ListenerOptions::default()
    };
    with_options(to, options)
}

fn with_options(to: std::net::SocketAddr, options: ListenerOptions) -> Listening {
    let changed = Arc::new(Notify::new());
    let dialer = Arc::new(TcpDialer::default());
    let socket = bind(any_port_aside()).unwrap();
    let listener = Listener::spawn(socket, target(to), dialer, options, Arc::clone(&changed)).unwrap();
    let counts = listener.shared_counts();
    Listening {
        listener,
        counts,
        changed,
    }
}

/// Chunks from one byte to beyond what one read takes, both ways at once, read slowly and fast.
#[tokio::test]
async fn bytes_arrive_whole_under_any_chunking_and_half_close() {
    let echo = echo_service().await;
    let listening = listen_directly(echo);
    let mut all = tokio::task::JoinSet::new();
    let address = listening.address();
    let mut carried = 0;
    for (number, chunk) in [1usize, 7, 1000, 4096, 65_537, 262_144, 262_145, 1_000_000]
        .into_iter()
        .enumerate()
    {
        let len = (chunk * 50).min(8 * 1024 * 1024);
        carried += len as u64;
        all.spawn(async move {
            let sent = pattern(len, number as u64 + 1);
            let program = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = program.into_split();
            let bytes = sent.clone();
            let writing = tokio::spawn(async move {
                for part in bytes.chunks(chunk) {
                    write.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                write.shutdown().await.unwrap();
            });
            if number % 2 == 0 {
                // Until then everything on the way is full.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let received = read_all(&mut read).await.unwrap();
            assert!(received == sent, "chunks of {chunk}: something else came back");
            writing.await.unwrap();
        });
    }
    soon("all of it", async {
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    })
    .await;
    assert_eq!(listening.closed(8).await, (carried, carried, None));
}

#[tokio::test]
async fn a_reset_by_either_side_is_a_reset_for_the_other() {
    let (ends, mut seen) = mpsc::channel(1);
    let to = service(move |mut stream| {
        let ends = ends.clone();
        async move {
            let mut first = [0];
            stream.read_exact(&mut first).await.unwrap();
            if &first == b"r" {
                stream.set_zero_linger().unwrap();
                return;
            }
            let read = read_all(&mut stream).await.map_err(|error| error.kind());
            ends.send(read).await.unwrap();
        }
    })
    .await;
    let listening = listen_directly(to);
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    request(&mut program, b"r").await;
    let error = soon("the reset", program.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(listening.closed(1).await.2, Some(End::Reset { by: Side::Remote }));

    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    request(&mut program, b"x").await;
    soon("the byte's way", async {
        while listening.counts.read().sent_bytes < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    program.set_zero_linger().unwrap();
    drop(program);
    assert_eq!(
        soon("the reset", seen.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(listening.closed(2).await.2, Some(End::Reset { by: Side::Local }));
}

/// Its own direction has ended and nothing is read from it: only the socket's error shows the reset.
#[tokio::test]
async fn a_reset_while_the_other_side_takes_no_more_is_noticed() {
    let to = service(|stream| async move {
        // Never reads; ends with the connection.
        stream.ready(tokio::io::Interest::ERROR).await.unwrap();
    })
    .await;
    let listening = listen_directly(to);
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let filled = tokio::time::timeout(Duration::from_millis(500), async {
        let bytes = pattern(1024 * 1024, 3);
        while program.write_all(&bytes).await.is_ok() {}
    });
    assert!(
        filled.await.is_err(),
        "the far side takes nothing, and yet all went"
    );
    program.set_zero_linger().unwrap();
    drop(program);
    assert_eq!(listening.closed(1).await.2, Some(End::Reset { by: Side::Local }));
}

#[tokio::test]
async fn what_a_target_sent_before_it_closed_arrives_however_slowly_it_is_read() {
    const ALL: usize = 16 * 1024 * 1024;
    let to = service(|mut stream| async move {
        stream.write_all(&pattern(ALL, 5)).await.unwrap();
    })
    .await;
    let listening = listen_directly(to);
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let bytes = soon("all of it", read_all(&mut program)).await.unwrap();
    assert!(bytes == pattern(ALL, 5));
    drop(program);
    assert_eq!(listening.closed(1).await, (0, ALL as u64, None));
}

#[tokio::test]
async fn a_connection_is_reset_when_nothing_moves_for_as_long_as_allowed() {
    let echo = echo_service().await;
    let allowed = Duration::from_millis(600);
    let listening = with_rules(
        echo,
        Rules {
            idle_timeout: Some(allowed),
            ..Rules::default()
        },
    );
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let since = Instant::now();
    let mut last = since;
    // Longer than allowed in all, and never for so long without a byte.
    while since.elapsed() < 2 * allowed {
        last = Instant::now();
        request(&mut program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
        tokio::time::sleep(allowed / 6).await;
    }
    let error = soon("the reset", program.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(last.elapsed() >= allowed, "{:?}", last.elapsed());
    assert_eq!(listening.closed(1).await.2, Some(End::Idle));
}

/// Its turn comes once a second, which is longer than it may be idle.
#[tokio::test]
async fn what_waits_for_its_bandwidth_is_not_idle() {
    let to = service(|mut stream| async move {
        stream.write_all(&pattern(800, 3)).await.unwrap();
        stream.shutdown().await.unwrap();
        // Until the program has all of it.
        drop(stream.read_u8().await);
    })
    .await;
    let rate = NonZeroU64::new(256).unwrap();
    let listening = with_rules(
        to,
        Rules {
            idle_timeout: Some(Duration::from_millis(300)),
            bandwidth: Some(Arc::new(Bandwidth::new(rate))),
            ..Rules::default()
        },
    );
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let since = Instant::now();
    let bytes = soon("all of it", read_all(&mut program)).await.unwrap();
    assert!(bytes == pattern(800, 3));
    assert!(
        since.elapsed() > Duration::from_secs(2),
        "it waited: {:?}",
        since.elapsed()
    );
    drop(program);
    assert_eq!(listening.closed(1).await, (0, 800, None));
}

#[tokio::test]
async fn a_service_has_a_limit_beside_the_shared_one() {
    let echo = echo_service().await;
    let shared = Arc::new(ConnectionLimit::new(100));
    let limit = Arc::new(ConnectionLimit::new(2));
    let options = ListenerOptions {
        limit: Arc::clone(&shared),
        rules: Rules {
            limit: Some(Arc::clone(&limit)),
            ..Rules::default()
        },
        ..ListenerOptions::default()
    };
    let listening = with_options(echo, options);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut program = TcpStream::connect(listening.address()).await.unwrap();
        request(&mut program, b"x").await;
        soon("the echo", program.read_u8()).await.unwrap();
        open.push(program);
    }
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    assert!(soon("the reset", program.read_u8()).await.is_err());
    assert_eq!((limit.rejected(), shared.rejected(), shared.open()), (1, 0, 2));
    // Rules can be changed while it listens.
    listening.listener.set_rules(Rules::default());
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    request(&mut program, b"x").await;
    soon("the echo", program.read_u8()).await.unwrap();
}

#[tokio::test]
async fn connections_share_the_bandwidth() {
    const RATE: u64 = 4 * 1024 * 1024;
    let to = service(|mut stream| async move {
        let bytes = pattern(256 * 1024, 2);
        while stream.write_all(&bytes).await.is_ok() {}
    })
    .await;
    let listening = with_rules(
        to,
        Rules {
            bandwidth: NonZeroU64::new(RATE).map(|rate| Arc::new(Bandwidth::new(rate))),
            ..Rules::default()
        },
    );
    let mut all = tokio::task::JoinSet::new();
    let since = Instant::now();
    for _ in 0..4 {
        let mut program = TcpStream::connect(listening.address()).await.unwrap();
        all.spawn(async move {
            let mut buffer = vec![0; 256 * 1024];
            let mut sum = 0;
            while since.elapsed() < Duration::from_secs(2) {
                sum += program.read(&mut buffer).await.unwrap();
            }
            sum as f64
        });
    }
    let shares: Vec<f64> = soon("two seconds", all.join_all()).await;
    let rate = shares.iter().sum::<f64>() / since.elapsed().as_secs_f64() / RATE as f64;
    assert!((0.9..1.1).contains(&rate), "{rate} of the rate");
    for share in &shares {
        let share = share / shares.iter().sum::<f64>();
        assert!((0.2..0.3).contains(&share), "{shares:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn only_the_users_named_may_connect() {
    let echo = echo_service().await;
    let own = rustix::process::geteuid().as_raw();
    let (strangers, mut told) = mpsc::channel(1);
    let rules = |uid: u32| Rules {
        access: Access::Users([uid].into()),
        ..Rules::default()
    };
    let options = ListenerOptions {
        strangers: Some(strangers),
        rules: rules(own + 1),
        ..ListenerOptions::default()
    };
    let listening = with_options(echo, options);
    for _ in 0..3 {
        let mut program = TcpStream::connect(listening.address()).await.unwrap();
        let error = soon("the reset", program.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let counts = listening.until("three", |counts| counts.strangers == 3).await;
    assert_eq!((counts.connections, counts.rejected), (0, 0));
    let first = soon("who it was", told.recv()).await;
    assert_eq!(first, Some((listening.address(), Stranger::User { uid: own })));
    listening.listener.set_rules(rules(own));
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    request(&mut program, b"x").await;
    soon("the echo", program.read_u8()).await.unwrap();
}

#[tokio::test]
async fn a_target_is_told_who_connects_before_anything_else() {
    let (headers, mut seen) = mpsc::channel(1);
    let to = service(move |mut stream| {
        let headers = headers.clone();
        async move {
            let mut header = [0; 28 + 5];
            stream.read_exact(&mut header).await.unwrap();
            headers.send(header).await.unwrap();
        }
    })
    .await;
    let rules = Rules {
        proxy_protocol: true,
        ..Rules::default()
    };
    let listening = with_rules(to, rules);
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    let own = program.local_addr().unwrap();
    request(&mut program, b"hello").await;
    let header = soon("the header", seen.recv()).await.unwrap();
    assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(header[24..26], own.port().to_be_bytes());
    assert_eq!(header[26..28], listening.address().port().to_be_bytes());
    assert_eq!(header[28..], *b"hello");
    drop(program);
    // The header is ours, and not the program's traffic.
    assert_eq!(listening.closed(1).await.0, 5);
}
