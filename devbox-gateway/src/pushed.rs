//! Taking a catalog from a client.

use catalog_file::{LiveCatalog, StaticCatalog};
use devbox_provider::with_causes;
use service_catalog::{Catalog, Health, Label, Service, ServiceId, Update, wire};
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
    let mut pushed = Pushed::new(live, grant);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (answer, go_on) = match decoder.poll_update() {
            Ok(Some(Update::Health(_))) => continue,
            Ok(Some(update)) => (pushed.put(update), true),
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

/// The catalog that a client has pushed.
struct Pushed<'a> {
    live: &'a LiveCatalog,
    grant: Option<&'a Grant>,
    encoder: wire::Encoder,
    /// How long it is in its wire form, once there is one.
    length: Option<usize>,
}

impl<'a> Pushed<'a> {
    fn new(live: &'a LiveCatalog, grant: Option<&'a Grant>) -> Self {
        Self {
            live,
            grant,
            encoder: wire::Encoder::new(),
            length: None,
        }
    }

    fn put(&mut self, update: Update) -> Result<(), String> {
        match update {
            Update::Snapshot(catalog) => self.replace(catalog),
            Update::Changed { upserted, removed } => self.change(upserted, &removed),
            Update::Health(_) => Ok(()),
        }
    }

    fn replace(&mut self, newer: Catalog) -> Result<(), String> {
        self.check_environment(&newer.environment)?;
        let length = self.length_of(&newer)?;
        let services = newer.services.len();
        let newer = StaticCatalog::from_targets(newer).map_err(|error| with_causes(&error))?;
        self.live.replace(newer).map_err(|error| with_causes(&error))?;
        self.length = Some(length);
        info!(services, "catalog pushed");
        Ok(())
    }

    /// Costs what changes, however much there is.
    fn change(&mut self, upserted: Vec<Service>, removed: &[ServiceId]) -> Result<(), String> {
        let current = self.live.current().ok_or("the first update must be a snapshot")?;
        let catalog = current.catalog();
        self.check_environment(&catalog.environment)?;
        let known = match self.length {
            Some(length) => length,
            // Of an earlier stream of this client's.
            None => self.length_of(catalog)?,
        };
        let changed = upserted.iter().map(|service| &service.id).chain(removed);
        let former = changed.filter_map(|id| catalog.services.get(id));
        let length = known + lengths(&upserted)? - lengths(former)?;
        check_length(length)?;
        // It is changed in place where nobody else looks at it.
        drop(current);
        let services = upserted.len() + removed.len();
        let changed = self.live.change(upserted, removed);
        changed.map_err(|error| with_causes(&error))?;
        self.length = Some(length);
        debug!(services, "pushed catalog changed");
        Ok(())
    }

    fn check_environment(&self, environment: &Label) -> Result<(), String> {
        let Some(grant) = self.grant else {
            return Ok(());
        };
        let checked = grant.check_environment(Some(environment));
        checked.map_err(|rejection| rejection.message)
    }

    fn length_of(&mut self, catalog: &Catalog) -> Result<usize, String> {
        let mut frame = Catalog::empty(catalog.environment.clone());
        frame.notes.clone_from(&catalog.notes);
        let frame = self.encoder.encode(&Update::Snapshot(frame));
        let frame = frame.map_err(|error| with_causes(&error))?;
        // The last service has no comma.
        let length = frame.len() - 1 + lengths(catalog.services.values())?;
        check_length(length)?;
        Ok(length)
    }
}

fn check_length(length: usize) -> Result<(), String> {
    if length > MAX_PUSHED_BYTES {
        return Err(format!(
            "a catalog of {length} bytes is over the limit of {MAX_PUSHED_BYTES}"
        ));
    }
    Ok(())
}

/// How much these services add to a catalog in its wire form, each with a comma.
fn lengths<'a>(services: impl IntoIterator<Item = &'a Service>) -> Result<usize, String> {
    let length = |service: &Service| serde_json::to_vec(service).map(|text| text.len() + 1);
    let lengths = services.into_iter().map(length);
    lengths.sum::<Result<_, _>>().map_err(|error| with_causes(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u16, port: u16) -> Service {
        let port = service_catalog::Port {
            target: Some(format!("10.0.0.1:{port}")),
            ..service_catalog::Port::tcp(port.try_into().unwrap())
        };
        Service::new(format!("s{number}.x").parse().unwrap(), vec![port]).unwrap()
    }

    #[test]
    fn however_it_is_changed_a_catalog_is_as_long_as_if_it_had_been_pushed_at_once() {
        let live = LiveCatalog::awaited();
        let mut pushed = Pushed::new(&live, None);
        let snapshot = Catalog::new("dev".parse().unwrap(), (0..10).map(|n| service(n, 80))).unwrap();
        pushed.put(Update::Snapshot(snapshot)).unwrap();
        let changed = |upserted: &[(u16, u16)], removed: &[u16]| Update::Changed {
            upserted: upserted
                .iter()
                .map(|(number, port)| service(*number, *port))
                .collect(),
            removed: removed.iter().map(|number| service(*number, 80).id).collect(),
        };
        for update in [
            changed(&[(3, 8080), (100, 1)], &[4, 5, 777]),
            changed(&[], &[3, 100]),
            changed(&[(3, 80), (4, 80)], &[]),
        ] {
            pushed.put(update).unwrap();
            let current = live.current().unwrap();
            let length = pushed.length.unwrap();
            assert_eq!(pushed.length_of(current.catalog()).unwrap(), length);
            let whole = StaticCatalog::from_targets(current.catalog().clone()).unwrap();
            assert_eq!(*current, whole);
            let wire = wire::Encoder::new().encode(&Update::Snapshot(current.catalog().clone()));
            assert_eq!(length, wire.unwrap().len());
        }
        let unusable = Update::Changed {
            upserted: vec![
                service(1, 8080),
                Service {
                    ports: vec![service_catalog::Port::tcp(80.try_into().unwrap())],
                    ..service(2, 80)
                },
            ],
            removed: Vec::new(),
        };
        let before = live.current().unwrap();
        assert!(
            pushed
                .put(unusable)
                .unwrap_err()
                .contains("does not say what to dial")
        );
        assert_eq!(live.current().unwrap(), before, "all or nothing");
    }
}
