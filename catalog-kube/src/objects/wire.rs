//! What of the API server's JSON is read. Everything else is skipped while it is parsed, so that a namespace costs little memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use service_catalog::{Label, MAX_ALIASES, Protocol, ServiceId};

use super::team::CONFIG_MAP;
use super::{Kind, ServiceObject, ServicePort, SliceEndpoint, SliceObject, SlicePort, Team};
use crate::road::PodRef;

/// An answer to a LIST.
#[derive(Debug, Deserialize)]
pub(crate) struct List<T> {
    pub(crate) metadata: ListMeta,
    pub(crate) items: Option<Vec<T>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMeta {
    #[serde(default)]
    pub(crate) resource_version: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    name: String,
    namespace: String,
    pub(crate) resource_version: String,
    annotations: Annotations,
    labels: Labels,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "devbox.dev/name")]
    name: Option<String>,
    #[serde(rename = "devbox.dev/ignore")]
    ignore: Option<String>,
    #[serde(rename = "devbox.dev/ports")]
    ports: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

/// `v1` `Service`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    external_name: Option<String>,
    selector: Option<BTreeMap<String, IgnoredAny>>,
    ports: Option<Vec<SpecPort>>,
    session_affinity: String,
    session_affinity_config: Option<AffinityConfig>,
}

#[derive(Debug, Clone, Deserialize)]
struct SpecPort {
    #[serde(default)]
    name: String,
    port: u16,
    protocol: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u64>,
}

/// Kubernetes' own default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY: Duration = Duration::from_secs(10_800);

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

impl Service {
    /// What is kept of it; `None` where it has no name that could be one here.
    pub(crate) fn object(self) -> Option<ServiceObject> {
        let Self { metadata, spec } = self;
        let id = id_of(&metadata.namespace, &metadata.name)?;
        let kind = match (spec.r#type.as_str(), spec.cluster_ip.as_str()) {
            ("ExternalName", _) => Kind::Outside(spec.external_name.unwrap_or_default().into()),
            (_, "None") => Kind::Headless,
            _ => Kind::Plain,
        };
        let wanted: Option<Vec<_>> = metadata.annotations.ports.as_deref().map(words);
        let is_wanted = |port: &SpecPort| {
            wanted.as_ref().is_none_or(|wanted| {
                let number = port.port.to_string();
                wanted.iter().any(|word| *word == port.name || *word == number)
            })
        };
        let ports = spec.ports.unwrap_or_default();
        let ports = ports.into_iter().filter(is_wanted).filter_map(|port| {
            Some(ServicePort {
                protocol: protocol(port.protocol.as_deref()),
                port: NonZeroU16::new(port.port)?,
                name: port.name.into(),
            })
        });
        let mut aliases = Vec::new();
        for word in words(metadata.annotations.name.as_deref().unwrap_or_default()) {
            match word.parse::<Label>() {
                Ok(alias) if alias == id.name || aliases.contains(&alias) => {}
                Ok(alias) if aliases.len() < MAX_ALIASES => aliases.push(alias),
                Ok(_) => {}
                Err(error) => tracing::debug!(service = %id, %error, "an annotation names it in vain"),
            }
        }
        let timeout = || {
            let seconds = spec.session_affinity_config?.client_ip?.timeout_seconds?;
            Some(Duration::from_secs(seconds))
        };
        Some(ServiceObject {
            kind,
            ignored: metadata
                .annotations
                .ignore
                .is_some_and(|text| !matches!(text.as_str(), "" | "false")),
            has_selector: spec.selector.is_some_and(|selector| !selector.is_empty()),
            affinity: (spec.session_affinity == "ClientIP").then(|| timeout().unwrap_or(AFFINITY)),
            ports: ports.collect(),
            aliases,
            id,
        })
    }
}

/// `discovery.k8s.io/v1` `EndpointSlice`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slice {
    pub(crate) metadata: Meta,
    endpoints: Option<Vec<EndpointIn>>,
    ports: Option<Vec<PortIn>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointIn {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    hostname: Option<String>,
    target_ref: Option<TargetRef>,
    zone: Option<String>,
    hints: Option<Hints>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<Zone>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Zone {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct PortIn {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

impl PortIn {
    fn object(self) -> Option<SlicePort> {
        Some(SlicePort {
            name: self.name.unwrap_or_default().into(),
            port: NonZeroU16::new(self.port?)?,
            protocol: protocol(self.protocol.as_deref())?,
        })
    }
}

fn pod(namespace: &Arc<str>, target: Option<TargetRef>) -> Option<PodRef> {
    let target = target.filter(|target| target.kind == "Pod")?;
    Some(PodRef {
        namespace: Arc::clone(namespace),
        name: target.name.into(),
    })
}

impl Slice {
    /// What is kept of it; `None` where it belongs to no service.
    pub(crate) fn object(self) -> Option<SliceObject> {
        let Self {
            metadata,
            endpoints,
            ports,
        } = self;
        let service = id_of(&metadata.namespace, metadata.labels.service.as_deref()?)?;
        let namespace: Arc<str> = metadata.namespace.into();
        // Addresses of the type FQDN are no addresses, and nothing in a cluster makes them.
        let endpoint = |endpoint: EndpointIn| {
            Some(SliceEndpoint {
                address: endpoint.addresses.first()?.parse().ok()?,
                // Absent means unknown, which counts as ready (the field's documentation).
                ready: endpoint.conditions.ready.unwrap_or(true),
                terminating: endpoint.conditions.terminating.unwrap_or(false),
                hostname: endpoint.hostname.and_then(|name| name.parse().ok()),
                pod: pod(&namespace, endpoint.target_ref),
                zone: endpoint.zone.map(Arc::from),
                for_zones: endpoint
                    .hints
                    .and_then(|hints| hints.for_zones)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|zone| zone.name.into())
                    .collect(),
            })
        };
        Some(SliceObject {
            service,
            name: metadata.name.into(),
            ports: ports
                .unwrap_or_default()
                .into_iter()
                .filter_map(PortIn::object)
                .collect(),
            endpoints: endpoints
                .unwrap_or_default()
                .into_iter()
                .filter_map(endpoint)
                .collect(),
        })
    }
}

/// `v1` `Endpoints`, which has the name of its service: what can be read by who may not list slices.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Endpoints {
    metadata: Meta,
    subsets: Option<Vec<Subset>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subset {
    addresses: Option<Vec<SubsetAddress>>,
    not_ready_addresses: Option<Vec<SubsetAddress>>,
    ports: Option<Vec<PortIn>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubsetAddress {
    ip: IpAddr,
    hostname: Option<String>,
    target_ref: Option<TargetRef>,
}

impl Endpoints {
    /// The slices that would say the same.
    pub(crate) fn objects(self) -> Vec<SliceObject> {
        let Some(service) = id_of(&self.metadata.namespace, &self.metadata.name) else {
            return Vec::new();
        };
        let namespace: Arc<str> = self.metadata.namespace.into();
        let subsets = self.subsets.unwrap_or_default().into_iter().enumerate();
        let slice = |(number, subset): (usize, Subset)| {
            let ready = subset.addresses.unwrap_or_default();
            let not_ready = subset.not_ready_addresses.unwrap_or_default();
            let ready = ready.into_iter().map(|address| (address, true));
            let not_ready = not_ready.into_iter().map(|address| (address, false));
            let endpoint = |(address, ready): (SubsetAddress, bool)| SliceEndpoint {
                address: address.ip,
                ready,
                terminating: false,
                hostname: address.hostname.and_then(|name| name.parse().ok()),
                pod: pod(&namespace, address.target_ref),
                zone: None,
                for_zones: Vec::new(),
            };
            SliceObject {
                service: service.clone(),
                name: format!("{}-{number}", service.name).into(),
                endpoints: ready.chain(not_ready).map(endpoint).collect(),
                ports: subset
                    .ports
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(PortIn::object)
                    .collect(),
            }
        };
        subsets.map(slice).collect()
    }
}

/// `v1` `ConfigMap`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConfigMap {
    pub(crate) metadata: Meta,
    data: Option<BTreeMap<String, String>>,
}

impl ConfigMap {
    /// What it says; `None` where it is not the one that is looked for.
    pub(crate) fn team(self) -> Option<Team> {
        if self.metadata.name != CONFIG_MAP {
            return None;
        }
        let namespace = self.metadata.namespace.parse().ok()?;
        Some(Team::read(&namespace, &self.data.unwrap_or_default()))
    }
}

fn id_of(namespace: &str, name: &str) -> Option<ServiceId> {
    Some(ServiceId::new(namespace.parse().ok()?, name.parse().ok()?))
}

/// Words between commas or spaces.
pub(super) fn words(text: &str) -> Vec<&str> {
    let between = |c: char| c == ',' || c.is_whitespace();
    text.split(between).filter(|word| !word.is_empty()).collect()
}
