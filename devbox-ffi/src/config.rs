//! What a session is told before it starts, as a record or as the same in YAML.

use std::path::PathBuf;

use devbox_engine::{Config, HelperConfig, NamesPolicy, ProviderConfig, ProviderKind, Restart, TokenConfig};
use ipnet::IpNet;
use serde::Deserialize;
use service_catalog::Label;
use url::Url;

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
    #[serde(default)]
    #[uniffi(default = [])]
    pub pool: Vec<String>,
    /// Where names go, beside `Session.resolve`. Default: nowhere.
    #[serde(default)]
    #[uniffi(default = None)]
    pub publish: Option<Publish>,
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
    #[serde(default)]
    #[uniffi(default = None)]
    pub lock_file: Option<String>,
    /// The folder in which addresses are remembered from one session to the next. Without one they follow from the names alone.
    #[serde(default)]
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
}

/// How names are made from services, namespaces and environments.
#[derive(Debug, Clone, Default, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// The namespace whose services also get their bare names.
    #[serde(default)]
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
    #[serde(default)]
    #[uniffi(default = None)]
    pub connections: Option<u32>,
}

/// One far side.
#[derive(Debug, Clone, Deserialize, uniffi::Enum)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provider {
    /// A devbox gateway.
    Gateway(GatewayProvider),
    /// A catalog file whose targets are dialed from this machine.
    Direct(DirectProvider),
}

/// A devbox gateway.
#[derive(Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct GatewayProvider {
    /// Its name, for messages; no two have the same.
    pub name: String,
    /// `ws://HOST:PORT`, `wss://HOST:PORT` or `quic://HOST:PORT`; a path is where the gateway is mounted.
    pub url: String,
    /// The file that holds the token, read again at each connect. Either this or `token`.
    #[serde(default)]
    #[uniffi(default = None)]
    pub token_file: Option<String>,
    /// The token itself.
    #[serde(default)]
    #[uniffi(default = None)]
    pub token: Option<String>,
    /// The environment to ask for. Without one, that which it serves at the first connect is taken and kept to.
    #[serde(default)]
    #[uniffi(default = None)]
    pub environment: Option<String>,
    /// A PEM file of certificate authorities to trust in place of the system's.
    #[serde(default)]
    #[uniffi(default = None)]
    pub tls_ca: Option<String>,
    /// Whether the token may be sent over `ws://` to another machine, readable for anyone on the way.
    #[serde(default)]
    #[uniffi(default = false)]
    pub insecure: bool,
}

/// Without the token.
impl std::fmt::Debug for GatewayProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayProvider")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A catalog file whose targets are dialed from this machine, followed while the session runs.
#[derive(Debug, Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct DirectProvider {
    /// Its name, for messages; no two have the same.
    pub name: String,
    /// The file.
    pub catalog: String,
    /// The environment that the file must say it serves.
    #[serde(default)]
    #[uniffi(default = None)]
    pub environment: Option<String>,
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

impl SessionConfig {
    /// As the engine takes it, and the helper to start before that.
    pub(crate) fn into_engine(self) -> Result<(Config, Option<HelperConfig>), DevboxError> {
        let providers = self.providers.into_iter().map(ProviderConfig::try_from);
        let mut config = Config::new(providers.collect::<Result<Vec<_>, _>>()?);
        config.names = self.names.into_policy()?;
        if !self.pool.is_empty() {
            let prefixes = self.pool.iter().map(|prefix| parse::<IpNet>("pool", prefix));
            config.pools = prefixes.collect::<Result<_, _>>()?;
        }
        let mut helper = None;
        if let Some(Publish::HostsFile {
            file,
            helper: program,
        }) = self.publish
        {
            config.publish = devbox_engine::Publish::HostsFile(file.into());
            helper = Some(program.into());
        }
        config.claim = self.claim;
        config.take_names = self.take_names;
        config.lock_file = self.lock_file.map(PathBuf::from);
        config.state_dir = self.state_dir.map(PathBuf::from);
        config.share = self.share;
        if let Some(connections) = self.limits.connections {
            config.max_connections = connections as usize;
        }
        Ok((config, helper))
    }
}

impl Names {
    fn into_policy(self) -> Result<NamesPolicy, DevboxError> {
        let active = label("names.active", self.active)?;
        let named = self.named.iter().map(|name| parse::<Label>("names.named", name));
        let mut named: std::collections::BTreeSet<_> = named.collect::<Result<_, _>>()?;
        let named_environments = named.clone();
        named.extend(active.clone());
        Ok(NamesPolicy {
            active,
            named_namespaces: named,
            named_environments,
        })
    }
}

impl TryFrom<Provider> for ProviderConfig {
    type Error = DevboxError;

    fn try_from(provider: Provider) -> Result<Self, DevboxError> {
        match provider {
            Provider::Gateway(gateway) => gateway.try_into(),
            Provider::Direct(direct) => Ok(Self {
                environment: label("environment", direct.environment)?,
                ..Self::direct(direct.name, direct.catalog)
            }),
        }
    }
}

impl TryFrom<GatewayProvider> for ProviderConfig {
    type Error = DevboxError;

    fn try_from(gateway: GatewayProvider) -> Result<Self, DevboxError> {
        let token = match (gateway.token_file, gateway.token) {
            (Some(file), None) => TokenConfig::File(file.into()),
            (None, Some(token)) => TokenConfig::Secret(token),
            (None, None) | (Some(_), Some(_)) => {
                return Err(DevboxError::Config {
                    key: "token_file".to_owned(),
                    value: String::new(),
                    reason: "a gateway needs either `token_file` or `token`".to_owned(),
                });
            }
        };
        let mut config = Self::gateway(gateway.name, parse::<Url>("url", &gateway.url)?, token);
        config.environment = label("environment", gateway.environment)?;
        if let ProviderKind::Gateway(kind) = &mut config.kind {
            kind.trust.ca = gateway.tls_ca.map(PathBuf::from);
            kind.insecure = gateway.insecure;
        }
        Ok(config)
    }
}

impl From<HelperProgram> for HelperConfig {
    fn from(program: HelperProgram) -> Self {
        let mut config = Self::new(program.program, program.args);
        config.privileged = program.privileged;
        if program.restart {
            config.restart = Restart::Here;
        }
        config
    }
}

fn label(key: &str, text: Option<String>) -> Result<Option<Label>, DevboxError> {
    text.map(|text| parse(key, &text)).transpose()
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    key: &str,
    text: &str,
) -> Result<T, DevboxError> {
    text.parse().map_err(|error: T::Err| DevboxError::Config {
        key: key.to_owned(),
        value: text.to_owned(),
        reason: error.to_string(),
    })
}
