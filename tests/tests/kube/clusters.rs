//! Two clusters in one session.

use std::process::Command;

use anyhow::ensure;
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Caller, Outcome, Result, need_program, scenario, wait};

use crate::node::Started;

/// Lays a cable between two nodes, so that a program in the network of the first reaches the API server of the second.
fn join(near: &Node, far: &Node) -> Result {
    let cable = format!("dbx{:08x}", fastrand::u32(..));
    let far_process = far.first_process()?.to_string();
    let ip = |node: &Node, line: &str| -> Result {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(node.network()?);
        let mut command = Command::new("nsenter");
        let done = command.arg(net).arg("ip").args(line.split(' ')).output()?;
        ensure!(
            done.status.success(),
            "ip {line}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    };
    ip(
        near,
        &format!("link add {cable} type veth peer name {cable} netns {far_process}"),
    )?;
    for (here, there) in [(near, far), (far, near)] {
        let (own, other) = (here.address()?, there.address()?);
        ip(here, &format!("link set {cable} up"))?;
        ip(here, &format!("route add {other} dev {cable} src {own}"))?;
    }
    Ok(())
}

/// A namespace with Redis alone.
fn with_redis(node: &Node) -> Result<Namespace> {
    let all = include_str!("../../kube/services.yaml").split("---\n");
    let redis: Vec<_> = all.filter(|text| text.contains("{name: cache}")).collect();
    let namespace = node.namespace()?;
    namespace.apply(&redis.join("---\n"))?;
    namespace.rollout("deployment/cache")?;
    Ok(namespace)
}

#[test]
fn one_session_reaches_the_services_of_two_clusters() -> Outcome {
    scenario(|scene| {
        need_program("ip", "iproute2")?;
        let near = Node::find()?;
        let [_, _, number, _] = near.address()?.octets();
        let started = Started::numbered(&near, "second", number.wrapping_add(100))?;
        let far = started.node();
        join(&near, &far)?;
        let namespaces = [with_redis(&near)?, with_redis(&far)?];

        let caller = Caller::Ordinary;
        let mut config = "kubernetes:\n".to_owned();
        for (name, namespace) in ["near", "far"].into_iter().zip(&namespaces) {
            let admin = std::fs::read(namespace.node().admin())?;
            let kubeconfig = scene.write_secret(name, admin, caller)?;
            config += &format!(
                "  - {{name: {name}, environment: {name}, kubeconfig: {}, namespaces: [{}]}}\n",
                kubeconfig.display(),
                namespace.name()
            );
        }
        let config = scene.write("two-clusters.yaml", config)?;
        for namespace in &namespaces {
            let host = format!("cache.{}", namespace.name());
            let exec = scene.devbox(["exec", "--config"])?.args([config.as_os_str()]);
            let exec = exec.args(["--", "redis-cli", "-h", &host, "ping"]).by(caller);
            let answer = near.enter(exec)?.run(4 * wait::SOON)?.expect_success()?;
            ensure!(answer.output() == "PONG\n", "{host}: {}", answer.everything());
        }
        drop(namespaces);
        started.down()
    })
}
