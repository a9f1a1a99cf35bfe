//! The API server is away for 20 s, and sessions go on when it is back.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Node};
use devbox_tests::{Caller, Exit, Outcome, Result, hosts, need_program, scenario, wait};
use serde_json::Value;

use crate::node::Started;
use crate::user;

/// How long it is away, and how long a new connection waits for it.
const AWAY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);

const REDIS: u16 = 6379;

/// A new connection is held for as long as is said, and no longer. What asks begins up to a second after the clock does.
fn ensure_patient(waited: Duration) -> Result {
    ensure!(
        waited + Duration::from_secs(1) >= PATIENCE && waited < PATIENCE + wait::SOON,
        "{waited:?}"
    );
    Ok(())
}

/// The service that is new after the API server was away.
const LATER: &str = "until getent hosts later > /dev/null; do sleep .05; done; echo caught up";

#[test]
fn port_forwards_are_reset_new_connections_wait_and_are_refused_and_then_all_is_as_before() -> Outcome {
    scenario(|scene| {
        let started = Started::beside(&Node::find()?, "forward-away")?;
        let node = started.node();
        let namespace = node.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user::user(scene, &namespace, caller, &[])?;
        let file = |name: &str| scene.folder().join(name).display().to_string();
        let script = format!(
            "(redis-cli -h cache client setname held; redis-cli -h cache blpop nothing 0; echo reset) & \
             until redis-cli -h cache client list | grep --quiet cmd=blpop; do sleep .05; done; echo held; \
             while ! [ -e {away} ]; do sleep .05; done; redis-cli -h cache ping || echo refused; \
             while ! [ -e {back} ]; do sleep .05; done; redis-cli -h cache ping; {LATER}",
            away = file("away"),
            back = file("back")
        );
        // The port of the service `outside` is the API server's, which would not find it free.
        let own = ["exec", "-n", namespace.name(), "--exclude", "outside"];
        let words = [&own[..], &["--", "sh", "-c", &script]].concat();
        let mut exec = user::devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        exec.wait_for_line("a connection that is held", 4 * wait::SOON, |line| line == "held")?;

        node.stop("kube-apiserver")?;
        let stopped = Instant::now();
        exec.wait_for_line("the end of the connection", wait::SOON, |line| line == "reset")?;
        scene.write("away", "")?;
        let asked = Instant::now();
        exec.wait_for_line("a refusal", 2 * wait::SOON, |line| line == "refused")?;
        let waited = asked.elapsed();
        ensure_patient(waited)?;

        std::thread::sleep(AWAY.saturating_sub(stopped.elapsed()));
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        scene.write("back", "")?;
        exec.wait_for_line("an answer", 4 * wait::SOON, |line| line == "PONG")?;
        namespace.kubectl(&["expose", "deployment/web", "--name=later", "--port=8080"])?;
        exec.wait_for_line("the catalog", 4 * wait::SOON, |line| line == "caught up")?;
        let exit = exec.wait(2 * wait::SOON)?;
        ensure!(exit == Exit::code(0), "{exit}: {}", exec.everything());
        drop(exec);
        started.down()
    })
}

#[test]
fn streams_through_a_gateway_pod_wait_and_go_on() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let started = Started::beside(&Node::find()?, "pod-away")?;
        let node = started.node();
        let namespace = node.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user::user(scene, &namespace, caller, &["--via", "pod"])?;
        let file = |name: &str| scene.folder().join(name).display().to_string();
        let script = format!(
            "(psql --host=db --username=postgres --no-align --tuples-only --command=\"select 'begun'\" \
             --command='select 6 * 7 from pg_sleep(10)') & \
             while ! [ -e {away} ]; do sleep .05; done; redis-cli -h cache ping || echo refused; \
             wait; redis-cli -h cache ping; {LATER}",
            away = file("away"),
        );
        let own = ["exec", "-n", namespace.name(), "--exclude", "outside"];
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        let words = [&own[..], &way, &["--", "sh", "-c", &script]].concat();
        let mut exec = user::devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        exec.wait_for_line("a query that has begun", 4 * wait::SOON, |line| line == "begun")?;

        node.stop("kube-apiserver")?;
        let stopped = Instant::now();
        scene.write("away", "")?;
        exec.wait_for_line("a refusal", 2 * wait::SOON, |line| line == "refused")?;
        let waited = stopped.elapsed();
        ensure_patient(waited)?;
        std::thread::sleep(AWAY.saturating_sub(stopped.elapsed()));
        ensure!(
            !exec.output().contains("42"),
            "it was not away: {}",
            exec.output()
        );
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        // The query's own connection, which was there before.
        exec.wait_for_line("the answer that was long in coming", 4 * wait::SOON, |line| {
            line == "42"
        })?;
        exec.wait_for_line("another answer", 4 * wait::SOON, |line| line == "PONG")?;
        namespace.kubectl(&["expose", "deployment/web", "--name=later", "--port=8080"])?;
        exec.wait_for_line("the catalog", 4 * wait::SOON, |line| line == "caught up")?;
        let exit = exec.wait(2 * wait::SOON)?;
        ensure!(exit == Exit::code(0), "{exit}: {}", exec.everything());
        drop(exec);
        started.down()
    })
}

#[test]
fn the_status_says_why_a_connection_failed_and_what_changed_meanwhile_is_seen_when_it_is_back() -> Outcome {
    scenario(|scene| {
        let started = Started::beside(&Node::find()?, "catalog-away")?;
        let node = started.node();
        let namespace = node.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user::user(scene, &namespace, caller, &[])?;
        let hosts_file = scene.hosts_file(caller)?;
        let shown = hosts_file.display().to_string();
        let own = ["up", "-n", namespace.name(), "--exclude", "outside"];
        let words = [&own[..], &["--hosts-file", &shown]].concat();
        let up = user::devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        up.wait_for_line("a session that is ready", 4 * wait::SOON, |line| line == "ready")?;
        ensure!(hosts::lookup(&hosts_file, "later").is_none());
        node.stop("kube-apiserver")?;
        let cache = hosts::lookup(&hosts_file, "cache").context("cache has no address")?;
        let asked = Instant::now();
        let answer = node.inside(|| {
            let mut connection = TcpStream::connect((cache, REDIS))?;
            connection.set_read_timeout(Some(PATIENCE + wait::SOON))?;
            Ok(connection.read(&mut [0]))
        })?;
        ensure!(
            answer.is_err() && asked.elapsed() < PATIENCE + wait::SOON,
            "{answer:?}"
        );
        ensure_patient(asked.elapsed())?;
        let words = ["status", "--context", "test", "--json"];
        let status = user::devbox(scene, &namespace, &kubeconfig, &words)?.by(caller);
        let status: Value = serde_json::from_str(&status.run(wait::SOON)?.expect_success()?.output())?;
        let services = status["services"].as_array().into_iter().flatten();
        let failures = services.filter_map(|service| service["ports"][0]["last_failure"].as_str());
        ensure!(failures.eq(["link lost"]), "{status}");
        let stale = status["providers"][0]["stale"].as_str();
        ensure!(
            stale.is_some_and(|why| why.starts_with("test is not reachable")),
            "{status}"
        );
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        namespace.kubectl(&["expose", "deployment/web", "--name=later", "--port=8080"])?;
        namespace.kubectl(&["delete", "service/cache"])?;
        wait::until(
            "the new service's name, and not the old one's",
            2 * wait::SOON,
            || {
                hosts::lookup(&hosts_file, "later")?;
                hosts::lookup(&hosts_file, "cache").is_none().then_some(())
            },
        )?;
        drop(up);
        started.down()
    })
}
