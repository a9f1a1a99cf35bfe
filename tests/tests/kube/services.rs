//! The services of `tests/kube/services.yaml` answer, through kubectl and inside the cluster's network.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Finished, Outcome, Process, Result, Scene, need_program, scenario, wait};

/// A `kubectl port-forward`, and the local port that it listens on.
fn forward(scene: &Scene, namespace: &Namespace, to: &str, port: &str) -> Result<(Process, String)> {
    let node = namespace.node();
    let process = node
        .command(scene, [node.program("kubectl")])?
        .args([
            "--namespace",
            namespace.name(),
            "port-forward",
            to,
            &format!(":{port}"),
        ])
        .start()?;
    let line = process.wait_for_line("the local port", 2 * wait::SOON, |line| {
        line.starts_with("Forwarding from 127.0.0.1:")
    })?;
    let local = line
        .split([':', ' '])
        .nth(3)
        .context("no port in that line")?
        .to_owned();
    Ok((process, local))
}

/// Runs a program in the cluster's network.
fn run(scene: &Scene, namespace: &Namespace, argv: &[&str]) -> Result<Finished> {
    namespace
        .node()
        .command(scene, argv.iter().copied())?
        .run(2 * wait::SOON)?
        .expect_success()
}

#[test]
fn postgres_redis_and_nginx_answer_through_kubectl() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let namespace = Node::find()?.services()?;

        // A pod of the StatefulSet, by its own name.
        let (_db, port) = forward(scene, &namespace, "pod/db-1", "5432")?;
        let asked = ["psql", "--host=127.0.0.1", "--port", &port, "--username=postgres"];
        let query = ["--no-align", "--tuples-only", "--command=select 6 * 7"];
        let answer = run(scene, &namespace, &[&asked[..], &query].concat())?;
        ensure!(answer.output() == "42\n", "{}", answer.everything());

        // A target port with a name.
        let (_cache, port) = forward(scene, &namespace, "service/cache", "6379")?;
        let answer = run(scene, &namespace, &["redis-cli", "-p", &port, "ping"])?;
        ensure!(answer.output() == "PONG\n", "{}", answer.everything());

        // A target port of another number.
        let (_web, port) = forward(scene, &namespace, "service/web", "80")?;
        let url = format!("http://127.0.0.1:{port}/");
        let answer = run(scene, &namespace, &["curl", "--silent", "--show-error", &url])?;
        let pods = namespace.pods("app=web")?;
        ensure!(
            pods.iter().any(|pod| answer.output().trim_end() == pod),
            "{} of {pods:?}",
            answer.everything()
        );
        Ok(())
    })
}

#[test]
fn datagrams_and_hand_written_endpoints_are_served_inside_the_cluster() -> Outcome {
    scenario(|scene| {
        need_program("dig", "bind9-dnsutils")?;
        let namespace = Node::find()?.services()?;
        let address = |service: &str| -> Result<IpAddr> {
            let text =
                namespace.kubectl(&["get", "service", service, "--output=jsonpath={.spec.clusterIP}"])?;
            Ok(text.parse()?)
        };
        let server = format!("@{}", address("dns")?);
        for by in ["+notcp", "+tcp"] {
            let asked = [
                "dig",
                "+short",
                "+time=5",
                "+tries=2",
                by,
                &server,
                "orders.example",
            ];
            let answer = run(scene, &namespace, &asked)?;
            ensure!(answer.output() == "10.1.2.3\n", "{by}: {}", answer.everything());
        }
        let url = format!("https://{}/readyz", address("by-hand")?);
        let answer = run(scene, &namespace, &["curl", "--silent", "--insecure", &url])?;
        ensure!(answer.output() == "ok", "{}", answer.everything());
        Ok(())
    })
}

#[test]
fn killed_and_restarted_pods_are_replaced() -> Outcome {
    scenario(|_| {
        let namespace = Node::find()?.services()?;
        let first = namespace.pods("app=web")?;
        ensure!(first.len() == 2, "{first:?}");
        namespace.kill_pods("app=web")?;
        namespace.rollout("deployment/web")?;
        let second = wait::until("two other pods", wait::SOON, || {
            let pods = namespace.pods("app=web").ok()?;
            (pods.len() == 2 && pods.iter().all(|pod| !first.contains(pod))).then_some(pods)
        })?;
        namespace.restart("deployment/web")?;
        let third = namespace.pods("app=web")?;
        ensure!(
            third.iter().all(|pod| !second.contains(pod)),
            "{second:?}, then {third:?}"
        );
        Ok(())
    })
}
