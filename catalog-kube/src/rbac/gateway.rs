//! What users of an installed gateway need: rights that the gateway asks the API server about, a token to show to it, and a way to it.

use super::{Subject, quoted};
use crate::gateway::{Account, HOME, STATIC, TEAM, WANTED};

/// Somebody who is given rights, and as whom they come to a gateway.
struct Client<'a> {
    subject: &'a Subject,
    bearer: Bearer,
}

/// Whose token a client shows.
enum Bearer {
    /// A service account's, which the API server is asked for.
    Account(Account),
    /// A static one, which they have already.
    Static,
}

impl<'a> Client<'a> {
    fn new(subject: &'a Subject) -> Self {
        let bearer = match subject {
            Subject::User(name) if name.starts_with(STATIC) => Bearer::Static,
            Subject::User(name) => Bearer::Account(Account::of_user(name)),
            Subject::Group(name) => Bearer::Account(Account::of_group(name)),
            Subject::ServiceAccount { namespace, name } => Bearer::Account(Account {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
        };
        Self { subject, bearer }
    }

    /// Whom the gateway knows them as.
    fn known_as(&self) -> Subject {
        match &self.bearer {
            Bearer::Static => self.subject.clone(),
            Bearer::Account(Account { namespace, name }) => Subject::ServiceAccount {
                namespace: namespace.clone(),
                name: name.clone(),
            },
        }
    }

    /// A service account that stands for them, where they are none.
    fn account(&self) -> Option<String> {
        let Bearer::Account(Account { namespace, name }) = &self.bearer else {
            return None;
        };
        (self.known_as() != *self.subject).then(|| {
            format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {}\n  namespace: {}\nautomountServiceAccountToken: false\n",
                quoted(name),
                quoted(namespace)
            )
        })
    }
}

/// The objects, for users who come through the API server or, at a URL, `from_outside`.
pub(super) fn objects(namespaces: &[&str], subjects: &[Subject], from_outside: bool) -> Vec<String> {
    let clients: Vec<_> = subjects.iter().map(Client::new).collect();
    let mut objects: Vec<_> = clients.iter().filter_map(Client::account).collect();
    let (verb, resource, name) = TEAM;
    let team = rule(resource, Some(name), &[verb]);
    let wanted = WANTED
        .iter()
        .map(|(verb, resource, subresource)| match subresource {
            Some(subresource) => rule(&format!("{resource}/{subresource}"), None, &[verb]),
            None => rule(resource, None, &[verb]),
        });
    let rules: String = wanted.chain([team]).collect();
    for namespace in namespaces {
        objects.push(super::role(USER, namespace, &rules));
        for client in &clients {
            let name = format!("devbox-gateway-{}", client.subject.key());
            objects.push(super::binding(&name, USER, namespace, &client.known_as()));
        }
    }
    for client in &clients {
        if let Bearer::Account(Account { namespace, name }) = &client.bearer {
            let role = format!("devbox-gateway-token-{name}");
            let rules = rule("serviceaccounts/token", Some(name), &["create"]);
            objects.push(super::role(&role, namespace, &rules));
            objects.push(super::binding(&role, &role, namespace, client.subject));
        }
    }
    // Whoever has a static token shows it at a URL, or comes as somebody who has these rights.
    let mut through = clients
        .iter()
        .filter(|client| !from_outside && !matches!(client.bearer, Bearer::Static))
        .peekable();
    if through.peek().is_some() {
        let rules = [rule("pods", None, &["list"]), rule("pods/proxy", None, &["get"])];
        objects.push(super::role(THROUGH, HOME, &rules.concat()));
    }
    for client in through {
        let name = format!("{THROUGH}-{}", client.subject.key());
        objects.push(super::binding(&name, THROUGH, HOME, client.subject));
    }
    objects
}

const USER: &str = "devbox-gateway-user";
const THROUGH: &str = "devbox-gateway-client";

fn rule(resource: &str, name: Option<&str>, verbs: &[&str]) -> String {
    let names = name.map_or_else(String::new, |name| {
        format!("    resourceNames: [{}]\n", quoted(name))
    });
    format!(
        "  - apiGroups: [\"\"]\n    resources: [{resource}]\n{names}    verbs: [{}]\n",
        verbs.join(", ")
    )
}
