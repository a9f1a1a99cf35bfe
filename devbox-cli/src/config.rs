//! What a session is told: flags over environment variables over `devbox.yaml` over the defaults.

mod cluster;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use catalog_kube::KubeOptions;
use devbox_engine::{
    Carriage, Dns, Identity, MAX_CONNECTIONS, NamesPolicy, Pin, ProviderConfig, ProviderKind, Proxies, Proxy,
    Secret, ServiceOptions, TokenConfig, Trust, default_pools,
};
use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};
use service_catalog::{Label, ServiceId};
use url::Url;

use crate::args::{Carrier, ConnectArgs, Naming};
use crate::dns::{DEFAULT_LISTEN, DEFAULT_SUFFIX};
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
    gateway: Option<Short>,
    token_file: Option<PathBuf>,
    environment: Option<Label>,
    tls_ca: Option<PathBuf>,
    /// Clusters, which come after the gateway of the short form.
    #[serde(default)]
    kubernetes: cluster::Entries,
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
    /// Where the names go.
    #[serde(default)]
    naming: Naming,
    #[serde(default)]
    dns: DnsEntry,
    #[serde(default)]
    services: BTreeMap<ServiceId, service::Entry>,
}

/// The session's DNS server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DnsEntry {
    listen: Option<SocketAddr>,
    suffix: Option<String>,
}

/// The keys of an entry that say which certificates are taken and shown.
macro_rules! tls_keys {
    ($entry:expr) => {
        TlsKeys {
            ca: &$entry.tls_ca,
            extra_ca: &$entry.tls_extra_ca,
            pin: &$entry.tls_pin,
            certificate: &$entry.tls_cert,
            key: &$entry.tls_key,
            accept_any_certificate: &$entry.accept_any_certificate,
        }
    };
}
use tls_keys;

/// A struct with the keys of a gateway and some more. serde cannot both flatten one into the other and deny unknown fields.
macro_rules! with_keys_of_a_gateway {
    ($(#[$attribute:meta])* struct $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($field: $kind,)*
            environment: Option<Label>,
            url: Option<Spanned<Url>>,
            token_file: Option<Spanned<PathBuf>>,
            proxy: Option<Spanned<Hidden>>,
            carrier: Option<Spanned<Carrier>>,
            headers: Option<Spanned<BTreeMap<String, Hidden>>>,
            tls_ca: Option<Spanned<PathBuf>>,
            tls_extra_ca: Option<Spanned<PathBuf>>,
            tls_pin: Option<Spanned<Texts>>,
            tls_cert: Option<Spanned<PathBuf>>,
            tls_key: Option<Spanned<PathBuf>>,
            accept_any_certificate: Option<Spanned<bool>>,
            insecure: Option<Spanned<bool>>,
        }

        impl $name {
            fn way(&self, place: &Place<'_>, args: &ConnectArgs) -> Result<Way, Failure> {
                let yes = |key: &Option<Spanned<bool>>| key.as_ref().is_some_and(|key| key.value);
                let trust = tls_keys!(self).trust(place, args)?;
                let proxies = match (&args.proxy, &self.proxy) {
                    (Some(text), _) => proxies(text, |why| Failure::new(code::FAILED, format!("--proxy: {why}")))?,
                    (None, Some(text)) => proxies(&text.value.0, |why| place.at(text.referenced, why))?,
                    (None, None) => environment(),
                };
                let carrier = args.carrier.or(self.carrier.as_ref().map(|carrier| carrier.value));
                let headers = self.headers.iter().flat_map(|headers| &headers.value);
                Ok(Way {
                    trust,
                    proxies,
                    carriage: carrier.map(Carriage::from).unwrap_or_default(),
                    headers: headers.map(|(name, value)| (name.clone(), Secret(value.0.clone()))).collect(),
                    insecure: args.insecure || yes(&self.insecure),
                })
            }
        }
    };
}

with_keys_of_a_gateway! {
    /// One of the list of providers. Which keys it must have depends on its kind.
    struct Entry {
        name: Spanned<Label>,
        kind: Spanned<String>,
        catalog: Option<Spanned<PathBuf>>,
    }
}

impl Entry {
    /// The keys that only a gateway has, and where they are.
    fn places(&self) -> [(&'static str, Option<Location>); 12] {
        fn at<T>(key: &Option<Spanned<T>>) -> Option<Location> {
            key.as_ref().map(|found| found.referenced)
        }
        [
            ("url", at(&self.url)),
            ("token_file", at(&self.token_file)),
            ("proxy", at(&self.proxy)),
            ("carrier", at(&self.carrier)),
            ("headers", at(&self.headers)),
            ("tls_ca", at(&self.tls_ca)),
            ("tls_extra_ca", at(&self.tls_extra_ca)),
            ("tls_pin", at(&self.tls_pin)),
            ("tls_cert", at(&self.tls_cert)),
            ("tls_key", at(&self.tls_key)),
            ("accept_any_certificate", at(&self.accept_any_certificate)),
            ("insecure", at(&self.insecure)),
        ]
    }
}

with_keys_of_a_gateway! {
    /// The one gateway of the short form, with more than its URL.
    #[derive(Default)]
    struct Gateway {}
}

/// The short form: a URL, or the keys of a gateway.
#[derive(Debug, Clone)]
struct Short(Box<Gateway>);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrKeys;

        impl<'de> Visitor<'de> for UrlOrKeys {
            type Value = Short;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the URL of a gateway, or its keys (`url:` and others)")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Short, E> {
                let url = text.parse().map_err(E::custom)?;
                let url = Spanned::new(url, Location::UNKNOWN, Location::UNKNOWN);
                Ok(Short(Box::new(Gateway {
                    url: Some(url),
                    ..Gateway::default()
                })))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Short, A::Error> {
                let keys = Gateway::deserialize(MapAccessDeserializer::new(map))?;
                if keys.url.is_none() {
                    return Err(serde::de::Error::missing_field("url"));
                }
                Ok(Short(Box::new(keys)))
            }
        }

        deserializer.deserialize_any(UrlOrKeys)
    }
}

/// One text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Texts {
    fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        };
        texts.iter().map(String::as_str)
    }
}

/// A text that may have a secret in it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// The keys that say which certificates are taken and shown.
struct TlsKeys<'a> {
    ca: &'a Option<Spanned<PathBuf>>,
    extra_ca: &'a Option<Spanned<PathBuf>>,
    pin: &'a Option<Spanned<Texts>>,
    certificate: &'a Option<Spanned<PathBuf>>,
    key: &'a Option<Spanned<PathBuf>>,
    accept_any_certificate: &'a Option<Spanned<bool>>,
}

impl TlsKeys<'_> {
    /// What they come to, with what the command line says in place of them.
    fn trust(&self, place: &Place<'_>, args: &ConnectArgs) -> Result<Trust, Failure> {
        let path = |path: &Option<Spanned<PathBuf>>| path.as_ref().map(|path| place.path(&path.value));
        let mut trust = Trust::default();
        trust.ca = args.tls_ca.clone().or_else(|| path(self.ca));
        trust.extra_ca = args.tls_extra_ca.clone().or_else(|| path(self.extra_ca));
        trust.pins.clone_from(&args.tls_pin);
        if let (Some(pins), true) = (self.pin, trust.pins.is_empty()) {
            for text in pins.value.iter() {
                let pin = text.parse::<Pin>();
                let pin = pin.map_err(|error| place.at(pins.referenced, &error.to_string()))?;
                trust.pins.push(pin);
            }
        }
        trust.identity = identity_of(args);
        match (self.certificate, self.key) {
            (Some(certificate), Some(key)) if trust.identity.is_none() => {
                let (certificate, key) = (place.path(&certificate.value), place.path(&key.value));
                trust.identity = Some(Identity { certificate, key });
            }
            (Some(alone), None) => {
                return Err(place.at(alone.referenced, "`tls_cert:` needs `tls_key:`"));
            }
            (None, Some(alone)) => {
                return Err(place.at(alone.referenced, "`tls_key:` needs `tls_cert:`"));
            }
            _ => {}
        }
        trust.danger_accept_any_certificate =
            args.accept_any_certificate || self.accept_any_certificate.as_ref().is_some_and(|key| key.value);
        Ok(trust)
    }
}

fn identity_of(args: &ConnectArgs) -> Option<Identity> {
    Some(Identity {
        certificate: args.tls_cert.clone()?,
        key: args.tls_key.clone()?,
    })
}

/// What `proxy:` and `--proxy` say. The text is not in the failure, as it may have a password in it.
fn proxies(text: &str, failed: impl FnOnce(&str) -> Failure) -> Result<Proxies, Failure> {
    match text {
        "none" => Ok(Proxies::none()),
        text => Proxy::parse(text).map(Proxies::always).map_err(|error| {
            failed(&error.to_string())
                .help("name one as http://HOST:PORT, https://, socks5:// or socks5h://, or say `none`")
        }),
    }
}

fn environment() -> Proxies {
    Proxies::from_env(|name| std::env::var(name).ok())
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

impl DnsEntry {
    fn read(self) -> Result<Dns, Failure> {
        let suffix = self
            .suffix
            .as_deref()
            .unwrap_or(DEFAULT_SUFFIX)
            .parse::<nameserver::Name>();
        Ok(Dns {
            listen: self.listen.unwrap_or(DEFAULT_LISTEN),
            or_another_port: self.listen.is_none(),
            suffix: suffix
                .map_err(|error| Failure::because(error).help("dns.suffix is one such as devbox.test"))?,
        })
    }
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
    /// Where the names go.
    pub(crate) naming: Naming,
    /// The session's DNS server, if it is to have one.
    pub(crate) dns: Dns,
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
        way: Box<Way>,
    },
    Direct {
        catalog: PathBuf,
    },
    Kubernetes(Box<KubeOptions>),
}

/// How a gateway is reached.
#[derive(Debug, Clone)]
struct Way {
    trust: Trust,
    proxies: Proxies,
    carriage: Carriage,
    headers: Vec<(String, Secret)>,
    insecure: bool,
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

        let active = args.namespace.first().cloned().or(file.names.active);
        // What the user wrote down is named by the user: `named` means both.
        let (mut named_namespaces, mut named_environments) = (file.names.named.clone(), file.names.named);
        named_namespaces.extend(active.iter().chain(&args.namespace).cloned());
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
            naming: file.naming,
            dns: file.dns.read()?,
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
                // One that cannot be used is nobody's; a session of its own says why.
                Kind::Kubernetes(options) => options
                    .settled()
                    .map(|options| options.far_side())
                    .unwrap_or_default(),
            };
            (far_side, provider.environment.as_ref())
        })
    }

    /// Whether each of its far sides is a cluster.
    pub(crate) fn names_clusters_only(&self) -> bool {
        self.providers
            .iter()
            .all(|provider| matches!(provider.kind, Kind::Kubernetes(_)))
    }

    /// Its clusters. Where it names none, the one that the flags mean is.
    pub(crate) fn clusters(&self, args: &ConnectArgs) -> Result<Vec<KubeOptions>, Failure> {
        let of = |providers: &[Provider]| -> Vec<KubeOptions> {
            let kinds = providers.iter().map(|provider| &provider.kind);
            kinds
                .filter_map(|kind| match kind {
                    Kind::Kubernetes(options) => Some((**options).clone()),
                    Kind::Gateway { .. } | Kind::Direct { .. } => None,
                })
                .collect()
        };
        let found = of(&self.providers);
        if !found.is_empty() {
            return Ok(found);
        }
        let place = Place {
            file: Path::new(""),
            home: None,
        };
        let one = cluster::Entry::default().provider(args, &place)?;
        Ok(of(&[one]))
    }

    /// The providers, complete.
    pub(crate) fn providers(&self) -> Result<Vec<ProviderConfig>, Failure> {
        if self.providers.is_empty() {
            return Err(
                Failure::new(code::FAILED, "no cluster, no gateway and no catalog is named")
                    .help("name a namespace of the cluster that kubectl uses with -n NAMESPACE,")
                    .help("a gateway with --gateway ws://HOST:PORT --token-file FILE,")
                    .help("a catalog whose services this machine can reach with --catalog FILE,")
                    .help(format!(
                        "or any of them in {FILE_NAME}, looked for from this folder upward:"
                    ))
                    .help("")
                    .help("  gateway: wss://gateway.example")
                    .help("  token_file: ~/.config/devbox/token")
                    .help("")
                    .help("`devbox demo` shows it all without one"),
            );
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
            Kind::Kubernetes(options) => ProviderKind::Kubernetes((**options).clone()),
            Kind::Gateway { url, token_file, way } => {
                let Some(token_file) = token_file.clone() else {
                    return Err(Failure::new(code::FAILED, format!("no token for {url} is named")).help(
                        "name the file that holds it with --token-file FILE, or as token_file: in devbox.yaml",
                    ));
                };
                let token = TokenConfig::File(token_file);
                let mut config = ProviderConfig::gateway(&self.name, url.clone(), token);
                config.environment.clone_from(&self.environment);
                if let ProviderKind::Gateway(gateway) = &mut config.kind {
                    gateway.trust = way.trust.clone();
                    gateway.proxies = way.proxies.clone();
                    gateway.carriage = way.carriage;
                    gateway.headers.clone_from(&way.headers);
                    gateway.insecure = way.insecure;
                }
                return Ok(config);
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
    let short = file.gateway.as_ref().map(|short| &*short.0);
    let gateways: Vec<_> = if args.gateway.is_empty() {
        short.into_iter().cloned().collect()
    } else {
        let of_flag = |url: &Url| Gateway {
            url: Some(Spanned::new(url.clone(), Location::UNKNOWN, Location::UNKNOWN)),
            ..Gateway::default()
        };
        args.gateway.iter().map(of_flag).collect()
    };
    let listed = file
        .providers
        .iter()
        .map(|entry| place.provider(&entry.value, entry.referenced, args))
        .collect::<Result<Vec<_>, _>>()?;
    let listed = listed.into_iter().filter(|provider| match provider.kind {
        Kind::Gateway { .. } => args.gateway.is_empty(),
        Kind::Direct { .. } => args.catalog.is_empty(),
        Kind::Kubernetes(_) => true,
    });
    let listed: Vec<_> = listed.collect();
    let mut seen = BTreeSet::new();
    let of_clusters = file.kubernetes.0.iter().filter_map(|entry| entry.name.as_ref());
    for name in file
        .providers
        .iter()
        .map(|entry| &entry.value.name)
        .chain(of_clusters)
    {
        if !seen.insert(&name.value) {
            return Err(place.at(
                name.referenced,
                &format!("two providers are called `{}`", name.value),
            ));
        }
    }
    let mut taken: BTreeSet<String> = listed.iter().map(|provider| provider.name.clone()).collect();
    let mut providers = Vec::new();
    for gateway in gateways {
        let Some(url) = &gateway.url else { continue };
        let own = |path: &Option<PathBuf>| path.as_ref().map(|path| place.path(path));
        let keyed = gateway.token_file.as_ref().map(|path| place.path(&path.value));
        let mut way = gateway.way(place, args)?;
        // The short form's own key at the top of the file.
        way.trust.ca = way.trust.ca.or_else(|| own(&file.tls_ca));
        let environment = args.env.as_ref().or(gateway.environment.as_ref());
        providers.push(Provider {
            name: free_name(GATEWAY, &mut taken),
            environment: environment.or(file.environment.as_ref()).cloned(),
            kind: Kind::Gateway {
                url: url.value.clone(),
                token_file: args
                    .token_file
                    .clone()
                    .or(keyed)
                    .or_else(|| own(&file.token_file)),
                way: Box::new(way),
            },
        });
    }
    let alone = providers.is_empty() && listed.is_empty() && args.catalog.is_empty();
    for found in cluster::providers(args, &file.kubernetes, place, alone)? {
        providers.push(Provider {
            name: free_name(&found.name, &mut taken),
            ..found
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
        // With no gateway, `--env` can only mean the clusters and catalogs.
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
                let kind = Kind::Gateway {
                    url: url.value.clone(),
                    token_file: Some(token_file.ok_or_else(|| missing("token_file"))?),
                    way: Box::new(entry.way(self, args)?),
                };
                (kind, args.env.as_ref().or(entry.environment.as_ref()))
            }
            "direct" => {
                for (key, found) in entry.places() {
                    foreign(key, found)?;
                }
                let catalog = entry.catalog.as_ref().ok_or_else(|| missing("catalog"))?;
                let catalog = self.path(&catalog.value);
                let catalog = std::path::absolute(catalog).map_err(Failure::because)?;
                (Kind::Direct { catalog }, entry.environment.as_ref())
            }
            "kubernetes" => {
                return Err(self.at(
                    entry.kind.referenced,
                    "clusters have a list of their own: `kubernetes:`, at the top of the file",
                ));
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
    serde_saphyr::from_str(&text).map_err(|error| {
        let name = path.file_name().map(OsStr::to_string_lossy);
        let shown = error.render_with_options(serde_saphyr::render_options! { source_name: name.as_deref() });
        Failure::new(code::FAILED, format!("{}: {shown}", path.display()))
    })
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
        let Kind::Gateway { token_file, way, .. } = &config.providers[0].kind else {
            panic!("{config:?}")
        };
        assert_eq!(token_file.as_ref().unwrap(), &folder.join("secret/token"));
        assert_eq!(way.trust.ca.as_ref().unwrap(), Path::new("/home/ada/ca.pem"));
    }

    fn way(config: &Config) -> &Way {
        let Kind::Gateway { way, .. } = &config.providers[0].kind else {
            panic!("{config:?}")
        };
        way
    }

    const WAY: &str = "\
gateway:
  url: wss://g.example
  token_file: t
  environment: staging
  proxy: socks5h://ada:hunter2@proxy.example
  carrier: websocket
  headers: {X-Key: hunter2}
  tls_ca: ca.pem
  tls_extra_ca: extra.pem
  tls_pin: [sha256/r/mIkG3eEpVdm+u/ko/cwxzOMo1bk4TyHIlByibiA5E=]
  tls_cert: cert.pem
  tls_key: ~/key.pem
  accept_any_certificate: true
";

    #[test]
    fn the_way_to_a_gateway_can_be_said_in_the_short_form_and_in_the_list() {
        let listed = WAY
            .replace("gateway:\n", "providers:\n  - name: g\n    kind: gateway\n")
            .replace("\n  url", "\n    url");
        let listed: String = listed
            .lines()
            .map(|line| match line.strip_prefix("  ") {
                Some(rest) if !rest.starts_with(['-', ' ']) => format!("    {rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for text in [WAY, &listed] {
            let config = load(text, &ConnectArgs::default()).unwrap();
            assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
            assert_eq!(
                config.providers[0].environment.as_ref().unwrap().as_ref(),
                "staging"
            );
            let folder = config.file.clone().unwrap().parent().unwrap().to_owned();
            let way = way(&config);
            let identity = way.trust.identity.as_ref().unwrap();
            assert_eq!(way.trust.ca.as_ref().unwrap(), &folder.join("ca.pem"));
            assert_eq!(way.trust.extra_ca.as_ref().unwrap(), &folder.join("extra.pem"));
            assert_eq!(identity.certificate, folder.join("cert.pem"));
            assert_eq!(identity.key, Path::new("/home/ada/key.pem"));
            assert_eq!(way.trust.pins.len(), 1);
            assert!(way.trust.danger_accept_any_certificate);
            assert_eq!(way.carriage, Carriage::WebSocket);
            assert_eq!(way.headers[0].1.0, "hunter2");
            let proxy = way.proxies.choose(true, "g.example", 443).unwrap().unwrap();
            assert_eq!(proxy.to_string(), "socks5h://proxy.example:1080");
            // What the command line says counts more.
            let args = ConnectArgs {
                proxy: Some("none".to_owned()),
                carrier: Some(Carrier::Raw),
                ..ConnectArgs::default()
            };
            let config = load(text, &args).unwrap();
            let way = self::way(&config);
            assert_eq!(way.carriage, Carriage::Raw);
            assert!(way.proxies.choose(true, "g.example", 443).unwrap().is_none());
        }
    }

    #[test]
    fn mistakes_on_the_way_to_a_gateway_are_named_and_no_secret_is() {
        let gateway = |line: &str| format!("gateway:\n  url: wss://g.example\n  {line}\n");
        let mistakes = [
            gateway("proxy: \"ftp://ada:hunter2@proxy.example\""),
            gateway("carrier: pigeon"),
            gateway("tls_pin: sha256/short"),
            gateway("tls_cert: cert.pem"),
            gateway("tls_key: key.pem"),
            gateway("colour: blue"),
            "gateway: {token_file: t}\n".to_owned(),
            "gateway: 7\n".to_owned(),
            "providers:\n  - {name: a, kind: direct, catalog: c, proxy: none}\n".to_owned(),
        ];
        let told = mistakes.map(|text| failure(&text)).join("\n");
        assert!(!told.contains("hunter2"), "{told}");
        insta::assert_snapshot!(told);
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

    /// `name [context] namespaces via environment` of each cluster.
    fn clusters(config: &Config) -> Vec<String> {
        let of = |provider: &Provider| {
            let Kind::Kubernetes(options) = &provider.kind else {
                return provider.name.clone();
            };
            let context = options.cluster.context.as_deref().unwrap_or("-");
            let environment = provider.environment.as_ref().map_or("-", Label::as_str);
            let namespaces = options.namespaces.join(",");
            format!(
                "{} [{context}] {namespaces} {} {environment}",
                provider.name, options.via
            )
        };
        config.providers.iter().map(of).collect()
    }

    fn namespaces(names: &[&str]) -> ConnectArgs {
        ConnectArgs {
            namespace: names.iter().map(|name| name.parse().unwrap()).collect(),
            ..ConnectArgs::default()
        }
    }

    #[test]
    fn a_namespace_alone_is_one_of_the_cluster_that_kubectl_uses() {
        let config = load("", &namespaces(&["orders", "shop"])).unwrap();
        assert_eq!(clusters(&config), ["cluster [-] orders,shop auto -"]);
        assert_eq!(config.names.active.unwrap().as_str(), "orders");
        // `shop` is a public top-level domain as well, and was named.
        assert!(config.names.named_namespaces.contains("shop"));
        // Beside a gateway it is the one whose services get bare names.
        let config = load("gateway: wss://g.example\n", &namespaces(&["orders"])).unwrap();
        assert_eq!(clusters(&config), ["gateway"]);
        assert_eq!(config.names.active.unwrap().as_str(), "orders");
    }

    const CLUSTERS: &str = "\
gateway: wss://g.example
kubernetes:
  - context: staging
    namespaces: [orders, shop]
    via: pod
    gateway_image: registry.example/devbox-gateway:1
    kubeconfig: kube/config
    selector: tier=front
    field_selector: metadata.name!=old
    include: [\"web*\"]
    exclude: [web-old]
    services: [legacy.orders]
    environment: blue
  - {name: second, namespaces: [web]}
providers:
  - {name: local, kind: direct, catalog: /srv/catalog.yaml}
";

    #[test]
    fn clusters_are_a_list_of_their_own() {
        let config = load(CLUSTERS, &ConnectArgs::default()).unwrap();
        assert_eq!(
            clusters(&config),
            [
                "gateway",
                "staging [staging] orders,shop pod blue",
                "second [-] web auto -",
                "local"
            ]
        );
        assert!(config.names.named_environments.contains("blue"));
        assert!(!config.names_clusters_only());
        let folder = config.file.clone().unwrap().parent().unwrap().to_owned();
        let Kind::Kubernetes(options) = &config.providers[1].kind else {
            panic!("{config:?}")
        };
        let wanted = KubeOptions {
            cluster: catalog_kube::ClusterOptions {
                kubeconfig: Some(folder.join("kube/config")),
                context: Some("staging".to_owned()),
            },
            namespaces: vec!["orders".to_owned(), "shop".to_owned()],
            label_selector: Some("tier=front".to_owned()),
            field_selector: Some("metadata.name!=old".to_owned()),
            include: vec!["web*".to_owned()],
            exclude: vec!["web-old".to_owned()],
            services: vec!["legacy.orders".parse().unwrap()],
            via: catalog_kube::WayIn::Pod,
            gateway_image: Some("registry.example/devbox-gateway:1".to_owned()),
            ..KubeOptions::default()
        };
        assert_eq!(**options, wanted);
        // One cluster needs no list.
        let config = load("kubernetes: {namespaces: [orders]}\n", &ConnectArgs::default()).unwrap();
        assert_eq!(clusters(&config), ["cluster [-] orders auto -"]);
    }

    #[test]
    fn the_url_of_a_gateway_in_a_cluster_has_the_tls_keys_of_any_gateway() {
        let text = "kubernetes:\n  via: https://devbox.example\n  tls_ca: ca.pem\n  tls_cert: cert.pem\n  tls_key: ~/key.pem\n";
        let trust = |args: &ConnectArgs| {
            let config = load(text, args).unwrap();
            let Kind::Kubernetes(options) = &config.providers[0].kind else {
                panic!("{config:?}")
            };
            (
                options.gateway_trust.clone(),
                config.file.unwrap().parent().unwrap().to_owned(),
            )
        };
        let (found, folder) = trust(&ConnectArgs::default());
        assert_eq!(found.ca, Some(folder.join("ca.pem")));
        let identity = found.identity.unwrap();
        assert_eq!(identity.certificate, folder.join("cert.pem"));
        assert_eq!(identity.key, Path::new("/home/ada/key.pem"));
        let args = ConnectArgs {
            tls_ca: Some("/etc/other.pem".into()),
            ..ConnectArgs::default()
        };
        assert_eq!(trust(&args).0.ca, Some("/etc/other.pem".into()));
    }

    #[test]
    fn flags_about_clusters_win_over_the_file() {
        let mut args = namespaces(&["web"]);
        args.kube.via = Some(catalog_kube::WayIn::Forward);
        assert_eq!(
            clusters(&load(CLUSTERS, &args).unwrap()),
            [
                "gateway",
                "staging [staging] web forward blue",
                "second [-] web forward -",
                "local"
            ]
        );
        // A context that the file knows keeps what it says of it.
        let mut args = ConnectArgs::default();
        args.kube.context = vec!["staging".to_owned(), "production".to_owned()];
        assert_eq!(
            clusters(&load(CLUSTERS, &args).unwrap()),
            [
                "gateway",
                "staging [staging] orders,shop pod blue",
                "production [production]  auto -",
                "local"
            ]
        );
        // Without a gateway, `--env` names the clusters' environment.
        let mut args = namespaces(&["orders"]);
        args.env = Some("mine".parse().unwrap());
        assert_eq!(
            clusters(&load("", &args).unwrap()),
            ["cluster [-] orders auto mine"]
        );
    }

    #[test]
    fn mistakes_about_clusters_are_named_with_their_place() {
        let mistakes = [
            "kubernetes:\n  - namespace: orders\n",
            "kubernetes:\n  - namespaces: [Orders]\n",
            "kubernetes:\n  - context: staging\n    via: pods\n",
            "kubernetes:\n  - services: [orders]\n",
            "kubernetes: staging\n",
            "kubernetes:\n  - {name: a}\n  - {name: a}\n",
            "kubernetes:\n  - {name: a}\nproviders:\n  - {name: a, kind: direct, catalog: c}\n",
            "providers:\n  - {name: a, kind: kubernetes}\n",
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
                    bandwidth: 10MiB/s, proxy_protocol: v2, share: false, \
                    names: [db, store], pin: 127.77.3.4, order: 1}\n  web.shop: {}\n";
        let config = load(text, &ConnectArgs::default()).unwrap();
        assert!(config.share);
        let orders = ServiceOptions {
            share: Some(false),
            idle_timeout: Some(std::time::Duration::from_secs(600)),
            max_connections: NonZeroUsize::new(50),
            bandwidth: std::num::NonZeroU64::new(10 << 20),
            proxy_protocol: true,
            names: Some(vec!["db".parse().unwrap(), "store".parse().unwrap()]),
            pin: Some("127.77.3.4".parse().unwrap()),
            order: Some(1),
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
