//! A far side and a machine of one's own, in one file: what a new provider has to write.
//!
//! The catalog is fixed and dialling is plain TCP, so that nothing needs to run elsewhere. Run it with
//! `cargo run -p devbox-examples --bin own_far_side`: it starts an echo service, gives it an address of its own,
//! talks to it there, and ends.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use devbox_helper_client::{HelperError, HostsEntry, HostsReport};
use devbox_session::{
    BindFault, ConnectFailure, Event, FarSide, Host, Identity, NamesPolicy, Provider, Session, Settings,
    StopReason,
};
use futures_util::future::{BoxFuture, pending, ready};
use ipalloc::{Allocator, Pool};
use service_catalog::{Catalog, Label, Port, Service, Source, SourceError, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::{ByteStream, Dialer, Refusal, RefusalKind, Target};

/// The far side: one service, and how it is reached.
struct Fixed {
    catalog: Catalog,
    service_at: SocketAddr,
}

impl Provider for Fixed {
    fn connect(&mut self, _generation: u64) -> BoxFuture<'static, Result<FarSide, ConnectFailure>> {
        let source = FixedSource {
            first: Some(self.catalog.clone()),
        };
        let dialer: Arc<dyn Dialer> = Arc::new(FixedDialer {
            service_at: self.service_at,
            tcp: TcpDialer::default(),
        });
        let close = Box::new(|| -> BoxFuture<'static, ()> { Box::pin(ready(())) });
        Box::pin(ready(Ok(FarSide {
            source: Box::new(source),
            dialer,
            close,
        })))
    }
}

/// What exists: said once, never changed.
struct FixedSource {
    first: Option<Catalog>,
}

#[async_trait::async_trait]
impl Source for FixedSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        match self.first.take() {
            Some(catalog) => Ok(Update::Snapshot(catalog)),
            None => pending().await,
        }
    }
}

/// How it is reached. A stream asks for a target of the catalog, here `tcp/backend/echo/4000`.
struct FixedDialer {
    service_at: SocketAddr,
    tcp: TcpDialer,
}

#[async_trait::async_trait]
impl Dialer for FixedDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        {
            let refused = |kind, message: String| Refusal { kind, message };
            if target.as_str() != "tcp/backend/echo/4000" {
                return Err(refused(
                    RefusalKind::NotFound,
                    format!("there is no {}", target.as_str()),
                ));
            }
            let at = Target::new(&self.service_at.to_string())
                .map_err(|error| refused(RefusalKind::Internal, error.to_string()))?;
            self.tcp.dial(&at).await
        }
    }
}

/// The machine: listens, and says the names instead of writing them.
struct Talking;

impl Host for Talking {
    fn claim(&mut self, environment: Label) -> BoxFuture<'_, ()> {
        println!("the environment is {environment}");
        Box::pin(ready(()))
    }

    fn bind(&mut self, address: SocketAddr) -> BoxFuture<'_, Result<TcpListener, BindFault>> {
        let bound = tunnel_bridge::listener::bind(address);
        let bound = bound.map_err(|error| BindFault::Other {
            address,
            message: error.to_string(),
        });
        Box::pin(ready(bound))
    }

    fn write_hosts(&mut self, entries: Vec<HostsEntry>) -> BoxFuture<'_, Result<HostsReport, HelperError>> {
        for entry in &entries {
            println!("{} would be {}", entry.names.join(", "), entry.address);
        }
        let report = HostsReport {
            file: "nowhere".into(),
            changed: false,
            in_place: false,
            diagnostics: Vec::new(),
            omitted: 0,
            conflicts: Vec::new(),
        };
        Box::pin(ready(Ok(report)))
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), HelperError>> {
        Box::pin(ready(Ok(())))
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
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
    let settings = Settings {
        identity: Identity {
            session: "example".to_owned(),
            pid: std::process::id(),
            helper_pid: None,
            hosts_file: None,
            gateway: "none".to_owned(),
            started_at: 0,
        },
        environment: None,
        names: NamesPolicy::default(),
        write_hosts: true,
        first_tries: 1,
        backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        drain: Duration::from_secs(1),
        seed: 1,
    };
    let provider = Box::new(Fixed { catalog, service_at });
    let (session, handle) = Session::new(
        settings,
        Allocator::new(Pool::default()),
        provider,
        Box::new(Talking),
    );
    let mut events = handle.events();
    let running = tokio::spawn(session.run());
    let status = loop {
        if let Event::Ready { status } = events.recv().await? {
            break status;
        }
    };
    let address = status
        .services
        .first()
        .and_then(|service| service.address)
        .context("no address")?;
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
    handle
        .stop(StopReason::Requested {
            by: "the example is over".to_owned(),
        })
        .await;
    running.await?;
    Ok(())
}
