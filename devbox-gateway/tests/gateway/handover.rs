//! One gateway stops and another takes its address, while programs connect all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use devbox_gateway::{Error, Gateway};
use devbox_gateway_client::GatewayProvider;
use devbox_provider::{Provider as _, Verdict, Wanted};
use service_catalog::SourceError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::{Dialer, RefusalKind, Target, refusal_of};

use super::support::{Files, Options, TOKEN, echo, file, soon};

type Current = Option<(u64, Arc<dyn Dialer>)>;

/// What a session does: connects, says where to dial, and connects again when the far side leaves.
async fn keep_connected(provider: GatewayProvider, current: watch::Sender<Current>, links: Arc<AtomicUsize>) {
    for generation in 1.. {
        let wanted = Wanted {
            generation,
            environment: Some("dev".parse().unwrap()),
        };
        let mut connection = match provider.connect(wanted).await {
            Ok(connection) => connection,
            Err(error) => {
                assert_eq!(error.verdict(), Verdict::Retry, "{error:?}");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                continue;
            }
        };
        links.fetch_add(1, Ordering::Relaxed);
        current.send_replace(Some((generation, Arc::clone(&connection.dialer))));
        let error = loop {
            if let Err(error) = connection.source.next().await {
                break error;
            }
        };
        assert!(matches!(error, SourceError::Leaving { .. }), "{error:?}");
        current.send_replace(None);
    }
}

/// One program's connection: a line there and back. A dial that was never sent goes to the next link.
async fn one_connection(current: &mut watch::Receiver<Current>) -> std::io::Result<()> {
    let target = Target::new("tcp/x/a/80").unwrap();
    let mut used = 0;
    loop {
        let usable = |current: &Current| current.as_ref().is_some_and(|(generation, _)| *generation > used);
        let (generation, dialer) = current.wait_for(usable).await.unwrap().clone().unwrap();
        used = generation;
        let mut stream = match dialer.dial(&target).await {
            Ok(stream) => stream,
            Err(refusal) if refusal.kind == RefusalKind::LinkLost => continue,
            Err(refusal) => return Err(std::io::Error::other(refusal)),
        };
        let ping = async {
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            assert_eq!(answer, b"hello");
            Ok(())
        };
        match ping.await {
            Err(error) if refusal_of(&error).is_some_and(|refusal| refusal.kind == RefusalKind::LinkLost) => {
            }
            ended => return ended,
        }
    }
}

struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn serve(files: &Files, address: SocketAddr) -> Serving {
    let gateway = loop {
        let mut config = files.config().await;
        config.listen = address;
        match Gateway::bind(config).await {
            Ok(gateway) => break gateway,
            // The former one still listens.
            Err(Error::Listen { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let stop = CancellationToken::new();
    Serving {
        address: gateway.local_addr(),
        task: tokio::spawn(gateway.run(stop.clone())),
        stop,
    }
}

#[tokio::test]
async fn no_connection_is_lost_when_a_gateway_is_replaced() {
    const REPLACED: usize = 3;
    const EACH: usize = 60;
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let mut gateway = serve(&files, "127.0.0.1:0".parse().unwrap()).await;
    let client = Options {
        url: format!("ws://{}", gateway.address).parse().unwrap(),
        token: TOKEN.to_owned(),
        session: "laptop".to_owned(),
        generation: 0,
        environment: None,
        tls_ca: None,
    };
    let (sender, current) = watch::channel(None);
    let links = Arc::new(AtomicUsize::new(0));
    let mut session = JoinSet::new();
    session.spawn(keep_connected(client.provider(), sender, Arc::clone(&links)));

    let (done, over) = (watch::Sender::new(0_usize), Arc::new(AtomicBool::new(false)));
    let mut programs = JoinSet::new();
    for _ in 0..8 {
        let (mut current, done, over) = (current.clone(), done.clone(), Arc::clone(&over));
        programs.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                one_connection(&mut current).await?;
                done.send_modify(|count| *count += 1);
            }
            std::io::Result::Ok(())
        });
    }
    let mut seen = done.subscribe();
    for round in 1..=REPLACED {
        let before = *seen.borrow();
        soon(seen.wait_for(|count| *count >= before + EACH))
            .await
            .unwrap();
        gateway.stop.cancel();
        let next = serve(&files, gateway.address).await;
        let former = std::mem::replace(&mut gateway, next);
        soon(former.task).await.unwrap().unwrap();
        let after = *seen.borrow();
        soon(seen.wait_for(|count| *count >= after + EACH)).await.unwrap();
        assert!(
            links.load(Ordering::Relaxed) > round,
            "the session moved to the new gateway"
        );
    }
    over.store(true, Ordering::Relaxed);
    for ended in soon(programs.join_all()).await {
        ended.expect("no connection fails");
    }
    session.abort_all();
    gateway.stop.cancel();
    soon(gateway.task).await.unwrap().unwrap();
}
