//! The sockets, on loopback.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use domain::base::iana::Rtype;
use nameserver::{Answering, Forwarding, Listening, RateLimit, Responder, Server};
use support::{Reply, answering, query, query_edns, read, registry};

const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// For what must come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(listening: Listening) -> Server {
    let forwarding = listening.forwarding.is_some();
    let settings = Answering {
        forwarding,
        ..answering()
    };
    Server::start(Responder::new(registry(), settings), listening)
        .await
        .unwrap()
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Reply {
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).unwrap();
    read(&buffer[..len])
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut message = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    message.extend_from_slice(packet);
    message
}

fn receive_tcp(stream: &mut impl Read) -> Reply {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut packet = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut packet).unwrap();
    read(&packet)
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[tokio::test]
async fn datagrams_are_answered_in_batches_and_noise_is_not() {
    let server = start(Listening {
        threads: 2,
        ..Listening::on([HERE])
    })
    .await;
    let socket = client(server.addresses()[0]);
    socket.send(b"\x12\x34").unwrap();
    for _ in 0..100 {
        socket.send(&query("orders.devbox.test", Rtype::A)).unwrap();
    }
    for _ in 0..100 {
        assert_eq!(receive(&socket).answer, ["orders.devbox.test 5 A 127.77.0.2"]);
    }
    let metrics = server.metrics();
    let outcomes: Vec<_> = metrics.outcomes().filter(|(_, count)| *count > 0).collect();
    assert_eq!(outcomes, [("answer", 100), ("dropped", 1)]);
    assert!(
        metrics
            .to_string()
            .contains("nameserver_packets_total{outcome=\"answer\"} 100")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_server_on_every_address_answers_from_the_one_that_was_asked() {
    let server = start(Listening::on(["0.0.0.0:0".parse().unwrap()])).await;
    let port = server.addresses()[0].port();
    // Each of 127/8 is this machine; the clients are connected and take replies from nowhere else.
    for last in if cfg!(target_os = "linux") { 1..4 } else { 1..2 } {
        let socket = client((Ipv4Addr::new(127, 0, 0, last), port).into());
        socket.send(&query("orders", Rtype::A)).unwrap();
        assert_eq!(receive(&socket).answer.len(), 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_server_lets_go_of_its_port_at_once() {
    let server = start(Listening::on([HERE])).await;
    let address = server.addresses()[0];
    let begun = Instant::now();
    server.stop().await;
    let again = start(Listening::on([address])).await;
    if cfg!(target_os = "linux") {
        assert!(
            begun.elapsed() < Duration::from_millis(900),
            "{:?}",
            begun.elapsed()
        );
    }
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_many_queries_at_once_and_what_was_asked_before_its_end_is_answered() {
    let server = start(Listening::on([HERE])).await;
    let mut stream = connect(server.addresses()[0]);
    let all: Vec<u8> = (0..500)
        .flat_map(|_| framed(&query("orders", Rtype::A)))
        .collect();
    stream.write_all(&all).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..500 {
        assert_eq!(receive_tcp(&mut stream).answer.len(), 1);
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_closed_and_one_too_many_as_well() {
    let listening = Listening {
        idle: Duration::from_millis(300),
        max_streams_per_client: 2,
        ..Listening::on([HERE])
    };
    let server = start(listening).await;
    let mut open = [0; 2].map(|_| connect(server.addresses()[0]));
    // Both are served, so that the third is one too many.
    for stream in &mut open {
        stream.write_all(&framed(&query("orders", Rtype::A))).unwrap();
        receive_tcp(stream);
    }
    let mut third = connect(server.addresses()[0]);
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0);
    for stream in &mut open {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    server.stop().await;
}

#[tokio::test]
async fn who_asks_too_much_is_not_answered() {
    let rate_limit = Some(RateLimit {
        per_second: 1,
        burst: 5,
    });
    let server = start(Listening {
        rate_limit,
        ..Listening::on([HERE])
    })
    .await;
    let socket = client(server.addresses()[0]);
    for _ in 0..20 {
        socket.send(&query("orders", Rtype::A)).unwrap();
    }
    for _ in 0..5 {
        receive(&socket);
    }
    let limited = || {
        server
            .metrics()
            .outcomes()
            .find(|(kind, _)| *kind == "limited")
            .unwrap()
            .1
    };
    let begun = Instant::now();
    while limited() < 14 && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    assert!(limited() >= 14);
    server.stop().await;
}

/// An upstream that answers each query with what `answer` makes of it.
fn upstream(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(HERE).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            for reply in answer(&buffer[..len]) {
                // The asker may have gone.
                drop(socket.send_to(&reply, from));
            }
        }
    });
    address
}

fn nodata(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_come_from_the_upstream_and_forged_replies_do_not() {
    let honest = upstream(|query| {
        let right = nodata(query);
        let mut forged = right.clone();
        forged[1] ^= 0xFF;
        forged[3] |= 3;
        vec![forged, right]
    });
    let listening = Listening {
        forwarding: Some(Forwarding::new([honest])),
        ..Listening::on([HERE])
    };
    let server = start(listening).await;
    let socket = client(server.addresses()[0]);
    socket.send(&query_edns("example.com", Rtype::A, 1232)).unwrap();
    let reply = receive(&socket);
    assert_eq!(
        (reply.rcode.as_str(), reply.name.as_str()),
        ("NOERROR", "example.com")
    );
    let mut stream = connect(server.addresses()[0]);
    stream
        .write_all(&framed(&query("example.org", Rtype::A)))
        .unwrap();
    assert_eq!(receive_tcp(&mut stream).name, "example.org");
    let forward = server.metrics().forward;
    assert_eq!(forward.questions, 2);
    assert!(forward.foreign >= 2 && forward.failed == 0, "{forward:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_delays_no_local_name_and_ends_in_servfail() {
    // Bound and never read.
    let dead = UdpSocket::bind(HERE).unwrap();
    let forwarding = Forwarding {
        deadline: Duration::from_secs(1),
        ..Forwarding::new([dead.local_addr().unwrap()])
    };
    let listening = Listening {
        forwarding: Some(forwarding),
        ..Listening::on([HERE])
    };
    let server = start(listening).await;
    let socket = client(server.addresses()[0]);
    let begun = Instant::now();
    socket.send(&query("example.com", Rtype::A)).unwrap();
    socket.send(&query("orders", Rtype::A)).unwrap();
    assert_eq!(receive(&socket).name, "orders");
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    let reply = receive(&socket);
    assert_eq!(
        (reply.name.as_str(), reply.rcode.as_str()),
        ("example.com", "SERVFAIL")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_connections_costs_no_time() {
    let gone = UdpSocket::bind(HERE).unwrap().local_addr().unwrap();
    let honest = upstream(|query| vec![nodata(query)]);
    let forwarding = Forwarding {
        hedge_after: Duration::from_secs(4),
        ..Forwarding::new([gone, honest])
    };
    let listening = Listening {
        forwarding: Some(forwarding),
        ..Listening::on([HERE])
    };
    let server = start(listening).await;
    let socket = client(server.addresses()[0]);
    let begun = Instant::now();
    socket.send(&query("example.com", Rtype::A)).unwrap();
    assert_eq!(receive(&socket).rcode, "NOERROR");
    // Only Linux and macOS tell a connected socket what ICMP said.
    if cfg!(unix) {
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    server.stop().await;
}
