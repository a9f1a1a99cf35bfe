//! Which names a service gets, from the labels that the far side gave.
//!
//! The far side is trusted for labels only. Whole names are built here, so that no catalog can claim `localhost`
//! or, by calling a namespace `com`, a name that somebody owns on the internet.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use service_catalog::{Label, ServiceId};

/// The suffix under which Kubernetes answers for a service.
const CLUSTER_SUFFIX: &str = "svc.cluster.local";

/// The suffix of multicast DNS, which stalls for seconds where one family is missing (RFC 6762 §3).
const MULTICAST: &str = "local";

/// The rules by which names are made from `service`, `namespace` and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamesPolicy {
    /// The namespace whose services also get their bare name (`orders`). Without one no bare name is written.
    pub active: Option<Label>,
    /// Namespaces which the user named themselves. Under one that is a public top-level domain too (`shop`) a name is written
    /// only then: a catalog alone cannot take `orders.shop` away from its owner.
    pub named_namespaces: BTreeSet<Label>,
    /// Environments which the user named themselves; for `dev` and its like the same holds.
    pub named_environments: BTreeSet<Label>,
}

impl NamesPolicy {
    /// The names of one service, the canonical one first, without doubles.
    ///
    /// ```
    /// use devbox_session::NamesPolicy;
    /// let policy = NamesPolicy { active: Some("backend".parse()?), ..NamesPolicy::default() };
    /// let names = policy.names(&"orders.backend".parse()?, &"staging".parse()?);
    /// assert_eq!(names, [
    ///     "orders", "orders.backend", "orders.backend.svc", "orders.backend.svc.cluster.local",
    ///     "orders.backend.staging",
    /// ]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn names(&self, service: &ServiceId, environment: &Label) -> Vec<String> {
        self.judge(service, environment).0
    }

    /// The names that a service would have if no rule kept it from them, in the same order.
    ///
    /// ```
    /// use devbox_session::NamesPolicy;
    /// let refused = NamesPolicy::default().refused(&"wpad.lan".parse()?, &"staging".parse()?);
    /// assert_eq!(refused[0].name, "wpad.lan");
    /// assert_eq!(refused[0].why, "programs look it up by themselves");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refused(&self, service: &ServiceId, environment: &Label) -> Vec<RefusedName> {
        self.judge(service, environment).1
    }

    /// Both at once: its names, and those that a rule keeps it from having.
    pub(crate) fn judge(&self, service: &ServiceId, environment: &Label) -> (Vec<String>, Vec<RefusedName>) {
        let (mut names, mut refused) = (Vec::new(), Vec::new());
        for (name, why) in self.judged(service, environment) {
            match why {
                None => names.push(name),
                Some(why) => refused.push(RefusedName { name, why }),
            }
        }
        (names, refused)
    }

    /// All names that a service might have, without doubles, each with what speaks against it.
    fn judged(
        &self,
        service: &ServiceId,
        environment: &Label,
    ) -> impl Iterator<Item = (String, Option<String>)> {
        let namespace = &service.namespace;
        let name = match &service.member {
            Some(member) => format!("{member}.{}", service.name),
            None => service.name.to_string(),
        };
        let mut candidates = Vec::with_capacity(5);
        if self.active.as_ref() == Some(namespace) {
            candidates.push((name.clone(), None));
        }
        candidates.extend([
            (
                format!("{name}.{namespace}"),
                ending(namespace, &self.named_namespaces),
            ),
            (format!("{name}.{namespace}.svc"), None),
            (format!("{name}.{namespace}.{CLUSTER_SUFFIX}"), None),
            (
                format!("{name}.{namespace}.{environment}"),
                ending(environment, &self.named_environments),
            ),
        ]);
        let mut seen = BTreeSet::new();
        candidates.retain(|(name, _)| seen.insert(name.clone()));
        candidates.into_iter().map(|(name, ending)| {
            let refusal = devbox_helper_client::name_refusal(&name).map(str::to_owned);
            (name, refusal.or(ending))
        })
    }
}

/// A name that a rule keeps a service from having.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefusedName {
    /// The name.
    pub name: String,
    /// The rule.
    pub why: String,
}

/// Why no name may end in this label, or `None` if names may.
fn ending(label: &Label, named: &BTreeSet<Label>) -> Option<String> {
    let text: &str = label.as_ref();
    if text == MULTICAST {
        Some(format!("names in .{MULTICAST} belong to multicast DNS"))
    } else if named.contains(label) || !tld::exist(text) {
        None
    } else {
        Some(format!(
            ".{text} is a public top-level domain, under which names are written only if you name it yourself"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(policy: &NamesPolicy, service: &str, environment: &str) -> Vec<String> {
        policy.names(&service.parse().unwrap(), &environment.parse().unwrap())
    }

    #[test]
    fn a_pod_of_a_headless_service_is_named_below_it() {
        let policy = NamesPolicy {
            active: Some("orders".parse().unwrap()),
            ..NamesPolicy::default()
        };
        let mut service: ServiceId = "db.orders".parse().unwrap();
        service.member = Some("db-0".parse().unwrap());
        assert_eq!(
            policy.names(&service, &"minikube".parse().unwrap()),
            [
                "db-0.db",
                "db-0.db.orders",
                "db-0.db.orders.svc",
                "db-0.db.orders.svc.cluster.local",
                "db-0.db.orders.minikube"
            ]
        );
    }

    #[test]
    fn only_the_active_namespace_owns_bare_names() {
        let policy = NamesPolicy {
            active: Some("backend".parse().unwrap()),
            ..NamesPolicy::default()
        };
        assert_eq!(names(&policy, "web.frontend", "staging")[0], "web.frontend");
        assert_eq!(names(&policy, "web.backend", "staging")[0], "web");
    }

    #[test]
    fn a_public_top_level_domain_is_taken_only_when_the_user_named_it() {
        let unnamed = NamesPolicy::default();
        assert_eq!(
            names(&unnamed, "orders.shop", "dev"),
            ["orders.shop.svc", "orders.shop.svc.cluster.local"]
        );
        let labels = |text: &str| BTreeSet::from([text.parse().unwrap()]);
        let named = NamesPolicy {
            active: None,
            named_namespaces: labels("shop"),
            named_environments: labels("dev"),
        };
        let crossed = NamesPolicy {
            active: None,
            named_namespaces: labels("dev"),
            named_environments: labels("shop"),
        };
        assert_eq!(
            names(&crossed, "orders.shop", "dev").len(),
            2,
            "naming an environment names no namespace"
        );
        assert_eq!(names(&named, "orders.shop", "dev")[0], "orders.shop");
        assert_eq!(names(&named, "orders.shop", "dev")[3], "orders.shop.dev");
    }

    #[test]
    fn what_is_refused_is_told_with_its_rule() {
        let refused = |service: &str, environment: &str| {
            let policy = NamesPolicy::default();
            let refused = policy.refused(&service.parse().unwrap(), &environment.parse().unwrap());
            let told = refused
                .into_iter()
                .map(|refused| format!("{}: {}", refused.name, refused.why));
            told.collect::<Vec<_>>()
        };
        assert!(refused("orders.backend", "staging").is_empty());
        assert_eq!(refused("localhost.demo", "staging").len(), 4);
        assert_eq!(
            refused("web.localhost", "staging"),
            ["web.localhost: it is a name of the machine itself"]
        );
        assert_eq!(
            refused("web.local", "staging"),
            ["web.local: names in .local belong to multicast DNS"]
        );
        assert_eq!(
            refused("orders.backend", "dev"),
            [
                "orders.backend.dev: .dev is a public top-level domain, under which names are written only if you name it \
             yourself"
            ]
        );
    }

    #[test]
    fn names_of_the_machine_itself_are_never_built() {
        let policy = NamesPolicy {
            active: Some("default".parse().unwrap()),
            named_namespaces: ["local", "localhost"]
                .iter()
                .map(|label| label.parse().unwrap())
                .collect(),
            ..NamesPolicy::default()
        };
        assert!(names(&policy, "localhost.default", "staging").is_empty());
        assert!(!names(&policy, "web.localhost", "staging").contains(&"web.localhost".to_owned()));
        assert!(!names(&policy, "web.local", "staging").contains(&"web.local".to_owned()));
    }

    #[test]
    fn a_name_that_reads_as_an_address_is_never_built() {
        let policy = NamesPolicy {
            active: Some("2".parse().unwrap()),
            ..NamesPolicy::default()
        };
        assert_eq!(
            names(&policy, "1.2", "0x7f"),
            ["1.2.svc", "1.2.svc.cluster.local"]
        );
        assert_eq!(names(&policy, "web.v2", "staging")[0], "web.v2");
    }

    #[test]
    fn an_environment_called_svc_gives_no_double() {
        let all = names(&NamesPolicy::default(), "web.backend", "svc");
        assert_eq!(all.iter().filter(|name| *name == "web.backend.svc").count(), 1);
    }
}
