//! `devbox up --dry-run`: the session's own state machine, with nobody to carry out its steps.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use devbox_session::{BindFault, Event, Provider, SessionState, Settings, Step};
use ipalloc::{Allocator, Timestamp};
use serde::Serialize;
use service_catalog::Label;

use crate::args::Output;
use crate::failure::Failure;
use crate::{print, private_hosts, session, status};

#[derive(Serialize)]
struct Plan<'a> {
    event: &'static str,
    services: &'a [devbox_session::ServiceReport],
    hosts_file: Option<&'a Path>,
    diff: &'a str,
}

/// Prints what `up` would do.
pub(crate) async fn run(
    settings: Settings,
    allocator: Allocator,
    mut provider: Box<dyn Provider>,
    hosts_file: Option<&Path>,
    root: bool,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut displaced = Displaced::default();
    let tag = format!("devbox-{}", settings.identity.session);
    let bytes = match hosts_file {
        Some(file) => fs::read(file).map_err(|error| {
            Failure::because(anyhow::Error::new(error).context(format!("cannot read {}", file.display())))
        })?,
        None => Vec::new(),
    };
    let mut state = SessionState::new(settings, allocator, Instant::now());
    let mut diff = String::new();
    let mut far = None;
    loop {
        while let Some(step) = state.poll_step(Instant::now()) {
            match step {
                Step::Connect => match provider.connect(1).await {
                    Ok(mut connected) => {
                        state.handle_connected(Instant::now());
                        let first = connected.source.next().await.map_err(Failure::because)?;
                        state.handle_update(first, Timestamp::from(SystemTime::now()));
                        far = Some(connected);
                    }
                    Err(failure) => state.handle_connect_failed(failure, Instant::now()),
                },
                Step::Claim { environment } => {
                    displaced = Displaced::find(&environment, hosts_file).await;
                    state.handle_claimed();
                }
                Step::Open {
                    service,
                    address,
                    ports,
                    ..
                } => {
                    let results = ports
                        .into_iter()
                        .map(|(port, _)| (port, displaced.probe(SocketAddr::new(address, port.get()), root)));
                    state.handle_opened(
                        &service,
                        address,
                        results.collect(),
                        Timestamp::from(SystemTime::now()),
                    );
                }
                Step::WriteHosts { entries } => {
                    let planned =
                        private_hosts::plan_in_place_of(&bytes, displaced.tag.as_deref(), &tag, &entries)?;
                    diff = hosts_file.map_or_else(String::new, |file| planned.diff(file));
                    let report = planned.report(hosts_file.unwrap_or(Path::new("")));
                    state.handle_hosts_written(entries, Ok(report), Instant::now());
                }
                Step::Close { listeners, .. } => state.handle_closed(&listeners),
                Step::Release => state.handle_released(Ok(())),
            }
        }
        while let Some(event) = state.poll_event() {
            match event {
                Event::Ready { status } => {
                    if let Some(far) = far.take() {
                        (far.close)().await;
                    }
                    show(&status.services, hosts_file, &diff, output);
                    return Ok(ExitCode::SUCCESS);
                }
                event => print::tell(&event, Output::Text),
            }
        }
        if let Some(reason) = state.finished() {
            return session::verdict(reason.clone());
        }
        if let Some(until) = state.poll_timeout() {
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

fn show(services: &[devbox_session::ServiceReport], hosts_file: Option<&Path>, diff: &str, output: Output) {
    match output {
        Output::Json => print::json(&Plan {
            event: "plan",
            services,
            hosts_file,
            diff,
        }),
        Output::Text => {
            print::out(&print::services(services));
            if !diff.is_empty() {
                print::out(&format!("\n{diff}"));
            }
            print::out("nothing was changed\n");
        }
    }
}

/// The running session that a real run would displace, as far as the plan has to know.
#[derive(Default)]
struct Displaced {
    tag: Option<String>,
    listening: BTreeSet<SocketAddr>,
}

impl Displaced {
    async fn find(environment: &Label, hosts_file: Option<&Path>) -> Self {
        let found = status::find(Some(environment)).await;
        let same = |theirs: Option<&Path>| canonical(theirs) == canonical(hosts_file);
        let Some(found) = found
            .into_iter()
            .find(|found| same(found.report.identity.hosts_file.as_deref()))
        else {
            return Self::default();
        };
        let listening = found.report.services.iter().flat_map(|service| {
            let ports = service.ports.iter().map(|port| port.port);
            service
                .address
                .into_iter()
                .flat_map(move |address| ports.clone().map(move |port| SocketAddr::new(address, port)))
        });
        Self {
            listening: listening.collect(),
            tag: Some(format!("devbox-{}", found.report.identity.session)),
        }
    }

    /// Whether the address could be listened on: by trying, for a moment.
    fn probe(&self, address: SocketAddr, root: bool) -> Result<(), BindFault> {
        match TcpListener::bind(address) {
            Ok(_) => Ok(()),
            Err(error) => match crate::host::fault(address, &error) {
                BindFault::InUse { .. } if self.listening.contains(&address) => Ok(()),
                // The helper of a real run would bind it.
                BindFault::Denied { .. } if root => Ok(()),
                fault => Err(fault),
            },
        }
    }
}

fn canonical(file: Option<&Path>) -> Option<PathBuf> {
    file.map(Path::canonicalize).and_then(Result::ok)
}
