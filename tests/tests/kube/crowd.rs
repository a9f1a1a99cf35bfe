//! Many connections, and many services.

use std::fmt::Write as _;

use anyhow::ensure;
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Caller, Outcome, Result, Scene, proc, scenario, wait};

use crate::node::Started;
use crate::session::{CALLER, Session, figure};
use crate::user;
use crate::watch::lists;

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

/// Headless services, each with a slice of its own.
fn services(names: impl Iterator<Item = String>, namespace: &Namespace) -> Result<String> {
    let mut manifests = String::new();
    for name in names {
        write!(
            manifests,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: None, ports: [{{port: 8080}}]}}}}\n\
             ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}-1, \
             labels: {{kubernetes.io/service-name: {name}}}}}, ports: [{{port: 8080}}], \
             endpoints: [{{addresses: [10.1.2.3], targetRef: {{kind: Pod, name: p, namespace: {}}}}}]}}\n",
            namespace.name()
        )?;
    }
    Ok(manifests)
}

/// Follows a namespace with so many services, of which `changed` come and go a few times. What that costs in clock ticks of CPU time.
fn cost_of_changes(scene: &Scene, node: &Node, count: usize) -> Result<u64> {
    const CHANGED: usize = 100;
    const TIMES: usize = 3;
    let namespace = node.namespace()?;
    // Each is new: `apply` would ask about it first.
    let create = |file: &str, manifests: String| -> Result<String> {
        let file = scene.write(file, manifests)?.display().to_string();
        namespace.kubectl(&["create", "--output=name", "--filename", &file])?;
        Ok(file)
    };
    let name = |number| format!("s{number}");
    create("services.yaml", services((0..count).map(name), &namespace)?)?;
    let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
    let session = Session::start(scene, &namespace, &kubeconfig, &["--via", "forward"])?;
    session.there(&name(0))?;
    session.there(&name(count - 1))?;

    let last = format!("c{}", CHANGED - 1);
    let begun = proc::cpu_ticks(session.up.pid());
    for _ in 0..TIMES {
        let changed = services((0..CHANGED).map(|number| format!("c{number}")), &namespace)?;
        let file = create("changed.yaml", changed)?;
        session.there("c0")?;
        session.there(&last)?;
        namespace.kubectl(&["delete", "--wait=false", "--filename", &file])?;
        session.gone("c0")?;
        session.gone(&last)?;
    }
    let ticks = proc::cpu_ticks(session.up.pid()) - begun;
    let listed = lists(&namespace)?;
    ensure!(listed == [1, 1, 1], "{count} services: {listed:?}");
    figure(&format!(
        "{count} services: {} changes took {ticks} clock ticks of CPU time",
        2 * TIMES * CHANGED
    ));
    session.end()?;
    Ok(ticks)
}

#[test]
fn many_services_are_listed_once_and_a_change_costs_no_more_than_among_few() -> Outcome {
    scenario(|scene| {
        // On a node of its own: what other tests change would cost the session time as well.
        let started = Started::beside(&Node::find()?, "many")?;
        let node = started.node();
        let few = cost_of_changes(scene, &node, 20)?;
        let many = cost_of_changes(scene, &node, 1_000)?;
        // What is counted is counted in steps, and the hosts file has them all.
        ensure!(
            many < 4 * few.max(10),
            "{few} clock ticks among 20, {many} among 1,000"
        );
        started.down()
    })
}
