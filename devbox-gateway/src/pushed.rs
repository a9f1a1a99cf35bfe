//! Taking a catalog from a client.

use catalog_file::{LiveCatalog, StaticCatalog};
use devbox_provider::with_causes;
use service_catalog::{Catalog, Health, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::{debug, info};
use tunnel_bridge::MuxStream;

use crate::Grant;

/// The largest catalog that a client may push, in bytes of its wire form.
pub const MAX_PUSHED_BYTES: usize = 1 << 20;

const READ_BYTES: usize = 16 * 1024;

/// Puts in force what the client pushes, and answers each update with how it went: live, or stale with the reason.
/// Returns when the client ends the stream; what it pushed stays in force for as long as its link is up. With a grant, only
/// environments are taken that it is good for.
pub(crate) async fn receive(mut stream: MuxStream, live: &LiveCatalog, grant: Option<&Grant>) {
    let mut decoder = wire::Decoder::with_limit(MAX_PUSHED_BYTES);
    let mut encoder = wire::Encoder::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (answer, go_on) = match decoder.poll_update() {
            Ok(Some(Update::Health(_))) => continue,
            Ok(Some(update)) => (put(live, grant, &update, &mut encoder), true),
            Ok(None) => match stream.read(&mut buffer).await {
                Ok(0) => return,
                Ok(count) => {
                    decoder.handle_bytes(buffer.get(..count).unwrap_or_default());
                    continue;
                }
                Err(error) => return debug!(%error, "push stream ended"),
            },
            // Where a message ends is not known any more.
            Err(error) => (Err(with_causes(&error)), false),
        };
        let health = match answer {
            Ok(()) => Health::Live,
            Err(reason) => {
                info!(%reason, "pushed catalog not usable");
                live.set_stale(&reason);
                Health::stale(&reason)
            }
        };
        let Ok(message) = encoder.encode(&Update::Health(health)) else {
            return;
        };
        if let Err(error) = stream.write_all(&message).await {
            return debug!(%error, "push stream ended");
        }
        if !go_on {
            return drain(stream, &mut buffer).await;
        }
    }
}

/// Lets the last answer arrive: a reset could overtake it while the client still sends.
async fn drain(mut stream: MuxStream, buffer: &mut [u8]) {
    if let Err(error) = stream.shutdown().await {
        return debug!(%error, "push stream ended");
    }
    while stream.read(buffer).await.is_ok_and(|count| count > 0) {}
}

fn put(
    live: &LiveCatalog,
    grant: Option<&Grant>,
    update: &Update,
    encoder: &mut wire::Encoder,
) -> Result<(), String> {
    let newer = match (update, live.current()) {
        (Update::Snapshot(catalog), _) => catalog.clone(),
        (change, Some(current)) => {
            let mut catalog: Catalog = current.catalog().clone();
            catalog.apply(change);
            catalog
        }
        (_, None) => return Err("the first update must be a snapshot".to_owned()),
    };
    if let Some(grant) = grant {
        let checked = grant.check_environment(Some(&newer.environment));
        checked.map_err(|rejection| rejection.message)?;
    }
    let length = encoder
        .encode(&Update::Snapshot(newer.clone()))
        .map_err(|error| with_causes(&error))?
        .len();
    if length > MAX_PUSHED_BYTES {
        return Err(format!(
            "a catalog of {length} bytes is over the limit of {MAX_PUSHED_BYTES}"
        ));
    }
    let services = newer.services.len();
    let newer = StaticCatalog::from_targets(newer).map_err(|error| with_causes(&error))?;
    live.replace(newer).map_err(|error| with_causes(&error))?;
    info!(services, "catalog pushed");
    Ok(())
}
