//! Each right of the roles that `devbox rbac` prints, taken away: what is said, and what works without it.

use anyhow::ensure;
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Caller, Outcome, Result, Scene, scenario, wait};
use serde_json::Value;

use crate::user;

const CALLER: Caller = Caller::Ordinary;

/// Rights in a namespace: API group, resource, verbs.
type Rights = [(&'static str, &'static str, &'static [&'static str])];

const FORWARD: &Rights = &[
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("", "pods/portforward", &["get", "create"]),
];

const POD: &Rights = &[
    ("batch", "jobs", &["create", "get", "patch", "delete"]),
    ("", "events", &["list"]),
    ("", "pods", &["list", "watch"]),
    ("", "secrets", &["get", "create"]),
    ("", "pods/proxy", &["get"]),
];

/// What a service answers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Answers,
    Nothing,
    NoSession,
}

/// A Role's rules, without these verbs of a resource.
fn rules(rights: &[&Rights], lacking: &str, verbs: &[&str]) -> String {
    let rules = rights.concat().into_iter().map(|(group, resource, all)| {
        let left: Vec<_> = all
            .iter()
            .filter(|verb| resource != lacking || !verbs.contains(verb))
            .copied()
            .collect();
        serde_json::json!({"apiGroups": [group], "resources": [resource], "verbs": left})
    });
    // A rule without a verb is none.
    let granted = rules.filter(|rule| rule["verbs"] != serde_json::json!([]));
    serde_json::json!(granted.collect::<Vec<_>>()).to_string()
}

/// Asks a service in a session of a user with these rules. What is said must have `said` in it, or nothing about rights where that is empty.
fn check(
    scene: &Scene,
    namespace: &Namespace,
    rules: &str,
    via: &str,
    what: &str,
    said: &str,
    then: Then,
) -> Result {
    let kubeconfig = namespace.service_account(scene, rules, CALLER)?;
    let ask = "timeout 12 redis-cli -h cache ping > /dev/null 2>&1 && echo answered || echo nothing";
    let own = ["exec", "-n", namespace.name(), "--exclude", "outside"];
    let way = ["--via", via, "--gateway-image", GATEWAY_IMAGE];
    let words = [&own[..], &way, &["--", "sh", "-c", ask]].concat();
    let exec = user::devbox(scene, namespace, &kubeconfig, &words)?.by(CALLER);
    let done = exec.run(4 * wait::SOON)?;
    let what = format!("without {what}, via {via}: {}", done.everything());
    ensure!(said.is_empty() != done.errors().contains("you may not"), "{what}");
    ensure!(done.errors().contains(said), "{what}");
    let came = match done.output().trim_end() {
        "answered" => Then::Answers,
        "nothing" => Then::Nothing,
        _ => Then::NoSession,
    };
    ensure!(came == then, "{came:?} {what}");
    Ok(())
}

/// What `devbox rbac` prints for a way in is these rights, all of which are taken away in turn; and a ConfigMap, of which the team's tests are.
fn ensure_whole(namespace: &Namespace, scene: &Scene, via: &str, rights: &[&Rights]) -> Result {
    user::user(scene, namespace, CALLER, &["--via", via])?;
    let role = format!("role/devbox-{via}");
    let role = namespace.kubectl(&["get", &role, "--output=json"])?;
    let role: Value = serde_json::from_str(&role)?;
    let sorted = |rules: &Value| {
        let mut rules: Vec<_> = rules
            .as_array()
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        rules.sort();
        rules
    };
    let mut known: Value = serde_json::from_str(&rules(rights, "", &[]))?;
    if let Some(known) = known.as_array_mut() {
        known.push(serde_json::json!(
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["devbox"], "verbs": ["list", "watch"]}
        ));
    }
    ensure!(
        sorted(&role["rules"]) == sorted(&known),
        "{} instead of {known}",
        role["rules"]
    );
    Ok(())
}

#[test]
fn each_right_of_a_port_forward_taken_away_leaves_what_is_stated() -> Outcome {
    let cases: [(&str, &[&str], &str, Then); 7] = [
        (
            "services",
            &["watch"],
            "you may not watch services",
            Then::Answers,
        ),
        (
            "services",
            &["list", "watch"],
            "you may not list services",
            Then::NoSession,
        ),
        (
            "endpointslices",
            &["watch"],
            "you may not watch endpointslices",
            Then::Answers,
        ),
        (
            "endpointslices",
            &["list", "watch"],
            "who answers for them is not known",
            Then::Nothing,
        ),
        // It is for later versions of the API server.
        ("pods/portforward", &["create"], "", Then::Answers),
        (
            "pods/portforward",
            &["get"],
            "you may not get pods/portforward",
            Then::Nothing,
        ),
        (
            "pods/portforward",
            &["get", "create"],
            "no connection to a pod can be made",
            Then::Nothing,
        ),
    ];
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        ensure_whole(&namespace, scene, "forward", &[FORWARD])?;
        for (resource, verbs, said, then) in cases {
            let rules = rules(&[FORWARD], resource, verbs);
            let what = format!("{verbs:?} of {resource}");
            check(scene, &namespace, &rules, "forward", &what, said, then)?;
        }
        Ok(())
    })
}

#[test]
fn without_any_right_of_a_gateway_pod_services_answer_all_the_same() -> Outcome {
    let stated = |resource: &str, verb: &str| match (resource, verb) {
        ("jobs", "delete") => "a gateway pod that cannot start ends by itself after two and a half minutes",
        ("events", _) => "what keeps a gateway pod from being created",
        ("pods/proxy", _) => "the gateway pod is reached over one port-forward",
        _ => "no gateway pod can be used, so that port-forwards take its place",
    };
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        ensure_whole(&namespace, scene, "pod", &[FORWARD, POD])?;
        for (_, resource, verbs) in POD {
            for verb in *verbs {
                let rules = rules(&[FORWARD, POD], resource, &[verb]);
                let what = format!("{verb} of {resource}");
                let said = format!(
                    "you may not {verb} {resource} in {}: {}",
                    namespace.name(),
                    stated(resource, verb)
                );
                check(scene, &namespace, &rules, "pod", &what, &said, Then::Answers)?;
            }
        }
        Ok(())
    })
}
