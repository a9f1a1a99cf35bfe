//! What `devbox.yaml` and the flags say of Kubernetes clusters.

use std::fmt;
use std::path::PathBuf;

use catalog_kube::{ClusterOptions, KubeOptions};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use service_catalog::{Label, ServiceId};

use super::{Kind, Place, Provider, Texts, TlsKeys, tls_keys};
use crate::args::{ConnectArgs, KubeArgs};
use crate::failure::Failure;

/// What a cluster is called for which neither a name nor a context is known.
const CLUSTER: &str = "cluster";

/// One cluster. Every key may be missing: then the kubeconfig says it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: Option<Spanned<Label>>,
    environment: Option<Label>,
    context: Option<String>,
    kubeconfig: Option<PathBuf>,
    #[serde(default)]
    namespaces: Vec<Label>,
    via: Option<Spanned<String>>,
    gateway_image: Option<String>,
    gateway_token_file: Option<PathBuf>,
    tls_ca: Option<Spanned<PathBuf>>,
    tls_extra_ca: Option<Spanned<PathBuf>>,
    tls_pin: Option<Spanned<Texts>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    accept_any_certificate: Option<Spanned<bool>>,
    selector: Option<String>,
    field_selector: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    services: Vec<ServiceId>,
    zone: Option<String>,
}

/// One cluster or a list of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries(pub(super) Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the keys of a cluster (`context:`, `namespaces:` and others), or a list of clusters",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Entries, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Entries)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entries, A::Error> {
                let one = Entry::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Entries(vec![one]))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// The clusters that flags and file come to. `alone` says whether there is no other far side: then a namespace on the command line
/// is one of the current context's cluster.
pub(super) fn providers(
    args: &ConnectArgs,
    entries: &Entries,
    place: &Place<'_>,
    alone: bool,
) -> Result<Vec<Provider>, Failure> {
    let asked_for = args.kube != KubeArgs::default() || (alone && !args.namespace.is_empty());
    let clusters: Vec<Entry> = if !args.kube.context.is_empty() {
        let of_context = |context: &String| {
            let configured = entries
                .0
                .iter()
                .find(|entry| entry.context.as_ref() == Some(context));
            configured.cloned().unwrap_or_else(|| Entry {
                context: Some(context.clone()),
                ..Entry::default()
            })
        };
        args.kube.context.iter().map(of_context).collect()
    } else if entries.0.is_empty() && asked_for {
        vec![Entry::default()]
    } else {
        entries.0.clone()
    };
    clusters.iter().map(|entry| entry.provider(args, place)).collect()
}

impl Entry {
    /// With what the command line says in place of its keys.
    pub(super) fn provider(&self, args: &ConnectArgs, place: &Place<'_>) -> Result<Provider, Failure> {
        let flags = &args.kube;
        let file = |flag: &Option<PathBuf>, key: &Option<PathBuf>| {
            let path = flag.clone().or_else(|| key.as_ref().map(|path| place.path(path)));
            path.map(std::path::absolute)
                .transpose()
                .map_err(Failure::because)
        };
        let kubeconfig = file(&flags.kubeconfig, &self.kubeconfig)?;
        let gateway_token_file = file(&flags.gateway_token_file, &self.gateway_token_file)?;
        let gateway_trust = tls_keys!(self).trust(place, args)?;
        let via = match (&flags.via, &self.via) {
            (Some(via), _) => via.clone(),
            (None, Some(text)) => text
                .value
                .parse()
                .map_err(|error: catalog_kube::BadWayIn| place.at(text.referenced, &error.to_string()))?,
            (None, None) => catalog_kube::WayIn::default(),
        };
        let either = |flag: &[String], key: &[String]| {
            if flag.is_empty() {
                key.to_vec()
            } else {
                flag.to_vec()
            }
        };
        let namespaces = if args.namespace.is_empty() {
            &self.namespaces
        } else {
            &args.namespace
        };
        let name = match (&self.name, &self.context) {
            (Some(name), _) => name.value.to_string(),
            (None, Some(context)) => context.clone(),
            (None, None) => CLUSTER.to_owned(),
        };
        Ok(Provider {
            name,
            environment: self.environment.clone(),
            kind: Kind::Kubernetes(Box::new(KubeOptions {
                cluster: ClusterOptions {
                    kubeconfig,
                    context: self.context.clone(),
                },
                // It is the provider's.
                environment: None,
                namespaces: namespaces.iter().map(ToString::to_string).collect(),
                label_selector: flags.selector.clone().or_else(|| self.selector.clone()),
                field_selector: flags
                    .field_selector
                    .clone()
                    .or_else(|| self.field_selector.clone()),
                include: either(&flags.include, &self.include),
                exclude: either(&flags.exclude, &self.exclude),
                services: self.services.clone(),
                zone: self.zone.clone(),
                via,
                gateway_image: flags.gateway_image.clone().or_else(|| self.gateway_image.clone()),
                gateway_token_file,
                gateway_trust,
            })),
        })
    }
}
