//! What users of an installed gateway need: rights that the gateway asks the API server about, a token to show to it, and a way to it.

use super::{Subject, quoted, subject};
use crate::gateway::{FOR_USERS, HOME, TEAM, WANTED};

/// The objects, for users who come through the API server or, at a URL, `from_outside`.
pub(super) fn objects(namespaces: &[&str], subjects: &[Subject], from_outside: bool) -> Vec<String> {
    let Some((first, _)) = namespaces.split_first() else {
        return Vec::new();
    };
    let accounts = subjects.iter().filter_map(|subject| match subject {
        Subject::ServiceAccount { namespace, name } => Some((namespace.as_str(), name.as_str())),
        Subject::User(_) | Subject::Group(_) => None,
    });
    // Each of them shows a token of their own.
    let mut shown: Vec<(&str, &str, Vec<Subject>)> = accounts
        .map(|(namespace, name)| {
            let own = Subject::ServiceAccount {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            (namespace, name, vec![own])
        })
        .collect();
    let people: Vec<_> = subjects
        .iter()
        .filter(|subject| !matches!(subject, Subject::ServiceAccount { .. }))
        .cloned()
        .collect();
    let mut objects = Vec::new();
    if !people.is_empty() {
        objects.push(format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {FOR_USERS}\n  namespace: {}\nautomountServiceAccountToken: false\n",
            quoted(first)
        ));
        shown.push((first, FOR_USERS, people));
    }
    let bearers: Vec<_> = shown
        .iter()
        .map(|(namespace, name, _)| Subject::ServiceAccount {
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
        })
        .collect();
    let (verb, resource, name) = TEAM;
    let team = rule(resource, Some(name), &[verb]);
    let rules: Vec<_> = WANTED
        .iter()
        .map(|(verb, resource, subresource)| match subresource {
            Some(subresource) => rule(&format!("{resource}/{subresource}"), None, &[verb]),
            None => rule(resource, None, &[verb]),
        })
        .chain([team])
        .collect();
    for namespace in namespaces {
        objects.extend(granted("devbox-gateway-user", namespace, &rules, &bearers));
    }
    for (namespace, name, to) in &shown {
        let rules = [rule("serviceaccounts/token", Some(name), &["create"])];
        objects.extend(granted(
            &format!("devbox-gateway-token-{name}"),
            namespace,
            &rules,
            to,
        ));
    }
    if !from_outside {
        // Other teams have roles of their own there.
        let name = format!("devbox-gateway-client-{first}");
        let rules = [rule("pods", None, &["list"]), rule("pods/proxy", None, &["get"])];
        objects.extend(granted(&name, HOME, &rules, subjects));
    }
    objects
}

fn rule(resource: &str, name: Option<&str>, verbs: &[&str]) -> String {
    let names = name.map_or_else(String::new, |name| {
        format!("    resourceNames: [{}]\n", quoted(name))
    });
    format!(
        "  - apiGroups: [\"\"]\n    resources: [{resource}]\n{names}    verbs: [{}]\n",
        verbs.join(", ")
    )
}

fn granted(role: &str, namespace: &str, rules: &[String], to: &[Subject]) -> [String; 2] {
    let subjects: String = to.iter().map(subject).collect();
    super::role_and_binding(role, namespace, &rules.concat(), &subjects)
}
