//! Each right of the roles that `devbox rbac` prints, taken away: what is said, and what works without it.

use anyhow::{Context as _, bail, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Exit, Outcome, Result, Scene, scenario, wait};
use serde_json::Value;

use crate::session::{CALLER, REDIS, Redis, Session};
use crate::user;

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

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// Connections go this way, and services answer.
    Answers(Road),
    Nothing,
    NoSession,
}

/// Where connections go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Road {
    Forwards,
    /// A gateway pod, in one stream through the API server.
    Pod,
    PodOverOneForward,
}

impl Road {
    /// As the status shows it: the way, and what its mux runs over.
    const fn shown(self) -> (&'static str, Option<&'static str>) {
        match self {
            Road::Forwards => ("port-forward", None),
            Road::Pod => ("gateway pod ", Some("one raw upgrade through the API server")),
            Road::PodOverOneForward => (
                "gateway pod ",
                Some("one port-forward, because you may not get pods/proxy in "),
            ),
        }
    }

    fn is_taken(self, session: &Session<'_>) -> Result {
        let provider = session.provider()?;
        let (way, over) = self.shown();
        let taken = provider["via"]["way"]
            .as_str()
            .is_some_and(|taken| taken.starts_with(way));
        let under = match (provider["over"].as_str(), over) {
            (Some(shown), Some(over)) => shown.starts_with(over),
            (shown, over) => shown == over,
        };
        ensure!(taken && under, "{self:?}: {provider}");
        Ok(())
    }
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
    let way = [
        "--exclude",
        "outside",
        "--via",
        via,
        "--gateway-image",
        GATEWAY_IMAGE,
    ];
    let is_said = |told: &str| -> Result {
        ensure!(said.is_empty() != told.contains("you may not"), "{told}");
        ensure!(told.contains(said), "{told}");
        Ok(())
    };
    let checked = || -> Result {
        if then == Then::NoSession {
            let words = [&["up", "--no-hosts", "-n", namespace.name()], &way[..]].concat();
            let up = user::devbox(scene, namespace, &kubeconfig, &words)?.by(CALLER);
            let done = up.run(4 * wait::SOON)?;
            ensure!(done.exit != Exit::code(0), "{}", done.everything());
            return is_said(&done.everything());
        }
        let session = Session::start(scene, namespace, &kubeconfig, &way)?;
        wait::until_ok("what is lacking", wait::SOON, || {
            is_said(&session.up.everything())
        })?;
        let answer = session
            .connect("cache", REDIS)
            .map(|stream| Redis(stream).ask("PING"));
        match (then, answer) {
            (Then::Answers(road), Ok(Ok(answer))) if answer == "+PONG" => road.is_taken(&session)?,
            // No port is opened where nobody is known to answer at it.
            (Then::Nothing, Ok(Err(_)) | Err(_)) => Road::Forwards.is_taken(&session)?,
            (then, came) => bail!("{came:?} instead of {then:?}"),
        }
        session.end()
    };
    checked().with_context(|| format!("without {what}, via {via}"))
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
            Then::Answers(Road::Forwards),
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
            Then::Answers(Road::Forwards),
        ),
        (
            "endpointslices",
            &["list", "watch"],
            "who answers for them is not known",
            Then::Nothing,
        ),
        // It is for later versions of the API server.
        ("pods/portforward", &["create"], "", Then::Answers(Road::Forwards)),
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
        ("jobs", "delete") => (
            "a gateway pod that cannot start ends by itself after two and a half minutes",
            Road::Pod,
        ),
        ("events", _) => ("what keeps a gateway pod from being created", Road::Pod),
        ("pods/proxy", _) => (
            "the gateway pod is reached over one port-forward",
            Road::PodOverOneForward,
        ),
        _ => (
            "no gateway pod can be used, so that port-forwards take its place",
            Road::Forwards,
        ),
    };
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        ensure_whole(&namespace, scene, "pod", &[FORWARD, POD])?;
        for (_, resource, verbs) in POD {
            for verb in *verbs {
                let rules = rules(&[FORWARD, POD], resource, &[verb]);
                let what = format!("{verb} of {resource}");
                let (stated, road) = stated(resource, verb);
                let said = format!("you may not {verb} {resource} in {}: {stated}", namespace.name());
                check(
                    scene,
                    &namespace,
                    &rules,
                    "pod",
                    &what,
                    &said,
                    Then::Answers(road),
                )?;
            }
        }
        Ok(())
    })
}
