//! `devbox dns`: the names of a session, or of a file, as a DNS server.

mod args;
mod registry_file;
mod ways;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nameserver::{
    Answering, Forwarding, Listening, Name, RateLimit, Registry, Responder, Server, Sharing, TlsConfig,
    Transport, Verdict, Zone, system_upstreams,
};

pub(crate) use self::args::DnsArgs;
use self::args::{DnsCommand, ForwardTo, QueryArgs, ServeDnsArgs, StatusDnsArgs};
use self::registry_file::RegistryFile;
use self::ways::instructions;
use crate::failure::{Failure, code};
use crate::sys::Signals;
use crate::{print, runtime};

/// Where a session's server listens unless it is said otherwise: a port that needs no rights, not that of mDNS (5353) or LLMNR (5355).
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5453);

/// The suffix of a session's names unless it is said otherwise. `test` is nobody's (RFC 6761 §6.2).
pub(crate) const DEFAULT_SUFFIX: &str = "devbox.test";

/// The owner of the file's names in the registry.
const FILE: &str = "file";

/// How long a server may take to answer `query` and `status`.
const PATIENCE: Duration = Duration::from_secs(3);

/// `devbox dns`.
pub(crate) fn run(args: &DnsArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        DnsCommand::Serve(args) => serve(args),
        DnsCommand::Query(args) => query(args),
        DnsCommand::Status(args) => status(args),
    }
}

/// Serves until a signal.
fn serve(args: &ServeDnsArgs) -> Result<ExitCode, Failure> {
    runtime::run_on_threads(args.threads, args.verbose, async {
        let mut signals = Signals::new().map_err(Failure::because)?;
        let registry = Registry::default();
        let mut file = RegistryFile::open(&args.registry).await?;
        registry.publish(FILE, file.records());
        let upstreams = upstreams(args).await?;
        let settings = answering(args, !upstreams.is_empty());
        let listening = Listening {
            rate_limit: args.rate_limit.map(|per_second| RateLimit {
                per_second: per_second.get(),
                burst: per_second.get().saturating_mul(2),
            }),
            forwarding: (!upstreams.is_empty()).then(|| Forwarding::new(upstreams)),
            tls: tls(args)?,
            ..Listening::on(args.listen.iter().copied())
        };
        let responder = Responder::new(registry.clone(), settings);
        let server = Server::start(responder, listening)
            .await
            .map_err(Failure::because)?;
        for address in server.addresses() {
            let names = registry.snapshot().len();
            print::out(&format!("answering on {address}, UDP and TCP: {names} names\n"));
        }
        for address in server.tls_addresses() {
            print::out(&format!("answering on {address}, TLS\n"));
        }
        loop {
            tokio::select! {
                _ = signals.next() => break,
                changed = file.changed() => match changed {
                    Ok(()) => {
                        let names = registry.publish(FILE, file.records());
                        tracing::debug!(names, "the registry file has changed");
                    }
                    Err(failure) => print::note(&format!(
                        "warning: {}; the names from before are still served",
                        failure.to_string().trim_end()
                    )),
                },
            }
        }
        if args.verbose > 0 {
            print::note(&server.metrics().to_string());
        }
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Where DNS over TLS is answered, and with which certificate.
fn tls(args: &ServeDnsArgs) -> Result<Option<(Vec<SocketAddr>, TlsConfig)>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    let config = nameserver::tls_server(&read(certificate)?, &read(key)?);
    let config = config.map_err(|error| {
        let files = format!("{} and {}", certificate.display(), key.display());
        Failure::because(anyhow::Error::new(error).context(files))
    })?;
    Ok(Some((args.listen_tls.clone(), config)))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file)
        .map_err(|error| Failure::new(code::FAILED, format!("cannot read {}: {error}", file.display())))
}

fn answering(args: &ServeDnsArgs, forwarding: bool) -> Answering {
    let zone = |apex: &Name| {
        let zone = Zone::new(apex.clone());
        match args.ttl {
            Some(ttl) => zone.ttl(ttl).negative_ttl(ttl),
            None => zone,
        }
    };
    Answering {
        zones: args.zone.iter().map(zone).collect(),
        prefixes: args.prefix.clone(),
        sharing: if args.newest {
            Sharing::Newest
        } else {
            Sharing::All
        },
        forwarding,
        sole_resolver: args.sole_resolver,
        ..Answering::default()
    }
}

async fn upstreams(args: &ServeDnsArgs) -> Result<Vec<SocketAddr>, Failure> {
    let mut upstreams = Vec::new();
    for to in &args.forward {
        match to {
            ForwardTo::Server(address) => upstreams.push(*address),
            ForwardTo::System => {
                let text = tokio::fs::read_to_string(RESOLV_CONF).await.map_err(|error| {
                    Failure::new(code::FAILED, format!("cannot read {RESOLV_CONF}: {error}"))
                })?;
                let found = system_upstreams(&text, &args.listen);
                if found.is_empty() {
                    let why = format!("{RESOLV_CONF} names no server but ourselves");
                    return Err(Failure::new(code::FAILED, why).help("name one with --forward ADDR:PORT"));
                }
                upstreams.extend(found);
            }
        }
    }
    if let Some(own) = upstreams.iter().find(|upstream| args.listen.contains(upstream)) {
        return Err(Failure::new(
            code::FAILED,
            format!("{own} would be asked by itself"),
        ));
    }
    Ok(upstreams)
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Prints what a server answers, or what a file would have one answer.
fn query(args: &QueryArgs) -> Result<ExitCode, Failure> {
    let packet = nameserver::query(id()?, &args.name, &args.kind).map_err(Failure::because)?;
    let reply = match (&args.registry, &args.tls_ca) {
        (Some(file), _) => answer_from(file, args, &packet)?,
        (None, Some(authorities)) => {
            let name = args.tls_name.clone().unwrap_or_else(|| args.at.ip().to_string());
            let asked = nameserver::ask_over_tls(args.at, &name, &read(authorities)?, &packet, PATIENCE);
            asked.map_err(|error| {
                let why = anyhow::Error::new(error).context(format!("no answer from {}", args.at));
                Failure::new(code::UNAVAILABLE, format!("{why:#}"))
            })?
        }
        (None, None) => ask(args.at, &packet)?.0,
    };
    let text = nameserver::to_text(&reply)
        .ok_or_else(|| Failure::new(code::FAILED, format!("{} sent what cannot be read", args.at)))?;
    print::out(&text);
    Ok(ExitCode::SUCCESS)
}

fn answer_from(file: &Path, args: &QueryArgs, packet: &[u8]) -> Result<Vec<u8>, Failure> {
    let registry = Registry::default();
    registry.publish(FILE, &registry_file::read(file)?);
    let zones = args.zone.iter().cloned().map(Zone::new).collect();
    let responder = Responder::new(
        registry,
        Answering {
            zones,
            ..Answering::default()
        },
    );
    let mut reply = Vec::new();
    match responder.respond(packet, Transport::Tcp, &mut reply) {
        Verdict::Reply(_) => Ok(reply),
        other => Err(Failure::new(
            code::FAILED,
            format!("there would be no reply: {other:?}"),
        )),
    }
}

/// Prints whether a server answers, and how the system is pointed at it.
fn status(args: &StatusDnsArgs) -> Result<ExitCode, Failure> {
    let packet = nameserver::query(id()?, &args.zone, "SOA").map_err(Failure::because)?;
    let (reply, took) = ask(args.at, &packet)?;
    let ours = reply.get(2).is_some_and(|flags| flags & 0x04 != 0);
    let zone = &args.zone;
    let role = if ours {
        "answers for"
    } else {
        "does not answer for"
    };
    print::out(&format!(
        "{} {role} {zone}, after {} µs\n",
        args.at,
        took.as_micros()
    ));
    if ours {
        print::out(&instructions(args.at, zone));
    }
    Ok(if ours {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(code::FAILED)
    })
}

/// What `status` and `query` have to be told of a suffix: nothing of the usual one.
pub(crate) fn zone_flag(suffix: &Name) -> String {
    let suffix = suffix.to_string();
    if suffix == DEFAULT_SUFFIX {
        String::new()
    } else {
        format!(" --zone {suffix}")
    }
}

/// A reply to this packet, and how long it took.
fn ask(server: SocketAddr, packet: &[u8]) -> Result<(Vec<u8>, Duration), Failure> {
    let silent = |error: std::io::Error| {
        Failure::new(code::UNAVAILABLE, format!("no answer from {server}: {error}"))
            .help("a session answers with `naming: dns` or `both` in devbox.yaml; `devbox dns serve` answers from a file")
    };
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).map_err(silent)?;
    socket.connect(server).map_err(silent)?;
    let begun = Instant::now();
    socket.send(packet).map_err(silent)?;
    let mut reply = vec![0; 4096];
    loop {
        let left = PATIENCE
            .saturating_sub(begun.elapsed())
            .max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).map_err(silent)?;
        let len = socket.recv(&mut reply).map_err(silent)?;
        if reply.get(..2) == packet.get(..2) {
            reply.truncate(len);
            return Ok((reply, begun.elapsed()));
        }
    }
}

fn id() -> Result<u16, Failure> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(Failure::because)?;
    Ok(u16::from_be_bytes(id))
}
