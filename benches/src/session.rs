//! What a change of the catalog costs a session that has many services: the state machine, and the names in memory.
//!
//! No socket is opened: each step is answered as a machine would on which everything succeeds. The services are headless ones with two
//! pods each, which have a name of their own: three listeners and fourteen names for each.

use std::time::Instant;

use anyhow::{Result, ensure};
use devbox_session::sink::{NameSink, Registry, hosts_entries};
use devbox_session::{Identity, NamesPolicy, ProviderId, ProviderSettings, SessionState, Settings, Step};
use ipalloc::{Allocator, Pool, Timestamp};
use service_catalog::{Catalog, Label, Port, Service, ServiceId, Update};
use tokio::runtime::Runtime;

use crate::{Bench, OURS, Report, Unit};

pub(crate) const BENCH: Bench = Bench {
    name: "session",
    about: "what a change of the catalog costs a session with many services",
    run,
};

const ONLY: ProviderId = ProviderId(0);
const PORT: u16 = 5432;
const SIZES: [usize; 3] = [100, 1_000, 10_000];
/// Each kind of change is made so often, each time of another service.
const CHANGES: usize = 20;

fn run(report: &mut Report) -> Result<()> {
    for services in SIZES {
        let mut session = Session::start(services)?;
        let figure = |report: &mut Report, what: &str, value: f64| {
            report.figure(
                &format!("{services} services: {what}"),
                OURS,
                value,
                Unit::MICROSECONDS,
            );
        };
        let step = services / CHANGES;
        let added = session.each(services..services + CHANGES, |number| {
            Ok(changed(headless(number, PORT)?))
        })?;
        let ports = session.each((0..services).step_by(step), |number| {
            Ok(changed(headless(number, PORT + 1)?))
        })?;
        let names = session.each((0..services).step_by(step), |number| {
            let mut services = headless(number, PORT + 1)?;
            for service in services.iter_mut().filter(|service| service.id.member.is_none()) {
                service.aliases = vec![Label::new(&format!("given-{number}"))?];
            }
            Ok(changed(services))
        })?;
        let removed = session.each(services..services + CHANGES, |number| {
            Ok(Update::Changed {
                upserted: Vec::new(),
                removed: headless(number, PORT)?
                    .into_iter()
                    .map(|service| service.id)
                    .collect(),
            })
        })?;
        figure(report, "one added", added);
        figure(report, "one with another port", ports);
        figure(report, "one with another name", names);
        figure(report, "one removed", removed);
        let begun = Instant::now();
        let entries = hosts_entries(&session.state.records());
        figure(
            report,
            "the lines of a hosts file",
            begun.elapsed().as_secs_f64() * 1e6,
        );
        ensure!(entries.len() == 3 * services, "{} lines", entries.len());
    }
    report.note(format!(
        "means of {CHANGES} changes, each until its names are in the registry; headless services with two pods, 14 names each"
    ));
    Ok(())
}

fn headless(number: usize, port: u16) -> Result<Vec<Service>> {
    let id: ServiceId = format!("service-{number}.backend").parse()?;
    let pods = (0..2).map(|pod| Ok(Some(Label::new(&format!("pod-{pod}"))?)));
    std::iter::once(Ok(None))
        .chain(pods)
        .map(|member: Result<_>| {
            let id = ServiceId {
                member: member?,
                ..id.clone()
            };
            Ok(Service::new(id, vec![Port::tcp(port.try_into()?)])?)
        })
        .collect()
}

fn changed(upserted: Vec<Service>) -> Update {
    Update::Changed {
        upserted,
        removed: Vec::new(),
    }
}

/// A session on a machine on which everything succeeds.
struct Session {
    state: SessionState,
    registry: Registry,
    runtime: Runtime,
    publications: usize,
    /// It stands still, so that there is no pause after a publication.
    now: Instant,
}

impl Session {
    fn start(services: usize) -> Result<Self> {
        let identity = Identity {
            session: "bench".to_owned(),
            pid: 1,
            helper_pid: None,
            hosts_file: None,
            started_at: 0,
        };
        let provider = ProviderSettings {
            name: "bench".to_owned(),
            environment: None,
        };
        let settings = Settings {
            names: NamesPolicy {
                active: Some("backend".parse()?),
                ..NamesPolicy::default()
            },
            ..Settings::new(identity, vec![provider], 1)
        };
        let allocator = Allocator::new(Pool::new(["127.77.0.0/16".parse()?])?);
        let registry = Registry::default();
        let now = Instant::now();
        let mut session = Self {
            state: SessionState::new(settings, allocator, vec![registry.describe()], now),
            registry,
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
            publications: 0,
            now,
        };
        session.settle()?;
        let all = (0..services).map(|number| headless(number, PORT));
        let all: Vec<_> = all.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        session.update(Update::Snapshot(Catalog::new("staging".parse()?, all)?))?;
        Ok(session)
    }

    fn update(&mut self, update: Update) -> Result<()> {
        self.state
            .handle_update(ONLY, update, self.now, Timestamp::from_secs(1));
        self.settle()
    }

    /// Microseconds for one change.
    fn each(
        &mut self,
        numbers: impl Iterator<Item = usize>,
        change: impl Fn(usize) -> Result<Update>,
    ) -> Result<f64> {
        let changes: Vec<_> = numbers.take(CHANGES).map(change).collect::<Result<_>>()?;
        let (count, before) = (changes.len(), self.publications);
        let begun = Instant::now();
        for change in changes {
            self.update(change)?;
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
        let published = self.publications - before;
        ensure!(published >= count, "{published} publications of {count} changes");
        Ok(each)
    }

    fn settle(&mut self) -> Result<()> {
        while let Some(step) = self.state.poll_step(self.now) {
            self.perform(step)?;
        }
        while self.state.poll_event().is_some() {}
        self.state.take_lease_changes();
        Ok(())
    }

    fn perform(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Connect { provider, .. } => self.state.handle_connected(provider, self.now),
            Step::Claim { environment } => self.state.handle_claimed(&environment),
            Step::Bind {
                service,
                address,
                endpoints,
                all_or_none,
            } => {
                let bound = endpoints.into_iter().map(|(endpoint, _)| (endpoint, Ok(())));
                self.state
                    .handle_bound(&service, address, all_or_none, bound.collect());
            }
            Step::Publish { sink, records } => {
                self.publications += 1;
                let publish = self.registry.publish(records.clone());
                let published = self.runtime.block_on(publish);
                self.state.handle_published(sink, records, published, self.now);
            }
            Step::Close { endpoints, .. } => self.state.handle_closed(&endpoints),
            Step::Admit { .. } | Step::Retarget { .. } => {}
            other => anyhow::bail!("{other:?}"),
        }
        Ok(())
    }
}
