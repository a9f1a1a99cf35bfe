//! What the command prints: tables, lines and JSON.

use std::io::{self, Write};

use devbox_session::{Event, LinkState, PortState, ServiceReport, StatusReport};
use serde::Serialize;

use crate::args::Output;

/// Columns as wide as their widest cell, two blanks between them, nothing after the last.
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

/// Prints to standard output. A reader that went away (`| head`) is no reason to panic or to end a session.
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
pub(crate) fn services(services: &[ServiceReport]) -> String {
    let mut table = Table::new(["NAME", "ADDRESS", "PORT", "TARGET"]);
    for service in services {
        for port in service
            .ports
            .iter()
            .filter(|port| port.state == PortState::Listening)
        {
            table.row([
                shown_name(service),
                shown_address(service),
                port.port.to_string(),
                port.target.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
    }
    if table.is_empty() {
        "no service can be reached\n".to_owned()
    } else {
        table.render()
    }
}

/// The name by which a user would call it: `svc.ns` where it has that, else the shortest.
pub(crate) fn shown_name(service: &ServiceReport) -> String {
    let id = service.service.to_string();
    let found = service.names.iter().find(|name| **name == id);
    let shortest = || service.names.iter().min_by_key(|name| name.len());
    found.or_else(shortest).cloned().unwrap_or(id)
}

fn shown_address(service: &ServiceReport) -> String {
    service
        .address
        .map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// A session in full, for `status`.
pub(crate) fn status(report: &StatusReport) -> String {
    let link = match &report.link {
        LinkState::Up => "connected".to_owned(),
        LinkState::Connecting { attempt } => format!("connecting (try {attempt})"),
        LinkState::Waiting { attempt, reason } => format!("not connected, {attempt} tries: {reason}"),
    };
    let who = &report.identity;
    let hosts = who
        .hosts_file
        .as_ref()
        .map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let mut text = format!(
        "environment  {}\ngateway      {} ({link})\nsession      {} (pid {}), since {}\nhosts file   {hosts}\n\n",
        report.environment.as_deref().unwrap_or("-"),
        who.gateway,
        who.session,
        who.pid,
        time(who.started_at),
    );
    let mut table = Table::new([
        "NAME", "ADDRESS", "PORT", "OPEN", "TOTAL", "SENT", "RECEIVED", "STATE",
    ]);
    for service in &report.services {
        for port in &service.ports {
            let state = match (&port.state, &port.last_failure) {
                (PortState::Listening, None) => "up".to_owned(),
                (PortState::Listening, Some(failure)) => format!("up, last connection: {failure}"),
                (PortState::Opening, _) => "opening".to_owned(),
                (PortState::Degraded(reason), _) => reason.clone(),
            };
            table.row([
                shown_name(service),
                shown_address(service),
                port.port.to_string(),
                port.active.to_string(),
                port.connections.to_string(),
                bytes(port.sent_bytes),
                bytes(port.received_bytes),
                state,
            ]);
        }
    }
    text.push_str(&table.render());
    if let Some(reason) = &report.stale {
        text.push_str(&format!("\nthe catalog is not fresh: {reason}\n"));
    }
    for (name, line) in &report.taken {
        text.push_str(&format!("\n{name} stays with line {line} of the hosts file\n"));
    }
    text
}

/// An event in one line for a person; `None` where the table has said it already.
pub(crate) fn event(event: &Event) -> Option<String> {
    Some(match event {
        Event::ConnectFailed { reason, retry_in } => {
            format!("{reason}; trying again in {:.1} s", retry_in.as_secs_f64())
        }
        Event::LinkLost { reason } => format!("link lost: {reason}; names and listeners stay, reconnecting"),
        Event::LinkRestored { away } => format!("connected again after {:.1} s", away.as_secs_f64()),
        Event::ServiceUp { service } => {
            let address = shown_address(service);
            let ports: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
            format!(
                "new: {} at {address}, port {}",
                shown_name(service),
                ports.join(", ")
            )
        }
        Event::ServiceRemoved { service } => format!("gone: {service}"),
        Event::PortDegraded {
            service,
            port,
            reason,
        } => {
            format!("warning: {service}:{port} is not offered: {reason}")
        }
        Event::NameTaken { name, line } => {
            format!("warning: {name} stays with your own line {line} of the hosts file")
        }
        Event::HostsDiagnostic { message } => format!("warning: {message}"),
        Event::HostsFailed { reason } => format!("warning: the hosts file is not up to date: {reason}"),
        Event::CatalogStale { reason } => format!("warning: the catalog is not fresh: {reason}"),
        Event::CatalogFresh => "the catalog is fresh again".to_owned(),
        _ => return None,
    })
}

/// Tells of an event in the form that was asked for.
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
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME         PORT\na-long-name  1\nb\n");
    }

    #[test]
    fn bytes_are_shown_in_a_fitting_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 40), "1.0 TiB");
    }
}
