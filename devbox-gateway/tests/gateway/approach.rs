//! Clients that come through something that has a credential of its own in front of the gateway.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use catalog_file::{DialPolicy, LiveCatalog, StaticCatalog};
use devbox_gateway::{Gateway, GatewayConfig, PushAdmission, Token, TokenSource};
use devbox_gateway_client::{Approach, GatewayProvider};
use devbox_provider::{ConnectError, Provider as _, Wanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::direct::DirectStream;
use tunnel_bridge::ws::{ConnectOptions, Underlay};
use tunnel_bridge::{ByteStream, LinkStatus, Target};

use super::support::{PATIENCE, TOKEN, echo, soon};

/// Passes requests on as an API server does: it keeps the credential, and strips it. Every change of `cut` ends what is open.
struct Front {
    address: SocketAddr,
    /// The credentials that were shown.
    seen: mpsc::Receiver<String>,
    cut: watch::Sender<u32>,
    _task: JoinSet<()>,
}

async fn front(gateway: SocketAddr) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, seen) = mpsc::channel(64);
    let cut = watch::Sender::new(0);
    let cuts = cut.subscribe();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let (told, mut cuts) = (told.clone(), cuts.clone());
            cuts.mark_unchanged();
            connections.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await?);
                }
                let head = String::from_utf8(head).unwrap();
                let mut passed = String::new();
                for line in head.split_inclusive("\r\n") {
                    match line.strip_prefix("Authorization: ") {
                        Some(credential) => told.send(credential.trim().to_owned()).await.unwrap(),
                        None => passed.push_str(line),
                    }
                }
                let mut far = TcpStream::connect(gateway).await?;
                far.write_all(passed.as_bytes()).await?;
                tokio::select! {
                    done = copy_bidirectional(&mut near, &mut far) => { done?; }
                    _ = cuts.changed() => {}
                }
                io::Result::Ok(())
            });
        }
    });
    Front {
        address,
        seen,
        cut,
        _task: task,
    }
}

/// Goes to the front with a credential that is another one each time, over a stream that it makes itself.
#[derive(Debug)]
struct ThroughTheFront {
    front: SocketAddr,
    asked: AtomicU64,
}

#[async_trait]
impl Approach for ThroughTheFront {
    async fn request(&self, path: &str, subprotocol: &str) -> Result<ConnectOptions, ConnectError> {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
        let url = format!("ws://behind.the.front{path}").parse().unwrap();
        let mut options = ConnectOptions::new(url, subprotocol)
            .secret_header("Authorization", &format!("Bearer user-{count}"));
        options.underlay = Some(Arc::new(To(self.front)));
        Ok(options)
    }
}

#[derive(Debug)]
struct To(SocketAddr);

#[async_trait]
impl Underlay for To {
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(DirectStream::from(TcpStream::connect(self.0).await?)))
    }
}

async fn gateway(idle: Option<Duration>) -> Gateway {
    let tokens = TokenSource::Fixed(Token::new(TOKEN).unwrap());
    let admission = PushAdmission::open(tokens, DialPolicy::loopback()).await.unwrap();
    let mut config = GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap());
    config.exit_when_idle = idle;
    Gateway::bind(config).await.unwrap()
}

fn provider(front: &Front, own: StaticCatalog) -> GatewayProvider {
    let token = TokenSource::Fixed(Token::new(TOKEN).unwrap());
    let url = format!("ws://{}", front.address).parse().unwrap();
    let mut provider = GatewayProvider::new(url, token, "laptop-1");
    provider.connect_timeout = PATIENCE;
    provider.push = Some(Arc::new(LiveCatalog::new(own)));
    provider.approach = Some(Arc::new(ThroughTheFront {
        front: front.address,
        asked: AtomicU64::new(0),
    }));
    provider
}

#[tokio::test]
async fn a_link_goes_on_through_the_front_with_a_credential_of_that_moment() {
    let echo = echo().await;
    let gateway = gateway(None).await;
    let mut front = front(gateway.local_addr()).await;
    let cancel = CancellationToken::new();
    let serving = tokio::spawn(gateway.run(cancel.clone()));

    let mut own = StaticCatalog::new("dev".parse().unwrap());
    let (id, port) = ("echo.x".parse().unwrap(), 80.try_into().unwrap());
    own.add(id, None, port, echo.address.try_into().unwrap()).unwrap();
    let connection = soon(provider(&front, own).connect(Wanted::default()))
        .await
        .unwrap();
    assert_eq!(soon(front.seen.recv()).await.unwrap(), "Bearer user-0");

    let target = Target::new("tcp/x/echo/80").unwrap();
    let mut stream = connection.dialer.dial(&target).await.unwrap();
    let mut answer = [0; 5];
    stream.write_all(b"first").await.unwrap();
    soon(stream.read_exact(&mut answer)).await.unwrap();

    let mut status = connection.link.as_ref().unwrap().watch_status();
    front.cut.send_modify(|cut| *cut += 1);
    soon(status.wait_for(|status| matches!(status, LinkStatus::Up { resumes: 1 })))
        .await
        .unwrap();
    assert_eq!(soon(front.seen.recv()).await.unwrap(), "Bearer user-1");
    stream.write_all(b"again").await.unwrap();
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"again");

    cancel.cancel();
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_gateway_that_may_exit_does_so_when_its_last_client_says_goodbye() {
    let gateway = gateway(Some(Duration::from_secs(3600))).await;
    let front = front(gateway.local_addr()).await;
    let serving = tokio::spawn(gateway.run(CancellationToken::new()));
    let own = StaticCatalog::new("dev".parse().unwrap());
    let connection = soon(provider(&front, own).connect(Wanted::default()))
        .await
        .unwrap();
    assert!(!serving.is_finished());
    soon(connection.close()).await;
    soon(serving).await.unwrap().unwrap();
}
