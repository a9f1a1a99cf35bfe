//! Neighbours without a token: those who only hold a place, and those who guess.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::support::{Client, Files, Log, Options, file, ping, rejection, soon, start};

/// What a client may wait for its link while a neighbour makes trouble, with room for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Holds a place: the beginning of a request, then a byte now and then; once it is cut, all over again.
async fn trickle(gateway: SocketAddr, opened: Arc<AtomicUsize>) {
    loop {
        let Ok(mut stream) = TcpStream::connect(gateway).await else {
            tokio::task::yield_now().await;
            continue;
        };
        opened.fetch_add(1, Ordering::Relaxed);
        let request = b"GET /kube/devbox/tunnel/client/x HTTP/1.1\r\nX: ";
        let mut byte = [0];
        let mut cut = stream.write_all(request).await.is_err();
        while !cut {
            tokio::select! {
                read = stream.read(&mut byte) => cut = !matches!(read, Ok(1..)),
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    cut = stream.write_all(b"x").await.is_err();
                }
            }
        }
    }
}

/// Guesses, one token after the other.
async fn guess(mut options: Options, answered: Arc<AtomicUsize>) {
    for number in 0.. {
        options.token = format!("guess-{number}");
        let error = Client::connect(&options).await.err().expect("a wrong guess");
        assert_eq!(rejection(&error).0, 401);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn fresh_clients_get_in_beside_hundreds_that_hold_a_place() {
    const TRICKLING: usize = 600;
    let files = Files::new(&file(&[]));
    let mut config = files.config().await;
    config.limits.max_half_open_per_address = 256;
    let gateway = start(config).await;
    let log = Log::start();
    let opened = Arc::new(AtomicUsize::new(0));
    let mut neighbours = JoinSet::new();
    for _ in 0..TRICKLING {
        neighbours.spawn(trickle(gateway.address, Arc::clone(&opened)));
    }
    soon(async {
        while opened.load(Ordering::Relaxed) < 2 * TRICKLING {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;

    let mut clients = Vec::new();
    for session in ["a", "b", "c"] {
        let asked = Instant::now();
        clients.push(gateway.client(session).await);
        assert!(asked.elapsed() < AT_ONCE, "{session}: {:?}", asked.elapsed());
    }
    assert_eq!(
        log.count("many connections that show no token"),
        1,
        "{}",
        log.text()
    );
    assert_eq!(log.count("WARN"), 1, "{}", log.text());
    assert!(log.text().contains("from=127.0.0.1"), "{}", log.text());
    neighbours.shutdown().await;
    for client in &clients {
        assert!(!client.link.is_closed());
    }
    gateway.stop().await;
}

#[tokio::test]
async fn guesses_are_answered_late_and_the_right_token_at_once() {
    let echo = super::support::echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let gateway = start(files.config().await).await;
    let log = Log::start();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut guessers = JoinSet::new();
    for number in 0..16 {
        let options = gateway.options(&format!("guesser-{number}"));
        guessers.spawn(guess(options, Arc::clone(&answered)));
    }
    let begun = Instant::now();
    soon(async {
        while begun.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            let client = gateway.client("laptop").await;
            ping(&mut client.open("tcp/x/a/80").await.unwrap(), "in").await;
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Three at once, then after 1/4 s, 1/2 s, 1 s and 2 s; each of the others waits for more.
    let answered = answered.load(Ordering::Relaxed);
    assert!((3..=8).contains(&answered), "{answered}");
    assert!(guessers.try_join_next().is_none());
    guessers.shutdown().await;
    let text = log.text();
    assert_eq!(log.count("token refused"), 1, "{text}");
    assert!(
        text.contains("peer=127.0.0.1:") && !text.contains("guess-"),
        "{text}"
    );
    gateway.stop().await;
}
