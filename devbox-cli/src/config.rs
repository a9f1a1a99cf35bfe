//! What a session is told: flags over environment variables over `devbox.yaml` over the defaults.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use service_catalog::Label;
use url::{Host, Url};

use crate::args::ConnectArgs;
use crate::failure::{Failure, code};

/// The name of the configuration file.
const FILE_NAME: &str = "devbox.yaml";

/// `devbox.yaml`. Every field may be missing; an unknown one is an error, for it would be ignored silently.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gateway: Option<Url>,
    token_file: Option<PathBuf>,
    environment: Option<Label>,
    #[serde(default)]
    names: Names,
    #[serde(default)]
    pool: Pool,
    tls_ca: Option<PathBuf>,
}

/// The names policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    /// The namespace whose services also get their bare names.
    active: Option<Label>,
    /// Namespaces and environments that are public top-level domains too, and whose names are wanted all the same.
    #[serde(default)]
    named: BTreeSet<Label>,
}

/// One prefix or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Pool {
    #[default]
    Default,
    One(IpNet),
    Several(Vec<IpNet>),
}

/// What came out of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// `None`: nothing names a gateway.
    pub(crate) gateway: Option<Url>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) environment: Option<Label>,
    pub(crate) active: Option<Label>,
    pub(crate) named_namespaces: BTreeSet<Label>,
    pub(crate) named_environments: BTreeSet<Label>,
    pub(crate) pool: Vec<IpNet>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) insecure: bool,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// A configuration of defaults, for what needs none.
    pub(crate) fn defaults() -> Self {
        Self {
            gateway: None,
            token_file: None,
            environment: None,
            active: None,
            named_namespaces: BTreeSet::new(),
            named_environments: BTreeSet::new(),
            pool: default_pool(),
            tls_ca: None,
            insecure: false,
            file: None,
        }
    }

    /// Puts flags and file together. `home` is the calling user's.
    pub(crate) fn load(args: &ConnectArgs, home: Option<&Path>) -> Result<Self, Failure> {
        let path = match &args.config {
            Some(path) => Some(path.clone()),
            None => find(home),
        };
        let file = match &path {
            Some(path) => read(path, home)?,
            None => File::default(),
        };
        let active = args.namespace.clone().or(file.names.active);
        let environment = args.env.clone().or(file.environment);
        // What the user wrote down is named by the user: `named` says both.
        let (mut named_namespaces, mut named_environments) = (file.names.named.clone(), file.names.named);
        named_namespaces.extend(active.clone());
        named_environments.extend(environment.clone());
        let pool = match (args.pool.is_empty(), file.pool) {
            (false, _) => args.pool.clone(),
            (true, Pool::One(prefix)) => vec![prefix],
            (true, Pool::Several(prefixes)) if !prefixes.is_empty() => prefixes,
            (true, _) => default_pool(),
        };
        Ok(Self {
            gateway: args.gateway.clone().or(file.gateway),
            token_file: args.token_file.clone().or(file.token_file),
            environment,
            active,
            named_namespaces,
            named_environments,
            pool,
            tls_ca: args.tls_ca.clone().or(file.tls_ca),
            insecure: args.insecure,
            file: path,
        })
    }

    /// The gateway and the token's file, checked.
    pub(crate) fn gateway(&self) -> Result<(Url, PathBuf), Failure> {
        let Some(gateway) = self.gateway.clone() else {
            return Err(Failure::new(code::FAILED, "no gateway is named")
                .help("name one with --gateway ws://HOST:PORT --token-file FILE,")
                .help(format!("or in {FILE_NAME}, looked for from this folder upward:"))
                .help("")
                .help("  gateway: wss://gateway.example")
                .help("  token_file: ~/.config/devbox/token")
                .help("")
                .help("`devbox demo` shows the whole road without one"));
        };
        if !matches!(gateway.scheme(), "ws" | "wss") || gateway.host().is_none() {
            return Err(
                Failure::new(code::FAILED, format!("`{gateway}` is not a gateway's address"))
                    .help("it looks like ws://HOST:PORT, or wss://HOST:PORT with TLS"),
            );
        }
        let Some(token_file) = self.token_file.clone() else {
            return Err(
                Failure::new(code::FAILED, format!("no token for {gateway} is named")).help(
                    "name the file that holds it with --token-file FILE, or as token_file: in devbox.yaml",
                ),
            );
        };
        if gateway.scheme() == "ws" && !is_loopback(&gateway) && !self.insecure {
            return Err(Failure::new(
                code::FAILED,
                format!("the token is not sent over {gateway}: whoever is on the way could read it"),
            )
            .help("use wss://, or say --insecure"));
        }
        Ok((gateway, token_file))
    }
}

/// 127.77.0.0/16: all of 127/8 can be bound on Linux and Windows without any set-up, and a /16 leaves room for
/// addresses that are chosen by hash.
pub(crate) fn default_pool() -> Vec<IpNet> {
    Ipv4Net::new(Ipv4Addr::new(127, 77, 0, 0), 16)
        .into_iter()
        .map(IpNet::V4)
        .collect()
}

fn is_loopback(gateway: &Url) -> bool {
    match gateway.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// `devbox.yaml` upward from the working folder, then the user's.
fn find(home: Option<&Path>) -> Option<PathBuf> {
    let working = std::env::current_dir().ok();
    let upward = working
        .iter()
        .flat_map(|folder| folder.ancestors())
        .map(|folder| folder.join(FILE_NAME));
    let users = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| home.map(|home| home.join(".config")))
        .map(|folder| folder.join("devbox").join(FILE_NAME));
    upward.chain(users).find(|path| path.is_file())
}

fn read(path: &Path, home: Option<&Path>) -> Result<File, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        let failure = Failure::new(code::FAILED, format!("{}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::InvalidData => failure.help("it must be UTF-8 text"),
            _ => failure,
        }
    })?;
    let mut file: File = if text.trim().is_empty() {
        File::default()
    } else {
        serde_saphyr::from_str(&text)
            .map_err(|error| Failure::new(code::FAILED, format!("{}: {error}", path.display())))?
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    for named in [&mut file.token_file, &mut file.tls_ca].into_iter().flatten() {
        *named = match (named.strip_prefix("~"), home) {
            (Ok(rest), Some(home)) => home.join(rest),
            // As the file means it, wherever the command is run.
            _ => folder.join(&*named),
        };
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, args: &ConnectArgs) -> Result<Config, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, text).unwrap();
        let args = ConnectArgs {
            config: Some(path),
            ..args.clone()
        };
        Config::load(&args, Some(Path::new("/home/ada")))
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "gateway: ws://127.0.0.1:1\nenvironment: staging\npool: 127.78.0.0/16\n";
        let args = ConnectArgs {
            env: Some("dev".parse().unwrap()),
            ..ConnectArgs::default()
        };
        let config = load(text, &args).unwrap();
        assert_eq!(config.environment, Some("dev".parse().unwrap()));
        assert_eq!(config.gateway.unwrap().as_str(), "ws://127.0.0.1:1/");
        assert_eq!(config.pool, ["127.78.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn paths_are_meant_from_the_file_and_from_home() {
        let config = load(
            "token_file: secret/token\ntls_ca: ~/ca.pem\n",
            &ConnectArgs::default(),
        )
        .unwrap();
        let folder = config.file.unwrap().parent().unwrap().to_owned();
        assert_eq!(config.token_file.unwrap(), folder.join("secret/token"));
        assert_eq!(config.tls_ca.unwrap(), Path::new("/home/ada/ca.pem"));
    }

    #[test]
    fn an_unknown_field_is_an_error_with_its_place() {
        let failure = load(
            "gateway: ws://127.0.0.1:1\ngatway: oops\n",
            &ConnectArgs::default(),
        )
        .unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("gatway") && text.contains("devbox.yaml") && text.contains('2'),
            "{text}"
        );
    }

    #[test]
    fn an_empty_file_is_no_error() {
        assert_eq!(
            load("# nothing yet\n", &ConnectArgs::default()).unwrap().pool,
            default_pool()
        );
    }

    #[test]
    fn a_token_goes_to_another_machine_over_tls_only() {
        let with = |gateway: &str, insecure| {
            load(
                &format!("gateway: {gateway}\ntoken_file: t\n"),
                &ConnectArgs {
                    insecure,
                    ..Default::default()
                },
            )
            .unwrap()
            .gateway()
            .is_ok()
        };
        assert!(with("ws://127.0.0.1:1", false));
        assert!(with("ws://[::1]:1", false));
        assert!(with("wss://gateway.example", false));
        assert!(!with("ws://gateway.example", false));
        assert!(!with("ws://localhost.example", false));
        assert!(with("ws://gateway.example", true));
    }
}
