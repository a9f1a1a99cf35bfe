use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use devbox_provider::Provider;
use devbox_session::{MAX_CONNECTIONS, NamesPolicy, ServiceOptions};
use ipnet::{IpNet, Ipv4Net};
use service_catalog::{Label, ServiceId};
use tunnel_bridge::Trust;
use tunnel_bridge::dial::{Carriage, Proxies};
use url::Url;

use crate::helper::Helper;

/// Everything that a session on this machine is told before it starts. The defaults change nothing but the addresses that it
/// listens on: names are in memory only.
///
/// ```
/// use devbox_engine::{Config, ProviderConfig};
/// let config = Config {
///     pools: vec!["127.78.0.0/16".parse()?],
///     ..Config::new([ProviderConfig::direct("local", "catalog.yaml")])
/// };
/// assert_eq!(config.providers[0].name, "local");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The far sides. Where two provide the same name, the earlier one has it.
    pub providers: Vec<ProviderConfig>,
    /// How names are made. Where no namespace is active, the first one of the first Kubernetes cluster is.
    pub names: NamesPolicy,
    /// The prefixes that addresses are chosen from. Default: 127.77.0.0/16.
    pub pools: Vec<IpNet>,
    /// Where names go, beside the registry in memory. Default: nowhere.
    pub publish: Publish,
    /// A DNS server of the session's that answers for its names, beside what `publish` says. Default: none.
    pub dns: Option<Dns>,
    /// The one process that writes the hosts file and binds low ports, where that is wanted. Default: none.
    pub helper: Option<Helper>,
    /// Whether this is the user's one session for its environments: `devbox status` and `devbox down` find it, and it
    /// displaces an older one for the same environment and hosts file, as a newer one displaces it. Default: `false`.
    pub claim: bool,
    /// Whether names that another session of this machine holds in the hosts file are taken from it. Otherwise they are left to it
    /// until it ends, and this session publishes its others. Default: `false`.
    pub take_names: bool,
    /// The team's lock file, which settles addresses. Default: none.
    pub lock_file: Option<PathBuf>,
    /// The folder in which this user's addresses are remembered from one session to the next. Default: none, they follow
    /// from the names alone.
    pub state_dir: Option<PathBuf>,
    /// How many connections to its services may be open at once; more are reset at once, told once and counted. Default: 16,384.
    pub max_connections: usize,
    /// Whether everybody may connect to its services who reaches their addresses. Otherwise, on Linux, only programs of this
    /// process's user and of root are let in on loopback; elsewhere loopback is open to all users. On other addresses it takes an
    /// address of the same prefix. Default: `false`.
    pub share: bool,
    /// What the connections of single services are held to. Default: nothing.
    pub services: BTreeMap<ServiceId, ServiceOptions>,
}

impl Config {
    /// The defaults, with these providers.
    pub fn new(providers: impl IntoIterator<Item = ProviderConfig>) -> Self {
        Self {
            providers: providers.into_iter().collect(),
            ..Self::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            names: NamesPolicy::default(),
            pools: default_pools(),
            publish: Publish::default(),
            dns: None,
            helper: None,
            claim: false,
            take_names: false,
            lock_file: None,
            state_dir: None,
            max_connections: MAX_CONNECTIONS,
            share: false,
            services: BTreeMap::new(),
        }
    }
}

/// 127.77.0.0/16. All of 127/8 can be bound on Linux and Windows without any set-up, and a /16 leaves room for addresses that
/// are chosen by hash.
#[must_use]
pub fn default_pools() -> Vec<IpNet> {
    let prefix = Ipv4Net::new(Ipv4Addr::new(127, 77, 0, 0), 16);
    prefix.into_iter().map(IpNet::V4).collect()
}

/// Where a session's names go. They are always in the engine's [`Registry`](devbox_session::sink::Registry) as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Publish {
    /// Nowhere else: whoever has the engine asks its registry.
    #[default]
    Registry,
    /// A block in a hosts file, for every program of the machine. Needs [`Config::helper`].
    HostsFile(PathBuf),
    /// A hosts file for one process tree: see [`Engine::private_hosts`](crate::Engine::private_hosts).
    Private {
        /// What the names are added to: normally the system's hosts file without the blocks of
        /// [other sessions](crate::without_sessions).
        base: Vec<u8>,
    },
}

/// Where a session answers DNS questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Where it listens, over UDP and TCP.
    pub listen: SocketAddr,
    /// Whether it takes another port where that one is in use, as by another session; it cannot start then otherwise.
    pub or_another_port: bool,
    /// The suffix that is the session's: `orders.backend` is answered as `orders.backend.devbox.test` and by itself.
    pub suffix: nameserver::Name,
}

/// One far side.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its name, for messages; no two have the same.
    pub name: String,
    /// The environment to ask for. With `None`, the one that it serves at the first connect is taken and kept to.
    pub environment: Option<Label>,
    /// What it is, and where.
    pub kind: ProviderKind,
}

/// What a far side is.
#[derive(Clone)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "kube"),
    expect(
        clippy::large_enum_variant,
        reason = "there are a few of them, made once; a box would be in the way of whoever writes a configuration"
    )
)]
pub enum ProviderKind {
    /// A devbox gateway. Needs the feature `gateway`.
    Gateway(GatewayConfig),
    /// A catalog file whose targets are dialed from this machine, followed while the session runs. Needs the feature
    /// `direct`.
    Direct {
        /// The file.
        catalog: PathBuf,
    },
    /// Namespaces of a Kubernetes cluster. Needs the feature `kube`. What the options leave to the kubeconfig is settled when the session
    /// starts, and its environment is [`ProviderConfig::environment`], if that is set.
    #[cfg(feature = "kube")]
    Kubernetes(catalog_kube::KubeOptions),
    /// A kind of your own.
    Custom(Arc<dyn Provider>),
}

/// Where a gateway is, and how to get in.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// `ws://HOST:PORT`, `wss://HOST:PORT` or `quic://HOST:PORT`; a path is where the gateway is mounted.
    pub url: Url,
    /// What it asks for.
    pub token: TokenConfig,
    /// Whom to trust, and which certificate to show. [`Trust::danger_accept_any_certificate`] is told at each start
    /// ([`Notice::AnyCertificate`](crate::Notice::AnyCertificate)).
    pub trust: Trust,
    /// The proxies to go through. Default: none; `Proxies::from_env` reads what the environment says.
    pub proxies: Proxies,
    /// What may carry the link. Default: what the gateway and everything on the way takes.
    pub carriage: Carriage,
    /// Further headers of the request. Their values are never shown.
    pub headers: Vec<(String, Secret)>,
    /// Whether the token may be sent over `ws://` to another machine, readable for anyone on the way.
    pub insecure: bool,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A gateway's token.
#[derive(Clone)]
pub enum TokenConfig {
    /// A file that holds it and nothing else, read again at each connect.
    File(PathBuf),
    /// The token itself.
    Secret(String),
}

impl ProviderConfig {
    /// A catalog file whose targets are dialed from this machine.
    pub fn direct(name: impl Into<String>, catalog: impl Into<PathBuf>) -> Self {
        let catalog = catalog.into();
        Self::new(name, ProviderKind::Direct { catalog })
    }

    /// A devbox gateway with the system's certificate authorities.
    pub fn gateway(name: impl Into<String>, url: Url, token: TokenConfig) -> Self {
        let gateway = GatewayConfig {
            url,
            token,
            trust: Trust::default(),
            proxies: Proxies::none(),
            carriage: Carriage::default(),
            headers: Vec::new(),
            insecure: false,
        };
        Self::new(name, ProviderKind::Gateway(gateway))
    }

    /// Namespaces of a Kubernetes cluster.
    #[cfg(feature = "kube")]
    pub fn kubernetes(name: impl Into<String>, options: catalog_kube::KubeOptions) -> Self {
        Self::new(name, ProviderKind::Kubernetes(options))
    }

    /// A kind of your own.
    pub fn custom(name: impl Into<String>, provider: impl Provider) -> Self {
        Self::new(name, ProviderKind::Custom(Arc::new(provider)))
    }

    /// A far side whose own environment is taken.
    pub fn new(name: impl Into<String>, kind: ProviderKind) -> Self {
        Self {
            name: name.into(),
            environment: None,
            kind,
        }
    }
}

impl fmt::Debug for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(gateway) => gateway.fmt(f),
            Self::Direct { catalog } => f.debug_struct("Direct").field("catalog", catalog).finish(),
            #[cfg(feature = "kube")]
            Self::Kubernetes(options) => options.fmt(f),
            Self::Custom(provider) => f.debug_tuple("Custom").field(&provider.status()).finish(),
        }
    }
}

impl fmt::Debug for TokenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Secret(_) => f.write_str("Secret(..)"),
        }
    }
}
