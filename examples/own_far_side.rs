//! A far side of one's own, in one file: what a new kind of provider has to implement.
//!
//! The catalog is fixed and dialing is plain TCP, so nothing needs to run elsewhere. Run it with
//! `cargo run -p devbox-examples --bin own_far_side`: it starts an echo service, gives it an address of its own,
//! talks to it there, and ends.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use async_trait::async_trait;
use devbox_engine::{Config, ProviderConfig};
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{Catalog, Port, Service, Source, SourceError, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::{ByteStream, Dialer, Refusal, RefusalKind, Target};

/// The far side: one service, and how it is reached.
struct Fixed {
    catalog: Catalog,
    service_at: SocketAddr,
}

#[async_trait]
impl Provider for Fixed {
    async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
        let source = FixedSource(Some(self.catalog.clone()));
        let dialer = FixedDialer {
            service_at: self.service_at,
            tcp: TcpDialer::default(),
        };
        Ok(Connection::new(source, Arc::new(dialer)))
    }

    fn status(&self) -> Status {
        Status::new("fixed", "a list in memory")
    }
}

/// What exists: said once, never changed.
struct FixedSource(Option<Catalog>);

#[async_trait]
impl Source for FixedSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        match self.0.take() {
            Some(catalog) => Ok(Update::Snapshot(catalog)),
            None => std::future::pending().await,
        }
    }
}

/// How it is reached. A stream asks for a target of the catalog, here `tcp/backend/echo/4000`.
struct FixedDialer {
    service_at: SocketAddr,
    tcp: TcpDialer,
}

#[async_trait]
impl Dialer for FixedDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let refused = |kind, message: String| Refusal { kind, message };
        if target.as_str() != "tcp/backend/echo/4000" {
            let message = format!("there is no {}", target.as_str());
            return Err(refused(RefusalKind::NotFound, message));
        }
        let at = Target::new(&self.service_at.to_string())
            .map_err(|error| refused(RefusalKind::Internal, error.to_string()))?;
        self.tcp.dial(&at).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let service_at = service.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });

    let echo = Service::new("echo.backend".parse()?, vec![Port::tcp(4000.try_into()?)])?;
    let catalog = Catalog::new("staging".parse()?, [echo])?;
    let config = Config::new([ProviderConfig::custom("mine", Fixed { catalog, service_at })]);
    let engine = devbox_engine::start(config).await?;
    let status = engine.ready().await?;
    for service in &status.services {
        println!("{} is {:?}", service.names.join(", "), service.addresses);
    }
    let addresses = engine.registry().resolve("echo.backend");
    let address = *addresses.first().context("no address")?;
    let start = Instant::now();
    let mut stream = tokio::net::TcpStream::connect((address, 4000)).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!(
        "{address}:4000 echoed `{answer}` in {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    engine.stop("the example is over").await;
    engine.wait().await?;
    Ok(())
}
