//! Who is let in, who is turned away and with what words.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tunnel_bridge::LinkEnd;

use super::support::{Client, Files, Log, Options, TOKEN, echo, file, ping, rejection, soon, start};

/// The status and the line that a client is turned away with.
async fn refused(options: &Options) -> (u16, String) {
    let connected = Client::connect(options).await;
    rejection(&connected.err().expect("this client should be turned away"))
}

/// The status that a client is turned away with; 101 if it is let in.
async fn status(options: &Options) -> u16 {
    match Client::connect(options).await {
        Ok(_) => 101,
        Err(error) => rejection(&error).0,
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let files = Files::new(&file(&[]));
    let gateway = start(files.config().await).await;
    for wrong in ["wrong-horse!!", "correct-hors", "correct-horse1", "x"] {
        let mut options = gateway.options("laptop");
        options.token = wrong.to_owned();
        options.environment = Some("no-such".to_owned());
        let error = refused(&options).await;
        assert_eq!(error.0, 401, "{error:?}");
        assert!(!error.1.contains(wrong), "{error:?}");
    }
    gateway.client("laptop").await;
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_token_nothing_is_told() {
    let files = Files::new(&file(&[]));
    let gateway = start(files.config().await).await;
    let request = |path: &str, token: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: devbox-tunnel.1\r\nDevbox-Generation: 1\r\nDevbox-Environment: x\r\n{token}\r\n"
        )
    };
    let tunnel = "/kube/devbox/tunnel/client/laptop";

    let answer = gateway.http(&request(tunnel, "")).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(!answer.contains("dev`"), "{answer}");
    let answer = gateway
        .http(&request(tunnel, "Authorization: Bearer x\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let answer = gateway
        .http(&request(tunnel, &format!("Authorization: Bearer {TOKEN}\r\n")))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("the environment is `dev`, not `x`"),
        "{answer}"
    );

    for elsewhere in [
        "/",
        "/kube/devbox/tunnel/client/",
        "/kube/devbox/tunnel/other/laptop",
        "/etc/passwd",
    ] {
        let answer = gateway
            .http(&request(elsewhere, &format!("Authorization: Bearer {TOKEN}\r\n")))
            .await;
        let status = if elsewhere == "/" {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 404 "
        };
        assert!(
            answer.starts_with(status) && answer.contains("devbox"),
            "{elsewhere}: {answer}"
        );
    }
    gateway.stop().await;
}

#[tokio::test]
async fn another_environment_is_unknown() {
    let files = Files::new(&file(&[]));
    let gateway = start(files.config().await).await;
    let mut options = gateway.options("laptop");
    options.environment = Some("prod".to_owned());
    let message = "the environment is `dev`, not `prod`".to_owned();
    assert_eq!(refused(&options).await, (404, message));
    options.environment = Some("dev".to_owned());
    Client::connect(&options).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn the_token_file_is_followed() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let mut live = client.open("tcp/x/a/80").await.unwrap();
    let mut options = gateway.options("desktop");

    files.replace(&files.token, "battery-staple\n");
    until("the old token is refused", async || status(&options).await == 401).await;
    options.token = "battery-staple".to_owned();
    Client::connect(&options).await.unwrap();

    std::fs::remove_file(&files.token).unwrap();
    until("nobody is let in", async || status(&options).await == 503).await;
    std::fs::write(&files.token, "battery-staple").unwrap();
    until("the token counts again", async || {
        Client::connect(&options).await.is_ok()
    })
    .await;

    // Whoever was in has noticed nothing.
    ping(&mut live, "still there").await;
    gateway.stop().await;
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_newer_generation_takes_the_place_of_the_former_connection() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let gateway = start(files.config().await).await;
    let mut options = gateway.options("laptop");
    let other = gateway.client("desktop").await;

    options.generation = 2;
    let second = Client::connect(&options).await.unwrap();
    options.generation = 3;
    let third = Client::connect(&options).await.unwrap();
    let end = soon(second.link.closed()).await;
    assert!(matches!(end, LinkEnd::Superseded { .. }), "{end:?}");

    // The former one comes back, late: it is told that it is too old, and the newer one stays.
    options.generation = 2;
    let error = refused(&options).await;
    assert_eq!(error.0, 409, "{error:?}");
    ping(&mut third.open("tcp/x/a/80").await.unwrap(), "third").await;
    ping(&mut other.open("tcp/x/a/80").await.unwrap(), "other").await;

    // Once it has left, nothing keeps its place.
    third.link.shutdown().await;
    until("an older generation is let in", async || {
        Client::connect(&options).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn there_is_a_limit_on_clients() {
    let files = Files::new(&file(&[]));
    let mut config = files.config().await;
    config.limits.max_clients = 1;
    let gateway = start(config).await;
    let first = gateway.client("a").await;
    let log = Log::start();
    for _ in 0..20 {
        let error = refused(&gateway.options("b")).await;
        let message = "the gateway has 1 clients already, which is its limit".to_owned();
        assert_eq!(error, (503, message));
    }
    log.wait_for("the limit of clients is reached").await;
    assert_eq!(log.count("WARN"), 1, "{}", log.text());
    first.link.shutdown().await;
    let options = gateway.options("b");
    until("there is room again", async || {
        Client::connect(&options).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_and_holds_up_nobody() {
    let files = Files::new(&file(&[]));
    let mut config = files.config().await;
    config.limits.handshake_timeout = Duration::from_secs(1);
    let gateway = start(config).await;

    let mut silent = TcpStream::connect(gateway.address).await.unwrap();
    let slow = TcpStream::connect(gateway.address).await.unwrap();
    let started = Instant::now();
    // A byte now and then does not buy time.
    let (mut reader, mut writer) = slow.into_split();
    let drip = async {
        for byte in b"GET /kube/devbox/tunnel/client/laptop HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut rest = Vec::new();
    let mut rest_of_silent = Vec::new();
    let cut = async {
        // An end or a reset: both are a cut.
        reader.read_to_end(&mut rest).await.ok();
        silent.read_to_end(&mut rest_of_silent).await.ok();
    };
    let others = async {
        gateway.client("laptop").await;
        assert!(
            started.elapsed() < Duration::from_millis(950),
            "nobody is waited for"
        );
    };
    soon(async {
        tokio::select! {
            ((), ()) = async { tokio::join!(cut, others) } => {}
            () = drip => panic!("the drip can only end after the cut"),
        }
    })
    .await;
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(950) && took < Duration::from_secs(5),
        "{took:?}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn tokens_have_names_and_the_environments_that_they_are_good_for() {
    let files = Files::new(&file(&[]));
    std::fs::write(
        &files.token,
        "tokens:\n  - {name: alice, token: a-token}\n  - {name: ci, token: ci-token, environments: [staging]}\n",
    )
    .unwrap();
    let gateway = start(files.config().await).await;
    let mut options = gateway.options("laptop");
    assert_eq!(status(&options).await, 401);
    options.token = "a-token".to_owned();
    assert_eq!(status(&options).await, 101);
    options.token = "ci-token".to_owned();
    for asked in [None, Some("dev".to_owned())] {
        options.environment = asked;
        let message = "the token `ci` is not for the environment `dev`".to_owned();
        assert_eq!(refused(&options).await, (404, message));
    }
    options.environment = Some("staging".to_owned());
    let message = "the environment is `dev`, not `staging`".to_owned();
    assert_eq!(refused(&options).await, (404, message));
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_is_taken_away_ends_its_sessions_where_the_file_says_so() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let alice = "tokens:\n  - {name: alice, token: a-token}\n";
    let both = format!("{alice}  - {{name: bob, token: b-token}}\n");
    std::fs::write(&files.token, &both).unwrap();
    let gateway = start(files.config().await).await;
    let mut options = gateway.options("alices");
    options.token = "a-token".to_owned();
    let of_alice = Client::connect(&options).await.unwrap();
    options = gateway.options("bobs");
    options.token = "b-token".to_owned();
    let of_bob = Client::connect(&options).await.unwrap();
    options.session = "bobs-other".to_owned();

    // Without a word about it, who is in stays in.
    files.replace(&files.token, alice);
    until("bob's token is refused", async || status(&options).await == 401).await;
    let mut live = of_bob.open("tcp/x/a/80").await.unwrap();
    ping(&mut live, "still in").await;
    // A mistake revokes nothing.
    files.replace(&files.token, "revoke: true\ntokens: oops\n");
    until("nobody is let in", async || status(&options).await == 503).await;
    ping(&mut live, "still in").await;

    files.replace(&files.token, &format!("revoke: true\n{alice}"));
    let end = soon(of_bob.link.closed()).await;
    assert!(
        matches!(&end, LinkEnd::PeerClosed { message } if message.contains("revoked")),
        "{end:?}"
    );
    assert_eq!(status(&options).await, 401);
    ping(&mut of_alice.open("tcp/x/a/80").await.unwrap(), "alice stays").await;
    // Good for another environment only.
    let elsewhere = "revoke: true\ntokens:\n  - {name: alice, token: a-token, environments: [prod]}\n";
    files.replace(&files.token, elsewhere);
    soon(of_alice.link.closed()).await;
    gateway.stop().await;
}
