//! Far sides, as a session is told of them.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use catalog_kube::{ClusterOptions, KubeOptions, WayIn};
use devbox_engine::{
    Carriage, GatewayConfig, Identity, Pin, ProviderConfig, ProviderKind, Proxies, Proxy, Secret,
    TokenConfig, Trust,
};
use serde::Deserialize;
use service_catalog::ServiceId;
use url::Url;

use super::{label, one_or_more, parse, wrong};
use crate::error::DevboxError;

/// One far side.
#[derive(Debug, Clone, Deserialize, uniffi::Enum)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provider {
    /// A devbox gateway.
    Gateway(GatewayProvider),
    /// A catalog file whose targets are dialed from this machine.
    Direct(DirectProvider),
    /// Namespaces of a Kubernetes cluster.
    Kubernetes(KubernetesProvider),
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
    #[uniffi(default = None)]
    pub token_file: Option<String>,
    /// The token itself.
    #[uniffi(default = None)]
    pub token: Option<String>,
    /// The environment to ask for. Without one, that which it serves at the first connect is taken and kept to.
    #[uniffi(default = None)]
    pub environment: Option<String>,
    /// The proxy to go through: `http://HOST:PORT`, `https://`, `socks5://` or `socks5h://`; `none`; or `environment` for what
    /// `HTTPS_PROXY` and its kin say when the session starts. Default: none.
    #[uniffi(default = None)]
    pub proxy: Option<String>,
    /// What may carry the link. Default: what the gateway and everything on the way takes.
    #[uniffi(default = None)]
    pub carrier: Option<Carrier>,
    /// Further headers of the request. Their values are never shown.
    #[serde(default)]
    #[uniffi(default)]
    pub headers: HashMap<String, String>,
    /// A PEM file of certificate authorities to trust in place of the system's.
    #[uniffi(default = None)]
    pub tls_ca: Option<String>,
    /// A PEM file of certificate authorities to trust beside these.
    #[uniffi(default = None)]
    pub tls_extra_ca: Option<String>,
    /// The keys that the gateway may have, `sha256/…` each; empty allows any.
    #[serde(default, deserialize_with = "one_or_more")]
    #[uniffi(default = [])]
    pub tls_pin: Vec<String>,
    /// The PEM file of the certificate that is shown to a gateway that asks for one, with `tls_key`.
    #[uniffi(default = None)]
    pub tls_cert: Option<String>,
    /// The PEM file of its private key.
    #[uniffi(default = None)]
    pub tls_key: Option<String>,
    /// Whether any certificate is taken, so that anyone on the way can read and change what is carried. What `tls_pin` demands is
    /// still checked.
    #[serde(default)]
    #[uniffi(default = false)]
    pub accept_any_certificate: bool,
    /// Whether the token may be sent over `ws://` to another machine, readable for anyone on the way.
    #[serde(default)]
    #[uniffi(default = false)]
    pub insecure: bool,
}

/// What may carry a link through HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, uniffi::Enum)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// The raw protocol where the gateway and everything on the way takes it, else WebSocket.
    Auto,
    /// The raw protocol alone.
    Raw,
    /// WebSocket alone.
    WebSocket,
}

/// Without the token and what headers and a proxy may hide.
impl fmt::Debug for GatewayProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    #[uniffi(default = None)]
    pub environment: Option<String>,
}

/// Namespaces of a Kubernetes cluster, with the rights of a kubeconfig. What is left out is what the kubeconfig says when the session
/// starts.
#[derive(Debug, Clone, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct KubernetesProvider {
    /// Its name, for messages; no two have the same.
    pub name: String,
    /// The kubeconfig. Default: the user's, or that of the pod that this process runs in.
    #[uniffi(default = None)]
    pub kubeconfig: Option<String>,
    /// The context. Default: the current one.
    #[uniffi(default = None)]
    pub context: Option<String>,
    /// What the environment is called. Default: the context's name, as far as a label can have its characters.
    #[uniffi(default = None)]
    pub environment: Option<String>,
    /// The namespaces. Default: the one that the context names.
    #[serde(default)]
    #[uniffi(default = [])]
    pub namespaces: Vec<String>,
    /// The way in: `auto`, `forward` (port-forwards, with nothing installed), `pod` (a gateway pod that lives as long as the sessions
    /// that use it), `gateway` (one that is installed in the cluster) or the URL of a gateway. Default: `auto`, an installed gateway
    /// where there is one, otherwise port-forwards.
    #[uniffi(default = None)]
    pub via: Option<String>,
    /// The image of a gateway pod. Default: the released one of this version.
    #[uniffi(default = None)]
    pub gateway_image: Option<String>,
    /// The file with the token for an installed gateway. Default: one of a service account, which the API server is asked for.
    #[uniffi(default = None)]
    pub gateway_token_file: Option<String>,
    /// A PEM file of certificate authorities to trust in place of the system's, for a gateway at a URL (`via`). For the API server the
    /// kubeconfig says it.
    #[uniffi(default = None)]
    pub tls_ca: Option<String>,
    /// A PEM file of certificate authorities to trust beside these.
    #[uniffi(default = None)]
    pub tls_extra_ca: Option<String>,
    /// The keys that the gateway may have, `sha256/…` each; empty allows any.
    #[serde(default, deserialize_with = "one_or_more")]
    #[uniffi(default = [])]
    pub tls_pin: Vec<String>,
    /// The PEM file of the certificate that is shown to a gateway that asks for one, with `tls_key`.
    #[uniffi(default = None)]
    pub tls_cert: Option<String>,
    /// The PEM file of its private key.
    #[uniffi(default = None)]
    pub tls_key: Option<String>,
    /// Whether any certificate of a gateway at a URL is taken, so that anyone on the way can read and change what is carried. What
    /// `tls_pin` demands is still checked.
    #[serde(default)]
    #[uniffi(default = false)]
    pub accept_any_certificate: bool,
    /// Only services whose labels this selects: `app in (web,api),tier!=batch`.
    #[uniffi(default = None)]
    pub selector: Option<String>,
    /// Only services whose fields this selects: `metadata.name=web`.
    #[uniffi(default = None)]
    pub field_selector: Option<String>,
    /// Only services whose name matches one of these, with `*` for any characters. Empty: all.
    #[serde(default)]
    #[uniffi(default = [])]
    pub include: Vec<String>,
    /// No services whose name matches one of these.
    #[serde(default)]
    #[uniffi(default = [])]
    pub exclude: Vec<String>,
    /// Services, `name.namespace` each, to look at one by one in namespaces whose services the user may not list.
    #[serde(default)]
    #[uniffi(default = [])]
    pub services: Vec<String>,
    /// The zone that connections come from: endpoints in it are preferred.
    #[uniffi(default = None)]
    pub zone: Option<String>,
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
            Provider::Kubernetes(cluster) => cluster.try_into(),
        }
    }
}

impl TryFrom<GatewayProvider> for ProviderConfig {
    type Error = DevboxError;

    fn try_from(gateway: GatewayProvider) -> Result<Self, DevboxError> {
        let token = match (&gateway.token_file, &gateway.token) {
            (Some(file), None) => TokenConfig::File(file.into()),
            (None, Some(token)) => TokenConfig::Secret(token.clone()),
            (None, None) | (Some(_), Some(_)) => {
                return Err(wrong(
                    "token_file",
                    "",
                    "a gateway needs either `token_file` or `token`",
                ));
            }
        };
        let mut config = Self::gateway(gateway.name.clone(), parse::<Url>("url", &gateway.url)?, token);
        config.environment = label("environment", gateway.environment.clone())?;
        if let ProviderKind::Gateway(kind) = &mut config.kind {
            gateway.fill(kind)?;
        }
        Ok(config)
    }
}

/// The keys that say which certificates are taken and shown.
struct TlsKeys {
    ca: Option<String>,
    extra_ca: Option<String>,
    pin: Vec<String>,
    certificate: Option<String>,
    key: Option<String>,
    accept_any_certificate: bool,
}

/// Those of a record, moved out of it. Records of foreign languages have no records in them that show as their own fields.
macro_rules! tls_keys {
    ($of:ident) => {
        TlsKeys {
            ca: $of.tls_ca,
            extra_ca: $of.tls_extra_ca,
            pin: $of.tls_pin,
            certificate: $of.tls_cert,
            key: $of.tls_key,
            accept_any_certificate: $of.accept_any_certificate,
        }
    };
}

impl TlsKeys {
    fn trust(self) -> Result<Trust, DevboxError> {
        let mut trust = Trust::default();
        trust.ca = self.ca.map(PathBuf::from);
        trust.extra_ca = self.extra_ca.map(PathBuf::from);
        let pins = self.pin.iter().map(|pin| parse::<Pin>("tls_pin", pin));
        trust.pins = pins.collect::<Result<_, _>>()?;
        trust.identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificate: certificate.into(),
                key: key.into(),
            }),
            (Some(_), None) => return Err(wrong("tls_key", "", "`tls_cert` needs `tls_key`")),
            (None, Some(_)) => return Err(wrong("tls_cert", "", "`tls_key` needs `tls_cert`")),
            (None, None) => None,
        };
        trust.danger_accept_any_certificate = self.accept_any_certificate;
        Ok(trust)
    }
}

impl GatewayProvider {
    /// How to get in.
    fn fill(self, gateway: &mut GatewayConfig) -> Result<(), DevboxError> {
        gateway.trust = tls_keys!(self).trust()?;
        gateway.proxies = match self.proxy.as_deref() {
            None | Some("none") => Proxies::none(),
            Some("environment") => Proxies::from_env(|name| std::env::var(name).ok()),
            // The text may have a password in it.
            Some(text) => {
                Proxies::always(Proxy::parse(text).map_err(|error| wrong("proxy", "", &error.to_string()))?)
            }
        };
        gateway.carriage = self.carrier.unwrap_or(Carrier::Auto).into();
        let headers = self.headers.into_iter();
        gateway.headers = headers.map(|(name, value)| (name, Secret(value))).collect();
        // A map has no order; the request has one, the same at each connect.
        gateway.headers.sort_by(|(one, _), (other, _)| one.cmp(other));
        gateway.insecure = self.insecure;
        Ok(())
    }
}

impl From<Carrier> for Carriage {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Auto => Self::Auto,
            Carrier::Raw => Self::Raw,
            Carrier::WebSocket => Self::WebSocket,
        }
    }
}

impl TryFrom<KubernetesProvider> for ProviderConfig {
    type Error = DevboxError;

    fn try_from(cluster: KubernetesProvider) -> Result<Self, DevboxError> {
        let services = cluster.services.iter();
        let services = services.map(|service| parse::<ServiceId>("services", service));
        let via = cluster.via.as_deref().map(|text| parse::<WayIn>("via", text));
        let options = KubeOptions {
            cluster: ClusterOptions {
                kubeconfig: cluster.kubeconfig.map(PathBuf::from),
                context: cluster.context,
            },
            // It is the provider's.
            environment: None,
            namespaces: cluster.namespaces,
            label_selector: cluster.selector,
            field_selector: cluster.field_selector,
            include: cluster.include,
            exclude: cluster.exclude,
            services: services.collect::<Result<_, _>>()?,
            zone: cluster.zone,
            via: via.transpose()?.unwrap_or_default(),
            gateway_image: cluster.gateway_image,
            gateway_token_file: cluster.gateway_token_file.map(PathBuf::from),
            gateway_trust: tls_keys!(cluster).trust()?,
        };
        Ok(Self {
            environment: label("environment", cluster.environment)?,
            ..Self::kubernetes(cluster.name, options)
        })
    }
}
