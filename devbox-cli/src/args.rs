//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use service_catalog::Label;
use url::Url;

use crate::hosts::HostsArgs;
use crate::ip::IpArgs;

/// Reach services that run elsewhere by name, as if they were local.
#[derive(Debug, Parser)]
#[command(
    name = "devbox",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give every service of an environment a local name and address, until interrupted
    Up(UpArgs),
    /// Run a command that alone sees the names: no root, no change outside (Linux)
    Exec(ExecArgs),
    /// Show running sessions
    Status(StatusArgs),
    /// End a session
    Down(SelectArgs),
    /// Remove leftovers of sessions that were killed together with their helper
    Cleanup(CleanupArgs),
    /// See it work on this machine: a gateway, two services, one fetch by name
    Demo(DemoArgs),
    /// Run the far side
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Edit a hosts file without losing a byte
    Hosts(HostsArgs),
    /// Show and settle which address a service has
    Ip(IpArgs),
}

/// Where the services are and what names look like.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectArgs {
    /// Configuration file [default: devbox.yaml in this folder or above it, then the user's]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A gateway, ws://HOST:PORT or wss://HOST:PORT, in place of the configured ones; repeat for more
    #[arg(long, value_name = "URL", env = "DEVBOX_GATEWAY")]
    pub(crate) gateway: Vec<Url>,
    /// A catalog file whose targets are dialed from this machine, in place of the configured ones; repeat for more
    #[arg(long, value_name = "FILE")]
    pub(crate) catalog: Vec<PathBuf>,
    /// The file that holds the token of the gateways
    #[arg(long, value_name = "FILE", env = "DEVBOX_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The environment to ask the gateways for [default: the one that each serves]
    #[arg(long, value_name = "NAME", env = "DEVBOX_ENV")]
    pub(crate) env: Option<Label>,
    /// The namespace whose services also get their bare names
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<Label>,
    /// A prefix to choose addresses from; repeat for more [default: 127.77.0.0/16]
    #[arg(long, value_name = "CIDR", value_parser = prefix)]
    pub(crate) pool: Vec<IpNet>,
    /// Trust these certificate authorities (PEM) in place of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Send the token over ws:// to another machine: anyone on the way can read it
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Say more on standard error; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Edit this hosts file in place of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts_file: Option<PathBuf>,
    /// Leave the hosts file alone: reach services by address, or by lines that you add yourself
    #[arg(long, conflicts_with = "hosts_file")]
    pub(crate) no_hosts: bool,
    /// Print what would be done and how the hosts file would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print the output
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SelectArgs {
    /// Only the session of this environment
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<Label>,
    /// All sessions of this user
    #[arg(long, conflicts_with = "env")]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Only the session of this environment
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<Label>,
    /// How to print the output
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CleanupArgs {
    /// Sweep this hosts file in place of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts_file: Option<PathBuf>,
    /// How to print the output
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Exit after the fetch
    #[arg(long)]
    pub(crate) once: bool,
    /// Say more on standard error; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Serve a catalog to clients and dial what it names
    Serve(ServeArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// The services, in YAML; read again whenever the file changes
    #[arg(long, value_name = "FILE")]
    pub(crate) catalog: PathBuf,
    /// Where to listen; port 0 takes a free port
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// The file that holds the token that clients must present, or a YAML list of tokens; read again on each change
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// The certificate chain (PEM) for wss://; it and its key are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Listen without TLS on an address that other machines can reach
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Threads to serve with [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Clients at a time; one more is answered 503 and tries again later
    #[arg(long, value_name = "N", default_value = "4096")]
    pub(crate) max_clients: NonZeroUsize,
    /// Connections of one client at a time; one more is refused
    #[arg(long, value_name = "N", default_value = "16384")]
    pub(crate) max_streams_per_client: NonZeroUsize,
    /// Connections at a time that have shown no token yet; one more pushes out the oldest of the address with most
    #[arg(long, value_name = "N", default_value = "2048")]
    pub(crate) max_half_open: NonZeroUsize,
    /// The same for one address (IPv6: one /64); give it the value of --max-half-open behind a proxy
    #[arg(long, value_name = "N", default_value = "1024")]
    pub(crate) max_half_open_per_address: NonZeroUsize,
    /// Say more on standard error; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and lines to read
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Reads a prefix. The parser's own message speaks of an address only.
pub(crate) fn prefix(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .map_err(|_| "expected an address and the length of its prefix, such as 127.77.0.0/16")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The help of a command and of those below it, by name.
    fn helps(command: &clap::Command, above: &str, found: &mut Vec<(String, String)>) {
        let name = format!("{above}{}", command.get_name());
        let mut shown = command.clone().bin_name(name.replace('-', " ")).term_width(100);
        found.push((name.clone(), shown.render_long_help().to_string()));
        for below in command.get_subcommands() {
            helps(below, &format!("{name}-"), found);
        }
    }

    #[test]
    fn the_help_of_every_command() {
        let mut found = Vec::new();
        helps(&Cli::command(), "", &mut found);
        assert!(found.len() > 20);
        for (name, text) in found {
            insta::assert_snapshot!(format!("help-{name}"), text);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
