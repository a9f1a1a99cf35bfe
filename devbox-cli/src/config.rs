//! What a session is told: flags over environment variables over `devbox.yaml` over the defaults.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use devbox_engine::{
    GatewayConfig, MAX_CONNECTIONS, NamesPolicy, ProviderConfig, ProviderKind, ServiceOptions, TokenConfig,
    default_pools,
};
use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use service_catalog::{Label, ServiceId};
use url::Url;

use crate::args::ConnectArgs;
use crate::failure::{Failure, code};
use crate::sys;

/// The name of the configuration file.
const FILE_NAME: &str = "devbox.yaml";
/// The team's lock file, beside the configuration or above the working folder.
pub(crate) const LOCK_FILE: &str = "devbox.lock";

/// `devbox.yaml`. Every key may be missing; an unknown one is an error, since it would be ignored silently.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The short form of one gateway, which comes before the list.
    gateway: Option<Url>,
    token_file: Option<PathBuf>,
    environment: Option<Label>,
    tls_ca: Option<PathBuf>,
    #[serde(default)]
    providers: Vec<Spanned<Entry>>,
    #[serde(default)]
    names: Names,
    #[serde(default)]
    pool: Pool,
    #[serde(default)]
    limits: Limits,
    /// Whether other users of this machine may connect.
    #[serde(default)]
    share: bool,
    #[serde(default)]
    services: BTreeMap<ServiceId, service::Entry>,
}

/// One of the list of providers. Which keys it must have depends on its kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<Label>,
    kind: Spanned<String>,
    environment: Option<Label>,
    url: Option<Spanned<Url>>,
    token_file: Option<Spanned<PathBuf>>,
    tls_ca: Option<Spanned<PathBuf>>,
    insecure: Option<Spanned<bool>>,
    catalog: Option<Spanned<PathBuf>>,
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

/// Bounds of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// How many connections may be open at once.
    connections: Option<NonZeroUsize>,
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

/// What flags and file come to.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    providers: Vec<Provider>,
    /// The environment of `--env`, or of the file's short form.
    pub(crate) environment: Option<Label>,
    pub(crate) names: NamesPolicy,
    pub(crate) pool: Vec<IpNet>,
    /// How many connections may be open at once.
    pub(crate) max_connections: usize,
    /// Whether other users of this machine may connect.
    pub(crate) share: bool,
    /// What single services' connections are held to.
    pub(crate) services: BTreeMap<ServiceId, ServiceOptions>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

/// A provider whose token may not be named yet: commands that connect to none need none.
#[derive(Debug, Clone)]
struct Provider {
    name: String,
    environment: Option<Label>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Gateway {
        url: Url,
        token_file: Option<PathBuf>,
        tls_ca: Option<PathBuf>,
        insecure: bool,
    },
    Direct {
        catalog: PathBuf,
    },
}

impl Config {
    /// Puts flags and file together. `home` is the calling user's.
    pub(crate) fn load(args: &ConnectArgs, home: Option<&Path>) -> Result<Self, Failure> {
        let path = match &args.config {
            Some(path) => Some(path.clone()),
            None => find(home),
        };
        let file = match &path {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let place = Place {
            file: path.as_deref().unwrap_or(Path::new("")),
            home,
        };
        let environment = args.env.clone().or_else(|| file.environment.clone());
        let providers = providers(args, &file, &place)?;
        let services = file.services.iter().map(|(service, entry)| {
            let options = entry
                .options()
                .map_err(|(found, message)| place.at(found, &message))?;
            Ok((service.clone(), options))
        });
        let services = services.collect::<Result<_, Failure>>()?;

        let active = args.namespace.clone().or(file.names.active);
        // What the user wrote down is named by the user: `named` means both.
        let (mut named_namespaces, mut named_environments) = (file.names.named.clone(), file.names.named);
        named_namespaces.extend(active.clone());
        named_environments.extend(environment.clone());
        named_environments.extend(
            providers
                .iter()
                .filter_map(|provider| provider.environment.clone()),
        );
        let pool = match (args.pool.is_empty(), file.pool) {
            (false, _) => args.pool.clone(),
            (true, Pool::One(prefix)) => vec![prefix],
            (true, Pool::Several(prefixes)) if !prefixes.is_empty() => prefixes,
            (true, _) => default_pools(),
        };
        Ok(Self {
            providers,
            environment,
            names: NamesPolicy {
                active,
                named_namespaces,
                named_environments,
            },
            pool,
            max_connections: file.limits.connections.map_or(MAX_CONNECTIONS, NonZeroUsize::get),
            share: file.share,
            services,
            file: path,
        })
    }

    /// Whether nothing names a provider.
    pub(crate) fn names_no_provider(&self) -> bool {
        self.providers.is_empty()
    }

    /// The far sides, as a session that is already running would report them, and the environments that are asked for.
    pub(crate) fn far_sides(&self) -> impl ExactSizeIterator<Item = (String, Option<&Label>)> {
        self.providers.iter().map(|provider| {
            let far_side = match &provider.kind {
                Kind::Gateway { url, .. } => url.to_string(),
                Kind::Direct { catalog } => catalog.display().to_string(),
            };
            (far_side, provider.environment.as_ref())
        })
    }

    /// The providers, complete.
    pub(crate) fn providers(&self) -> Result<Vec<ProviderConfig>, Failure> {
        if self.providers.is_empty() {
            return Err(Failure::new(code::FAILED, "no gateway and no catalog is named")
                .help("name a gateway with --gateway ws://HOST:PORT --token-file FILE,")
                .help("a catalog whose services this machine can reach with --catalog FILE,")
                .help(format!(
                    "or either in {FILE_NAME}, looked for from this folder upward:"
                ))
                .help("")
                .help("  gateway: wss://gateway.example")
                .help("  token_file: ~/.config/devbox/token")
                .help("")
                .help("`devbox demo` shows it all without one"));
        }
        self.providers.iter().map(Provider::complete).collect()
    }

    /// The lock file that counts: the one beside the configuration, else from the working folder upward.
    pub(crate) fn lock_file(&self) -> Option<PathBuf> {
        let beside = self.file.as_ref().and_then(|file| file.parent());
        let beside = beside.map(|folder| folder.join(LOCK_FILE));
        let working = std::env::current_dir().ok();
        let upward = working
            .iter()
            .flat_map(|folder| folder.ancestors())
            .map(|folder| folder.join(LOCK_FILE));
        beside.into_iter().chain(upward).find(|path| path.is_file())
    }
}

impl Provider {
    fn complete(&self) -> Result<ProviderConfig, Failure> {
        let kind = match &self.kind {
            Kind::Direct { catalog } => ProviderKind::Direct {
                catalog: catalog.clone(),
            },
            Kind::Gateway {
                url,
                token_file,
                tls_ca,
                insecure,
            } => {
                let Some(token_file) = token_file.clone() else {
                    return Err(Failure::new(code::FAILED, format!("no token for {url} is named")).help(
                        "name the file that holds it with --token-file FILE, or as token_file: in devbox.yaml",
                    ));
                };
                ProviderKind::Gateway(GatewayConfig {
                    url: url.clone(),
                    token: TokenConfig::File(token_file),
                    tls_ca: tls_ca.clone(),
                    insecure: *insecure,
                })
            }
        };
        Ok(ProviderConfig {
            environment: self.environment.clone(),
            ..ProviderConfig::new(&self.name, kind)
        })
    }
}

/// Flags replace what the file has of their kind: `--gateway` its gateways, `--catalog` its catalogs. They come first, since
/// the earlier of two providers has a name that both provide.
fn providers(args: &ConnectArgs, file: &File, place: &Place<'_>) -> Result<Vec<Provider>, Failure> {
    let short = file.gateway.iter().map(|url| (url, file.environment.as_ref()));
    let flags = args.gateway.iter().map(|url| (url, file.environment.as_ref()));
    let gateways: Vec<_> = if args.gateway.is_empty() {
        short.collect()
    } else {
        flags.collect()
    };
    let listed = file
        .providers
        .iter()
        .map(|entry| place.provider(&entry.value, entry.referenced, args))
        .collect::<Result<Vec<_>, _>>()?;
    let listed = listed.into_iter().filter(|provider| match provider.kind {
        Kind::Gateway { .. } => args.gateway.is_empty(),
        Kind::Direct { .. } => args.catalog.is_empty(),
    });
    let listed: Vec<_> = listed.collect();
    let mut seen = BTreeSet::new();
    for entry in &file.providers {
        let name = &entry.value.name;
        if !seen.insert(&name.value) {
            return Err(place.at(
                name.referenced,
                &format!("two providers are called `{}`", name.value),
            ));
        }
    }
    let mut taken: BTreeSet<String> = listed.iter().map(|provider| provider.name.clone()).collect();
    let mut providers = Vec::new();
    for (url, environment) in gateways {
        let own = |path: &Option<PathBuf>| path.as_ref().map(|path| place.path(path));
        providers.push(Provider {
            name: free_name(GATEWAY, &mut taken),
            environment: args.env.as_ref().or(environment).cloned(),
            kind: Kind::Gateway {
                url: url.clone(),
                token_file: args.token_file.clone().or_else(|| own(&file.token_file)),
                tls_ca: args.tls_ca.clone().or_else(|| own(&file.tls_ca)),
                insecure: args.insecure,
            },
        });
    }
    for catalog in &args.catalog {
        providers.push(Provider {
            name: free_name(CATALOG, &mut taken),
            environment: None,
            kind: Kind::Direct {
                catalog: std::path::absolute(catalog).map_err(Failure::because)?,
            },
        });
    }
    providers.extend(listed);
    let is_gateway = |provider: &Provider| matches!(provider.kind, Kind::Gateway { .. });
    if !providers.iter().any(is_gateway) {
        // With no gateway, `--env` can only mean the catalogs.
        for provider in &mut providers {
            provider.environment = args.env.clone().or(provider.environment.take());
        }
    }
    Ok(providers)
}

const GATEWAY: &str = "gateway";
const CATALOG: &str = "catalog";

/// `gateway`, `gateway-2`, …: the first that no other provider has.
fn free_name(base: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    let mut candidates = std::iter::once(base.to_owned()).chain(numbered);
    let free = candidates.find(|name| taken.insert(name.clone()));
    free.unwrap_or_else(|| base.to_owned())
}

/// Where a configuration was read: paths are relative to it, and errors name it.
struct Place<'a> {
    file: &'a Path,
    home: Option<&'a Path>,
}

impl Place<'_> {
    fn provider(&self, entry: &Entry, place: Location, args: &ConnectArgs) -> Result<Provider, Failure> {
        let name = &entry.name.value;
        let missing = |key: &str| {
            let kind = &entry.kind.value;
            self.at(
                place,
                &format!("the provider `{name}` of the kind `{kind}` needs `{key}:`"),
            )
        };
        let foreign = |key: &str, found: Option<Location>| match found {
            Some(found) => Err(self.at(
                found,
                &format!(
                    "`{key}:` means nothing to a provider of the kind `{}`",
                    entry.kind.value
                ),
            )),
            None => Ok(()),
        };
        let (kind, environment) = match entry.kind.value.as_str() {
            "gateway" => {
                foreign("catalog", entry.catalog.as_ref().map(|found| found.referenced))?;
                let url = entry.url.as_ref().ok_or_else(|| missing("url"))?;
                let token_file = entry.token_file.as_ref().map(|path| self.path(&path.value));
                let token_file = args.token_file.clone().or(token_file);
                let tls_ca = entry.tls_ca.as_ref().map(|path| self.path(&path.value));
                let kind = Kind::Gateway {
                    url: url.value.clone(),
                    token_file: Some(token_file.ok_or_else(|| missing("token_file"))?),
                    tls_ca: args.tls_ca.clone().or(tls_ca),
                    insecure: args.insecure || entry.insecure.as_ref().is_some_and(|insecure| insecure.value),
                };
                (kind, args.env.as_ref().or(entry.environment.as_ref()))
            }
            "direct" => {
                foreign("url", entry.url.as_ref().map(|found| found.referenced))?;
                foreign(
                    "token_file",
                    entry.token_file.as_ref().map(|found| found.referenced),
                )?;
                foreign("tls_ca", entry.tls_ca.as_ref().map(|found| found.referenced))?;
                foreign("insecure", entry.insecure.as_ref().map(|found| found.referenced))?;
                let catalog = entry.catalog.as_ref().ok_or_else(|| missing("catalog"))?;
                let catalog = self.path(&catalog.value);
                let catalog = std::path::absolute(catalog).map_err(Failure::because)?;
                (Kind::Direct { catalog }, entry.environment.as_ref())
            }
            kind => {
                return Err(self.at(
                    entry.kind.referenced,
                    &format!("`{kind}` is not a kind of provider: `gateway` and `direct` are"),
                ));
            }
        };
        Ok(Provider {
            name: name.to_string(),
            environment: environment.cloned(),
            kind,
        })
    }

    /// A path as the file means it, wherever the command is run.
    fn path(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.file.parent().unwrap_or(Path::new("")).join(path),
        }
    }

    fn at(&self, place: Location, message: &str) -> Failure {
        let (file, line, column) = (self.file.display(), place.line(), place.column());
        Failure::new(code::FAILED, format!("{file}:{line}:{column}: {message}"))
    }
}

/// `devbox.yaml` upward from the working folder, then the user's.
fn find(home: Option<&Path>) -> Option<PathBuf> {
    let working = std::env::current_dir().ok();
    let upward = working
        .iter()
        .flat_map(|folder| folder.ancestors())
        .map(|folder| folder.join(FILE_NAME));
    let users = sys::folder_of("XDG_CONFIG_HOME")
        .or_else(|| home.map(|home| home.join(".config")))
        .map(|folder| folder.join("devbox").join(FILE_NAME));
    upward.chain(users).find(|path| path.is_file())
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        let failure = Failure::new(code::FAILED, format!("{}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::InvalidData => failure.help("it must be UTF-8 text"),
            _ => failure,
        }
    })?;
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_saphyr::from_str(&text)
        .map_err(|error| Failure::new(code::FAILED, format!("{}: {error}", path.display())))
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

    /// The failure of a file, its folder left out.
    fn failure(text: &str) -> String {
        let failure = load(text, &ConnectArgs::default()).unwrap_err().to_string();
        let from = failure.find(FILE_NAME).unwrap();
        failure[from..].to_owned()
    }

    /// `name far-side environment` of each provider.
    fn shown(config: &Config) -> Vec<String> {
        let sides = config.far_sides().zip(&config.providers);
        sides
            .map(|((far_side, environment), provider)| {
                let environment = environment.map_or("-", |label| label.as_ref());
                format!("{} {far_side} {environment}", provider.name)
            })
            .collect()
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "gateway: ws://127.0.0.1:1\nenvironment: staging\npool: 127.78.0.0/16\n";
        let args = ConnectArgs {
            env: Some("dev".parse().unwrap()),
            ..ConnectArgs::default()
        };
        let config = load(text, &args).unwrap();
        assert_eq!(shown(&config), ["gateway ws://127.0.0.1:1/ dev"]);
        assert_eq!(config.pool, ["127.78.0.0/16".parse().unwrap()]);
    }

    const LIST: &str = "\
gateway: ws://127.0.0.1:1
token_file: t
environment: staging
providers:
  - {name: cluster, kind: gateway, url: \"wss://two.example\", token_file: t2, environment: blue}
  - {name: local, kind: direct, catalog: /srv/catalog.yaml}
";

    #[test]
    fn the_short_form_comes_before_the_list() {
        let config = load(LIST, &ConnectArgs::default()).unwrap();
        assert_eq!(
            shown(&config),
            [
                "gateway ws://127.0.0.1:1/ staging",
                "cluster wss://two.example/ blue",
                "local /srv/catalog.yaml -"
            ]
        );
        assert!(config.names.named_environments.contains("blue"));
    }

    #[test]
    fn an_environment_on_the_command_line_is_asked_of_every_gateway() {
        let args = ConnectArgs {
            env: Some("dev".parse().unwrap()),
            ..ConnectArgs::default()
        };
        let asked: Vec<_> = load(LIST, &args)
            .unwrap()
            .far_sides()
            .map(|(_, environment)| environment.cloned())
            .collect();
        let dev = || Some("dev".parse().unwrap());
        assert_eq!(asked, [dev(), dev(), None]);
        // Where there is no gateway, it is asked of the catalogs.
        let args = ConnectArgs {
            catalog: vec!["/srv/c.yaml".into()],
            ..args
        };
        let config = load("", &args).unwrap();
        assert_eq!(shown(&config), ["catalog /srv/c.yaml dev"]);
    }

    #[test]
    fn flags_of_a_kind_replace_those_of_the_file() {
        let gateways = ConnectArgs {
            gateway: vec![
                "ws://127.0.0.1:8".parse().unwrap(),
                "ws://127.0.0.1:9".parse().unwrap(),
            ],
            ..ConnectArgs::default()
        };
        assert_eq!(
            shown(&load(LIST, &gateways).unwrap()),
            [
                "gateway ws://127.0.0.1:8/ staging",
                "gateway-2 ws://127.0.0.1:9/ staging",
                "local /srv/catalog.yaml -"
            ]
        );
        let catalogs = ConnectArgs {
            catalog: vec!["/srv/c.yaml".into()],
            ..ConnectArgs::default()
        };
        assert_eq!(
            shown(&load(LIST, &catalogs).unwrap()),
            [
                "gateway ws://127.0.0.1:1/ staging",
                "catalog /srv/c.yaml -",
                "cluster wss://two.example/ blue"
            ]
        );
    }

    #[test]
    fn paths_are_relative_to_the_file_and_to_home() {
        let text = "gateway: wss://g.example\ntoken_file: secret/token\ntls_ca: ~/ca.pem\n";
        let config = load(text, &ConnectArgs::default()).unwrap();
        let folder = config.file.clone().unwrap().parent().unwrap().to_owned();
        let Kind::Gateway {
            token_file, tls_ca, ..
        } = &config.providers[0].kind
        else {
            panic!("{config:?}")
        };
        assert_eq!(token_file.as_ref().unwrap(), &folder.join("secret/token"));
        assert_eq!(tls_ca.as_ref().unwrap(), Path::new("/home/ada/ca.pem"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let mistakes = [
            "gateway: ws://127.0.0.1:1\ngatway: oops\n",
            "providers:\n  - name: a\n    kind: teleport\n",
            "providers:\n  - name: a\n    kind: gateway\n    token_file: t\n",
            "providers:\n  - {name: a, kind: gateway, url: \"ws://127.0.0.1:1\"}\n",
            "providers:\n  - {name: a, kind: direct}\n",
            "providers:\n  - {name: a, kind: direct, catalog: c, token_file: t}\n",
            "providers:\n  - {name: a, kind: direct, catalog: c}\n  - {name: a, kind: direct, catalog: d}\n",
            "providers:\n  - {kind: direct, catalog: c}\n",
        ];
        insta::assert_snapshot!(mistakes.map(failure).join("\n"));
    }

    #[test]
    fn the_limit_of_connections_can_be_set() {
        let config = load("limits:\n  connections: 20000\n", &ConnectArgs::default()).unwrap();
        assert_eq!(config.max_connections, 20_000);
        assert!(failure("limits: {connections: 0}\n").contains("limits"));
    }

    #[test]
    fn services_have_options() {
        let text = "share: true\nservices:\n  orders.backend: {idle_timeout: 10m, max_connections: 50, \
                    bandwidth: 10MiB/s, proxy_protocol: v2, share: false}\n  web.shop: {}\n";
        let config = load(text, &ConnectArgs::default()).unwrap();
        assert!(config.share);
        let orders = ServiceOptions {
            share: Some(false),
            idle_timeout: Some(std::time::Duration::from_secs(600)),
            max_connections: NonZeroUsize::new(50),
            bandwidth: std::num::NonZeroU64::new(10 << 20),
            proxy_protocol: true,
        };
        let services: Vec<_> = config.services.values().cloned().collect();
        assert_eq!(services, [orders, ServiceOptions::default()]);
    }

    #[test]
    fn mistakes_about_services_are_named_with_their_place() {
        let mistakes = [
            "idle_timeout: 10 parsecs",
            "idle_timeout: 0s",
            "idle_timeout: 9000000000000000h",
            "bandwidth: fast",
            "bandwidth: 10mib/s",
            "bandwidth: 10MiB",
            "bandwidth: 1B/s",
            "bandwidth: 99999999999999999999GiB/s",
            "max_connections: 0",
            "max_connections: many",
            "proxy_protocol: v1",
            "idle-timeout: 10m",
            "shared: true",
        ];
        let mistakes =
            mistakes.map(|mistake| failure(&format!("services:\n  orders.backend:\n    {mistake}\n")));
        insta::assert_snapshot!(mistakes.join("\n"));
        insta::assert_snapshot!(failure("services:\n  orders: {share: true}\n"));
    }

    #[test]
    fn the_name_of_the_short_form_gives_way() {
        let text = "gateway: ws://127.0.0.1:1\nproviders:\n  - {name: gateway, kind: direct, catalog: /c}\n";
        let config = load(text, &ConnectArgs::default()).unwrap();
        assert_eq!(shown(&config), ["gateway-2 ws://127.0.0.1:1/ -", "gateway /c -"]);
    }

    #[test]
    fn an_empty_file_is_no_error() {
        let config = load("# nothing yet\n", &ConnectArgs::default()).unwrap();
        assert_eq!(config.pool, default_pools());
        assert_eq!(config.max_connections, 16_384);
        insta::assert_snapshot!(config.providers().unwrap_err().to_string());
    }

    #[test]
    fn a_gateway_without_a_token_says_how_to_name_one() {
        let config = load("gateway: wss://g.example\n", &ConnectArgs::default()).unwrap();
        insta::assert_snapshot!(config.providers().unwrap_err().to_string());
    }
}
