//! What a service and its slices come to: what the catalog says, and who answers.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use service_catalog::{Label, Port, Protocol, Readiness, Service, ServiceId};

use super::{Kind, ServiceObject, ServicePort, SliceEndpoint, SliceObject, SlicePort};
use crate::road::{Endpoint, Host};

/// What the way into the cluster reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Addresses that are no pod's, too.
    pub(crate) addresses: bool,
    /// What an `ExternalName` stands for, too.
    pub(crate) names: bool,
    /// UDP, too.
    pub(crate) datagrams: bool,
}

/// A service of the catalog, and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) service: Service,
    /// Nothing that happens to its pods makes it ready on this way into the cluster.
    pub(crate) never: bool,
    pub(crate) answers: BTreeMap<(NonZeroU16, Protocol), Arc<Answers>>,
}

/// Who answers for a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Those that take new connections, each pod once, in the order of their addresses.
    pub(crate) places: Vec<Place>,
    /// Why there are none, where there are none.
    pub(crate) because: String,
    /// How long the connections of a client go where its last one went.
    pub(crate) affinity: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) zone: Option<Arc<str>>,
    /// The zones whose clients the cluster sends here.
    pub(crate) for_zones: Vec<Arc<str>>,
}

/// The service, and each member of a headless one.
pub(crate) fn offer<'a>(
    service: &ServiceObject,
    slices: &(impl Iterator<Item = &'a SliceObject> + Clone),
    reach: Reach,
) -> Vec<Offered> {
    if service.ignored {
        return Vec::new();
    }
    let mut offered = vec![offer_one(service, service.id.clone(), slices, reach, |_| true)];
    if service.kind == Kind::Headless {
        let mut members = BTreeMap::new();
        for endpoint in slices.clone().flat_map(|slice| &slice.endpoints) {
            if let Some(member) = member(endpoint) {
                members.insert(member.clone(), member);
            }
        }
        for of in members.into_values() {
            let id = service.id.clone().with_member(of.clone());
            let its = |endpoint: &SliceEndpoint| member(endpoint).as_ref() == Some(&of);
            offered.push(offer_one(service, id, slices, reach, its));
        }
    }
    offered
}

/// As the cluster's DNS calls it, otherwise as the pod is called.
fn member(endpoint: &SliceEndpoint) -> Option<Label> {
    let of_pod = || endpoint.pod.as_ref()?.name.parse().ok();
    endpoint.hostname.clone().or_else(of_pod)
}

fn offer_one<'a>(
    object: &ServiceObject,
    id: ServiceId,
    slices: &(impl Iterator<Item = &'a SliceObject> + Clone),
    reach: Reach,
    its: impl Fn(&SliceEndpoint) -> bool,
) -> Offered {
    let mut ports = Vec::new();
    let mut answers = BTreeMap::new();
    // Why nothing answers, of the first port; and whether that can change.
    let mut why = match &object.kind {
        Kind::Outside(name) if object.ports.is_empty() => {
            Some((format!("it stands for {name}, and names no port"), true))
        }
        _ => None,
    };
    for port in &object.ports {
        let found = match port.protocol {
            None => Err(Never("SCTP is not carried".to_owned())),
            Some(Protocol::Udp) if !reach.datagrams => Err(Never(
                "a port-forward carries no UDP; `--via pod` and an installed gateway do".to_owned(),
            )),
            Some(protocol) => find(object, port, protocol, slices.clone(), reach, &its),
        };
        let (found, never) = match found {
            Ok(found) => (found, false),
            Err(Never(because)) => (
                Answers {
                    places: Vec::new(),
                    because,
                    affinity: None,
                },
                true,
            ),
        };
        if found.places.is_empty() {
            // What may become ready says more about the service than what never will.
            if why.as_ref().is_none_or(|(_, before)| *before && !never) {
                why = Some((found.because.clone(), never));
            }
        }
        if let Some(protocol) = port.protocol {
            ports.push(Port {
                name: port.name.parse().ok(),
                port: port.port,
                protocol,
                target: None,
            });
            answers.insert((port.port, protocol), Arc::new(found));
        }
    }
    let answers_somewhere = answers.values().any(|answers| !answers.places.is_empty());
    let why = if answers_somewhere { None } else { why };
    let never = why.as_ref().is_some_and(|(_, never)| *never);
    let readiness = match why {
        None => Readiness::Ready,
        Some((because, _)) => Readiness::not_ready(&because),
    };
    let aliases = if id.member.is_none() {
        object.aliases.clone()
    } else {
        Vec::new()
    };
    Offered {
        service: Service {
            id,
            ports,
            readiness,
            aliases,
            alias_of: None,
            pin: None,
            order: None,
        },
        never,
        answers,
    }
}

/// What an `ExternalName` is on a way that does not follow it, and how to get there nevertheless.
fn not_followed(name: &str, reach: Reach) -> String {
    let by = if reach.addresses {
        "this gateway follows no ExternalName"
    } else {
        "a port-forward follows no ExternalName"
    };
    match service_of(name) {
        Some((service, namespace)) => format!(
            "it stands for the service {service} in the namespace {namespace}, and {by}: `-n {namespace}` has that service \
             under its own name, and `--via pod` follows it"
        ),
        None => format!(
            "it stands for {name}, and {by}: connect to {name} itself where this machine reaches it, or use `--via pod`, \
             which follows it"
        ),
    }
}

/// Which service of the cluster has this name in the cluster's DNS, whose domain is not known: `db.orders.svc.cluster.local`.
fn service_of(name: &str) -> Option<(&str, &str)> {
    let mut labels = name.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    (labels.next()? == "svc").then_some((service, namespace))
}

/// The name itself: whoever dials it resolves it there.
fn find_outside(
    name: &Arc<str>,
    port: &ServicePort,
    protocol: Protocol,
    reach: Reach,
) -> Result<Answers, Never> {
    if !reach.names {
        return Err(Never(not_followed(name, reach)));
    }
    let endpoint = Endpoint {
        host: Host::Name(Arc::clone(name)),
        port: port.port,
        protocol,
        pod: None,
    };
    Ok(Answers {
        places: vec![Place {
            endpoint: Arc::new(endpoint),
            zone: None,
            for_zones: Vec::new(),
        }],
        because: String::new(),
        affinity: None,
    })
}

/// Why a port cannot be reached, whatever happens to its pods.
struct Never(String);

fn find<'a>(
    object: &ServiceObject,
    port: &ServicePort,
    protocol: Protocol,
    slices: impl Iterator<Item = &'a SliceObject>,
    reach: Reach,
    its: &impl Fn(&SliceEndpoint) -> bool,
) -> Result<Answers, Never> {
    if let Kind::Outside(name) = &object.kind {
        return find_outside(name, port, protocol, reach);
    }
    let mut places: Vec<Place> = Vec::new();
    let (mut leaving, mut not_ready, mut no_pod) = (0_usize, 0_usize, 0_usize);
    for slice in slices {
        let of_port = |of: &&SlicePort| of.name == port.name && of.protocol == protocol;
        let Some(of_slice) = slice.ports.iter().find(of_port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().filter(|endpoint| its(endpoint)) {
            if endpoint.terminating {
                leaving += 1;
            } else if !endpoint.ready {
                not_ready += 1;
            } else if endpoint.pod.is_none() && !reach.addresses {
                no_pod += 1;
            } else {
                places.push(Place {
                    endpoint: Arc::new(Endpoint {
                        host: Host::Address(endpoint.address),
                        port: of_slice.port,
                        protocol,
                        pod: endpoint.pod.clone(),
                    }),
                    zone: endpoint.zone.clone(),
                    for_zones: endpoint.for_zones.clone(),
                });
            }
        }
    }
    // A pod with addresses of both families is in two slices; IPv4 sorts first.
    places.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    let mut seen = BTreeSet::new();
    places.retain(|place| match &place.endpoint.pod {
        Some(pod) => seen.insert((pod.clone(), place.endpoint.port)),
        None => true,
    });
    places.dedup_by(|a, b| a.endpoint == b.endpoint);
    let because = match (places.len(), leaving, not_ready, no_pod) {
        (1.., ..) => String::new(),
        (_, _, _, 1..) => {
            "its endpoints are no pods, and a port-forward reaches pods only; `--via pod` and an installed gateway reach them"
                .to_owned()
        }
        (_, _, 1, _) => "its only pod is not ready".to_owned(),
        (_, _, 2.., _) => format!("none of its {not_ready} pods is ready"),
        (_, 1.., _, _) => "its pods are being terminated".to_owned(),
        _ if object.has_selector => "it has no pod".to_owned(),
        _ => "it has neither a selector nor endpoints".to_owned(),
    };
    Ok(Answers {
        places,
        because,
        affinity: object.affinity,
    })
}
