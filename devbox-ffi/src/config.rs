//! What a session is told before it starts, as a record or as the same in YAML.

mod provider;
mod service;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use devbox_engine::{Config, Helper, HelperConfig, NamesPolicy, ProviderConfig, Restart};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use service_catalog::Label;

pub use provider::{Carrier, DirectProvider, GatewayProvider, KubernetesProvider, Provider};
pub use service::ServiceSettings;

use crate::error::DevboxError;

/// Everything that a session is told before it starts. The defaults change nothing of the machine but the addresses that it
/// listens on.
///
/// In YAML it has the keys of `devbox.yaml`, without the short forms (`gateway:` at the top) that are the command's, and with
/// `publish`, `state_dir` and `lock_file`, which the command has as options. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// The far sides. Where two provide the same name, the earlier one has it.
    pub providers: Vec<Provider>,
    /// How names are made.
    #[serde(default)]
    #[uniffi(default)]
    pub names: Names,
    /// The prefixes that addresses are chosen from. Empty: 127.77.0.0/16.
    #[serde(default, deserialize_with = "one_or_more")]
    #[uniffi(default = [])]
    pub pool: Vec<String>,
    /// Where names go, beside `Session.resolve`. Default: nowhere.
    #[uniffi(default = None)]
    pub publish: Option<Publish>,
    /// A DNS server of the session's that answers for its names, beside what `publish` says. Default: none.
    #[uniffi(default = None)]
    pub dns: Option<Dns>,
    /// Whether this is the user's one session for its environments: `devbox status` and `devbox down` find it, and it displaces
    /// an older one for the same environment and hosts file.
    #[serde(default)]
    #[uniffi(default = false)]
    pub claim: bool,
    /// Whether names that another session of this machine holds in the hosts file are taken from it.
    #[serde(default)]
    #[uniffi(default = false)]
    pub take_names: bool,
    /// The team's lock file, which settles addresses.
    #[uniffi(default = None)]
    pub lock_file: Option<String>,
    /// The folder in which addresses are remembered from one session to the next. Without one they follow from the names alone.
    #[uniffi(default = None)]
    pub state_dir: Option<String>,
    /// Whether other users of this machine may connect to its services.
    #[serde(default)]
    #[uniffi(default = false)]
    pub share: bool,
    /// Bounds of the session.
    #[serde(default)]
    #[uniffi(default)]
    pub limits: Limits,
    /// What is wanted of single services, by service: `orders.backend`.
    #[serde(default)]
    #[uniffi(default)]
    pub services: HashMap<String, ServiceSettings>,
}

/// Where a session answers DNS questions.
#[derive(Debug, Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Where it listens, over UDP and TCP: `127.0.0.1:5353`. With port 0, `Session.dns_address` has the one that the system chose.
    pub listen: String,
    /// The suffix that is the session's: with `devbox.test`, `orders.backend` is answered as `orders.backend.devbox.test` and by
    /// itself.
    pub suffix: String,
}

/// How names are made from services, namespaces and environments.
#[derive(Debug, Clone, Default, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// The namespace whose services also get their bare names.
    #[uniffi(default = None)]
    pub active: Option<String>,
    /// Namespaces and environments that are public top-level domains too, and whose names are wanted all the same.
    #[serde(default)]
    #[uniffi(default = [])]
    pub named: Vec<String>,
}

/// Bounds of a session.
#[derive(Debug, Clone, Default, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// How many connections may be open at once. Default: 16,384.
    #[uniffi(default = None)]
    pub connections: Option<u32>,
}

/// Where a session's names go, beside `Session.resolve`.
#[derive(Debug, Clone, Deserialize, uniffi::Enum)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// A block in a hosts file, for every program of the machine.
    HostsFile {
        /// The file; `system_hosts_file()` gives the system's.
        file: String,
        /// Who writes it.
        helper: HelperProgram,
    },
    /// A block in a hosts file, written by the helper that is installed on this machine as a service.
    InstalledHelper {
        /// The file that it writes. Default: the system's.
        #[uniffi(default = None)]
        file: Option<String>,
        /// Where it listens. Default: where `devbox helper install` has it listen.
        #[uniffi(default = None)]
        socket: Option<String>,
    },
}

/// A program that becomes the helper: the one process that changes the machine, and undoes that when this process ends in any
/// way.
#[derive(Debug, Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct HelperProgram {
    /// `devbox-helper`, or `devbox` with `__helper` as the first argument.
    pub program: String,
    /// Its arguments, which set what may be asked of it: `--hosts-file FILE --pool PREFIX`.
    pub args: Vec<String>,
    /// Whether it writes what this process may not.
    #[serde(default)]
    #[uniffi(default = false)]
    pub privileged: bool,
    /// Whether another one is started in place of one that was killed. Otherwise the session ends.
    #[serde(default)]
    #[uniffi(default = false)]
    pub restart: bool,
    /// Whether its standard error is this process's own.
    #[serde(default)]
    #[uniffi(default = false)]
    pub verbose: bool,
    /// Prefixes of `pool` that are not this machine's own yet: the helper makes them so, as its arguments must allow (`--network`).
    #[serde(default)]
    #[uniffi(default = [])]
    pub open_pools: Vec<String>,
}

/// Reads a configuration from YAML.
#[uniffi::export]
pub fn parse_config(yaml: &str) -> Result<SessionConfig, DevboxError> {
    serde_saphyr::from_str(yaml).map_err(|error| {
        let place = error.location();
        DevboxError::ConfigText {
            line: place.map(|place| place.line()),
            column: place.map(|place| place.column()),
            reason: error.to_string(),
        }
    })
}

/// Where a helper comes from.
#[derive(Debug)]
pub(crate) enum HelperSource {
    Program(HelperConfig),
    Installed { socket: PathBuf, pools: Vec<IpNet> },
}

impl HelperSource {
    /// Starts it, or connects to it. Blocks for as long as that takes.
    pub(crate) fn helper(&self) -> Result<Helper, DevboxError> {
        Ok(match self {
            Self::Program(config) => Helper::start(config)?,
            Self::Installed { socket, pools } => Helper::installed(socket, pools, None)?,
        })
    }
}

impl SessionConfig {
    /// As the engine takes it, and the helper that it needs before that.
    pub(crate) fn into_engine(self) -> Result<(Config, Option<HelperSource>), DevboxError> {
        let providers = self.providers.into_iter().map(ProviderConfig::try_from);
        let mut config = Config::new(providers.collect::<Result<Vec<_>, _>>()?);
        config.names = self.names.into_policy()?;
        if !self.pool.is_empty() {
            config.pools = prefixes("pool", &self.pool)?;
        }
        let helper = match self.publish {
            None => None,
            Some(Publish::HostsFile { file, helper }) => {
                config.publish = devbox_engine::Publish::HostsFile(file.into());
                Some(HelperSource::Program(helper.try_into()?))
            }
            Some(Publish::InstalledHelper { file, socket }) => {
                let file = file.map_or_else(devbox_engine::system_hosts_file, |file| Ok(file.into()))?;
                config.publish = devbox_engine::Publish::HostsFile(file);
                Some(HelperSource::Installed {
                    socket: socket.map_or_else(devbox_helper_client::installed_socket, PathBuf::from),
                    pools: config.pools.clone(),
                })
            }
        };
        config.dns = self.dns.map(Dns::into_engine).transpose()?;
        config.claim = self.claim;
        config.take_names = self.take_names;
        config.lock_file = self.lock_file.map(PathBuf::from);
        config.state_dir = self.state_dir.map(PathBuf::from);
        config.share = self.share;
        if let Some(connections) = self.limits.connections {
            config.max_connections = connections as usize;
        }
        config.services = service::options(self.services)?;
        Ok((config, helper))
    }
}

impl Dns {
    fn into_engine(self) -> Result<devbox_engine::Dns, DevboxError> {
        Ok(devbox_engine::Dns {
            listen: parse("dns.listen", &self.listen)?,
            or_another_port: false,
            suffix: parse("dns.suffix", &self.suffix)?,
        })
    }
}

impl Names {
    fn into_policy(self) -> Result<NamesPolicy, DevboxError> {
        let active = label("names.active", self.active)?;
        let named = self.named.iter().map(|name| parse::<Label>("names.named", name));
        let mut named: BTreeSet<_> = named.collect::<Result<_, _>>()?;
        let named_environments = named.clone();
        named.extend(active.clone());
        Ok(NamesPolicy {
            active,
            named_namespaces: named,
            named_environments,
        })
    }
}

impl TryFrom<HelperProgram> for HelperConfig {
    type Error = DevboxError;

    fn try_from(program: HelperProgram) -> Result<Self, DevboxError> {
        let mut config = Self::new(program.program, program.args);
        config.privileged = program.privileged;
        config.verbose = program.verbose;
        config.open_pools = prefixes("open_pools", &program.open_pools)?;
        if program.restart {
            config.restart = Restart::Here;
        }
        Ok(config)
    }
}

fn prefixes(key: &str, texts: &[String]) -> Result<Vec<IpNet>, DevboxError> {
    texts.iter().map(|prefix| parse(key, prefix)).collect()
}

fn label(key: &str, text: Option<String>) -> Result<Option<Label>, DevboxError> {
    text.map(|text| parse(key, &text)).transpose()
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    key: &str,
    text: &str,
) -> Result<T, DevboxError> {
    text.parse()
        .map_err(|error: T::Err| wrong(key, text, &error.to_string()))
}

pub(crate) fn wrong(key: &str, value: &str, reason: &str) -> DevboxError {
    DevboxError::Config {
        key: key.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A list, or the one element of it by itself.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}
