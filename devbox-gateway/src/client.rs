//! One client's link: its streams to targets and its catalog.

use std::sync::Arc;
use std::time::Duration;

use service_catalog::{CATALOG_STREAM, Health, Target, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, error, info};
use tunnel_bridge::{GoAwayReason, Incoming, Link, LinkEnd, MuxStream, Refusal, RefusalKind, splice};

use crate::admission::Seat;
use crate::config::Limits;
use crate::dial::dial;
use crate::served::InForce;

/// How long a client may take to read that we leave.
const LEAVE: Duration = Duration::from_secs(2);

/// Serves a link until it is gone, a newer connection of the session has come, or `cancel` asks for the end. When this
/// returns, the link is closed and its streams are over.
pub(crate) async fn serve(
    link: Link,
    seat: Seat,
    in_force: watch::Receiver<Arc<InForce>>,
    limits: Limits,
    cancel: CancellationToken,
) {
    let mut streams = JoinSet::new();
    let mut catalogs = JoinSet::new();
    loop {
        tokio::select! {
            incoming = link.accept() => {
                let Some(incoming) = incoming else { break };
                take(incoming, &mut streams, &mut catalogs, &in_force, &limits);
            }
            Some(done) = streams.join_next(), if !streams.is_empty() => note_panic(done),
            Some(done) = catalogs.join_next(), if !catalogs.is_empty() => note_panic(done),
            () = seat.displaced() => {
                leave(&link, GoAwayReason::Superseded, "a newer connection of this session has come").await;
                break;
            }
            () = cancel.cancelled() => {
                drain(&link, &mut streams, &limits).await;
                leave(&link, GoAwayReason::Leaving, "the gateway is stopping").await;
                break;
            }
        }
    }
    match timeout(LEAVE, link.closed()).await {
        Ok(LinkEnd::PeerClosed { message }) => info!(%message, "client left"),
        Ok(end) => info!(%end, "link ended"),
        Err(_) => info!("link cut"),
    }
    // Streams of a link that is gone have failed already; what still dials is given up here.
    streams.shutdown().await;
    catalogs.shutdown().await;
}

fn take(
    incoming: Incoming,
    streams: &mut JoinSet<()>,
    catalogs: &mut JoinSet<()>,
    in_force: &watch::Receiver<Arc<InForce>>,
    limits: &Limits,
) {
    let open = streams.len() + catalogs.len();
    if open >= limits.max_streams_per_client {
        let message = format!("this client has {open} streams open, which is the limit");
        return incoming.refuse(Refusal::new(RefusalKind::TooMany, message));
    }
    let asked = incoming.target().as_str();
    if asked == CATALOG_STREAM {
        let tell = tell_catalog(incoming.accept(), in_force.clone());
        catalogs.spawn(tell.in_current_span());
        return;
    }
    // Looked up in the catalog of this very moment: a service that was removed refuses from here on, while its live
    // connections go on until one of their ends closes them.
    let (catalog, dial_timeout) = (in_force.borrow().catalog.clone(), limits.dial_timeout);
    let Ok(target) = asked.parse::<Target>() else {
        debug!(%asked, "refused: not a target");
        let refusal = Refusal::new(RefusalKind::NotAllowed, "this is not a target of a catalog");
        return incoming.refuse(refusal);
    };
    let Some(address) = catalog.dial_address(&target).cloned() else {
        debug!(%target, "refused: not in the catalog");
        let message = format!(
            "`{target}` is not in the catalog of `{}`",
            catalog.catalog().environment
        );
        return incoming.refuse(Refusal::new(RefusalKind::NotAllowed, message));
    };
    let span = debug_span!("stream", %target, %address);
    let carry = async move {
        let dialled = tokio::select! {
            dialled = dial(&address, dial_timeout) => dialled,
            () = incoming.abandoned() => return debug!("given up by the client before it was connected"),
        };
        match dialled {
            Ok(connection) => {
                let report = splice(connection, Box::new(incoming.accept())).await;
                // Seen from here the target is the local side, and what it sent goes to the client.
                debug!(to_client = report.sent, to_target = report.received, end = %report.end, "stream ended");
            }
            Err(refusal) => {
                debug!(%refusal, "not connected");
                incoming.refuse(refusal);
            }
        }
    };
    streams.spawn(carry.instrument(span));
}

/// Says goodbye, to whoever still reads.
async fn leave(link: &Link, reason: GoAwayReason, message: &str) {
    if timeout(LEAVE, link.close(reason, message)).await.is_err() {
        debug!("client does not read our goodbye");
    }
}

/// Lets live streams end, up to the deadline, and refuses new ones meanwhile.
async fn drain(link: &Link, streams: &mut JoinSet<()>, limits: &Limits) {
    let ended = timeout(limits.drain, async {
        while !streams.is_empty() {
            tokio::select! {
                Some(done) = streams.join_next() => note_panic(done),
                incoming = link.accept() => match incoming {
                    Some(incoming) => {
                        let message = "the gateway is stopping";
                        incoming.refuse(Refusal::new(RefusalKind::Unreachable, message));
                    }
                    None => return,
                },
            }
        }
    });
    if ended.await.is_err() {
        info!(streams = streams.len(), "streams cut at the deadline");
    }
}

/// Tells the catalog and each change of it, until the client lets go of the stream.
///
/// Nothing is queued for a client that reads slowly: when it has read, it is told the difference to what is in force
/// then.
async fn tell_catalog(stream: MuxStream, mut in_force: watch::Receiver<Arc<InForce>>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut encoder = wire::Encoder::new();
    let mut told: Option<Arc<InForce>> = None;
    let mut client_may_write = true;
    loop {
        let current = in_force.borrow_and_update().clone();
        for update in updates(told.as_deref(), &current) {
            let message = match encoder.encode(&update) {
                Ok(message) => message,
                Err(error) => return error!(%error, "catalog cannot be told"),
            };
            if let Err(error) = writer.write_all(&message).await {
                return debug!(%error, "catalog stream ended");
            }
        }
        told = Some(current);

        loop {
            // What a client writes here is nothing to us, but its reset is.
            let mut ignored = [0; 256];
            tokio::select! {
                changed = in_force.changed() => match changed {
                    Ok(()) => break,
                    // Nothing will change any more, and the client may wait for it all the same.
                    Err(_) => std::future::pending().await,
                },
                read = reader.read(&mut ignored), if client_may_write => match read {
                    Ok(0) => client_may_write = false,
                    Ok(_) => {}
                    Err(error) => return debug!(%error, "catalog stream ended"),
                },
            }
        }
    }
}

fn updates(told: Option<&InForce>, current: &InForce) -> Vec<Update> {
    let catalog = current.catalog.catalog();
    let change = match told {
        None => Some(Update::Snapshot(catalog.clone())),
        Some(told) => told.catalog.catalog().diff(catalog),
    };
    let told_health = told.map_or(&Health::Live, |told| &told.health);
    let health = (*told_health != current.health).then(|| Update::Health(current.health.clone()));
    change.into_iter().chain(health).collect()
}

fn note_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(%error, "a stream's task failed");
    }
}
