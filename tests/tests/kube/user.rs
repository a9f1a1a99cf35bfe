//! `devbox up -n` and `devbox exec -n`, as a user who may do what `devbox rbac` prints and nothing else.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node, ROLLOUT};
use devbox_tests::{
    Caller, Invocation, Outcome, Process, Result, Scene, Signal, hosts, need_program, proc, scenario, wait,
};
use serde_json::Value;

use crate::session::{AT_ONCE, REDIS, Redis, Session, figure};

/// The kubeconfig of a service account that has exactly the role which `devbox rbac` prints, for port-forwards unless `more` says otherwise.
pub(crate) fn user(scene: &Scene, namespace: &Namespace, caller: Caller, more: &[&str]) -> Result<PathBuf> {
    let kubeconfig = namespace.service_account(scene, "[]", caller)?;
    let account = format!("{}:{}", namespace.name(), account(&kubeconfig)?);
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

/// The service account of a kubeconfig.
pub(crate) fn account(kubeconfig: &Path) -> Result<String> {
    let parsed: Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
    Ok(parsed["users"][0]["name"].as_str().context("no user")?.to_owned())
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

/// Clients that ask a service again and again, each time over a connection of its own: 50 times a second together, by a clock that waits for
/// no answer unless one takes half a second.
pub(crate) struct Asking {
    process: Process,
    /// The file that ends them.
    stop: String,
}

/// So many are to be asked each second at the least, where 50 are begun: a machine that is busy with other things may be late.
pub(crate) const LEAST_PER_SECOND: f64 = 20.0;

impl Asking {
    /// Starts them with this, which is given a shell script, and waits for the first answer.
    pub(crate) fn start(scene: &Scene, start: impl FnOnce(&str) -> Result<Process>) -> Result<Self> {
        let stop = format!("stop-{}", scene.unique());
        // What goes to its error output curl tells at once: an answer, and each failure.
        let script = format!(
            "for client in $(seq 0 24); do (sleep $(printf '.%02d' $((2 * client))); while ! [ -e {} ]; do \
             curl --silent --show-error --fail --max-time 15 --header 'Connection: close' --rate 2/s --output /dev/null \
             --write-out '%{{stderr}}status %{{http_code}} %{{time_total}}\\n' 'http://web/?[1-10]' 2>&1; done) & done; wait",
            scene.folder().join(&stop).display()
        );
        let process = start(&script)?;
        process.wait_for_line("the first answer", 4 * wait::SOON, |line| {
            line.starts_with("status 200 ")
        })?;
        Ok(Self { process, stop })
    }

    /// How long each answer took.
    fn answers(&self) -> Vec<f64> {
        let output = self.process.output();
        let times = output.lines().filter_map(|line| line.strip_prefix("status 200 "));
        times.filter_map(|time| time.parse().ok()).collect()
    }

    /// What was answered while this was done, which must have been at the pace that is wanted.
    pub(crate) fn during(&self, what: &str, work: impl FnOnce() -> Result) -> Result {
        let (before, began) = (self.answers().len(), Instant::now());
        work()?;
        let (answers, took) = (self.answers().split_off(before), began.elapsed());
        let rate = answers.len() as f64 / took.as_secs_f64();
        let slowest = answers.iter().copied().fold(0.0, f64::max);
        let count = answers.len();
        figure(&format!(
            "{what}: {count} new connections in {took:?}, {rate:.0} a second, the slowest answer after {slowest:.2} s"
        ));
        ensure!(rate >= LEAST_PER_SECOND, "{what}: {rate:.1} a second");
        Ok(())
    }

    pub(crate) fn wait_for_more(&self) -> Result {
        let before = self.answers().len();
        wait::until("twenty more answers", 4 * wait::SOON, || {
            (self.answers().len() >= before + 20).then_some(())
        })
    }

    /// Ends them. None of what they asked may have failed.
    pub(crate) fn none_failed(mut self, scene: &Scene) -> Result {
        scene.write(&self.stop, "")?;
        self.process.wait(4 * wait::SOON)?;
        let output = self.process.output();
        let failed: Vec<_> = output.lines().filter(|line| line.starts_with("curl:")).collect();
        ensure!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
        Ok(())
    }
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
    let asking = Asking::start(scene, |text| script(scene, namespace, kubeconfig, way, text))?;
    asking.during(&format!("a restart, {}", way[1]), || {
        namespace.restart("deployment/web")
    })?;
    // The old pods may go after the rollout is over.
    asking.wait_for_more()?;
    asking.none_failed(scene)
}

#[test]
fn with_a_killed_pod_its_streams_are_reset_and_the_next_connection_is_its_replacements() -> Outcome {
    with_services(&FORWARD, streams_end_with_their_pod)
}

#[test]
fn through_a_gateway_pod_streams_end_with_their_pod_as_well() -> Outcome {
    with_services(&POD, streams_end_with_their_pod)
}

/// Where Redis listens in its pod (`services.yaml`).
const REDIS_IN_POD: u16 = 6380;

pub(crate) fn streams_end_with_their_pod(
    scene: &Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    way: &[&str],
) -> Result {
    let session = Session::start(scene, namespace, kubeconfig, way)?;
    let answer = || -> Result<Redis> {
        let mut connection = Redis(session.connect("cache", REDIS)?);
        let answer = connection.ask("PING")?;
        ensure!(answer == "+PONG", "{answer}");
        Ok(connection)
    };
    let pods = namespace.pods("app=cache")?;
    let [pod] = &pods[..] else { bail!("{pods:?}") };
    let node = namespace.node();
    let program = node.process_in(namespace.name(), pod, "redis-server")?;
    // Beside each connection is one that nothing of ours carries, so that what the pod itself does is known.
    let address = namespace.address_of(pod)?;
    let direct = || -> Result<Redis> {
        let mut connection = Redis(node.inside(|| Ok(TcpStream::connect((address, REDIS_IN_POD))?))?);
        ensure!(connection.ask("PING")? == "+PONG");
        Ok(connection)
    };
    let idle = [answer()?, direct()?];
    let mut busy = [answer()?, direct()?];
    // What it has not read when it ends is lost, and so its system resets these connections. Of the others it ends both directions.
    let stopped = Command::new("kill")
        .args(["-STOP", &program.to_string()])
        .status()?;
    ensure!(stopped.success(), "kill: {stopped}");
    for connection in &mut busy {
        connection.0.write_all(b"PING\r\n")?;
    }
    wait::until_ok("two requests that nobody reads", wait::SOON, || {
        let unread = proc::unread_connections(program, REDIS_IN_POD)?;
        ensure!(unread == 2, "{unread}");
        Ok(())
    })?;
    let (idle, busy) = (idle.map(Redis::hold), busy.map(Redis::hold));
    namespace.kill_pods("app=cache")?;
    // The kubelet does it in its own time.
    let killed = wait::until("the end of its program", 2 * wait::SOON, || {
        (!proc::is_alive(program)).then(Instant::now)
    })?;
    let ways = [way[1], "directly"];
    for (connection, way) in busy.into_iter().zip(ways) {
        connection.expect_reset_at_once(killed, &format!("a killed pod with a request, {way}"))?;
    }
    for (connection, way) in idle.into_iter().zip(ways) {
        connection.expect_end_at_once(killed, &format!("a killed pod without a request, {way}"))?;
    }

    let next = wait::until("its replacement", ROLLOUT, || {
        let pods = namespace.pods("app=cache").ok()?;
        pods.into_iter().find(|name| name != pod)
    })?;
    let limit = format!("--timeout={}s", ROLLOUT.as_secs());
    namespace.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{next}"), &limit])?;
    let ready = Instant::now();
    wait::until_ok("an answer of the replacement", AT_ONCE, answer)?;
    let took = ready.elapsed();
    ensure!(took < AT_ONCE, "{took:?}");
    figure(&format!(
        "a replacement, {}: an answer {took:?} after it was ready",
        way[1]
    ));
    session.end()
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
