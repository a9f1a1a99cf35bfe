//! What the services of a namespace come to in a session: which of them are there, by which names and ports, and why one cannot answer.

use anyhow::ensure;
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Outcome, Result, scenario};
use serde_json::{Value, json};

use crate::session::{CALLER, Session};
use crate::user;

/// A Service with these labels, annotations and specification.
fn service(name: &str, labels: &Value, annotations: &Value, spec: &Value) -> String {
    let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    format!("{service}\n---\n")
}

/// An EndpointSlice of a service, with a member that nobody has to be.
fn slice(name: &str, of: &str, protocol: &str, port: u16, pod: Option<&str>) -> String {
    let mut endpoint = json!({"addresses": ["10.1.2.3"], "conditions": {"ready": true}});
    if let Some(pod) = pod {
        endpoint["hostname"] = json!(pod);
        endpoint["targetRef"] = json!({"kind": "Pod", "name": pod});
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
        "ports": [{"name": "", "port": port, "protocol": protocol}],
        "endpoints": [endpoint],
    });
    format!("{slice}\n---\n")
}

/// A service of each shape, none of which has a pod.
fn shapes(namespace: &Namespace) -> Result {
    let (none, no) = (json!({}), json!({}));
    let headless = |port: u16| json!({"clusterIP": "None", "ports": [{"port": port}]});
    let all = [
        service(
            "plain",
            &json!({"tier": "front"}),
            &no,
            &json!({"selector": {"app": "nobody"}, "ports": [{"port": 7001}]}),
        ),
        service(
            "named",
            &json!({"tier": "front"}),
            &json!({"devbox.dev/name": "further, other", "devbox.dev/ports": "7003, admin"}),
            &json!({"clusterIP": "None", "ports": [
                {"name": "web", "port": 7002}, {"name": "metrics", "port": 7003}, {"name": "admin", "port": 7004}]}),
        ),
        service(
            "left-out",
            &none,
            &json!({"devbox.dev/ignore": "true"}),
            &headless(7001),
        ),
        slice("left-out-1", "left-out", "TCP", 7001, Some("one")),
        // Two slices, a member in each.
        service("group", &json!({"tier": "back"}), &no, &headless(7001)),
        slice("group-1", "group", "TCP", 7001, Some("one")),
        slice("group-2", "group", "TCP", 7001, Some("two")),
        service(
            "sctp",
            &none,
            &no,
            &json!({"selector": {"app": "nobody"}, "ports": [{"port": 7001, "protocol": "SCTP"}]}),
        ),
        service(
            "both",
            &none,
            &no,
            &json!({"clusterIP": "None", "ports": [{"name": "sctp", "port": 7001, "protocol": "SCTP"}, {"port": 7002, "name": "tcp"}]}),
        ),
        service(
            "datagrams",
            &none,
            &no,
            &json!({"clusterIP": "None", "ports": [{"port": 7001, "protocol": "UDP"}]}),
        ),
        slice("datagrams-1", "datagrams", "UDP", 7001, Some("one")),
        service(
            "outside",
            &none,
            &no,
            &json!({"type": "ExternalName", "externalName": "outside.devbox.test", "ports": [{"port": 7001}]}),
        ),
        service(
            "outside-no-port",
            &none,
            &no,
            &json!({"type": "ExternalName", "externalName": "outside.devbox.test"}),
        ),
        service("by-hand", &none, &no, &headless(7001)),
        slice("by-hand-1", "by-hand", "TCP", 7001, None),
        service("bare", &none, &no, &headless(7001)),
    ];
    namespace.apply(&all.concat())
}

/// The services that a session has, by what their ids begin with.
fn services(session: &Session<'_>) -> Result<Vec<String>> {
    let status = session.status()?;
    let services = status["services"].as_array().into_iter().flatten();
    let name = |service: &Value| {
        let id = service["service"].as_str()?;
        let (name, _) = id.rsplit_once('.')?;
        Some(name.to_owned())
    };
    let mut names: Vec<_> = services.filter_map(name).collect();
    names.sort();
    Ok(names)
}

const SCTP: &str = "SCTP is not carried";
const OUTSIDE: &str = "it stands for outside.devbox.test, and";
/// Of `both`, whose other port somebody could answer.
const NO_ENDPOINT: &str = "it has neither a selector nor endpoints";

#[test]
fn what_cannot_be_reached_is_shown_with_the_reason_and_what_would_reach_it() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        shapes(&namespace)?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &[])?;
        // Nobody has to say which way: nothing is installed, and what a higher rung gives is told.
        let via = session.provider()?["via"].take();
        ensure!(via["way"] == "port-forward", "{via}");
        let because = via["because"].as_str().unwrap_or_default();
        ensure!(because.contains("no gateway is installed"), "{via}");
        let more =
            "`--via pod` and an installed gateway also carry UDP and reach what is no pod, and are faster";
        ensure!(session.remarks(more)?, "{}", session.provider()?);

        // Nothing was created for it, in a namespace without any.
        let found = namespace.kubectl(&["get", "jobs,pods,deployments", "--output", "name"])?;
        ensure!(found.trim().is_empty(), "{found}");

        let all = [
            "bare",
            "both",
            "by-hand",
            "datagrams",
            "group",
            "named",
            "one.datagrams",
            "one.group",
            "outside",
            "outside-no-port",
            "plain",
            "sctp",
            "two.group",
        ];
        let found = services(&session)?;
        ensure!(found == all, "{found:?}");
        for (name, why) in [
            ("plain", "it has no pod"),
            ("sctp", SCTP),
            ("both", NO_ENDPOINT),
            ("bare", NO_ENDPOINT),
            (
                "datagrams",
                "a port-forward carries no UDP; `--via pod` and an installed gateway do",
            ),
            (
                "outside",
                &format!(
                    "{OUTSIDE} a port-forward follows no ExternalName: connect to outside.devbox.test itself where this machine \
                     reaches it, or use `--via pod`, which follows it"
                ),
            ),
            ("outside-no-port", &format!("{OUTSIDE} names no port")),
            (
                "by-hand",
                "its endpoints are no pods, and a port-forward reaches pods only; `--via pod` and an installed gateway reach them",
            ),
        ] {
            let said = session.not_ready(name)?;
            ensure!(said == why, "{name}: {said}");
        }
        ensure!(session.service("group")?["readiness"] == "ready");
        ensure!(session.of("one.group").is_some() && session.of("two.group").is_some());
        ensure!(session.of("one.group") != session.of("two.group"));

        // What annotations say.
        ensure!(session.of("further") == session.of("named") && session.of("other") == session.of("named"));
        let named = session.service("named")?;
        let ports = named["ports"].as_array().into_iter().flatten();
        let ports: Vec<_> = ports.filter_map(|port| port["port"].as_u64()).collect();
        ensure!(ports == [7003, 7004], "{named}");
        // They are followed.
        namespace.kubectl(&["annotate", "service/left-out", "devbox.dev/ignore-"])?;
        session.there("left-out")?;
        namespace.kubectl(&["annotate", "service/left-out", "devbox.dev/name=late"])?;
        session.same("late", "left-out")?;
        namespace.kubectl(&["annotate", "service/named", "devbox.dev/ignore=true"])?;
        session.gone("further")?;
        ensure!(session.of("named").is_none());
        session.end()
    })
}

#[test]
fn from_a_gateway_pod_on_more_is_reached() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        shapes(&namespace)?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        let session = Session::start(scene, &namespace, &kubeconfig, &way)?;
        for name in ["datagrams", "outside", "by-hand", "group"] {
            let service = session.service(name)?;
            ensure!(service["readiness"] == "ready", "{service}");
        }
        for (name, why) in [
            ("sctp", SCTP),
            ("plain", "it has no pod"),
            ("bare", NO_ENDPOINT),
            ("outside-no-port", &format!("{OUTSIDE} names no port")),
        ] {
            let said = session.not_ready(name)?;
            ensure!(said == why, "{name}: {said}");
        }
        session.end()
    })
}

#[test]
fn selectors_and_lists_of_names_say_which_services_are_there() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        shapes(&namespace)?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        for (more, wanted) in [
            (&["--selector", "tier=front"][..], &["named", "plain"][..]),
            (&["-l", "tier", "--exclude", "gr*"], &["named", "plain"]),
            (&["--field-selector", "metadata.name=bare"], &["bare"]),
            (
                &["--include", "b*", "--include", "plain", "--exclude", "*th"],
                &["bare", "by-hand", "plain"],
            ),
        ] {
            let session = Session::start(scene, &namespace, &kubeconfig, more)?;
            let found = services(&session)?;
            ensure!(found == wanted, "{more:?}: {found:?}");
            if more[0] == "--selector" {
                namespace.kubectl(&["label", "service/group", "tier=front", "--overwrite"])?;
                session.there("one.group")?;
                namespace.kubectl(&["label", "service/group", "tier=back", "--overwrite"])?;
                session.gone("group")?;
                ensure!(session.of("one.group").is_none());
            }
            session.end()?;
        }
        Ok(())
    })
}

#[test]
fn services_that_may_not_be_listed_can_be_named() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        shapes(&namespace)?;
        let name = namespace.name();
        // The API server writes `Endpoints` for pods alone; these are written by hand as well.
        let endpoints = |of: &str| {
            json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": of},
                "subsets": [{"addresses": [{"ip": "10.1.2.3", "targetRef": {"kind": "Pod", "name": "one"}}],
                             "ports": [{"port": 7001}]}],
            })
            .to_string()
        };
        namespace.kubectl(&["delete", "service/plain"])?;
        namespace.apply(&service(
            "plain",
            &json!({}),
            &json!({}),
            &json!({"ports": [{"port": 7001}]}),
        ))?;
        namespace.apply(&endpoints("plain"))?;
        let rules = json!([
            {"apiGroups": [""], "resources": ["services", "endpoints"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
        ]);
        let kubeconfig = namespace.service_account(scene, &rules.to_string(), CALLER)?;
        let config = format!(
            "kubernetes: [{{namespaces: [{name}], services: [plain.{name}, group.{name}, later.{name}]}}]\n"
        );
        let config = scene.write("named.yaml", config)?.display().to_string();
        let session = Session::start(scene, &namespace, &kubeconfig, &["--config", &config])?;
        let found = services(&session)?;
        ensure!(found == ["group", "plain"], "{found:?}");
        let plain = session.service("plain")?;
        ensure!(plain["readiness"] == "ready", "{plain}");
        for part in [
            format!(
                "you may not list services in the namespace {name}, so the services of those that are named are looked at every 5 s"
            ),
            format!(
                "you may not list endpointslices in the namespace {name}, so the endpoints of those that are named are looked at every 5 s"
            ),
        ] {
            ensure!(session.remarks(&part)?, "{}", session.provider()?);
        }
        namespace.apply(&endpoints("later"))?;
        namespace.apply(&service(
            "later",
            &json!({}),
            &json!({}),
            &json!({"clusterIP": "None", "ports": [{"port": 7001}]}),
        ))?;
        namespace.kubectl(&["delete", "service/group"])?;
        session.there("later")?;
        session.gone("group")?;
        session.end()
    })
}
