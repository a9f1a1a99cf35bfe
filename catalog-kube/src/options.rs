use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use service_catalog::{Label, ServiceId};
use tunnel_bridge::Trust;
use url::Url;

use crate::ClusterOptions;

/// What of a cluster is provided, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeOptions {
    /// Which cluster, and as whom.
    pub cluster: ClusterOptions,
    /// What the environment is called. Default: the context's name, as far as a label can have its characters.
    pub environment: Option<Label>,
    /// The namespaces. Default: the one that the context names.
    pub namespaces: Vec<String>,
    /// Only services whose labels this selects, in Kubernetes' own syntax: `app in (web,api),tier!=batch`. Default: all.
    pub label_selector: Option<String>,
    /// Only services whose fields this selects: `metadata.name=web`. Default: all.
    pub field_selector: Option<String>,
    /// Only services whose name matches one of these, with `*` for any characters. Default: all.
    pub include: Vec<String>,
    /// No services whose name matches one of these.
    pub exclude: Vec<String>,
    /// Services to look at one by one in namespaces whose services the user may not list.
    pub services: Vec<ServiceId>,
    /// The zone that connections come from: endpoints in it are preferred. Default: unknown.
    pub zone: Option<String>,
    /// The way in.
    pub via: WayIn,
    /// The image of a gateway pod. Default: the released one of this version.
    pub gateway_image: Option<String>,
    /// The file with the token for an installed gateway. Default: one of a service account, which the API server is asked for.
    pub gateway_token_file: Option<PathBuf>,
    /// Whom to trust at [`WayIn::Url`], and which certificate to show there. What the kubeconfig says of the API server is apart from it.
    pub gateway_trust: Trust,
}

/// A way into a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WayIn {
    /// An installed gateway where there is one, otherwise port-forwards. Creates nothing in the cluster.
    #[default]
    Auto,
    /// Port-forwards, with nothing installed.
    Forward,
    /// A gateway pod that lives as long as the sessions that use it.
    Pod,
    /// A gateway that is installed in the cluster.
    Gateway,
    /// The gateway at this URL.
    Url(Url),
}

impl FromStr for WayIn {
    type Err = BadWayIn;

    fn from_str(text: &str) -> Result<Self, BadWayIn> {
        match text {
            "auto" => Ok(Self::Auto),
            "forward" => Ok(Self::Forward),
            "pod" => Ok(Self::Pod),
            "gateway" => Ok(Self::Gateway),
            _ => {
                // As an Ingress is called elsewhere.
                let secure = text.strip_prefix("https://").map(|rest| format!("wss://{rest}"));
                match secure.as_deref().unwrap_or(text).parse::<Url>() {
                    Ok(url) if matches!(url.scheme(), "ws" | "wss" | "quic") && url.has_host() => {
                        Ok(Self::Url(url))
                    }
                    _ => Err(BadWayIn {
                        text: text.to_owned(),
                    }),
                }
            }
        }
    }
}

impl fmt::Display for WayIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Forward => f.write_str("forward"),
            Self::Pod => f.write_str("pod"),
            Self::Gateway => f.write_str("gateway"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// A text that names no [`WayIn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no way into a cluster: expected `auto`, `forward`, `pod`, `gateway` or the URL of a gateway", text.escape_debug())]
pub struct BadWayIn {
    text: String,
}
