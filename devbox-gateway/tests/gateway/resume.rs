//! Clients that lost their connection, speak by hand when they come back, and are not always who they say.

use std::time::Duration;

use devbox_gateway::GatewayConfig;
use devbox_gateway_client::handshake;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracing::Level;

use super::support::{Files, Log, Running, TOKEN, file, soon, start};

const HELLO: u8 = 0x01;
const GOAWAY: u8 = 0x04;
const OPEN: u8 = 0x10;
const DATA: u8 = 0x13;
const RESUME: u8 = 0x40;
const RESUMED: u8 = 0x41;
const TOKEN_FRAME: u8 = 0x43;
const NOT_RESUMED: u8 = 0x44;

/// What the gateway logs when it keeps a link without a connection.
const INTERRUPTED: &str = "interrupted";

/// NOT_RESUMED's code for a link that is not kept for this client.
const UNKNOWN: u16 = 1;

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (u32::from(kind) << 24 | u32::try_from(payload.len()).unwrap())
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Who asks, and for what.
#[derive(Clone, Copy)]
struct Asking<'a> {
    session: &'a str,
    token: &'a str,
    generation: u64,
}

/// The session that most of these tests have.
const LAPTOP: Asking<'static> = Asking {
    session: "laptop",
    token: TOKEN,
    generation: 1,
};

/// A connection that the gateway has switched to the raw protocol.
struct Wire {
    socket: TcpStream,
    /// Bytes of the link that were read from it.
    received: u64,
}

impl Wire {
    /// Asks to be let in. The answer's status where that is not 101.
    async fn open(gateway: &Running, asking: Asking<'_>, resumes: bool) -> Result<Self, u16> {
        let mut head = format!(
            "GET {}{} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: devbox-tunnel/1\r\nAuthorization: Bearer {}\r\n\
             {}: {}\r\n",
            handshake::TUNNEL_PATH,
            asking.session,
            asking.token,
            handshake::GENERATION,
            asking.generation,
        );
        if resumes {
            head.push_str(&format!("{}: 1\r\n", handshake::RESUME));
        }
        head.push_str("\r\n");
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(soon(socket.read_u8()).await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        match answer.split(' ').nth(1).unwrap() {
            "101" => Ok(Self { socket, received: 0 }),
            status => Err(status.parse().unwrap()),
        }
    }

    async fn say(&mut self, frame: &[u8]) {
        self.socket.write_all(frame).await.unwrap();
    }

    /// The next frame of one of these kinds.
    async fn hear(&mut self, kinds: &[u8]) -> (u8, Vec<u8>) {
        loop {
            let mut head = [0; 8];
            soon(self.socket.read_exact(&mut head)).await.unwrap();
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
            let mut payload = vec![0; length as usize];
            soon(self.socket.read_exact(&mut payload)).await.unwrap();
            self.received += 8 + u64::from(length);
            if kinds.contains(&head[0]) {
                return (head[0], payload);
            }
        }
    }
}

/// A client's link with one stream to a service, and how the service sees that.
struct Linked {
    wire: Wire,
    secret: Vec<u8>,
    /// Bytes of the link that the client has sent.
    sent: u64,
    service: TcpStream,
}

/// What a client keeps whose connection is gone.
struct Lost {
    secret: Vec<u8>,
    sent: u64,
    received: u64,
    service: TcpStream,
}

impl Linked {
    async fn begin(gateway: &Running, asking: Asking<'_>, services: &TcpListener) -> Self {
        let mut wire = Wire::open(gateway, asking, false).await.unwrap();
        // Version 1 with resume, windows of 256 KiB, frames of 64 KiB, 4096 streams, 256 unanswered opens.
        let mut hello = vec![0, 1, 0, 1];
        for number in [256 * 1024_u32, 64 * 1024, 4096, 256] {
            hello.extend_from_slice(&number.to_be_bytes());
        }
        let said = [
            frame(HELLO, 0, &hello),
            frame(OPEN, 1, b"tcp/x/a/80"),
            frame(DATA, 1, b"ping"),
        ]
        .concat();
        wire.say(&said).await;
        let (_, token) = wire.hear(&[TOKEN_FRAME]).await;
        let (mut service, _) = soon(services.accept()).await.unwrap();
        let mut four = [0; 4];
        soon(service.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"ping");
        service.write_all(b"pong").await.unwrap();
        assert_eq!(wire.hear(&[DATA]).await.1, b"pong");
        Self {
            wire,
            secret: token[..16].to_vec(),
            sent: said.len() as u64,
            service,
        }
    }

    /// Loses the connection, and waits until the gateway has noticed.
    async fn lose(self, log: &Log) -> Lost {
        let before = log.count(INTERRUPTED);
        drop(self.wire.socket);
        soon(async {
            while log.count(INTERRUPTED) == before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        Lost {
            secret: self.secret,
            sent: self.sent,
            received: self.wire.received,
            service: self.service,
        }
    }
}

/// How the gateway answers who wants to go on.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Another status than 101.
    Status(u16),
    /// NOT_RESUMED with this code.
    NotResumed(u16),
}

impl Lost {
    /// Asks for the link.
    async fn ask(&self, gateway: &Running, asking: Asking<'_>) -> Result<Wire, Answer> {
        let mut wire = Wire::open(gateway, asking, true).await.map_err(Answer::Status)?;
        let payload = [&self.secret[..], &self.received.to_be_bytes()].concat();
        wire.say(&frame(RESUME, 0, &payload)).await;
        let (kind, payload) = wire.hear(&[RESUMED, NOT_RESUMED]).await;
        if kind == NOT_RESUMED {
            return Err(Answer::NotResumed(u16::from_be_bytes([payload[0], payload[1]])));
        }
        assert_eq!(payload, self.sent.to_be_bytes(), "what the gateway has");
        Ok(wire)
    }

    async fn refusal(&self, gateway: &Running, asking: Asking<'_>) -> Answer {
        self.ask(gateway, asking).await.err().expect("a refusal")
    }

    /// The same stream goes on, both ways.
    async fn goes_on(&mut self, gateway: &Running, asking: Asking<'_>) -> Wire {
        let mut wire = self.ask(gateway, asking).await.unwrap();
        wire.say(&frame(DATA, 1, b"again")).await;
        let mut five = [0; 5];
        soon(self.service.read_exact(&mut five)).await.unwrap();
        assert_eq!(&five, b"again");
        self.service.write_all(b"still here").await.unwrap();
        assert_eq!(wire.hear(&[DATA]).await.1, b"still here");
        wire
    }

    /// The service sees a reset, and no end of file.
    async fn service_is_reset(&mut self) {
        is_reset(&mut self.service).await;
    }
}

async fn is_reset(service: &mut TcpStream) {
    let error = soon(service.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A service that the test plays, and a gateway's files that name it.
async fn service() -> (TcpListener, Files) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let files = Files::new(&file(&[("a.x", 80, listener.local_addr().unwrap())]));
    (listener, files)
}

async fn until_asked(lost: &Lost, gateway: &Running, asking: Asking<'_>, wanted: Answer) {
    soon(async {
        while lost.refusal(gateway, asking).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

const ALICE: &str = "  - {name: alice, token: a-token}\n";
const BOB: &str = "  - {name: bob, token: b-token}\n";

#[tokio::test]
async fn a_token_that_is_revoked_while_its_link_is_away_resets_the_streams_and_refuses_the_link() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    std::fs::write(&files.token, format!("revoke: true\ntokens:\n{ALICE}{BOB}")).unwrap();
    let gateway = start(files.config().await).await;
    let alice = Asking {
        token: "a-token",
        ..LAPTOP
    };
    let linked = Linked::begin(&gateway, alice, &services).await;
    let mut lost = linked.lose(&log).await;

    files.replace(&files.token, &format!("revoke: true\ntokens:\n{BOB}"));
    lost.service_is_reset().await;
    assert_eq!(lost.refusal(&gateway, alice).await, Answer::Status(401));
    // Nor with a token that is good: nothing of the link is left.
    let bob = Asking {
        token: "b-token",
        ..LAPTOP
    };
    until_asked(&lost, &gateway, bob, Answer::Status(404)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_was_exchanged_for_another_one_of_the_same_name_goes_on() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    std::fs::write(&files.token, format!("tokens:\n{ALICE}")).unwrap();
    let gateway = start(files.config().await).await;
    let former = Asking {
        token: "a-token",
        ..LAPTOP
    };
    let mut lost = Linked::begin(&gateway, former, &services).await.lose(&log).await;
    files.replace(&files.token, "tokens:\n  - {name: alice, token: newer}\n");
    let stranger = Asking {
        session: "probe",
        ..former
    };
    soon(async {
        while Wire::open(&gateway, stranger, false).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(lost.refusal(&gateway, former).await, Answer::Status(401));
    let newer = Asking {
        token: "newer",
        ..LAPTOP
    };
    lost.goes_on(&gateway, newer).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_session_that_was_superseded_while_its_link_was_away_does_not_come_back() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    let gateway = start(files.config().await).await;
    let mut lost = Linked::begin(&gateway, LAPTOP, &services).await.lose(&log).await;
    let second = Asking {
        generation: 2,
        ..LAPTOP
    };
    let newer = Linked::begin(&gateway, second, &services).await;
    lost.service_is_reset().await;
    assert_eq!(lost.refusal(&gateway, LAPTOP).await, Answer::Status(409));
    // Whoever makes itself newer gets as far as the desk, which has no such link any more.
    for generation in [2, 3] {
        let asking = Asking { generation, ..LAPTOP };
        let answer = lost.refusal(&gateway, asking).await;
        assert_eq!(answer, Answer::NotResumed(UNKNOWN), "{generation}");
    }
    // The newer link is as it was, and has its seat: what did not go on renews nothing.
    let mut lost = newer.lose(&log).await;
    lost.goes_on(&gateway, second).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_link_goes_on_only_for_the_session_and_the_token_that_it_was_made_for() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    std::fs::write(&files.token, format!("tokens:\n{ALICE}{BOB}")).unwrap();
    let gateway = start(files.config().await).await;
    let alice = Asking {
        token: "a-token",
        ..LAPTOP
    };
    let bob = Asking {
        session: "desktop",
        token: "b-token",
        ..LAPTOP
    };
    let mut of_bob = Linked::begin(&gateway, bob, &services).await;
    let mut of_alice = Linked::begin(&gateway, alice, &services).await.lose(&log).await;
    for (what, asking, answer) in [
        ("bob as himself", bob, Answer::NotResumed(UNKNOWN)),
        (
            "bob as alice's session",
            Asking {
                token: "b-token",
                ..LAPTOP
            },
            Answer::NotResumed(UNKNOWN),
        ),
        (
            "alice as bob's session",
            Asking {
                session: "desktop",
                ..alice
            },
            Answer::NotResumed(UNKNOWN),
        ),
        (
            "a session that has no link",
            Asking {
                session: "tablet",
                ..alice
            },
            Answer::Status(404),
        ),
        (
            "a stranger",
            Asking {
                token: "guessed",
                ..LAPTOP
            },
            Answer::Status(401),
        ),
    ] {
        assert_eq!(of_alice.refusal(&gateway, asking).await, answer, "{what}");
    }
    // None of it has touched either link.
    of_alice.goes_on(&gateway, alice).await;
    of_bob.service.write_all(b"yours").await.unwrap();
    assert_eq!(of_bob.wire.hear(&[DATA]).await.1, b"yours");
    gateway.stop().await;
}

/// A gateway that would let live streams go on for longer than these tests wait.
async fn patient(files: &Files) -> GatewayConfig {
    let mut config = files.config().await;
    config.limits.drain = Duration::from_secs(120);
    config
}

#[tokio::test]
async fn a_gateway_that_ends_waits_for_no_client_that_is_away() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    let gateway = start(patient(&files).await).await;
    let mut lost = Linked::begin(&gateway, LAPTOP, &services).await.lose(&log).await;
    gateway.stop().await;
    lost.service_is_reset().await;
}

#[tokio::test]
async fn a_client_that_is_lost_while_the_gateway_drains_is_not_waited_for() {
    let (services, files) = service().await;
    let gateway = start(patient(&files).await).await;
    let mut linked = Linked::begin(&gateway, LAPTOP, &services).await;
    gateway.ask_to_stop();
    linked.wire.hear(&[GOAWAY]).await;
    drop(linked.wire);
    is_reset(&mut linked.service).await;
    gateway.stop().await;
}

/// Of a gateway that was started anew nobody's link goes on, whichever way it is asked for.
#[tokio::test]
async fn another_gateway_has_nobodys_link() {
    let log = Log::from(Level::INFO);
    let (services, files) = service().await;
    let gateway = start(files.config().await).await;
    let mut lost = Linked::begin(&gateway, LAPTOP, &services).await.lose(&log).await;
    let another = start(files.config().await).await;
    assert_eq!(lost.refusal(&another, LAPTOP).await, Answer::Status(404));
    // The session is there, and its link is not this one.
    let _there = Linked::begin(&another, LAPTOP, &services).await;
    let answer = lost.refusal(&another, LAPTOP).await;
    assert_eq!(answer, Answer::NotResumed(UNKNOWN));
    lost.goes_on(&gateway, LAPTOP).await;
    gateway.stop().await;
    another.stop().await;
}
