//! Many connections, and many services.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use devbox_tests::kube::Node;
use devbox_tests::{Caller, Outcome, Result, hosts, proc, scenario, wait};

use crate::node::Started;
use crate::user;

const API_SERVER_PORT: u16 = 6443;

#[test]
fn sixteen_clients_at_once_are_all_answered_and_their_port_forwards_end_with_them() -> Outcome {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 20;
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user::user(scene, &namespace, caller, &[])?;
        let script = format!(
            "for client in $(seq {CLIENTS}); do (for request in $(seq {REQUESTS}); do \
             curl --silent --show-error --fail --max-time 30 --output /dev/null http://web/ && echo answered; done) & done; \
             wait; echo over; while ! [ -e {} ]; do sleep .1; done",
            scene.folder().join("stop").display()
        );
        let words = ["exec", "-n", namespace.name(), "--", "sh", "-c", &script];
        let mut asking = user::devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        asking.wait_for_line("the last answer", 8 * wait::SOON, |line| line == "over")?;
        let answered = asking.output().matches("answered").count();
        ensure!(
            answered == CLIENTS * REQUESTS,
            "{answered} answers: {}",
            asking.errors()
        );
        // Those that are kept ready, and the watches.
        wait::until("the end of the port-forwards", wait::SOON / 3, || {
            let open = proc::connections_of(asking.pid(), API_SERVER_PORT).ok()?;
            (open <= 12).then_some(())
        })?;
        scene.write("stop", "")?;
        asking.wait(2 * wait::SOON)?;
        Ok(())
    })
}

/// How many times something was listed in a namespace, as the API server counts it.
fn lists(node: &Node, resource: &str) -> Result<u64> {
    let metrics = node.kubectl(["get", "--raw", "/metrics"])?;
    let counted = metrics.lines().filter(|line| {
        [
            "verb=\"LIST\"",
            "scope=\"namespace\"",
            &format!("resource=\"{resource}\""),
        ]
        .iter()
        .all(|label| line.starts_with("apiserver_request_total{") && line.contains(label))
    });
    counted
        .map(|line| {
            let count = line.rsplit(' ').next().context("a line without a value")?;
            Ok(count.parse::<u64>()?)
        })
        .sum()
}

#[test]
fn many_services_are_listed_once_and_a_change_lists_nothing() -> Outcome {
    const SERVICES: usize = 1_000;
    scenario(|scene| {
        // Nobody else lists anything there.
        let started = Started::beside(&Node::find()?, "many")?;
        let node = started.node();
        let namespace = node.namespace()?;
        let mut manifests = String::new();
        for number in 0..SERVICES {
            write!(
                manifests,
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, spec: {{clusterIP: None, ports: [{{port: 8080}}]}}}}\n\
                 ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: s{number}-1, \
                 labels: {{kubernetes.io/service-name: s{number}}}}}, ports: [{{port: 8080}}], \
                 endpoints: [{{addresses: [10.1.2.3], targetRef: {{kind: Pod, name: p, namespace: {}}}}}]}}\n",
                namespace.name()
            )?;
        }
        // Each is new: `apply` would ask about it first.
        let manifests = scene.write("services.yaml", manifests)?;
        let file = manifests.display().to_string();
        namespace.kubectl(&["create", "--output=name", "--filename", &file])?;
        let before = [lists(&node, "services")?, lists(&node, "endpointslices")?];

        let caller = Caller::Ordinary;
        let admin = scene.write_secret("admin", std::fs::read(node.admin())?, caller)?;
        let file = scene.hosts_file(caller)?;
        let words = [
            "up",
            "-n",
            namespace.name(),
            "--hosts-file",
            &file.display().to_string(),
        ];
        let up = user::devbox(scene, &namespace, &admin, &words)?
            .by(caller)
            .start()?;
        let last = format!("s{}", SERVICES - 1);
        wait::until("every name", 2 * wait::SOON, || {
            hosts::lookup(&file, "s0").and(hosts::lookup(&file, &last))
        })?;
        namespace.kubectl(&["delete", "service/s0"])?;
        wait::until("the end of a name", 2 * wait::SOON, || {
            hosts::lookup(&file, "s0").is_none().then_some(())
        })?;
        let after = [lists(&node, "services")?, lists(&node, "endpointslices")?];
        ensure!(
            after == before.map(|count| count + 1),
            "{before:?}, then {after:?}"
        );
        drop(up);
        started.down()
    })
}
