//! Two clusters in one session.

use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use devbox_tests::kube::Node;
use devbox_tests::{Caller, Outcome, Result, need_program, scenario, wait};

use crate::node::Started;
use crate::session::{REDIS, Redis, Session, with_redis};

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
        let mut kubeconfigs = Vec::new();
        for (name, namespace) in ["near", "far"].into_iter().zip(&namespaces) {
            let admin = std::fs::read(namespace.node().admin())?;
            let kubeconfig = scene.write_secret(name, admin, caller)?;
            config += &format!(
                "  - {{name: {name}, environment: {name}, kubeconfig: {}, namespaces: [{}]}}\n",
                kubeconfig.display(),
                namespace.name()
            );
            kubeconfigs.push(kubeconfig);
        }
        let config = scene.write("two-clusters.yaml", config)?;
        let session = Session::of_config(scene, &namespaces[0], &kubeconfigs[0], &config)?;
        let hosts = namespaces
            .each_ref()
            .map(|namespace| format!("cache.{}", namespace.name()));
        let connect = |host: &str| {
            wait::until_ok("a connection", 2 * wait::SOON, || {
                Ok(Redis(session.connect(host, REDIS)?))
            })
        };
        // Both are open at the same time, and each is to its own cluster.
        let mut open = [connect(&hosts[0])?, connect(&hosts[1])?];
        for (connection, name) in open.iter_mut().zip(["near", "far"]) {
            ensure!(connection.ask(&format!("SET cluster {name}"))? == "+OK");
        }
        for _ in 0..2 {
            for (connection, name) in open.iter_mut().zip(["near", "far"]) {
                let answer = connection.ask("GET cluster")?;
                ensure!(answer == name, "{answer} instead of {name}");
            }
            // And so is each new one, beside those.
            open = [connect(&hosts[0])?, connect(&hosts[1])?];
        }
        // What happens to one of them is nothing to the other.
        far.stop("kube-apiserver")?;
        let [near_one, far_one] = open;
        far_one
            .hold()
            .expect_reset_at_once(Instant::now(), "an API server that was stopped, of two")?;
        let mut near_one = near_one;
        ensure!(near_one.ask("GET cluster")? == "near");
        ensure!(connect(&hosts[0])?.ask("GET cluster")? == "near");
        session.end()?;
        drop(namespaces);
        started.down()
    })
}
