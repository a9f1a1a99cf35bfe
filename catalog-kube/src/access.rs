//! What a user lacks for what they want, asked before it is tried: the API server knows it without anything being done.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::kubeconfig::similar;
use crate::rbac::{self, Right, Verbs};
use crate::{Cluster, Error, Forbidden, KubeOptions, WayIn, gateway};

/// Namespaces that are asked about at once.
const AT_ONCE: usize = 8;

/// What the user lacks. Its text is for them; empty where they lack nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// What they may not do.
    pub missing: Vec<Missing>,
    /// Namespaces that are not there.
    pub unknown: Vec<UnknownNamespace>,
}

/// Something that the user may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub forbidden: Forbidden,
    /// What is so without it: one clause.
    pub without: &'static str,
}

/// A namespace that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownNamespace {
    /// What was asked for.
    pub name: String,
    /// The one that was most likely meant.
    pub similar: Option<String>,
}

impl fmt::Display for UnknownNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        match &self.similar {
            Some(similar) => write!(f, " (did you mean `{similar}`?)"),
            None => Ok(()),
        }
    }
}

impl Access {
    /// Whether nothing is lacking.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty()
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clauses = Vec::new();
        for unknown in &self.unknown {
            clauses.push(format!("there is no namespace {unknown}"));
        }
        // What follows is said once for all that it follows from.
        let mut groups: Vec<(&str, BTreeMap<&str, Vec<&Forbidden>>)> = Vec::new();
        for Missing { forbidden, without } in &self.missing {
            let namespace = forbidden.namespace.as_deref().unwrap_or_default();
            let group = match groups.iter().position(|(of, _)| of == without) {
                Some(found) => &mut groups[found].1,
                None => &mut groups.push_mut((without, BTreeMap::new())).1,
            };
            group.entry(namespace).or_default().push(forbidden);
        }
        for (without, by_namespace) in groups {
            let mut same: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
            for (namespace, forbidden) in by_namespace {
                let deeds = deeds(&forbidden);
                match same.iter_mut().find(|(found, _)| *found == deeds) {
                    Some((_, namespaces)) => namespaces.push(namespace),
                    None => same.push((deeds, vec![namespace])),
                }
            }
            let told: Vec<_> = same
                .iter()
                .map(|(deeds, namespaces)| format!("{} in {}", deeds.join(", "), namespaces.join(", ")))
                .collect();
            clauses.push(format!("you may not {}: {without}", told.join(", nor ")));
        }
        f.write_str(&clauses.join("; "))
    }
}

/// `list services and endpointslices`, one for each verb.
fn deeds(forbidden: &[&Forbidden]) -> Vec<String> {
    let mut by_verb: Vec<(&str, Vec<&str>)> = Vec::new();
    for Forbidden { verb, resource, .. } in forbidden {
        match by_verb.iter_mut().find(|(found, _)| found == verb) {
            Some((_, resources)) => resources.push(resource),
            None => by_verb.push((verb, vec![resource])),
        }
    }
    by_verb
        .into_iter()
        .map(|(verb, resources)| format!("{verb} {}", resources.join(" and ")))
        .collect()
}

/// Asks the API server what the user lacks for these options, which are [settled](KubeOptions::settled): one question for each
/// namespace, and further ones for what the answer leaves open.
///
/// # Errors
/// [`Error::UnknownNamespaces`] where none of the namespaces is there; [`Error::Unreachable`], [`Error::Unauthorized`]. Where the API
/// server does not answer such questions, nothing is known to be lacking.
///
/// # Cancel safety
/// Safe: nothing is changed.
pub async fn check(cluster: &Cluster, options: &KubeOptions) -> Result<Access, Error> {
    // With a gateway that is there, what port-forwards need does not matter.
    let rights_matter = options.via != WayIn::Auto || !gateway::is_installed(cluster, options).await;
    let found: Vec<_> = stream::iter(options.namespaces.iter().cloned())
        .map(|namespace| {
            let (cluster, via) = (cluster.clone(), options.via.clone());
            async move {
                let asked = tokio::join!(exists(&cluster, &namespace), async {
                    match rbac::rights(&via).filter(|_| rights_matter) {
                        Some(rights) => missing(&cluster, &namespace, rights.collect()).await,
                        None => Ok(Vec::new()),
                    }
                });
                Ok::<_, Error>((asked.0?, asked.1?))
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut access = Access::default();
    for (unknown, missing) in found {
        match unknown {
            // What may be done in a namespace that is not there does not matter.
            Some(unknown) => access.unknown.push(unknown),
            None => access.missing.extend(missing),
        }
    }
    if !access.unknown.is_empty() && access.unknown.len() == options.namespaces.len() {
        return Err(Error::UnknownNamespaces {
            cluster: cluster.name().to_owned(),
            unknown: access.unknown,
        });
    }
    Ok(access)
}

/// Whether a namespace is known not to be there. Who may not ask is not told.
async fn exists(cluster: &Cluster, name: &str) -> Result<Option<UnknownNamespace>, Error> {
    let namespaces = Api::<Namespace>::all(cluster.client().clone());
    let found = namespaces.get_metadata_opt(name).await;
    match known(cluster, found, "get", "namespaces")? {
        Some(None) => {}
        Some(Some(_)) | None => return Ok(None),
    }
    let all = namespaces.list_metadata(&ListParams::default()).await;
    let all = known(cluster, all, "list", "namespaces")?
        .map(|list| list.items)
        .unwrap_or_default();
    let names = all
        .iter()
        .filter_map(|namespace| namespace.metadata.name.as_deref());
    Ok(Some(UnknownNamespace {
        name: name.to_owned(),
        similar: similar(name, names),
    }))
}

/// What of these rights the user does not have.
async fn missing(
    cluster: &Cluster,
    namespace: &str,
    rights: Vec<&'static Right>,
) -> Result<Vec<Missing>, Error> {
    let granted = rules(cluster, namespace).await?;
    let mut missing = Vec::new();
    for right in rights {
        let may = async |verb: &'static str| -> Result<bool, Error> {
            Ok(grants(&granted, right, verb) || allowed(cluster, namespace, right, verb).await?)
        };
        let lacks = |verb: &str, without| Missing {
            forbidden: Forbidden {
                who: crate::Who::You,
                verb: verb.to_owned(),
                resource: right.resource.to_owned(),
                namespace: Some(namespace.to_owned()),
            },
            without,
        };
        match &right.verbs {
            Verbs::Each(verbs) => {
                for &(verb, without) in *verbs {
                    if !may(verb).await? {
                        missing.push(lacks(verb, without));
                    }
                }
            }
            Verbs::First(verbs, without) => {
                if let Some(&verb) = verbs.first()
                    && !may(verb).await?
                {
                    missing.push(lacks(verb, without));
                }
            }
        }
    }
    // Who may not list has no use for watching.
    let listed: Vec<_> = missing
        .iter()
        .filter(|missing| missing.forbidden.verb == "list")
        .map(|missing| missing.forbidden.resource.clone())
        .collect();
    missing
        .retain(|missing| missing.forbidden.verb != "watch" || !listed.contains(&missing.forbidden.resource));
    Ok(missing)
}

/// The rules that the API server says apply to the user. There may be others that it cannot list.
async fn rules(cluster: &Cluster, namespace: &str) -> Result<Vec<ResourceRule>, Error> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let reviews = Api::<SelfSubjectRulesReview>::all(cluster.client().clone());
    let asked = reviews.create(&PostParams::default(), &review).await;
    let answer = known(cluster, asked, "create", "selfsubjectrulesreviews")?;
    Ok(answer
        .and_then(|review| review.status)
        .map(|status| status.resource_rules)
        .unwrap_or_default())
}

/// What the API server says when it is asked for this very right.
async fn allowed(cluster: &Cluster, namespace: &str, right: &Right, verb: &str) -> Result<bool, Error> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: Some(namespace.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client().clone());
    let asked = reviews.create(&PostParams::default(), &review).await;
    let answer = known(cluster, asked, "create", "selfsubjectaccessreviews")?;
    // Without an answer it is found out by trying.
    Ok(answer
        .and_then(|review| review.status)
        .is_none_or(|status| status.allowed))
}

/// The answer; `None` where the API server is there and gives none.
fn known<T>(
    cluster: &Cluster,
    asked: Result<T, kube::Error>,
    verb: &str,
    resource: &str,
) -> Result<Option<T>, Error> {
    match asked.map_err(|error| cluster.failed(error, verb, resource, None)) {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ (Error::Forbidden(_) | Error::Api { .. })) => {
            tracing::debug!(%error, "what the user may do is found out by trying");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether one of the rules grants it.
fn grants(rules: &[ResourceRule], right: &Right, verb: &str) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
    rules.iter().any(|rule| {
        let groups = rule.api_groups.as_deref().unwrap_or_default();
        let resources = rule.resources.as_deref().unwrap_or_default();
        let names = rule.resource_names.as_deref().unwrap_or_default();
        // `*/scale` is every resource's (RBAC).
        let any_parent = right
            .resource
            .split_once('/')
            .map(|(_, below)| format!("*/{below}"));
        has(&rule.verbs, verb)
            && has(groups, right.group)
            && (has(resources, right.resource) || any_parent.is_some_and(|any| resources.contains(&any)))
            // A rule for single objects is none for all of them.
            && names.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> ResourceRule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        ResourceRule {
            api_groups: Some(owned(&[group])),
            resources: Some(owned(&[resource])),
            resource_names: Some(owned(names)),
            verbs: owned(verbs),
        }
    }

    fn granted(rules: &[ResourceRule]) -> Vec<String> {
        let mut granted = Vec::new();
        for right in rbac::rights(&WayIn::Pod).unwrap() {
            let verbs = match &right.verbs {
                Verbs::Each(verbs) => verbs.iter().map(|(verb, _)| *verb).collect(),
                Verbs::First(verbs, _) => verbs.to_vec(),
            };
            let found = verbs.into_iter().filter(|verb| grants(rules, right, verb));
            granted.extend(found.map(|verb| format!("{verb} {}", right.resource)));
        }
        granted
    }

    #[test]
    fn rules_are_read_as_rbac_has_them() {
        assert_eq!(
            granted(&[rule("", "services", &[], &["list"])]),
            ["list services"]
        );
        assert_eq!(granted(&[rule("", "services", &["web"], &["list"])]), [""; 0]);
        assert_eq!(granted(&[rule("apps", "services", &[], &["list"])]), [""; 0]);
        assert_eq!(granted(&[rule("", "pods", &[], &["create"])]), [""; 0]);
        assert_eq!(
            granted(&[rule("", "*/portforward", &[], &["create"])]),
            ["create pods/portforward"]
        );
        let all: usize = granted(&[rule("*", "*", &[], &["*"])]).len();
        assert!(all > 8, "an administrator may do everything");
    }

    fn lacks(namespace: &str, verb: &str, resource: &str, without: &'static str) -> Missing {
        Missing {
            forbidden: Forbidden {
                who: crate::Who::You,
                verb: verb.to_owned(),
                resource: resource.to_owned(),
                namespace: Some(namespace.to_owned()),
            },
            without,
        }
    }

    #[test]
    fn what_is_lacking_is_said_once_with_what_follows() {
        let looked = "changes are looked for every 5 s";
        let none = "no connection to a pod can be made";
        let access = Access {
            missing: vec![
                lacks("orders", "watch", "services", looked),
                lacks("orders", "watch", "endpointslices", looked),
                lacks("orders", "create", "pods/portforward", none),
                lacks("shop", "create", "pods/portforward", none),
            ],
            unknown: vec![UnknownNamespace {
                name: "bakcend".to_owned(),
                similar: Some("backend".to_owned()),
            }],
        };
        assert!(!access.is_complete() && Access::default().is_complete());
        insta::assert_snapshot!(access);
    }
}
