//! The arguments of `devbox dns`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use nameserver::Name;

use super::{DEFAULT_LISTEN, DEFAULT_SUFFIX};
use crate::args::prefix;

/// Answer DNS questions for names
#[derive(Debug, Clone, Args)]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    pub(crate) command: DnsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DnsCommand {
    /// Answer for the names in a file, which is followed while it changes, and forward the rest
    Serve(ServeDnsArgs),
    /// Ask a server, or show what one would answer from a file
    Query(QueryArgs),
    /// Show whether a server answers, and how this system is pointed at it
    Status(StatusDnsArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeDnsArgs {
    /// Where to listen, over UDP and TCP; repeat for more
    #[arg(long, value_name = "ADDR:PORT", default_values_t = [DEFAULT_LISTEN])]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to listen for DNS over TLS (RFC 7858, usually port 853); repeat for more
    #[arg(long, value_name = "ADDR:PORT", requires = "tls_cert")]
    pub(crate) listen_tls: Vec<SocketAddr>,
    /// The certificate of DNS over TLS, with its chain, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "listen_tls"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The names, in YAML: `records: [{names: [api], addresses: [10.0.0.2]}]`
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: PathBuf,
    /// A suffix of which everything else does not exist; repeat for more
    #[arg(long, value_name = "SUFFIX", default_value = DEFAULT_SUFFIX)]
    pub(crate) zone: Vec<Name>,
    /// A prefix whose addresses have no other names than these; repeat for more
    #[arg(long, value_name = "CIDR", value_parser = prefix)]
    pub(crate) prefix: Vec<IpNet>,
    /// Whom to ask for other names: a server, or `system` for those of /etc/resolv.conf; repeat for more [default: they are refused]
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) forward: Vec<ForwardTo>,
    /// How long answers hold [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Of a name with several owners, answer only what the newest one has
    #[arg(long)]
    pub(crate) newest: bool,
    /// This is the system's only resolver, as in a container: tells browsers not to ask elsewhere
    #[arg(long)]
    pub(crate) sole_resolver: bool,
    /// Questions each second that one client may ask [default: as many as it likes]
    #[arg(long, value_name = "N")]
    pub(crate) rate_limit: Option<NonZeroU32>,
    /// Threads for streams and forwarding [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Say more on standard error; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct QueryArgs {
    /// The name
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    /// The type of records: A, AAAA, SRV, TXT, PTR, HTTPS, ANY, TYPE65
    #[arg(value_name = "TYPE", default_value = "A")]
    pub(crate) kind: String,
    /// The server to ask
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    pub(crate) at: SocketAddr,
    /// Ask over TLS
    #[arg(long, requires = "tls_ca")]
    pub(crate) tls: bool,
    /// The certificates to trust, in PEM: the server's own if it has signed that itself
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Whom the server's certificate must be for [default: the address of --at]
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub(crate) tls_name: Option<String>,
    /// Ask nobody: show what `devbox dns serve` would answer from this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["at", "tls"])]
    pub(crate) registry: Option<PathBuf>,
    /// The suffix of the file's names; repeat for more
    #[arg(long, value_name = "SUFFIX", default_value = DEFAULT_SUFFIX)]
    pub(crate) zone: Vec<Name>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusDnsArgs {
    /// The server
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    pub(crate) at: SocketAddr,
    /// The suffix of its names
    #[arg(long, value_name = "SUFFIX", default_value = DEFAULT_SUFFIX)]
    pub(crate) zone: Name,
}

/// Whom to forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForwardTo {
    System,
    Server(SocketAddr),
}

impl FromStr for ForwardTo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "system" {
            return Ok(Self::System);
        }
        let with_port = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let server = text.parse().or_else(|_| with_port());
        server
            .map(Self::Server)
            .map_err(|_| "expected ADDRESS, ADDRESS:PORT or `system`")
    }
}
