//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use catalog_kube::{WayIn, environment_of};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use devbox_engine::{Carriage, Pin};
use ipnet::IpNet;
use serde::Deserialize;
use service_catalog::Label;
use url::Url;

use crate::dns::DnsArgs;
use crate::hosts::HostsArgs;
use crate::ip::IpArgs;

/// Reach services that run elsewhere by name, as if they were local.
#[derive(Debug, Parser)]
#[command(name = "devbox", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give every service of an environment a local name and address, until interrupted
    Up(DetachableArgs),
    /// Run a command that alone sees the names: no root, no change outside (Linux)
    Exec(ExecArgs),
    /// Show running sessions
    Status(StatusArgs),
    /// Show what a session in the background has said
    Logs(LogsArgs),
    /// End a session
    Down(SelectArgs),
    /// Remove leftovers of sessions that were killed together with their helper
    Cleanup(CleanupArgs),
    /// Install, look at or remove the helper that lets sessions run without sudo
    #[command(subcommand)]
    Helper(HelperCommand),
    /// See it work on this machine: a gateway, two services, one fetch by name
    Demo(DemoArgs),
    /// Run the far side
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Edit a hosts file without losing a byte
    Hosts(HostsArgs),
    /// Show and settle which address a service has
    Ip(IpArgs),
    /// Answer DNS questions for names, ask a server, show how the system is pointed at one
    Dns(DnsArgs),
    /// Print the Kubernetes roles that a way into a cluster needs, for `kubectl apply -f -`
    Rbac(RbacArgs),
    /// Print a script that completes commands, flags and the names in hosts files in a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write the pages of all commands to a folder
    Man(ManArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum HelperCommand {
    /// Install the program devbox-helper as a service of the system; asks for sudo once
    Install(InstallArgs),
    /// Remove the service, its policy and everything that it has left; asks for sudo once
    Uninstall(UninstallArgs),
    /// Show what the installed helper holds, and for whom
    Status,
    /// Show who may ask the installed helper, and for what
    Policy,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The program [default: devbox-helper beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// The user who may ask it, by number (on Windows by security identifier), where there is no policy yet [default: you]
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Write the files below this folder and start nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Print the files and the commands, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove the files below this folder and stop nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

/// Where the services are and what names look like.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectArgs {
    /// Configuration file [default: devbox.yaml in this folder or above it, then the user's]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A gateway, ws://HOST:PORT, wss://HOST:PORT or quic://HOST:PORT, in place of the configured ones; repeat for more
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
    /// A Kubernetes namespace whose services are wanted; repeat for more. Those of the first one also get their bare names, as they do
    /// where the services come from a gateway or a catalog [default: the namespace of the context]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Vec<Label>,
    #[command(flatten)]
    pub(crate) kube: KubeArgs,
    /// A prefix to choose addresses from; repeat for more [default: 127.77.0.0/16]
    #[arg(long, value_name = "CIDR", value_parser = prefix)]
    pub(crate) pool: Vec<IpNet>,
    /// Go to the gateways through this proxy: http://, https://, socks5:// or socks5h://, with USER:PASSWORD@ where it asks
    /// for them, or `none` [default: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say; never for quic://]
    #[arg(long, value_name = "URL", env = "DEVBOX_PROXY", hide_env_values = true)]
    pub(crate) proxy: Option<String>,
    /// What carries the tunnel to the gateways; not for quic:// [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) carrier: Option<Carrier>,
    /// Trust these certificate authorities (PEM) in place of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Trust these certificate authorities (PEM) as well
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_extra_ca: Option<PathBuf>,
    /// Accept a gateway only with this public key, sha256/BASE64; repeat for more
    #[arg(long, value_name = "PIN")]
    pub(crate) tls_pin: Vec<Pin>,
    /// Show this certificate (PEM) to gateways that ask for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key (PEM) of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Accept any certificate of the gateways: anyone on the way can read the token and change what is carried
    #[arg(long)]
    pub(crate) accept_any_certificate: bool,
    /// Send the token over ws:// to another machine: anyone on the way can read it
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Say more on standard error; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Which Kubernetes clusters, what of them, and the way in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct KubeArgs {
    /// A context of the kubeconfig, in place of the configured clusters; repeat for more [default: the current one]
    #[arg(long, help_heading = KUBERNETES, value_name = "NAME")]
    pub(crate) context: Vec<String>,
    /// The kubeconfig [default: the files of $KUBECONFIG, otherwise ~/.kube/config]
    #[arg(long, help_heading = KUBERNETES, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The way in: `forward` (port-forwards, nothing installed), `pod` (a gateway pod for as long as it is used), `gateway` (one
    /// that is installed), the URL of one, or `auto`: an installed gateway where there is one, otherwise port-forwards [default: auto]
    #[arg(long, help_heading = KUBERNETES, value_name = "WAY")]
    pub(crate) via: Option<WayIn>,
    /// The image of a gateway pod [default: the released one of this version]
    #[arg(long, help_heading = KUBERNETES, value_name = "IMAGE")]
    pub(crate) gateway_image: Option<String>,
    /// The file that holds the token for an installed gateway [default: one of a service account, which the cluster is asked for]
    #[arg(long, help_heading = KUBERNETES, value_name = "FILE")]
    pub(crate) gateway_token_file: Option<PathBuf>,
    /// Only services whose labels this selects: `app in (web,api),tier!=batch`
    #[arg(short = 'l', long, help_heading = KUBERNETES, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Only services whose fields this selects: `metadata.name=web`
    #[arg(long, help_heading = KUBERNETES, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
    /// Only services with such a name, `*` standing for anything; repeat for more
    #[arg(long, help_heading = KUBERNETES, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// No services with such a name; repeat for more
    #[arg(long, help_heading = KUBERNETES, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
}

/// The heading of the flags about clusters.
const KUBERNETES: &str = "Kubernetes";

/// What carries a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    /// The raw protocol where everything on the way lets it pass, else WebSocket
    Auto,
    /// The raw protocol alone
    Raw,
    /// WebSocket alone
    Websocket,
}

impl From<Carrier> for Carriage {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Auto => Self::Auto,
            Carrier::Raw => Self::Raw,
            Carrier::Websocket => Self::WebSocket,
        }
    }
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
    /// Take names that another session on this machine has; they are left to it otherwise, until it ends
    #[arg(long)]
    pub(crate) take_names: bool,
    /// Let other users of this machine connect to the services, not only you and root
    #[arg(long)]
    pub(crate) share: bool,
    /// Print what would be done and how the hosts file would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DetachableArgs {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// Go on in the background once it is ready: `devbox logs` shows what it says, `devbox down` ends it
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    /// Where the names go: the hosts file, a DNS server of the session's, or both [default: hosts]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) naming: Option<Naming>,
    /// Where the session's DNS server listens [default: 127.0.0.1:5453]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) dns_listen: Option<SocketAddr>,
}

/// Where a session's names go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Naming {
    /// A block in the hosts file, for every program
    #[default]
    Hosts,
    /// A DNS server, which the system asks for one suffix
    Dns,
    /// Both
    Both,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// End the names and connections together with the command, whatever it leaves running
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Run the command even if it can reach no service by name
    #[arg(long)]
    pub(crate) allow_none: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Which environment's session is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// Only the session of this environment
    #[arg(long, value_name = "NAME")]
    env: Option<Label>,
    /// Only the session of this context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "env", value_parser = context)]
    context: Option<Label>,
}

impl WhichArgs {
    /// The environment, if one is named. A context's is called after it.
    pub(crate) fn environment(&self) -> Option<&Label> {
        self.env.as_ref().or(self.context.as_ref())
    }
}

/// The environment that is called after a context.
fn context(name: &str) -> Result<Label, &'static str> {
    environment_of(name).ok_or("no environment is called after such a context: name it with --env")
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SelectArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// All sessions of this user
    #[arg(long, conflicts_with_all = ["env", "context"])]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Go on showing it whenever it changes, until the session ends
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Go on with what is said from here on, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RbacArgs {
    /// Configuration file [default: devbox.yaml in this folder or above it, then the user's]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A namespace; repeat for more [default: those of devbox.yaml, otherwise the namespace of the context]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Vec<Label>,
    /// The context of the kubeconfig whose namespace is meant [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The kubeconfig [default: the files of $KUBECONFIG, otherwise ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The way in: `forward`, which is also what `auto` needs, `pod`, `gateway` or the URL of one [default: forward]
    #[arg(long, value_name = "WAY")]
    pub(crate) via: Option<WayIn>,
    /// A user to give the role to; at a gateway, `devbox:NAME` is whoever has its static token NAME; repeat for more
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) user: Vec<String>,
    /// A group to give the role to; repeat for more [default: `developers`, where nobody is named]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) group: Vec<String>,
    /// A service account to give the role to; repeat for more
    #[arg(long, value_name = "NAMESPACE:NAME", value_parser = service_account)]
    pub(crate) service_account: Vec<(String, String)>,
}

/// `NAMESPACE:NAME`, as kubectl has it.
fn service_account(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once(':') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE:NAME, such as ci:runner"),
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CleanupArgs {
    /// Sweep this hosts file in place of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
    Serve(Box<ServeArgs>),
    /// Print what installs a gateway in a Kubernetes cluster, for `kubectl apply -f -`
    Manifests(ManifestsArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ManifestsArgs {
    /// Where it runs; sessions look for one in their own namespaces and in this default
    #[arg(long, value_name = "NAME", default_value = catalog_kube::gateway::manifests::NAMESPACE)]
    pub(crate) namespace: Label,
    /// The host name of an Ingress for wss://HOST [default: none, clients come through the API server]
    #[arg(long, value_name = "HOST")]
    pub(crate) ingress: Option<catalog_kube::gateway::manifests::Host>,
    /// Its image [default: the released one of this version]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// A namespace that it may serve; repeat for more [default: every one]
    #[arg(long, value_name = "NAME")]
    pub(crate) serve: Vec<Label>,
    /// Follow ExternalName services: whoever may write Services in a namespace that they use leads the gateway to whatever it reaches
    #[arg(long)]
    pub(crate) external_names: bool,
    /// A Secret with static tokens that it also takes, as the file of `gateway serve --token-file` and with the key tokens.yaml [default: none]
    #[arg(long, value_name = "SECRET")]
    pub(crate) token_secret: Option<catalog_kube::gateway::manifests::ObjectName>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// The services, in YAML; read again whenever the file changes
    #[arg(long, value_name = "FILE", required_unless_present_any = ["catalog_from_clients", "kubernetes"])]
    pub(crate) catalog: Option<PathBuf>,
    /// Give each client the services that it brings itself: whoever has the token reaches what this machine reaches
    #[arg(long, conflicts_with = "catalog")]
    pub(crate) catalog_from_clients: bool,
    /// Give each client the namespaces of the cluster around this program that they may use themselves; a token of the cluster lets
    /// them in, and one of --token-file as well
    #[arg(long, conflicts_with_all = ["catalog", "catalog_from_clients"])]
    pub(crate) kubernetes: bool,
    /// The audience that tokens of the cluster are to be for
    #[arg(long, value_name = "NAME", requires = "kubernetes", default_value = catalog_kube::gateway::AUDIENCE)]
    pub(crate) audience: String,
    /// The pod that this gateway runs in, NAME/UID: it shares its sessions with other replicas through Leases in its namespace
    #[arg(long, value_name = "POD", requires = "kubernetes")]
    pub(crate) replica: Option<catalog_kube::gateway::ReplicaPod>,
    /// Follow ExternalName services: whoever may write Services in a namespace that they use leads the gateway to whatever it reaches
    #[arg(long, requires = "kubernetes")]
    pub(crate) external_names: bool,
    /// A network that clients' own services may be in; may be given several times [default: all]
    #[arg(long, value_name = "NETWORK", requires = "catalog_from_clients")]
    pub(crate) dial: Vec<ipnet::IpNet>,
    /// Where to listen; port 0 takes a free port
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// The file that holds the token that clients must present, or a YAML list of tokens; read again on each change
    #[arg(long, value_name = "FILE", required_unless_present_any = ["token_env", "kubernetes"])]
    pub(crate) token_file: Option<PathBuf>,
    /// The environment variable that holds the token, in place of a file
    #[arg(long, value_name = "VARIABLE", conflicts_with = "token_file")]
    pub(crate) token_env: Option<String>,
    /// Listen for QUIC as well, at this UDP address, with the same certificate; its port may be that of --listen
    #[arg(long, value_name = "ADDR:PORT", requires = "tls_cert")]
    pub(crate) quic: Option<SocketAddr>,
    /// The certificate chain (PEM) for wss:// and quic://; it and its key are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Ask clients for a certificate of these authorities (PEM), beside the token; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Let clients in that show no certificate; one that is shown must still be valid
    #[arg(long, requires = "tls_client_ca")]
    pub(crate) tls_client_optional: bool,
    /// Listen without TLS on an address that other machines can reach
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Answer /healthz, /readyz and /metrics there, in plain HTTP and to anybody
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) status_listen: Option<SocketAddr>,
    /// How long the connections of a client that lost its own are kept for it; it goes on where it was, or they are reset
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) resume_window: u16,
    /// Keep nothing of a client that lost its connection: reset all at once
    #[arg(long, conflicts_with = "resume_window")]
    pub(crate) no_resume: bool,
    /// How long open connections may go on once it is told to end
    #[arg(long, value_name = "DURATION", value_parser = idle_time, default_value = "2s")]
    pub(crate) drain: Duration,
    /// The gateway that clients are told to connect to when this one ends [default: this address again]
    #[arg(long, value_name = "URL", value_parser = successor)]
    pub(crate) successor: Option<String>,
    /// End when no client has been connected for so long (30s, 2m), and 5 s after the last one has said goodbye
    #[arg(long, value_name = "DURATION", value_parser = idle_time)]
    pub(crate) exit_when_idle: Option<Duration>,
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

fn idle_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("write 30s or 2m".to_owned()),
    }
}

/// A gateway's URL, as its clients will read it.
fn successor(text: &str) -> Result<String, String> {
    let url: url::Url = text
        .parse()
        .map_err(|error| format!("{error}; a gateway is at ws://, wss:// or quic://HOST:PORT"))?;
    if !matches!(url.scheme(), "ws" | "wss" | "quic") || url.host().is_none() {
        return Err("a gateway is at ws://, wss:// or quic://HOST:PORT".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("clients have tokens of their own: no user and no password here".to_owned());
    }
    if url.as_str().len() > 1024 {
        return Err("it is longer than 1024 bytes".to_owned());
    }
    Ok(url.into())
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command to this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// The form of what a command prints. Both flags may also come after a subcommand.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct OutputArgs {
    /// How to print the output
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
    /// The same as --output json
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
}

impl OutputArgs {
    pub(crate) fn form(self) -> Output {
        if self.json { Output::Json } else { self.output }
    }

    pub(crate) fn is_json(self) -> bool {
        self.form() == Output::Json
    }
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
    fn whatever_prints_in_two_forms_takes_both_flags_for_it() {
        fn check(command: &clap::Command, checked: &mut Vec<String>) {
            let has = |name: &str| {
                command
                    .get_arguments()
                    .any(|found| found.get_long() == Some(name))
            };
            assert_eq!(has("output"), has("json"), "{}", command.get_name());
            if has("json") {
                checked.push(command.get_name().to_owned());
            }
            for below in command.get_subcommands() {
                check(below, checked);
            }
        }
        let mut checked = Vec::new();
        check(&Cli::command(), &mut checked);
        assert_eq!(checked, ["up", "exec", "status", "cleanup", "hosts", "ip"]);
    }

    #[test]
    fn flags_of_the_command_that_exec_runs_are_left_to_it() {
        let cli = Cli::try_parse_from(["devbox", "exec", "kubectl", "--json", "--output", "text"]);
        let Command::Exec(args) = cli.unwrap().command else {
            panic!("not exec")
        };
        assert_eq!(args.up.output.form(), Output::Text);
        assert_eq!(args.command, ["kubectl", "--json", "--output", "text"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
