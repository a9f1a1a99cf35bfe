//! What the command prints: tables, lines and JSON.

use std::io::{self, Write};

use devbox_engine::{Event, Notice, StatusReport};
use devbox_helper_client::Protocol;
use devbox_session::{LinkState, NameClash, PortReport, PortState, ProviderReport, Rejected, ServiceReport};
use serde::Serialize;
use service_catalog::Readiness;

use crate::args::Output;

/// The column that is left out where there is one provider only.
const PROVIDER: &str = "PROVIDER";

/// Columns as wide as their widest cell, two blanks between them, none at the end of a line.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self {
            rows: vec![heads.map(str::to_owned).to_vec()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(Vec::from(cells));
    }

    /// Leaves out the column with this head.
    pub(crate) fn without(mut self, head: &str) -> Self {
        let column = self
            .rows
            .first()
            .and_then(|heads| heads.iter().position(|found| found == head));
        if let Some(column) = column {
            for row in &mut self.rows {
                row.remove(column);
            }
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints to standard output. A reader that went away (`| head`) neither causes a panic nor ends a session.
pub(crate) fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    if stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_err()
    {
        tracing::debug!("nobody reads standard output");
    }
}

/// Prints one line to standard error.
pub(crate) fn note(line: &str) {
    if writeln!(io::stderr().lock(), "{line}").is_err() {
        tracing::debug!("nobody reads standard error");
    }
}

/// Prints one object on a line of its own.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => out(&(line + "\n")),
        Err(error) => tracing::error!(%error, "cannot be written as JSON"),
    }
}

/// The services of a session, one row a port.
pub(crate) fn services(report: &StatusReport) -> String {
    let several = report.providers.len() > 1;
    let mut table = Table::new(["NAME", "ADDRESS", "PORT", "TARGET", PROVIDER]);
    for service in &report.services {
        for port in service
            .ports
            .iter()
            .filter(|port| port.state == PortState::Listening)
        {
            table.row([
                shown_name(service),
                shown_addresses(service),
                shown_port(port),
                port.target.clone().unwrap_or_else(|| "-".to_owned()),
                service.provider.clone(),
            ]);
        }
    }
    if table.is_empty() {
        return "no service can be reached\n".to_owned();
    }
    if !several {
        table = table.without(PROVIDER);
    }
    table.render()
}

/// The name by which a user would call it: `svc.ns` where it has that, else the shortest.
pub(crate) fn shown_name(service: &ServiceReport) -> String {
    let id = service.service.to_string();
    // Its own names begin with its id; the others are aliases.
    let shortest = |own: bool| {
        let names = service.names.iter().filter(|name| !own || name.starts_with(&id));
        names.min_by_key(|name| name.len())
    };
    shortest(true).or_else(|| shortest(false)).cloned().unwrap_or(id)
}

fn shown_addresses(service: &ServiceReport) -> String {
    if service.addresses.is_empty() {
        return "-".to_owned();
    }
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// `5432`, `53/udp`.
fn shown_port(port: &PortReport) -> String {
    match port.protocol {
        Protocol::Udp => format!("{}/udp", port.port),
        _ => port.port.to_string(),
    }
}

/// A session in full, for `status`.
pub(crate) fn status(report: &StatusReport) -> String {
    let who = &report.identity;
    let hosts = who
        .hosts_file
        .as_ref()
        .map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let phase = match (report.stopping, report.ready) {
        (true, _) => ", ending",
        (false, true) => "",
        (false, false) => ", not ready yet",
    };
    let mut text = format!(
        "session     {} (pid {}), since {}{phase}\nhosts file  {hosts}\n\n",
        who.session,
        who.pid,
        time(who.started_at),
    );
    text.push_str(&providers(&report.providers));
    let services = ports(report);
    if !services.is_empty() {
        text.push('\n');
        text.push_str(&services);
    }
    let notes = notes(report);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text
}

fn providers(providers: &[ProviderReport]) -> String {
    let mut table = Table::new([PROVIDER, "ENVIRONMENT", "LINK", "FAR SIDE"]);
    for provider in providers {
        let link = match &provider.link {
            LinkState::Up => "connected".to_owned(),
            LinkState::Connecting { attempt } => format!("connecting (try {attempt})"),
            LinkState::Waiting { attempt, .. } => format!("not connected ({})", tries(*attempt)),
            LinkState::Failed { .. } => "failed".to_owned(),
        };
        table.row([
            provider.name.clone(),
            provider.environment.clone().unwrap_or_else(|| "-".to_owned()),
            link,
            provider.status.to_string(),
        ]);
    }
    table.render()
}

fn tries(count: u32) -> String {
    match count {
        1 => "1 try".to_owned(),
        count => format!("{count} tries"),
    }
}

/// One row a port, and one for a service without any.
fn ports(report: &StatusReport) -> String {
    let mut table = Table::new([
        "NAME", "ADDRESS", "PORT", "OPEN", "TOTAL", "SENT", "RECEIVED", PROVIDER, "STATE",
    ]);
    for service in &report.services {
        let name = shown_name(service);
        let address = shown_addresses(service);
        for port in &service.ports {
            let mut state = match (&port.state, &port.last_failure) {
                (PortState::Listening, None) => "up".to_owned(),
                (PortState::Listening, Some(failure)) => format!("up, last connection: {failure}"),
                (PortState::Opening, _) => "opening".to_owned(),
                (PortState::Degraded(reason), _) => reason.clone(),
            };
            if let Readiness::NotReady { reason } = &service.readiness {
                state = format!("{state}, not ready: {reason}");
            }
            table.row([
                name.clone(),
                address.clone(),
                shown_port(port),
                port.active.to_string(),
                port.connections.to_string(),
                bytes(port.sent_bytes),
                bytes(port.received_bytes),
                service.provider.clone(),
                state,
            ]);
        }
        if service.ports.is_empty() {
            let state = match &service.alias_of {
                Some(other) => format!("another name for {other}"),
                None => "no ports".to_owned(),
            };
            let nothing = || "-".to_owned();
            table.row([
                name,
                address,
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                service.provider.clone(),
                state,
            ]);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    if report.providers.len() < 2 {
        table = table.without(PROVIDER);
    }
    table.render()
}

/// What is not as it should be, one line each.
fn notes(report: &StatusReport) -> String {
    let mut lines = Vec::new();
    for provider in &report.providers {
        let name = &provider.name;
        match &provider.link {
            LinkState::Waiting { reason, .. } | LinkState::Failed { reason } => {
                lines.push(format!("{name}: {reason}"));
            }
            LinkState::Up | LinkState::Connecting { .. } => {}
        }
        if let Some(reason) = &provider.stale {
            lines.push(format!("{name}: the catalog is not fresh: {reason}"));
        }
    }
    lines.extend(report.clashes.iter().map(clash));
    for taken in &report.taken {
        lines.push(format!(
            "{} is left to line {} of the hosts file",
            taken.name, taken.line
        ));
    }
    if let Some(Rejected { connections, limit }) = report.rejected {
        lines.push(format!(
            "{connections} connections were refused because {limit} were open, which is the limit"
        ));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn clash(NameClash { name, owner, other }: &NameClash) -> String {
    format!("{name} leads to {owner}; {other} has that name too")
}

/// An event in one line for a person; `None` where a table or the exit says it.
pub(crate) fn event(event: &Event) -> Option<String> {
    Some(match event {
        Event::ConnectFailed { reason, retry_in, .. } => {
            format!("{reason}; trying again in {:.1} s", retry_in.as_secs_f64())
        }
        Event::ProviderFailed {
            provider,
            reason,
            retried,
        } => {
            let then = if *retried { ", and trying again" } else { "" };
            format!("warning: {provider}: {reason}; going on without it{then}")
        }
        Event::WrongEnvironment {
            provider,
            wanted,
            found,
        } => format!(
            "warning: {provider}: the environment there is `{found}`, and this session is for `{wanted}`: \
             nothing is connected to it"
        ),
        Event::LinkLost { provider, reason } => {
            format!("{provider}: link lost: {reason}; names and listeners stay, reconnecting")
        }
        Event::LinkRestored { provider, away } => {
            format!("{provider}: connected again after {:.1} s", away.as_secs_f64())
        }
        Event::LinkUnstable { provider, losses } => format!(
            "warning: {provider}: the link was lost {losses} times in a row; further losses are only counted"
        ),
        Event::LinkStable { provider, losses } => {
            format!("{provider}: the link is stable again; it was lost {losses} times")
        }
        Event::ServiceUp { service } => service_up(service),
        Event::ServiceRemoved { service } => format!("gone: {service}"),
        Event::PortDegraded {
            service,
            port,
            reason,
        } => {
            format!("warning: {service}:{port} is not offered: {reason}")
        }
        Event::OutOfDescriptors { services } => {
            let (count, verb) = match services {
                1 => ("1 service".to_owned(), "is"),
                count => (format!("{count} services"), "are"),
            };
            format!(
                "warning: no more files can be opened: {count} {verb} not offered until some are closed; \
                 raise the limit with `ulimit -n`"
            )
        }
        Event::DescriptorsAvailable => "files can be opened again: all services are offered".to_owned(),
        Event::TooManyConnections { limit } => format!(
            "warning: {limit} connections are open, which is the limit: further ones are refused and counted; \
             raise it with `limits: {{connections: N}}` in devbox.yaml"
        ),
        Event::NameTaken { name, line } => {
            format!("warning: {name} is left to your own line {line} of the hosts file")
        }
        Event::NameClash(found) => format!("warning: {}", clash(found)),
        Event::NamesWarning { message } => format!("warning: {message}"),
        Event::NamesFailed { sink, reason } => format!("warning: {sink} is not up to date: {reason}"),
        Event::NamesRestored { sink } => format!("{sink} is up to date again"),
        Event::CatalogStale { provider, reason } => {
            format!("warning: {provider}: the catalog is not fresh: {reason}")
        }
        Event::CatalogFresh { provider } => format!("{provider}: the catalog is fresh again"),
        Event::EnvironmentSwitched {
            provider,
            environment,
        } => format!("{provider}: switched to the environment {environment}"),
        Event::Lagged { missed, .. } => {
            format!("warning: {missed} messages were dropped; `devbox status` shows the state")
        }
        _ => return None,
    })
}

fn service_up(service: &ServiceReport) -> String {
    let name = shown_name(service);
    let address = shown_addresses(service);
    let ports: Vec<_> = service.ports.iter().map(shown_port).collect();
    match (&service.alias_of, ports.len()) {
        (Some(other), 0) => format!("new: {name}, another name for {other}"),
        (None, 0) => format!("new: {name} at {address}"),
        (_, 1) => format!("new: {name} at {address}, port {}", ports.join(", ")),
        _ => format!("new: {name} at {address}, ports {}", ports.join(", ")),
    }
}

/// A notice in one line.
pub(crate) fn notice(notice: &Notice) -> String {
    match notice {
        Notice::AddressesInMemory { reason } => {
            format!("note: addresses are kept in memory only: {reason}")
        }
        Notice::AddressesNotKept { reason } => {
            format!("warning: addresses cannot be remembered for the next session: {reason}")
        }
        Notice::Swept { file, tag } => {
            format!(
                "note: removed what the killed session {tag} had left in {}",
                file.display()
            )
        }
        Notice::WaitingForOlder { environment } => {
            format!("note: waiting for your older session of {environment} to end")
        }
        Notice::NoControlSocket { environment, reason } => format!(
            "warning: there is no control socket for {environment}, so `status` and `down` will not find this \
             session: {reason}"
        ),
        other => format!("note: {other:?}"),
    }
}

/// Prints an event in the form that was asked for.
pub(crate) fn tell(event_: &Event, output: Output) {
    match output {
        Output::Json => json(event_),
        Output::Text => {
            if let Some(line) = event(event_) {
                note(&line);
            }
        }
    }
}

/// Bytes in the largest unit that leaves a whole number in front.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).unwrap_or(&"B");
    if unit == 0 {
        format!("{count} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

/// Seconds since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn time(seconds: u64) -> String {
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use devbox_provider::Status;
    use devbox_session::Identity;
    use devbox_session::sink::TakenName;

    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME         PORT\na-long-name  1\nb\n");
    }

    fn service(name: &str, ports: Vec<PortReport>) -> ServiceReport {
        ServiceReport {
            service: name.parse().unwrap(),
            provider: "gateway".to_owned(),
            environment: "dev".to_owned(),
            addresses: vec!["127.77.45.67".parse().unwrap()],
            names: vec![name.to_owned(), format!("{name}.svc")],
            readiness: Readiness::Ready,
            alias_of: None,
            ports,
        }
    }

    fn port(port: u16, state: PortState) -> PortReport {
        PortReport {
            port,
            protocol: Protocol::Tcp,
            name: None,
            target: Some("10.0.0.1:5432".to_owned()),
            state,
            connections: 12,
            active: 2,
            sent_bytes: 2048,
            received_bytes: 3 << 20,
            last_failure: None,
        }
    }

    fn provider(name: &str, status: Status, link: LinkState) -> ProviderReport {
        ProviderReport {
            name: name.to_owned(),
            status,
            environment: Some("dev".to_owned()),
            link,
            stale: None,
        }
    }

    fn report() -> StatusReport {
        StatusReport {
            identity: Identity {
                session: "dev-1a2b3c4d".to_owned(),
                pid: 4242,
                helper_pid: Some(4243),
                hosts_file: Some("/etc/hosts".into()),
                started_at: 1_767_225_600,
            },
            providers: vec![provider(
                "gateway",
                Status::new("gateway", "wss://gateway.example/"),
                LinkState::Up,
            )],
            ready: true,
            stopping: false,
            services: vec![service("orders.backend", vec![port(5432, PortState::Listening)])],
            taken: Vec::new(),
            clashes: Vec::new(),
            rejected: None,
        }
    }

    /// Everything that can be out of the ordinary.
    fn troubled() -> StatusReport {
        let mut report = report();
        report.ready = false;
        let far_side = Status::new("kubernetes", "backend in minikube");
        let mut cluster = provider(
            "cluster",
            far_side.via("port-forward", "the cluster has no gateway"),
            LinkState::Waiting {
                attempt: 3,
                reason: "minikube is not reachable: connection refused".to_owned(),
            },
        );
        cluster.environment = None;
        cluster.stale = Some("the watch ended".to_owned());
        let closed = LinkState::Failed {
            reason: "the token is not accepted".to_owned(),
        };
        let closed = provider("closed", Status::new("gateway", "wss://closed.example/"), closed);
        report.providers.extend([cluster, closed]);
        let mut failing = port(80, PortState::Listening);
        failing.last_failure = Some("refused: connection refused".to_owned());
        let mut dns = port(53, PortState::Opening);
        dns.protocol = Protocol::Udp;
        let held = PortState::Degraded("127.77.1.2:81 is in use by nginx (pid 7)".to_owned());
        let mut web = service("web.shop", vec![failing, port(81, held), dns]);
        web.addresses.push("fd77::2".parse().unwrap());
        web.readiness = Readiness::not_ready("no pod is ready");
        web.provider = "cluster".to_owned();
        let mut alias = service("db.backend", Vec::new());
        alias.alias_of = Some("orders.backend".parse().unwrap());
        alias.addresses.clear();
        report.services.extend([web, alias]);
        report.clashes.push(name_clash());
        report.rejected = Some(Rejected {
            connections: 905,
            limit: 16_384,
        });
        report.taken.push(TakenName {
            name: "web.shop".to_owned(),
            line: 9,
        });
        report
    }

    fn name_clash() -> NameClash {
        NameClash {
            name: "orders.backend".to_owned(),
            owner: "orders.backend of gateway".to_owned(),
            other: "orders.backend of local".to_owned(),
        }
    }

    #[test]
    fn services_of_one_provider() {
        insta::assert_snapshot!(services(&report()));
    }

    #[test]
    fn services_of_several_providers() {
        insta::assert_snapshot!(services(&troubled()));
    }

    #[test]
    fn no_services() {
        let mut report = report();
        report.services.clear();
        insta::assert_snapshot!(services(&report));
    }

    #[test]
    fn status_of_one_provider() {
        insta::assert_snapshot!(status(&report()));
    }

    #[test]
    fn status_with_everything_out_of_the_ordinary() {
        insta::assert_snapshot!(status(&troubled()));
    }

    #[test]
    fn every_event() {
        let provider = || "gateway".to_owned();
        let reason = || "connection refused".to_owned();
        let mut alias = service("db.backend", Vec::new());
        alias.alias_of = Some("orders.backend".parse().unwrap());
        let listening = |number| port(number, PortState::Listening);
        let events = [
            Event::ConnectFailed {
                provider: provider(),
                reason: "wss://gateway.example/ is not reachable: connection refused".to_owned(),
                retry_in: Duration::from_millis(200),
            },
            Event::ProviderFailed {
                provider: provider(),
                reason: reason(),
                retried: true,
            },
            Event::ProviderFailed {
                provider: provider(),
                reason: reason(),
                retried: false,
            },
            Event::WrongEnvironment {
                provider: provider(),
                wanted: "dev".to_owned(),
                found: "staging".to_owned(),
            },
            Event::LinkLost {
                provider: provider(),
                reason: reason(),
            },
            Event::LinkRestored {
                provider: provider(),
                away: Duration::from_millis(1530),
            },
            Event::LinkUnstable {
                provider: provider(),
                losses: 3,
            },
            Event::LinkStable {
                provider: provider(),
                losses: 12,
            },
            Event::ServiceUp {
                service: service("orders.backend", vec![listening(5432)]),
            },
            Event::ServiceUp {
                service: service("web.shop", vec![listening(80), listening(443)]),
            },
            Event::ServiceUp { service: alias },
            Event::ServiceRemoved {
                service: "orders.backend".parse().unwrap(),
            },
            Event::PortDegraded {
                service: "orders.backend".parse().unwrap(),
                port: 80,
                reason: "127.77.1.2:80 is in use by nginx (pid 7)".to_owned(),
            },
            Event::OutOfDescriptors { services: 1 },
            Event::OutOfDescriptors { services: 3977 },
            Event::DescriptorsAvailable,
            Event::TooManyConnections { limit: 16_384 },
            Event::NameTaken {
                name: "orders.backend".to_owned(),
                line: 7,
            },
            Event::NameClash(name_clash()),
            Event::NamesWarning {
                message: "/etc/hosts:3: the line is longer than glibc reads".to_owned(),
            },
            Event::NamesFailed {
                sink: "/etc/hosts".to_owned(),
                reason: reason(),
            },
            Event::NamesRestored {
                sink: "/etc/hosts".to_owned(),
            },
            Event::CatalogStale {
                provider: provider(),
                reason: "catalog.yaml:3: no such label".to_owned(),
            },
            Event::CatalogFresh { provider: provider() },
            Event::EnvironmentSwitched {
                provider: provider(),
                environment: "staging".to_owned(),
            },
            Event::Lagged {
                missed: 17,
                status: Box::new(report()),
            },
            Event::Ready {
                status: Box::new(report()),
            },
            Event::Stopping {
                reason: "SIGINT".to_owned(),
            },
        ];
        let lines: Vec<_> = events
            .iter()
            .map(|found| event(found).unwrap_or_else(|| "(nothing)".to_owned()))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn every_notice() {
        let environment = || "dev".parse().unwrap();
        let reason = || "no space left on device".to_owned();
        let notices = [
            Notice::AddressesInMemory { reason: reason() },
            Notice::AddressesNotKept { reason: reason() },
            Notice::Swept {
                file: "/etc/hosts".into(),
                tag: "devbox-dev-1a2b3c4d".to_owned(),
            },
            Notice::WaitingForOlder {
                environment: environment(),
            },
            Notice::NoControlSocket {
                environment: environment(),
                reason: reason(),
            },
        ];
        let lines: Vec<_> = notices.iter().map(notice).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn bytes_are_shown_in_a_fitting_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 40), "1.0 TiB");
    }
}
