//! A kind of far side that nobody foresaw, in one file: services that answer from memory, no network behind them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use devbox_session::Event;
use service_catalog::{Catalog, Port, Service, Source, SourceError, Update};
use support::session_of;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tunnel_bridge::{ByteStream, Dialer, Refusal, Target};

/// Every target says which one it is.
struct Talking;

#[async_trait]
impl Dialer for Talking {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let (ours, mut theirs): (DuplexStream, DuplexStream) = duplex(1024);
        let text = format!("you asked for {target}\n");
        tokio::spawn(async move { theirs.write_all(text.as_bytes()).await });
        Ok(Box::new(ours))
    }
}

struct Once(Option<Catalog>);

#[async_trait]
impl Source for Once {
    async fn next(&mut self) -> Result<Update, SourceError> {
        match self.0.take() {
            Some(catalog) => Ok(Update::Snapshot(catalog)),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Provider for Talking {
    async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
        let web = Service::new(
            "web.shop".parse().unwrap(),
            vec![Port::tcp(8080.try_into().unwrap())],
        )
        .unwrap();
        let catalog = Catalog::new("staging".parse().unwrap(), [web]).unwrap();
        Ok(Connection::new(Once(Some(catalog)), Arc::new(Talking)))
    }

    fn status(&self) -> Status {
        Status::new("talking", "this process")
    }
}

#[tokio::test]
async fn a_new_kind_of_far_side_is_one_implementation_of_provider() {
    let (session, handle, names) = session_of(Talking, "127.78.40.0/24");
    let mut events = handle.events();
    tokio::spawn(session.run());
    while !matches!(events.next().await.unwrap(), Event::Ready { .. }) {}
    let mut stream = tokio::net::TcpStream::connect((names.resolve("web.shop.staging")[0], 8080))
        .await
        .unwrap();
    let mut answer = String::new();
    stream.shutdown().await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "you asked for tcp/shop/web/8080\n");
}
