//! How a session follows a namespace: one LIST of each kind, a watch that goes on from there, and another LIST only where it cannot.

use std::fs;

use anyhow::{Context as _, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Outcome, Result, Scene, scenario, wait};
use serde_json::{Value, json};

use crate::node::Started;
use crate::session::{CALLER, Session, podless};
use crate::user;

/// What the API server wrote down of requests for a kind of object in a namespace that it granted: of each, the version that it is from, where it
/// names one.
fn asked(namespace: &Namespace, verb: &str, kind: &str) -> Result<Vec<Option<u64>>> {
    let log = fs::read_to_string(namespace.node().folder().join("log").join("audit.log"))?;
    let path = format!("/namespaces/{}/{kind}?", namespace.name());
    // A watch is written down as it begins, and again as it ends.
    let stage = if verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    // The last line may be half written.
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_kind = |event: &Value| {
        let uri = event["requestURI"].as_str()?;
        // What is refused, while the API server does not know a role yet, is asked for again.
        let granted = event["responseStatus"]["code"] == 200;
        let is_it = event["verb"] == verb && event["stage"] == stage && uri.contains(&path) && granted;
        let version = uri
            .split(['?', '&'])
            .find_map(|part| part.strip_prefix("resourceVersion="));
        is_it.then(|| version.and_then(|version| version.parse().ok()))
    };
    Ok(lines.filter_map(|event| of_kind(&event)).collect())
}

/// How often sessions listed the services, the slices and the `ConfigMap`s of a namespace.
pub(crate) fn lists(namespace: &Namespace) -> Result<[usize; 3]> {
    let [services, slices, configs] =
        ["services", "endpointslices", "configmaps"].map(|kind| asked(namespace, "list", kind));
    Ok([services?.len(), slices?.len(), configs?.len()])
}

/// As etcd's JSON has bytes.
fn base64(scene: &Scene, text: &str) -> Result<String> {
    let encoded = scene
        .command(["base64", "--wrap=0"])
        .stdin(text)
        .run(wait::SOON)?;
    Ok(encoded.expect_success()?.output())
}

/// Sends a request to the node's etcd (its gRPC gateway).
fn etcd(scene: &Scene, node: &Node, what: &str, request: &Value) -> Result<Value> {
    let url = format!("http://127.0.0.1:2379/v3/kv/{what}");
    let request = request.to_string();
    let curl = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--data",
        &request,
        &url,
    ];
    let done = node.command(scene, curl)?.run(wait::SOON)?.expect_success()?;
    done.json()
}

#[test]
fn what_a_watch_can_no_longer_tell_is_listed_once_and_the_watch_goes_on_from_there() -> Outcome {
    scenario(|scene| {
        let started = Started::beside(&Node::find()?, "outdated")?;
        let node = started.node();
        let namespace = node.namespace()?;
        podless(&namespace, &["stays", "goes"])?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &[])?;
        ensure!(session.of("stays").is_some() && session.of("goes").is_some());
        let before = lists(&namespace)?;
        ensure!(before == [1, 1, 1], "{before:?}");

        // Taken away behind the API server's back, and every older version forgotten: no watch can tell of it.
        node.stop("kube-apiserver")?;
        let key = format!("/registry/services/specs/{}/goes", namespace.name());
        let deleted = etcd(scene, &node, "deleterange", &json!({"key": base64(scene, &key)?}))?;
        ensure!(deleted["deleted"] == "1", "{deleted}");
        let revision = &deleted["header"]["revision"];
        etcd(
            scene,
            &node,
            "compaction",
            &json!({"revision": revision, "physical": true}),
        )?;
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        session.gone("goes")?;
        ensure!(session.of("stays").is_some());
        podless(&namespace, &["later"])?;
        session.there("later")?;
        let after = lists(&namespace)?;
        ensure!(after[..2] == [2, 2], "{before:?}, then {after:?}");
        session.end()?;
        drop(namespace);
        started.down()
    })
}

#[test]
fn a_watch_whose_time_is_up_goes_on_from_its_last_bookmark() -> Outcome {
    scenario(|scene| {
        let node = Node::find()?;
        let (namespace, elsewhere) = (node.namespace()?, node.namespace()?);
        podless(&namespace, &["stays"])?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &[])?;
        // Nothing of it concerns the session, and the version of what it watches moves on.
        podless(&elsewhere, &["other"])?;
        let version = elsewhere.kubectl(&[
            "get",
            "service/other",
            "--output=jsonpath={.metadata.resourceVersion}",
        ])?;
        let version: u64 = version.parse()?;
        let second = wait::until("a second watch", 6 * wait::SOON, || {
            asked(&namespace, "watch", "services").ok()?.get(1).copied()
        })?;
        let first = asked(&namespace, "watch", "services")?[0].context("a watch from nowhere")?;
        let second = second.context("a watch from nowhere")?;
        ensure!(
            first < version && version <= second,
            "from {first}, then from {second}, with {version} between"
        );
        let listed = lists(&namespace)?;
        ensure!(listed == [1, 1, 1], "{listed:?}");
        podless(&namespace, &["later"])?;
        session.there("later")?;
        session.end()
    })
}
