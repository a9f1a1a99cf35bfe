//! What the command prints: tables, lines and JSON.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

use devbox_engine::{Conflict, Event, Notice, StatusReport, Verdict};
use devbox_helper_client::Protocol;
use devbox_provider::{Status, Via};
use devbox_session::{
    Held, LinkState, NameClash, NameSample, PortReport, PortState, ProviderReport, PutBack, Refusals,
    Rejected, ServiceReport, UdpReport,
};
use serde::Serialize;
use service_catalog::{Readiness, is_format, printable};

use crate::args::Output;
use crate::output::{self, Stream};

/// What lays out the command's own text. Anything else that a terminal would obey comes from elsewhere, and is replaced.
const LAYOUT: [char; 2] = ['\n', '\t'];

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
        let cells = cells.into_iter().map(|cell| printable(&cell, &[]).into_owned());
        self.rows.push(cells.collect());
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

    /// Cells that are wider than [`WIDEST_CELL`] continue on further lines.
    pub(crate) fn render(&self) -> String {
        let rows: Vec<Vec<Vec<&str>>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| wrapped(cell)).collect())
            .collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .flatten()
                .map(|piece| piece.chars().count().min(WIDEST_CELL))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            for line in 0..row.iter().map(Vec::len).max().unwrap_or(0) {
                let cells: Vec<_> = row
                    .iter()
                    .zip(&widths)
                    .map(|(cell, width)| format!("{:width$}", cell.get(line).copied().unwrap_or_default()))
                    .collect();
                text.push_str(cells.join("  ").trim_end());
                text.push('\n');
            }
        }
        text
    }
}

/// Text that may be printed: its lines stay, and nothing else in it moves or hides text.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    printable(text, &LAYOUT)
}

/// The pieces of a cell, broken at blanks; a longer word stays whole.
fn wrapped(cell: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = cell;
    while let Some((limit, _)) = rest.char_indices().nth(WIDEST_CELL) {
        // A blank right behind the limit is as good a place as one before it.
        let fits = &rest[..limit];
        let at = if rest[limit..].starts_with(' ') {
            Some(limit)
        } else {
            fits.rfind(' ').or_else(|| rest.find(' '))
        };
        let Some(at) = at else { break };
        pieces.push(rest[..at].trim_end());
        rest = rest[at..].trim_start();
    }
    pieces.push(rest);
    pieces
}

/// The widest cell of a table, in characters. A line of a hosts file may have thousands of names.
const WIDEST_CELL: usize = 100;

/// Prints to standard output, whether or not somebody reads it.
pub(crate) fn out(text: &str) {
    drop(output::write(Stream::Out, &plain(text)));
}

/// Prints bytes to standard output as they are, or as [`plain`] text where that is a terminal.
pub(crate) fn out_bytes(bytes: &[u8]) {
    if io::stdout().is_terminal() {
        out(&String::from_utf8_lossy(bytes));
    } else {
        drop(output::write_bytes(bytes));
    }
}

/// Prints one line to standard error, whether or not somebody reads it.
pub(crate) fn note(line: &str) {
    drop(output::write(Stream::Err, &format!("{}\n", printable(line, &[]))));
}

/// Prints one object on a line of its own.
pub(crate) fn json(value: &impl Serialize) {
    out(&json_line(value));
}

/// One object as a line; empty where it cannot be one.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(line) => escaped(&line) + "\n",
        Err(error) => {
            tracing::error!(%error, "cannot be written as JSON");
            String::new()
        }
    }
}

/// JSON without format characters: they can only be in its strings, where an escape means the same (RFC 8259 §7).
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() || is_format(c) {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            text.extend(units.map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
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
    let up = |port: &PortReport| port.state == PortState::Listening;
    match shortest(true).or_else(|| shortest(false)) {
        Some(name) => name.clone(),
        None if service.ports.iter().any(up) => format!("{id} (no name)"),
        None => id,
    }
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

/// `, up to 65507 B each, 12 dropped (9 with the queue full, 3 too long)`.
fn datagrams(udp: &UdpReport) -> String {
    let dropped = &udp.dropped;
    let reasons = [
        (dropped.queue_full, "with the queue full"),
        (dropped.too_many_flows, "with too many flows"),
        (dropped.too_long, "too long"),
        (dropped.not_connected, "not connected"),
    ];
    let reasons: Vec<_> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
    let mut text = match udp.max_datagram {
        Some(longest) => format!(", up to {longest} B each"),
        None => String::new(),
    };
    if !reasons.is_empty() {
        text.push_str(&format!(", {} dropped ({})", dropped.total(), reasons.join(", ")));
    }
    text
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
            LinkState::Interrupted { .. } => "interrupted".to_owned(),
            LinkState::Connecting { attempt } => format!("connecting (try {attempt})"),
            LinkState::Waiting { attempt, .. } => format!("not connected ({})", tries(*attempt)),
            LinkState::Failed { .. } => "failed".to_owned(),
        };
        table.row([
            provider.name.clone(),
            provider.environment.clone().unwrap_or_else(|| "-".to_owned()),
            link,
            place(&provider.status),
        ]);
    }
    table.render()
}

/// Where a far side is. What leads there fits in beside it, except where there are several ways: they have a line of their own.
fn place(status: &Status) -> String {
    match (&status.via, &status.over) {
        (None, Some(over)) => format!("{} over {over}", status.far_side),
        _ => status.far_side.clone(),
    }
}

/// `via gateway pod P in orders, because it was asked for; over one port-forward`
fn way_in(status: &Status) -> Option<String> {
    let Via { way, because } = status.via.as_ref()?;
    let over = status.over.as_ref();
    let over = over.map_or_else(String::new, |over| format!("; over {over}"));
    Some(format!("via {way}, because {because}{over}"))
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
                (PortState::Closed, _) if port.active > 0 => "closed, ending".to_owned(),
                (PortState::Closed, _) => "closed".to_owned(),
                (PortState::Degraded(reason), _) => reason.clone(),
            };
            if let Some(udp) = &port.udp {
                state.push_str(&datagrams(udp));
            }
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
            let state = match (&service.alias_of, &service.readiness) {
                (Some(other), _) => format!("another name for {other}"),
                (None, Readiness::NotReady { reason }) => format!("no ports: {reason}"),
                (None, Readiness::Ready) => "no ports".to_owned(),
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

/// How far sides with several ways in are reached, and what is not as it should be: one line each.
fn notes(report: &StatusReport) -> String {
    let mut lines = Vec::new();
    for provider in &report.providers {
        let name = &provider.name;
        if let LinkState::Up | LinkState::Interrupted { .. } = provider.link {
            let status = &provider.status;
            let lines_of_way = way_in(status).into_iter().chain(status.remarks.iter().cloned());
            lines.extend(lines_of_way.map(|line| format!("{name}: {line}")));
        }
        match &provider.link {
            LinkState::Waiting { reason, .. } | LinkState::Failed { reason } => {
                lines.push(format!("{name}: {reason}"));
            }
            LinkState::Interrupted { window_ms } => lines.push(format!(
                "{name}: the connection was lost and is being made again; open connections wait for up to {} s",
                window_ms / 1000
            )),
            LinkState::Up | LinkState::Connecting { .. } => {}
        }
        match provider.resumed {
            0 => {}
            1 => lines.push(format!("{name}: went on over another connection once")),
            times => lines.push(format!("{name}: went on over another connection {times} times")),
        }
        if let Some(reason) = &provider.stale {
            lines.push(format!("{name}: the catalog is not fresh: {reason}"));
        }
        lines.extend(provider.notes.iter().map(|note| format!("{name}: {note}")));
    }
    lines.extend(report.clashes.iter().map(clash));
    for service in &report.services {
        let unpinned = service.unpinned.iter();
        lines.extend(unpinned.map(|why| format!("{}: {why}", service.service)));
    }
    lines.extend(report.refusals().iter().map(refusals));
    for taken in &report.taken {
        lines.push(format!(
            "{} is left to line {} of the hosts file",
            taken.name, taken.line
        ));
    }
    for held in &report.held {
        let names: NameSample = held.names.iter().collect();
        lines.push(holder(&held.session, held.helper_pid, &names));
    }
    lines.extend(report.put_back.iter().map(put_back));
    if let Some(reason) = &report.helper_awaited {
        lines.push(format!(
            "no helper serves this session at present; it is waited for, and names and ports stay as they are: {reason}"
        ));
    }
    if let Some(Rejected { connections, limit }) = report.rejected {
        lines.push(format!(
            "{connections} connections were refused because {limit} were open, which is the limit"
        ));
    }
    for service in &report.services {
        for port in &service.ports {
            lines.extend(turned_away(&service.service, port, report.rejected.is_some()));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// What came to a port and was not let in. Which limit a connection was beyond is not known where the session's own was reached.
fn turned_away(service: &service_catalog::ServiceId, port: &PortReport, limit_reached: bool) -> Vec<String> {
    let at = format!("{service}:{}", shown_port(port));
    let counted = |count: u64, one: &str| match count {
        1 => format!("1 {one} to {at} was"),
        count => format!("{count} {one}s to {at} were"),
    };
    let mut lines = Vec::new();
    if port.strangers > 0 {
        lines.push(match port.protocol {
            Protocol::Udp => format!(
                "{} not let in and dropped ({SHARE_HINT})",
                counted(port.strangers, "datagram")
            ),
            _ => format!(
                "{} not let in ({SHARE_HINT})",
                counted(port.strangers, "connection")
            ),
        });
    }
    if port.rejected > 0 {
        let many = counted(port.rejected, "connection");
        let limit = if limit_reached {
            "that limit or max_connections"
        } else {
            "max_connections"
        };
        lines.push(format!("{many} refused: as many were open as {limit} allows"));
    }
    lines
}

const SHARE_HINT: &str = "`share: true` in devbox.yaml or --share lets others in";

/// `session dev-1a2b3c4d (helper pid 7) holds 2 names that this session wants: orders.backend, web.shop`
fn holder(session: &str, helper_pid: Option<u32>, names: &NameSample) -> String {
    let pid = helper_pid.map_or_else(String::new, |pid| format!(" (helper pid {pid})"));
    format!(
        "session {session}{pid} holds {} that this session wants: {names}",
        count(names.count)
    )
}

fn count(names: usize) -> String {
    match names {
        1 => "1 name".to_owned(),
        names => format!("{names} names"),
    }
}

fn held(found: &Held) -> String {
    let pid = found.helper_pid;
    if found.lost {
        let names = &found.names;
        let pid = pid.map_or_else(String::new, |pid| format!(" (helper pid {pid})"));
        return format!(
            "session {}{pid} took {}: {names}",
            found.session,
            count(names.count)
        );
    }
    let others = match found.published {
        0 => "no name leads to this session".to_owned(),
        1 => "1 other name leads to this session".to_owned(),
        others => format!("{others} other names lead to this session"),
    };
    let held = holder(&found.session, pid, &found.names);
    format!("{held}; {others}; --take-names takes them over")
}

fn put_back(found: &PutBack) -> String {
    let sink = &found.sink;
    match found.times {
        times if found.is_contested() => format!(
            "another program keeps rewriting {sink} without this session's names: they were put back {times} times"
        ),
        1 => format!("another program rewrote {sink} without this session's names: they were put back"),
        times => format!(
            "another program rewrote {sink} without this session's names: they were put back {times} times"
        ),
    }
}

fn clash(NameClash { name, owner, other }: &NameClash) -> String {
    format!("{name} leads to {owner}; {other} has that name too")
}

fn refusals(Refusals { why, nameless, names }: &Refusals) -> String {
    match (nameless, names.count) {
        (true, 1) => format!("{names} has no name here: {why}"),
        (true, _) => format!("{names} have no name here: {why}"),
        (false, 1) => format!("{names} is not published: {why}"),
        (false, _) => format!("{names} are not published: {why}"),
    }
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
        Event::LinkInterrupted { provider, window } => format!(
            "{provider}: connection lost, making another one; open connections wait for up to {} s",
            window.as_secs()
        ),
        Event::LinkResumed { provider, away } => format!(
            "{provider}: going on after {:.1} s; open connections were kept",
            away.as_secs_f64()
        ),
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
        Event::LowPorts {
            services,
            ports,
            examples,
            first_free,
            lowest,
        } => {
            let (count, verb) = counted(*services);
            let on = if *ports == 1 { "port" } else { "ports" };
            let mut names: Vec<_> = examples
                .iter()
                .map(|low| format!("{}:{}", low.service, low.port))
                .collect();
            if *ports > names.len() {
                names.push("…".to_owned());
            }
            format!(
                "warning: ports below {first_free} may be bound by root alone: {count} {verb} not offered on {ports} {on} \
                 ({}); run with sudo, or `sysctl net.ipv4.ip_unprivileged_port_start={lowest}`",
                names.join(", ")
            )
        }
        Event::OutOfDescriptors { services } => {
            let (count, verb) = counted(*services);
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
        Event::NamesHeld(found) => format!("warning: {}", held(found)),
        Event::NamesGained { names } => {
            let verb = if names.count == 1 { "leads" } else { "lead" };
            format!("{} {verb} here from now on: {names}", count(names.count))
        }
        Event::NamesPutBack(found) => {
            let more = if found.is_contested() {
                "; further times are only counted"
            } else {
                ""
            };
            format!("warning: {}{more}", put_back(found))
        }
        Event::NamesRefused(found) => {
            let kind = if found.nameless { "warning" } else { "note" };
            format!("{kind}: {}", refusals(found))
        }
        Event::NamesWarning { message } => format!("warning: {message}"),
        Event::NamesFailed { sink, reason } => format!("warning: {sink} is not up to date: {reason}"),
        Event::NamesRestored { sink } => format!("{sink} is up to date again"),
        Event::CatalogStale { provider, reason } => {
            format!("warning: {provider}: the catalog is not fresh: {reason}")
        }
        Event::CatalogFresh { provider } => format!("{provider}: the catalog is fresh again"),
        Event::StillConnecting {
            far_side, waits_for, ..
        } => match waits_for {
            Some(what) => format!("trying {far_side}: waiting for the {what}"),
            None => format!("trying {far_side}: no answer yet"),
        },
        Event::ConnectionFailed {
            service,
            port,
            cause,
            reason,
        } => {
            let colon = if reason.is_empty() { "" } else { ": " };
            format!("{service}:{port}: connection {cause}{colon}{reason}")
        }
        Event::StrangerRefused { service, port, who } => {
            format!("warning: {who} tried to connect to {service}:{port} and was refused; {SHARE_HINT}")
        }
        Event::UnknownService { service, similar } => {
            let hint = similar
                .as_ref()
                .map_or_else(String::new, |similar| format!("; did you mean `{similar}`?"));
            format!("warning: devbox.yaml has options for `{service}`, which no catalog has{hint}")
        }
        Event::EmptyNamespace { namespace, similar } => {
            let hint = similar
                .as_ref()
                .map_or_else(String::new, |similar| format!("; did you mean `{similar}`?"));
            format!("warning: no service is in the namespace `{namespace}`, so none has a bare name{hint}")
        }
        Event::Draining { connections, within } => {
            let open = match connections {
                1 => "1 open connection".to_owned(),
                count => format!("{count} open connections"),
            };
            format!(
                "waiting up to {} s for {open} to end; press Ctrl-C again to end at once",
                within.as_secs()
            )
        }
        Event::CatalogUnstable { provider } => format!(
            "warning: {provider}: the catalog changes very often; changes are applied every 100 ms and not told one by one"
        ),
        Event::CatalogStable { provider, changes } => format!(
            "{provider}: the catalog is stable again after {changes} more changes; `devbox status` shows what it has"
        ),
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

/// `1 service` `is`, `2 services` `are`.
fn counted(services: usize) -> (String, &'static str) {
    match services {
        1 => ("1 service".to_owned(), "is"),
        count => (format!("{count} services"), "are"),
    }
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
        Notice::AnyCertificate { far_side } => format!(
            "warning: any certificate of {far_side} is accepted: anyone on the way can read the token and change what \
             is carried"
        ),
        Notice::Lacking { provider, what } => {
            format!("warning: {provider}: {what} (`devbox rbac` prints the role that is needed)")
        }
        Notice::Conflict(found) => conflict(found),
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
        Notice::NotAsked { suffix, reason } => {
            format!(
                "note: this system does not ask the session's DNS server for {suffix} by itself: {reason}"
            )
        }
        Notice::HelperRestarted { pid } => {
            format!("warning: the helper process was killed; started another one (process {pid})")
        }
        Notice::HelperAwaited { reason } => {
            format!("warning: the installed helper has ended and does not serve; trying again: {reason}")
        }
        Notice::HelperGivenUp { reason } => format!("warning: no other helper took its place: {reason}"),
        other => format!("note: {other:?}"),
    }
}

/// Something that is in a session's way, in one line.
pub(crate) fn conflict(conflict: &Conflict) -> String {
    let weight = match conflict.verdict {
        Verdict::Blocks => "warning",
        Verdict::Warns => "note",
    };
    format!("{weight}: {conflict}")
}

/// Prints a notice: what is data, in the form that was asked for.
pub(crate) fn tell_notice(notice_: &Notice, output: Output) {
    #[derive(Serialize)]
    struct Told<'a> {
        event: &'static str,
        #[serde(flatten)]
        conflict: &'a Conflict,
    }
    match (output, notice_) {
        (Output::Json, Notice::Conflict(conflict)) => json(&Told {
            event: "conflict",
            conflict,
        }),
        _ => note(&notice(notice_)),
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

/// The same on standard error alone: standard output is somebody else's.
pub(crate) fn tell_aside(event: &Event, output: Output) {
    match output {
        Output::Json => note(json_line(event).trim_end()),
        Output::Text => tell(event, output),
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

    use devbox_session::sink::{HeldNames, TakenName};
    use devbox_session::{Identity, RefusedName, ServicePort};

    use devbox_engine::{Clash, Fix, Suffix};
    use devbox_session::DroppedReport;

    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME         PORT\na-long-name  1\nb\n");
    }

    #[test]
    fn a_wide_cell_continues_below_and_never_widens_the_others() {
        let mut table = Table::new(["NAMES", "STATE"]);
        let names: Vec<_> = (0..30).map(|n| format!("name-{n:03}")).collect();
        table.row([names.join(" "), "on".to_owned()]);
        table.row(["x".repeat(70_000), "off".to_owned()]);
        let text = table.render();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        let shown: Vec<_> = lines[1..4]
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect();
        assert_eq!(shown.len(), 31, "30 names and one state");
        assert!(lines[..4].iter().all(|line| line.len() <= WIDEST_CELL + 10));
        assert_eq!(lines[4].len(), 70_005);
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
            unpinned: None,
            ports,
            refused: Vec::new(),
            held: Vec::new(),
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
            rejected: 0,
            strangers: 0,
            udp: None,
        }
    }

    fn provider(name: &str, status: Status, link: LinkState) -> ProviderReport {
        ProviderReport {
            name: name.to_owned(),
            status,
            environment: Some("dev".to_owned()),
            link,
            stale: None,
            notes: Vec::new(),
            resumed: 0,
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
            held: Vec::new(),
            put_back: Vec::new(),
            rejected: None,
            helper_awaited: None,
        }
    }

    /// Everything that can be out of the ordinary.
    fn troubled() -> StatusReport {
        let mut report = report();
        report.ready = false;
        let far_side = Status::new("kubernetes", "backend in minikube");
        let mut cluster = provider(
            "cluster",
            far_side.via("port-forward", "it was asked for"),
            LinkState::Waiting {
                attempt: 3,
                reason: "minikube is not reachable: connection refused".to_owned(),
            },
        );
        cluster.environment = None;
        cluster.resumed = 1;
        cluster.stale = Some("the watch ended".to_owned());
        let closed = LinkState::Failed {
            reason: "the token is not accepted".to_owned(),
        };
        let closed = provider("closed", Status::new("gateway", "wss://closed.example/"), closed);
        let waiting = LinkState::Interrupted { window_ms: 60_000 };
        let mut waiting = provider("laptop", Status::new("gateway", "wss://laptop.example/"), waiting);
        waiting.resumed = 3;
        report.providers.extend([cluster, closed, waiting]);
        let mut failing = port(80, PortState::Listening);
        failing.last_failure = Some("refused: connection refused".to_owned());
        failing.strangers = 1;
        failing.rejected = 4;
        let mut dns = port(53, PortState::Opening);
        dns.protocol = Protocol::Udp;
        let mut quic = port(443, PortState::Listening);
        quic.protocol = Protocol::Udp;
        quic.strangers = 12;
        quic.udp = Some(UdpReport {
            max_datagram: Some(65_507),
            dropped: DroppedReport {
                queue_full: 9,
                too_long: 3,
                ..DroppedReport::default()
            },
            ..UdpReport::default()
        });
        let held = PortState::Degraded("127.77.1.2:81 is in use by nginx (pid 7)".to_owned());
        let mut web = service("web.shop", vec![failing, port(81, held), dns, quic]);
        web.addresses.push("fd77::2".parse().unwrap());
        web.readiness = Readiness::not_ready("no pod is ready");
        web.provider = "cluster".to_owned();
        let mut alias = service("db.backend", Vec::new());
        alias.alias_of = Some("orders.backend".parse().unwrap());
        alias.addresses.clear();
        let mut nameless = service("wpad.lan", vec![port(80, PortState::Listening)]);
        nameless.refused = refused(
            std::mem::take(&mut nameless.names),
            "programs look it up by themselves",
        );
        let mut partly = service("web.local", vec![port(80, PortState::Listening)]);
        let left = partly.names.split_off(1);
        partly.refused = refused(
            std::mem::replace(&mut partly.names, left),
            "names in .local belong to multicast DNS",
        );
        report.services.extend([web, alias, nameless, partly]);
        report.clashes.push(name_clash());
        report.put_back.push(contested(17));
        report.held.push(HeldNames {
            session: "staging-5e6f7a8b".to_owned(),
            helper_pid: Some(4711),
            names: vec!["orders.backend".to_owned(), "web.shop".to_owned()],
        });
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

    fn refused(names: Vec<String>, why: &str) -> Vec<RefusedName> {
        let refused = names.into_iter().map(|name| RefusedName {
            name,
            why: why.to_owned(),
        });
        refused.collect()
    }

    fn held_names(count: usize, lost: bool, published: usize) -> Held {
        Held {
            session: "staging-5e6f7a8b".to_owned(),
            helper_pid: Some(4711),
            names: (0..count).map(|number| format!("s{number}.shop")).collect(),
            lost,
            published,
        }
    }

    fn contested(times: u32) -> PutBack {
        PutBack {
            sink: "/etc/hosts".to_owned(),
            times,
        }
    }

    fn name_clash() -> NameClash {
        NameClash {
            name: "orders.backend".to_owned(),
            owner: "orders.backend of gateway".to_owned(),
            other: "orders.backend of local".to_owned(),
        }
    }

    fn low_port(port: u16) -> ServicePort {
        ServicePort {
            service: "web.shop".parse().unwrap(),
            port,
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

    /// The texts are those of `catalog-kube`.
    #[test]
    fn status_of_clusters() {
        let mut report = report();
        let by_forward = Status::new("kubernetes", "orders in staging")
            .via("port-forward", "no gateway is installed in orders or devbox")
            .remarks([
                "you may not watch services in the namespace orders, so they are listed every 5 s".to_owned(),
                "`--via pod` and an installed gateway also carry UDP and reach what is no pod, and are faster"
                    .to_owned(),
            ]);
        let pod = Status::new("kubernetes", "billing, shop in legacy")
            .via(
                "gateway pod devbox-gateway-5d41402a-x7k2p in billing",
                "it was asked for",
            )
            .over(Some("one raw upgrade through the API server"))
            .remarks([
                "an installed gateway needs no right to create anything, and at a URL it goes on while the API \
                 server is away"
                    .to_owned(),
            ]);
        let url = Status::new("kubernetes", "web in production")
            .via("gateway at wss://devbox.example.com/", "it was asked for")
            .over(Some("WebSocket through http://proxy.example:3128"));
        let gone = Status::new("kubernetes", "old in gone").via("port-forward", "it was asked for");
        let waits = LinkState::Waiting {
            attempt: 3,
            reason: "gone is not reachable: connection refused".to_owned(),
        };
        report.providers = vec![
            provider("staging", by_forward, LinkState::Up),
            provider("legacy", pod, LinkState::Interrupted { window_ms: 60_000 }),
            provider("production", url, LinkState::Up),
            provider("gone", gone, waits),
        ];
        report.services.clear();
        insta::assert_snapshot!(status(&report));
    }

    #[test]
    fn status_with_everything_out_of_the_ordinary() {
        insta::assert_snapshot!(status(&troubled()));
    }

    #[test]
    fn status_of_a_session_that_ends() {
        let mut report = report();
        (report.stopping, report.ready) = (true, false);
        let service = &mut report.services[0];
        service.names.clear();
        service.ports[0].state = PortState::Closed;
        service.ports.push(port(5433, PortState::Closed));
        service.ports[1].active = 0;
        insta::assert_snapshot!(status(&report));
    }

    #[test]
    fn nothing_that_a_far_side_says_turns_or_hides_text() {
        let turned = "pay\u{202e}lap\u{2028}\u{1b}[2J";
        let mut report = report();
        report.services[0].ports[0].target = Some(turned.to_owned());
        report.services[0].ports[0].last_failure = Some(turned.to_owned());
        report.providers[0].stale = Some(turned.to_owned());
        let lost = Event::LinkLost {
            provider: "gateway".to_owned(),
            reason: turned.to_owned(),
        };
        let told = event(&lost).unwrap();
        let shown = [
            services(&report),
            status(&report),
            told,
            format!("{turned}\n\tnext line"),
        ];
        for text in shown.iter().map(|text| plain(text)) {
            let obeyed = |c: char| (c.is_control() && !LAYOUT.contains(&c)) || is_format(c);
            assert!(!text.chars().any(obeyed), "{text:?}");
            assert!(text.contains("pay\u{fffd}lap"), "{text:?}");
        }
        let json = serde_json::to_string(&report).unwrap();
        let again: StatusReport = serde_json::from_str(&escaped(&json)).unwrap();
        assert_eq!(again, report, "a program gets it as it is");
        assert!(!escaped(&json).chars().any(|c| c.is_control() || is_format(c)));
        assert_eq!(escaped("\"\u{e0041}\u{9b}\""), r#""\udb40\udc41\u009b""#);
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
            Event::LinkInterrupted {
                provider: provider(),
                window: Duration::from_secs(60),
            },
            Event::LinkResumed {
                provider: provider(),
                away: Duration::from_millis(4250),
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
                service: Box::new(service("orders.backend", vec![listening(5432)])),
            },
            Event::ServiceUp {
                service: Box::new(service("web.shop", vec![listening(80), listening(443)])),
            },
            Event::ServiceUp {
                service: Box::new(alias),
            },
            Event::ServiceRemoved {
                service: "orders.backend".parse().unwrap(),
            },
            Event::PortDegraded {
                service: "orders.backend".parse().unwrap(),
                port: 80,
                reason: "127.77.1.2:80 is in use by nginx (pid 7)".to_owned(),
            },
            Event::LowPorts {
                services: 1,
                ports: 1,
                examples: vec![low_port(80)],
                first_free: 1024,
                lowest: 80,
            },
            Event::LowPorts {
                services: 3,
                ports: 12,
                examples: [80, 443].map(low_port).to_vec(),
                first_free: 1024,
                lowest: 25,
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
            Event::NamesRefused(Refusals {
                why: "programs look it up by themselves".to_owned(),
                nameless: true,
                names: ["wpad.lan"].into_iter().collect(),
            }),
            Event::NamesRefused(Refusals {
                why: "names in .local belong to multicast DNS".to_owned(),
                nameless: false,
                names: (0..9).map(|number| format!("s{number}.local")).collect(),
            }),
            Event::NamesHeld(held_names(9, false, 3)),
            Event::NamesHeld(held_names(1, false, 0)),
            Event::NamesHeld(held_names(2, true, 3)),
            Event::NamesGained {
                names: held_names(1, false, 0).names,
            },
            Event::NamesGained {
                names: held_names(9, false, 0).names,
            },
            Event::NamesPutBack(contested(1)),
            Event::NamesPutBack(contested(3)),
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
            Event::StillConnecting {
                provider: provider(),
                far_side: "wss://gateway.example/".to_owned(),
                waits_for: Some("TCP connection to 10.1.2.3:443".to_owned()),
            },
            Event::StillConnecting {
                provider: provider(),
                far_side: "wss://gateway.example/".to_owned(),
                waits_for: None,
            },
            Event::ConnectionFailed {
                service: "orders.backend".parse().unwrap(),
                port: 5432,
                cause: "refused".to_owned(),
                reason: "10.0.0.1:5432: Connection refused (os error 111)".to_owned(),
            },
            Event::ConnectionFailed {
                service: "orders.backend".parse().unwrap(),
                port: 5432,
                cause: "timed out".to_owned(),
                reason: String::new(),
            },
            Event::StrangerRefused {
                service: "orders.backend".parse().unwrap(),
                port: 5432,
                who: "uid 1001".to_owned(),
            },
            Event::UnknownService {
                service: "orders.backnd".parse().unwrap(),
                similar: Some("orders.backend".parse().unwrap()),
            },
            Event::UnknownService {
                service: "web.shop".parse().unwrap(),
                similar: None,
            },
            Event::EmptyNamespace {
                namespace: "bakcend".to_owned(),
                similar: Some("backend".to_owned()),
            },
            Event::EmptyNamespace {
                namespace: "shop".to_owned(),
                similar: None,
            },
            Event::Draining {
                connections: 1,
                within: Duration::from_secs(3),
            },
            Event::Draining {
                connections: 12,
                within: Duration::from_secs(3),
            },
            Event::CatalogUnstable { provider: provider() },
            Event::CatalogStable {
                provider: provider(),
                changes: 4711,
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

    fn in_the_way() -> Conflict {
        Conflict {
            clash: Clash::Resolver {
                suffix: Suffix::new("test").unwrap(),
                theirs: "shop.test".to_owned(),
                place: "corp0".to_owned(),
            },
            verdict: Verdict::Blocks,
            fix: Fix::OtherSuffix,
        }
    }

    #[test]
    fn every_notice() {
        let environment = || "dev".parse().unwrap();
        let reason = || "no space left on device".to_owned();
        let notices = [
            Notice::AddressesInMemory { reason: reason() },
            Notice::AddressesNotKept { reason: reason() },
            Notice::AnyCertificate {
                far_side: "wss://gateway.example/".to_owned(),
            },
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
            Notice::NotAsked {
                suffix: "devbox.test".to_owned(),
                reason: "systemd-resolved is not running".to_owned(),
            },
            Notice::Conflict(in_the_way()),
            Notice::HelperRestarted { pid: 4244 },
            Notice::HelperAwaited {
                reason: "cannot reach a helper at /run/devbox/helper.sock: connection refused".to_owned(),
            },
            Notice::HelperGivenUp {
                reason: "it has ended again and again for 1 minute".to_owned(),
            },
            Notice::Lacking {
                provider: "minikube".to_owned(),
                what: "you may not watch services in orders: changes are looked for every 5 s".to_owned(),
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
