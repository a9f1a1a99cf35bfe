//! The ConfigMap `devbox` of a namespace: a team's names, pins and order.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Outcome, Result, scenario};
use serde_json::{Value, json};

use crate::session::{CALLER, Session, podless};
use crate::user;

fn with_services(node: &Node, names: &[&str]) -> Result<Namespace> {
    let namespace = node.namespace()?;
    podless(&namespace, names)?;
    Ok(namespace)
}

fn wish(namespace: &Namespace, data: &Value) -> Result {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "devbox"}, "data": data,
    });
    namespace.apply(&map.to_string())
}

#[test]
fn a_teams_names_pins_and_order_are_followed_while_they_change() -> Outcome {
    scenario(|scene| {
        let namespace = with_services(&Node::find()?, &["cache", "store", "web"])?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &[])?;
        let own = session.of("web").context("no web")?;
        ensure!(session.of("redis").is_none());

        let pinned: IpAddr = "127.77.200.7".parse()?;
        let both = "cache: redis, shared\nstore: shared";
        wish(
            &namespace,
            &json!({"names": both, "pins": format!("web: {pinned}"), "order": "store"}),
        )?;
        session.at("web", pinned)?;
        session.same("redis", "cache")?;
        session.same("shared", "store")?;
        session.notes(&[])?;

        // The order alone changes, and nobody but the name.
        wish(
            &namespace,
            &json!({"names": both, "pins": format!("web: {pinned}"), "order": "cache\nstore"}),
        )?;
        session.same("shared", "cache")?;
        session.at("web", pinned)?;

        // A damaged line is told; what can be understood is in force.
        wish(
            &namespace,
            &json!({"names": "cache: redis\nstore the_store", "pins": "web: 10.0.0.1"}),
        )?;
        session.gone("shared")?;
        session.same("redis", "cache")?;
        session.at("web", own)?;
        let name = namespace.name();
        session.notes(&[format!(
            "ConfigMap devbox in {name}: `names`, line 2: expected a service and what is wanted for it, as in `orders-postgres: db`"
        )])?;
        let services = session.status()?["services"].take();
        let web = services.as_array().into_iter().flatten().find(|service| {
            service["service"]
                .as_str()
                .is_some_and(|id| id.starts_with("web."))
        });
        let unpinned = web.map(|web| web["unpinned"].clone()).unwrap_or_default();
        ensure!(
            unpinned.as_str().is_some_and(|why| why.contains("10.0.0.1")),
            "{services}"
        );

        namespace.kubectl(&["delete", "configmap/devbox"])?;
        session.gone("redis")?;
        session.notes(&[])?;
        session.at("web", own)?;
        session.end()
    })
}

#[test]
fn of_two_namespaces_the_first_has_the_short_name_and_the_users_own_file_comes_before_both_teams() -> Outcome
{
    scenario(|scene| {
        let node = Node::find()?;
        let (first, second) = (
            with_services(&node, &["cache"])?,
            with_services(&node, &["cache"])?,
        );
        wish(&first, &json!({"names": "cache: redis"}))?;
        wish(&second, &json!({"names": "cache: redis", "order": "cache"}))?;
        let admin = scene.write_secret("admin", std::fs::read(node.admin())?, CALLER)?;
        let of_second = second.name();
        let session = Session::start(scene, &first, &admin, &["-n", of_second])?;
        session.same("redis", &format!("cache.{}", first.name()))?;
        session.same(&format!("redis.{of_second}"), &format!("cache.{of_second}"))?;
        ensure!(session.of("redis") != session.of(&format!("redis.{of_second}")));
        session.end()?;

        let config = format!(
            "services:\n  cache.{}: {{names: [mine], pin: 127.77.200.9}}\n",
            first.name()
        );
        let config = scene.write("devbox.yaml", config)?.display().to_string();
        let session = Session::start(scene, &first, &admin, &["--config", &config])?;
        session.at("mine", "127.77.200.9".parse()?)?;
        ensure!(session.of("redis").is_none(), "the user has said which names");
        session.end()
    })
}

#[test]
fn who_may_not_read_it_is_told_in_the_status_and_has_everything_else() -> Outcome {
    scenario(|scene| {
        let namespace = with_services(&Node::find()?, &["cache"])?;
        wish(&namespace, &json!({"names": "cache: redis"}))?;
        let rules = json!([
            {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
        ]);
        let kubeconfig = namespace.service_account(scene, &rules.to_string(), CALLER)?;
        let session = Session::start(scene, &namespace, &kubeconfig, &[])?;
        ensure!(session.of("cache").is_some() && session.of("redis").is_none());
        session.notes(&[format!(
            "you may not get configmaps in the namespace {}, so a team's names, pins and order are not known",
            namespace.name()
        )])?;
        ensure!(
            !session.up.errors().contains("you may not"),
            "it is no warning: {}",
            session.up.errors()
        );
        session.end()
    })
}

#[test]
fn through_a_gateway_pod_it_is_the_same() -> Outcome {
    scenario(|scene| {
        let namespace = with_services(&Node::find()?, &["cache"])?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        let session = Session::start(scene, &namespace, &kubeconfig, &way)?;
        wish(
            &namespace,
            &json!({"names": "cache: redis", "pins": "cache: 127.77.200.11"}),
        )?;
        session.at("redis", "127.77.200.11".parse()?)?;
        namespace.kubectl(&["delete", "configmap/devbox"])?;
        session.gone("redis")?;
        session.end()
    })
}
