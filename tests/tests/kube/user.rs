//! `devbox up -n` and `devbox exec -n`, as a user who may do what `devbox rbac` prints and nothing else.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{
    Caller, Invocation, Outcome, Process, Result, Scene, Signal, hosts, need_program, scenario, wait,
};
use serde_json::Value;

use crate::session::figure;

/// The kubeconfig of a service account that has exactly the role which `devbox rbac` prints, for port-forwards unless `more` says otherwise.
pub(crate) fn user(scene: &Scene, namespace: &Namespace, caller: Caller, more: &[&str]) -> Result<PathBuf> {
    let kubeconfig = namespace.service_account(scene, "[]", caller)?;
    let parsed: Value = serde_json::from_slice(&std::fs::read(&kubeconfig)?)?;
    let account = parsed["users"][0]["name"].as_str().context("no user")?;
    let account = format!("{}:{account}", namespace.name());
    let roles = scene
        .devbox(["rbac", "-n", namespace.name(), "--service-account", &account])?
        .args(more.iter().copied())
        .run(wait::SOON)?
        .expect_success()?;
    namespace.node().apply(&roles.output())?;
    // Users other than root may listen on ports 53 and 80 in the node's network.
    namespace
        .node()
        .command(
            scene,
            [
                "sysctl",
                "--quiet",
                "--write",
                "net.ipv4.ip_unprivileged_port_start=53",
            ],
        )?
        .run(wait::SOON)?
        .expect_success()?;
    Ok(kubeconfig)
}

pub(crate) fn devbox<'a>(
    scene: &'a Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    arguments: &[&str],
) -> Result<Invocation<'a>> {
    let command = scene
        .devbox(arguments.iter().copied())?
        .env("KUBECONFIG", kubeconfig);
    namespace.node().enter(command)
}

#[test]
fn exec_reaches_the_services_of_a_namespace_by_name_without_root() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let namespace = Node::find()?.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user(scene, &namespace, caller, &[])?;
        let name = namespace.name();
        let run = |command: &[&str]| -> Result<String> {
            let words = [&["exec", "-n", name, "--"], command].concat();
            let out = devbox(scene, &namespace, &kubeconfig, &words)?
                .by(caller)
                .run(4 * wait::SOON)?
                .expect_success()?;
            ensure!(!out.errors().contains("you may not"), "{}", out.errors());
            Ok(out.output())
        };
        let pods = namespace.pods("app=web")?;
        let answer = run(&["curl", "--silent", "--show-error", "http://web/"])?;
        ensure!(
            pods.iter().any(|pod| answer.trim_end() == pod),
            "{answer} of {pods:?}"
        );
        let query = [
            "--no-align",
            "--tuples-only",
            "--username=postgres",
            "--command=select 6 * 7",
        ];
        // The service, a pod of it, and the name that programs are configured with in the cluster.
        for host in ["db", "db-1.db", &format!("db.{name}.svc.cluster.local")] {
            let answer = run(&[&["psql", "--host", host], &query[..]].concat())?;
            ensure!(answer == "42\n", "{host}: {answer}");
        }
        ensure!(run(&["redis-cli", "-h", &format!("cache.{name}"), "ping"])? == "PONG\n");
        Ok(())
    })
}

#[test]
fn up_follows_the_namespace_and_leaves_nothing_when_it_is_killed() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user(scene, &namespace, caller, &[])?;
        let name = namespace.name();
        let file = scene.hosts_file(caller)?;
        let words = ["up", "-n", name, "--hosts-file", &file.display().to_string()];
        let mut up = devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        up.wait_for_line("a session that is ready", 2 * wait::SOON, |line| line == "ready")?;
        hosts::address_of(&file, &format!("web.{name}.svc.cluster.local"))?;
        hosts::address_of(&file, &format!("db-0.db.{name}"))?;

        let status = devbox(
            scene,
            &namespace,
            &kubeconfig,
            &["status", "--context", "test", "--json"],
        )?
        .by(caller)
        .run(wait::SOON)?
        .expect_success()?;
        let status: Value = serde_json::from_str(&status.output())?;
        let provider = &status["providers"][0];
        ensure!(provider["kind"] == "kubernetes", "{provider}");
        ensure!(provider["far_side"] == format!("{name} in test"), "{provider}");
        ensure!(provider["via"]["way"] == "port-forward", "{provider}");

        // A service that comes later, and goes.
        namespace.kubectl(&["expose", "deployment/web", "--name=later", "--port=8080"])?;
        wait::until("the new service's name", 2 * wait::SOON, || {
            hosts::lookup(&file, "later").map(|_| ())
        })?;
        namespace.kubectl(&["delete", "service/later"])?;
        wait::until("the end of its name", 2 * wait::SOON, || {
            hosts::lookup(&file, "later").is_none().then_some(())
        })?;

        up.signal(Signal::KILL)?;
        up.wait(wait::SOON)?;
        wait::until("the hosts file as before", wait::SOON, || {
            hosts::is_original(&file).then_some(())
        })?;
        Ok(())
    })
}

/// The ways into a cluster that need nothing installed.
const FORWARD: [&str; 2] = ["--via", "forward"];
const POD: [&str; 4] = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];

/// Asks a service again and again, 50 times a second where the machine can, until the file is there: each time over a connection of its own.
/// Each failure is an error line.
pub(crate) fn asking(stop: &Path) -> String {
    let stop = stop.display();
    format!(
        "for client in 1 2 3 4 5; do (while ! [ -e {stop} ]; do \
         curl --silent --show-error --fail --max-time 15 --header 'Connection: close' --rate 10/s --output /dev/null \
         --write-out 'status %{{http_code}}\\n' 'http://web/?[1-10]'; done) & done; wait"
    )
}

pub(crate) fn answers(of: &Process) -> usize {
    of.output().matches("status 200").count()
}

pub(crate) fn wait_for_more_answers(of: &Process) -> Result {
    let before = answers(of);
    wait::until("twenty more answers", 4 * wait::SOON, || {
        (answers(of) >= before + 20).then_some(())
    })
}

/// Ends what is [`asking`].
pub(crate) fn none_failed(scene: &Scene, mut asking: Process) -> Result {
    scene.write("stop", "")?;
    asking.wait(4 * wait::SOON)?;
    let failed = asking.errors().matches("curl:").count();
    ensure!(failed == 0, "{failed} failed: {}", asking.errors());
    Ok(())
}

#[test]
fn no_request_fails_while_a_deployment_is_restarted() -> Outcome {
    with_services(&FORWARD, no_request_fails_through_a_restart)
}

#[test]
fn through_a_gateway_pod_no_request_fails_while_a_deployment_is_restarted() -> Outcome {
    with_services(&POD, no_request_fails_through_a_restart)
}

fn with_services(way: &[&str], test: impl FnOnce(&Scene, &Namespace, &Path, &[&str]) -> Result) -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        let kubeconfig = user(scene, &namespace, Caller::Ordinary, &way[..2])?;
        test(scene, &namespace, &kubeconfig, way)
    })
}

/// Starts a shell script beside the services of the namespace.
fn script(
    scene: &Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    way: &[&str],
    script: &str,
) -> Result<Process> {
    let words = [
        &["exec", "-n", namespace.name()],
        way,
        &["--", "sh", "-c", script],
    ]
    .concat();
    devbox(scene, namespace, kubeconfig, &words)?
        .by(Caller::Ordinary)
        .start()
}

pub(crate) fn no_request_fails_through_a_restart(
    scene: &Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    way: &[&str],
) -> Result {
    let asking = script(
        scene,
        namespace,
        kubeconfig,
        way,
        &asking(&scene.folder().join("stop")),
    )?;
    asking.wait_for_line("the first answer", 4 * wait::SOON, |line| line == "status 200")?;
    let (before, began) = (answers(&asking), Instant::now());
    namespace.restart("deployment/web")?;
    // The old pods may go after the rollout is over.
    wait_for_more_answers(&asking)?;
    let count = answers(&asking) - before;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    figure(&format!("{count} new connections, {rate:.0} a second"));
    ensure!(count > 30, "{count} while it was restarted");
    none_failed(scene, asking)
}

#[test]
fn with_a_killed_pod_its_streams_are_reset_and_the_next_connection_is_its_replacements() -> Outcome {
    with_services(&FORWARD, streams_end_with_their_pod)
}

#[test]
fn through_a_gateway_pod_streams_end_with_their_pod_as_well() -> Outcome {
    with_services(&POD, streams_end_with_their_pod)
}

pub(crate) fn streams_end_with_their_pod(
    scene: &Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    way: &[&str],
) -> Result {
    let ask = format!(
        "(redis-cli -h cache blpop nothing 0; echo reset) & \
         until redis-cli -h cache client list | grep --quiet cmd=blpop; do sleep .05; done; echo held; wait; \
         while ! [ -e {} ]; do sleep .05; done; timeout 10 redis-cli -h cache ping",
        scene.folder().join("replaced").display()
    );
    let mut exec = script(scene, namespace, kubeconfig, way, &ask)?;
    exec.wait_for_line("a connection that is held", 4 * wait::SOON, |line| line == "held")?;
    namespace.kill_pods("app=cache")?;
    exec.wait_for_line("its end", wait::SOON, |line| line == "reset")?;
    namespace.rollout("deployment/cache")?;
    scene.write("replaced", "")?;
    exec.wait_for_line("the replacement's answer", wait::SOON, |line| line == "PONG")?;
    exec.wait(2 * wait::SOON)?;
    Ok(())
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_before_the_start() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        let caller = Caller::Ordinary;
        // Namespaces may be looked at by the admin.
        let admin = scene.write_secret("admin", std::fs::read(namespace.node().admin())?, caller)?;
        let mistyped = format!("{}x", namespace.name());
        devbox(scene, &namespace, &admin, &["up", "--no-hosts", "-n", &mistyped])?
            .by(caller)
            .run(2 * wait::SOON)?
            .expect_code(1)?
            .expect_text(&[&format!(
                "no namespace `{mistyped}` (did you mean `{}`?)",
                namespace.name()
            )])?;

        let rules = "[{apiGroups: [''], resources: [services], verbs: [list, watch]}, \
                     {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}]";
        let kubeconfig = namespace.service_account(scene, rules, caller)?;
        let arguments = ["up", "--no-hosts", "-n", namespace.name()];
        let up = devbox(scene, &namespace, &kubeconfig, &arguments)?
            .by(caller)
            .start()?;
        up.wait_for_line("the warning", 2 * wait::SOON, |line| {
            line.contains("you may not get pods/portforward")
                && line.contains("no connection to a pod can be made")
        })?;
        Ok(())
    })
}
