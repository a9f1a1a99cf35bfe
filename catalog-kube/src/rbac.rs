//! What a user must be allowed to do in a namespace, on each way into a cluster: as a table, and as a Role to apply.

mod gateway;

use std::fmt::Write as _;

use crate::WayIn;
use crate::gateway::key;
use crate::objects::CONFIG_MAP;

/// A right in one namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Right {
    /// The API group; empty for the core.
    pub(crate) group: &'static str,
    /// The resource in the plural, with its subresource.
    pub(crate) resource: &'static str,
    /// For this object only.
    pub(crate) name: Option<&'static str>,
    pub(crate) verbs: Verbs,
}

/// What must be allowed to be done with it, and what is so where that is not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verbs {
    /// Each has a purpose of its own.
    Each(&'static [(&'static str, &'static str)]),
    /// The first one has the purpose. The others are wanted for the same by other versions of the API server only, which say so themselves
    /// when they refuse it.
    First(&'static [&'static str], &'static str),
}

impl Verbs {
    fn all(&self) -> Vec<&'static str> {
        match self {
            Self::Each(verbs) => verbs.iter().map(|(verb, _)| *verb).collect(),
            Self::First(verbs, _) => verbs.to_vec(),
        }
    }
}

const LOOKED_AT: &str = "changes are looked for every 5 s";

/// What exists, and who answers for it.
const CATALOG: &[Right] = &[
    Right {
        group: "",
        resource: "services",
        name: None,
        verbs: Verbs::Each(&[
            (
                "list",
                "only services that `services:` in devbox.yaml names are there",
            ),
            ("watch", LOOKED_AT),
        ]),
    },
    Right {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        name: None,
        verbs: Verbs::Each(&[
            (
                "list",
                "connections to services are refused: who answers for them is not known",
            ),
            ("watch", LOOKED_AT),
        ]),
    },
];

/// A team's names, pins and order. Whoever lacks it lacks nothing else, so that nobody is warned of it before a session starts.
const TEAM: Right = Right {
    group: "",
    resource: "configmaps",
    name: Some(CONFIG_MAP),
    verbs: Verbs::First(&["list", "watch"], "a team's names, pins and order are not known"),
};

/// Port-forwards.
const FORWARD: &[Right] = &[Right {
    group: "",
    resource: "pods/portforward",
    name: None,
    // Over WebSocket it is a GET, for which newer API servers want `create` as well.
    verbs: Verbs::First(&["get", "create"], "no connection to a pod can be made"),
}];

/// A gateway pod.
const POD: &[Right] = &[
    Right {
        group: "batch",
        resource: "jobs",
        name: None,
        verbs: Verbs::Each(&[
            ("create", NO_POD),
            ("get", NO_POD),
            // Its deadline is lifted once it was reached.
            ("patch", NO_POD),
            (
                "delete",
                "a gateway pod that cannot start ends by itself after two and a half minutes",
            ),
        ]),
    },
    Right {
        group: "",
        resource: "events",
        name: None,
        verbs: Verbs::Each(&[(
            "list",
            "what keeps a gateway pod from being created, as a quota, is found out only after two minutes",
        )]),
    },
    Right {
        group: "",
        resource: "pods",
        name: None,
        verbs: Verbs::Each(&[("list", NO_POD), ("watch", NO_POD)]),
    },
    Right {
        group: "",
        resource: "secrets",
        name: None,
        verbs: Verbs::Each(&[("get", NO_POD), ("create", NO_POD)]),
    },
    Right {
        group: "",
        resource: "pods/proxy",
        name: None,
        verbs: Verbs::Each(&[(
            "get",
            "the gateway pod is reached over one port-forward, which is slower",
        )]),
    },
];

/// Each Job names a Secret of its own: one of a Job that was removed a moment ago may still be there, with another token.
const ANY_SECRET: &str = "  # This is every Secret of the namespace. That of a gateway pod has a name that nobody can know before.\n";

const NO_POD: &str = "no gateway pod can be used, so that port-forwards take its place";

/// The tables of a way in, its own last. What users of an installed gateway need is no table: it names objects.
pub(crate) fn rights(way: &WayIn) -> Option<impl Iterator<Item = &'static Right>> {
    let tables: &[&'static [Right]] = match way {
        WayIn::Auto | WayIn::Forward => &[CATALOG, FORWARD],
        // Port-forwards are what takes the place of a pod that cannot be had.
        WayIn::Pod => &[CATALOG, FORWARD, POD],
        WayIn::Gateway | WayIn::Url(_) => return None,
    };
    Some(tables.iter().flat_map(|table| table.iter()))
}

/// Who is given a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user, as the API server knows them.
    User(String),
    /// A group.
    Group(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Subject {
    /// What their objects are told from others' by: to name somebody else later takes nothing from those who were named before.
    fn key(&self) -> String {
        match self {
            Self::User(name) => key("user", name),
            Self::Group(name) => key("group", name),
            Self::ServiceAccount { namespace, name } => key("account", &format!("{namespace}:{name}")),
        }
    }
}

/// A Role and a RoleBinding for each namespace, in YAML for `kubectl apply -f -`: what the way in needs, and nothing else. Each subject has a
/// binding of their own.
///
/// ```
/// use catalog_kube::{WayIn, rbac};
/// let subjects = [rbac::Subject::Group("backend".to_owned())];
/// let yaml = rbac::roles(&WayIn::Forward, &["orders"], &subjects);
/// assert!(yaml.contains("pods/portforward"));
/// ```
pub fn roles(way: &WayIn, namespaces: &[impl AsRef<str>], subjects: &[Subject]) -> String {
    let namespaces: Vec<_> = namespaces.iter().map(AsRef::as_ref).collect();
    let Some(rights) = rights(way) else {
        let from_outside = *way != WayIn::Gateway;
        return gateway::objects(&namespaces, subjects, from_outside).join("---\n");
    };
    let name = if *way == WayIn::Pod {
        "devbox-pod"
    } else {
        "devbox-forward"
    };
    let rules: String = rights.chain([&TEAM]).map(rule).collect();
    let mut objects = Vec::new();
    for namespace in namespaces {
        objects.push(role(name, namespace, &rules));
        for of in subjects {
            let binding_name = format!("{name}-{}", of.key());
            objects.push(binding(&binding_name, name, namespace, of));
        }
    }
    objects.join("---\n")
}

fn role(role: &str, namespace: &str, rules: &str) -> String {
    let (role, namespace) = (quoted(role), quoted(namespace));
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {role}
  namespace: {namespace}
rules:
{rules}"
    )
}

fn binding(name: &str, role: &str, namespace: &str, of: &Subject) -> String {
    let subject = subject(of);
    let [name, role, namespace] = [name, role, namespace].map(quoted);
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {name}
  namespace: {namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {role}
subjects:
{subject}"
    )
}

fn rule(right: &Right) -> String {
    let note = match right.resource {
        "secrets" => ANY_SECRET,
        _ => "",
    };
    let list = |items: &[&str]| {
        items
            .iter()
            .map(|item| quoted(item))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = format!("{note}  - apiGroups: [{}]\n", list(&[right.group]));
    let mut line = |key: &str, items: &[&str]| {
        let written = writeln!(text, "    {key}: [{}]", list(items));
        debug_assert!(written.is_ok(), "a String takes everything");
    };
    line("resources", &[right.resource]);
    if let Some(name) = right.name {
        line("resourceNames", &[name]);
    }
    line("verbs", &right.verbs.all());
    text
}

fn subject(subject: &Subject) -> String {
    let of_rbac = |kind: &str, name: &str| {
        let name = quoted(name);
        format!("  - apiGroup: rbac.authorization.k8s.io\n    kind: {kind}\n    name: {name}\n")
    };
    match subject {
        Subject::User(name) => of_rbac("User", name),
        Subject::Group(name) => of_rbac("Group", name),
        Subject::ServiceAccount { namespace, name } => format!(
            "  - kind: ServiceAccount\n    name: {}\n    namespace: {}\n",
            quoted(name),
            quoted(namespace)
        ),
    }
}

/// A text that YAML reads as just that: bare where it cannot be taken for anything else, otherwise as JSON has it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || "-/.".contains(c);
    let reads_as_more = matches!(
        text,
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    let bare =
        text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(plain) && !reads_as_more;
    if bare {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_role_of_each_way_in() {
        let group = [Subject::Group("developers".to_owned())];
        for way in [WayIn::Forward, WayIn::Pod] {
            insta::assert_snapshot!(format!("roles-{way}"), roles(&way, &["orders"], &group));
        }
        assert_eq!(
            roles(&WayIn::Auto, &["orders"], &group),
            roles(&WayIn::Forward, &["orders"], &group)
        );
    }

    #[test]
    fn each_namespace_has_its_own_and_every_kind_of_subject_can_be_named() {
        let subjects = [
            Subject::User("ada@example.com".to_owned()),
            Subject::Group("true".to_owned()),
            Subject::ServiceAccount {
                namespace: "ci".to_owned(),
                name: "runner".to_owned(),
            },
        ];
        insta::assert_snapshot!(roles(&WayIn::Forward, &["orders", "shop-2"], &subjects));
    }

    #[test]
    fn who_uses_a_gateway_shows_it_a_token_of_a_service_account() {
        let subjects = [
            Subject::Group("developers".to_owned()),
            Subject::ServiceAccount {
                namespace: "ci".to_owned(),
                name: "runner".to_owned(),
            },
        ];
        insta::assert_snapshot!(roles(&WayIn::Gateway, &["orders", "shop"], &subjects));
        let url = WayIn::Url("wss://gateway.example".parse().unwrap());
        assert!(!roles(&url, &["orders"], &subjects).contains("pods/proxy"));
    }

    #[test]
    fn whoever_has_a_static_token_is_the_user_that_it_stands_for() {
        let ci = [Subject::User("devbox:ci".to_owned())];
        let given = roles(&WayIn::Gateway, &["orders"], &ci);
        let url = WayIn::Url("wss://gateway.example".parse().unwrap());
        assert_eq!(given, roles(&url, &["orders"], &ci));
        insta::assert_snapshot!(given);
    }

    #[test]
    fn rights_are_of_one_user_each_and_no_object_is_two_users() {
        for way in [WayIn::Forward, WayIn::Pod, WayIn::Gateway] {
            no_object_is_two_users(&way);
        }
    }

    fn no_object_is_two_users(way: &WayIn) {
        let user = |name: &str| Subject::User(name.to_owned());
        let of = |subjects: &[Subject]| -> Vec<Value> {
            serde_saphyr::from_multiple(&roles(way, &["orders", "shop"], subjects)).unwrap()
        };
        let named = |object: &Value| {
            let metadata = &object["metadata"];
            [&object["kind"], &metadata["namespace"], &metadata["name"]].map(Value::to_string)
        };
        let (ada, bob) = (of(&[user("ada")]), of(&[user("bob")]));
        for object in &ada {
            let other = bob.iter().find(|other| named(other) == named(object));
            // What both have is the same for both, so that neither is left out by the other's.
            assert!(other.is_none_or(|other| other == object), "{object}");
            assert!(object["subjects"].as_array().is_none_or(|all| all.len() == 1));
        }
        let both = of(&[user("ada"), user("bob")]);
        for object in ada.iter().chain(&bob) {
            assert!(both.contains(object), "{object}");
        }
    }
}
