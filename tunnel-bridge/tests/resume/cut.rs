//! Real connections that are cut while much is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tunnel_bridge::resume::{Desk, DeskOptions, Options, Received, Redial, RedialError};
use tunnel_bridge::ws::{self, ConnectOptions, Upgrade};
use tunnel_bridge::{Carrier, Incoming, Link, is_link_lost};

use crate::network::{pattern, soon, until};

const SUBPROTOCOL: &str = "test-tunnel.1";
const DOWNLOADS: usize = 100;
const CUTS: u64 = 100;
const BYTES: usize = 512 * 1024;

struct OverWebSocket(ConnectOptions);

#[async_trait]
impl Redial for OverWebSocket {
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
        ws::connect_carrier(&self.0).await.map_err(RedialError::later)
    }
}

/// A relay before `to`, whose connections end with each word on `cut`.
async fn relay(to: SocketAddr, cut: broadcast::Sender<()>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut cut = cut.subscribe();
            connections.spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.recv() => {
                        // What waits in the sockets is lost, as with a network that is gone.
                        near.set_zero_linger().unwrap();
                        far.set_zero_linger().unwrap();
                    }
                }
            });
        }
    });
    (address, tasks)
}

/// Serves each request: `len` bytes of the pattern `seed`, and whatever is sent must be that as well.
async fn serve(incoming: Incoming) {
    let (len, seed) = incoming.target().as_str().split_once(' ').unwrap();
    let bytes = pattern(len.parse().unwrap(), seed.parse().unwrap());
    let (mut read, mut write) = tokio::io::split(incoming.accept());
    let sending = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(
            received.is_empty() || received == bytes,
            "what arrived is not what was sent"
        );
    };
    tokio::join!(sending, receiving);
}

/// A server behind a desk; its first link comes out, and all its requests are served.
async fn server(desk: Desk) -> (SocketAddr, JoinSet<()>, watch::Receiver<Option<Link>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (link_out, link) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (desk, link_out) = (desk.clone(), link_out.clone());
            connections.spawn(async move {
                // Some are cut before they have said anything.
                let Ok(upgrade) = Upgrade::read(stream).await else {
                    return;
                };
                let Ok(carrier) = upgrade.accept_carrier(SUBPROTOCOL).await else {
                    return;
                };
                if let Ok(Received::New(link)) = desk.receive(carrier, "me").await {
                    link_out.send_replace(Some(link.clone()));
                    let mut requests = JoinSet::new();
                    while let Some(incoming) = link.accept().await {
                        requests.spawn(serve(incoming));
                    }
                    while let Some(served) = requests.join_next().await {
                        served.unwrap();
                    }
                }
            });
        }
    });
    (address, tasks, link)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_downloads_stay_whole_while_their_connection_is_cut_a_hundred_times() {
    let (server, _server_tasks, _) = server(Desk::new(DeskOptions::default())).await;
    let (cut, _) = broadcast::channel(16);
    let (address, _relay_tasks) = relay(server, cut.clone()).await;
    let options = ConnectOptions::new(format!("ws://{address}/").parse().unwrap(), SUBPROTOCOL);
    let carrier = ws::connect_carrier(&options).await.unwrap();
    let link = Link::resumable(carrier, OverWebSocket(options), Options::default());

    let progress = Arc::new(AtomicU64::new(0));
    let mut downloads = JoinSet::new();
    for seed in 0..DOWNLOADS {
        let (link, progress) = (link.clone(), Arc::clone(&progress));
        downloads.spawn(async move {
            let target = crate::network::target(&format!("{BYTES} {seed}"));
            let (mut read, mut write) = tokio::io::split(link.open(&target).await.unwrap());
            let expected = pattern(BYTES, seed as u64);
            let receiving = async {
                let mut received = Vec::new();
                let mut part = vec![0; 16 * 1024];
                loop {
                    let n = read.read(&mut part).await.unwrap();
                    if n == 0 {
                        break;
                    }
                    received.extend_from_slice(&part[..n]);
                    progress.fetch_add(n as u64, Ordering::SeqCst);
                }
                assert!(received == expected, "download {seed} is not what was sent");
            };
            let sending = async {
                // Every tenth is an upload as well.
                if seed % 10 == 0 {
                    write.write_all(&expected).await.unwrap();
                }
                write.shutdown().await.unwrap();
            };
            tokio::join!(receiving, sending);
        });
    }
    let mut status = link.watch_status();
    let total = (DOWNLOADS * BYTES) as u64;
    for n in 1..=CUTS {
        let wanted = total / (CUTS + 10) * n;
        soon("progress", async {
            while progress.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        let before = until("the link", &mut status, |status| status.is_up())
            .await
            .resumes();
        cut.send(()).unwrap();
        until("another connection", &mut status, |status| {
            status.resumes() > before
        })
        .await;
    }
    assert!(!downloads.is_empty());
    while let Some(download) = soon("the downloads", downloads.join_next()).await {
        download.unwrap();
    }
    assert!(link.status().resumes() >= CUTS, "{:?}", link.status());
    soon("the end", link.shutdown()).await;
}

#[tokio::test]
async fn what_a_server_that_was_started_anew_cannot_go_on_with_is_reset() {
    let (first, _first_tasks, _) = server(Desk::new(DeskOptions::default())).await;
    let (cut, _) = broadcast::channel(16);
    let (first, _relay_tasks) = relay(first, cut.clone()).await;
    let (second, _second_tasks, _) = server(Desk::new(DeskOptions::default())).await;
    let options = |to: SocketAddr| ConnectOptions::new(format!("ws://{to}/").parse().unwrap(), SUBPROTOCOL);
    let carrier = ws::connect_carrier(&options(first)).await.unwrap();
    let link = Link::resumable(carrier, OverWebSocket(options(second)), Options::default());
    let mut stream = link.open(&crate::network::target("100000000 1")).await.unwrap();
    let mut some = vec![0; 100_000];
    soon("some", stream.read_exact(&mut some)).await.unwrap();
    cut.send(()).unwrap();
    let error = soon("the stream's end", async {
        loop {
            match stream.read(&mut some).await {
                Ok(0) => panic!("an end of file where bytes are missing"),
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    })
    .await;
    assert!(is_link_lost(&error), "{error:?}");
    let end = soon("the link's end", link.closed()).await;
    assert!(
        matches!(end, tunnel_bridge::LinkEnd::NotResumed { .. }),
        "{end:?}"
    );
}
