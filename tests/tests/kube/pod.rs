//! `devbox up --via pod` and `devbox exec --via pod`, as a user who may do what `devbox rbac --via pod` prints and nothing else.
//!
//! The service `outside` is left out: its port is the API server's, which shares the network of these tests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node, ROLLOUT};
use devbox_tests::{
    Caller, Exit, Invocation, Outcome, Process, Result, Scene, Signal, need_program, scenario, wait,
};
use serde_json::Value;

use crate::node::Started;
use crate::{raw, user};

const CALLER: Caller = Caller::Ordinary;

/// A gateway that lost its last session ends after two minutes.
const IDLE: Duration = Duration::from_secs(180);

struct Session<'a> {
    scene: &'a Scene,
    namespace: Namespace,
    kubeconfig: PathBuf,
}

impl<'a> Session<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        Self::on(scene, &Node::find()?)
    }

    fn on(scene: &'a Scene, node: &Node) -> Result<Self> {
        let namespace = node.services()?;
        // Of what comes from here on: the services' pods are not our affair.
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        node.kubectl(["label", "namespace", namespace.name(), restricted])?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        Ok(Self {
            scene,
            namespace,
            kubeconfig,
        })
    }

    /// A subcommand that starts a session, and what it is given.
    fn devbox(&self, subcommand: &str, image: &str, more: &[&str]) -> Result<Invocation<'a>> {
        let name = self.namespace.name();
        let words = [
            &[
                subcommand,
                "-n",
                name,
                "--exclude",
                "outside",
                "--via",
                "pod",
                "--gateway-image",
                image,
            ],
            more,
        ];
        let command = user::devbox(self.scene, &self.namespace, &self.kubeconfig, &words.concat())?;
        Ok(command.by(CALLER))
    }

    fn exec(&self, environment: &str, command: &[&str]) -> Result<String> {
        let words = [&["--env", environment, "--"], command].concat();
        let out = self.devbox("exec", GATEWAY_IMAGE, &words)?.run(4 * wait::SOON)?;
        let out = out.expect_success()?;
        ensure!(!out.errors().contains("you may not"), "{}", out.errors());
        Ok(out.output())
    }

    fn up(&self, image: &str, file: &Path) -> Result<Process> {
        let up = self.devbox("up", image, &["--hosts-file", &file.display().to_string()])?;
        let up = up.start()?;
        up.wait_for_line("a session that is ready", ROLLOUT, |line| line == "ready")?;
        Ok(up)
    }

    /// The only provider of the session, as its status has it.
    fn provider(&self) -> Result<Value> {
        let words = ["status", "--context", "test", "--json"];
        let status = user::devbox(self.scene, &self.namespace, &self.kubeconfig, &words)?
            .by(CALLER)
            .run(wait::SOON)?
            .expect_success()?;
        let mut status: Value = serde_json::from_str(&status.output())?;
        Ok(status["providers"][0].take())
    }

    fn gateways(&self) -> Result<Vec<String>> {
        self.namespace.pods("app.kubernetes.io/name=devbox-gateway")
    }

    fn wait_until_nothing_is_left(&self, within: Duration) -> Result {
        let ours = [
            "get",
            "jobs,pods,secrets",
            "--selector",
            "app.kubernetes.io/name=devbox-gateway",
            "--output=name",
        ];
        wait::until("the removal of the Job, the pod and the Secret", within, || {
            self.namespace.kubectl(&ours).ok()?.is_empty().then_some(())
        })
    }
}

#[test]
fn exec_goes_through_a_pod_to_tcp_udp_and_what_is_no_pod() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        need_program("dig", "bind9-dnsutils")?;
        let session = Session::new(scene)?;
        let query = [
            "--no-align",
            "--tuples-only",
            "--username=postgres",
            "--command=select 6 * 7",
        ];
        // One right after another: each finds the last one's gateway as it ends.
        for host in ["db", "db-1.db"] {
            let answer = session.exec("test", &[&["psql", "--host", host], &query[..]].concat())?;
            ensure!(answer == "42\n", "{host}: {answer}");
        }
        let answer = session.exec("test", &["curl", "--silent", "--show-error", "http://web/"])?;
        let pods = session.namespace.pods("app=web")?;
        ensure!(
            pods.iter().any(|pod| answer.trim_end() == pod),
            "{answer} of {pods:?}"
        );
        // dig finds its server's address by DNS alone, and not in the hosts file.
        let lookup = "dig +short +time=5 +tries=2 +notcp @$(getent hosts dns | cut -d ' ' -f 1) orders.example && \
                      curl --silent --show-error --insecure https://by-hand/readyz";
        let answer = session.exec("test", &["sh", "-c", lookup])?;
        ensure!(answer == "10.1.2.3\nok", "{answer}");
        session.wait_until_nothing_is_left(2 * wait::SOON)
    })
}

#[test]
fn an_external_name_is_resolved_and_reached_by_the_pod() -> Outcome {
    scenario(|scene| {
        let session = Session::new(scene)?;
        let node = session.namespace.node();
        node.cluster_dns()?;
        // The name is the node's in the cluster's DNS, and in no other.
        let address = node.address()?;
        let listener = node.inside(|| Ok(TcpListener::bind((address, 0))?))?;
        let port = listener.local_addr()?.port();
        session.namespace.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: elsewhere}}, spec: \
             {{type: ExternalName, externalName: outside.devbox.test, ports: [{{port: {port}}}]}}}}"
        ))?;
        let answering = std::thread::spawn(move || -> Result {
            let (mut connection, _) = listener.accept()?;
            ensure!(connection.read(&mut [0; 1024])? > 0, "no request");
            connection.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\nfrom outside\n")?;
            Ok(())
        });
        let url = format!("http://elsewhere:{port}/");
        let answer = session.exec("test", &["curl", "--silent", "--show-error", &url])?;
        ensure!(answer == "from outside\n", "{answer}");
        answering
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

#[test]
fn sessions_share_a_pod_which_goes_after_the_last_of_them_was_killed() -> Outcome {
    scenario(|scene| {
        let session = Session::new(scene)?;
        let file = scene.hosts_file(CALLER)?;
        let mut up = session.up(GATEWAY_IMAGE, &file)?;
        let pods = session.gateways()?;
        ensure!(pods.len() == 1, "{pods:?}");
        let provider = session.provider()?;
        let way = format!("gateway pod {} in {}", pods[0], session.namespace.name());
        ensure!(provider["via"]["way"] == way, "{provider}");
        ensure!(
            provider["over"] == "one raw upgrade through the API server",
            "{provider}"
        );

        session.exec("other", &["curl", "--silent", "--show-error", "http://web/"])?;
        let after = session.gateways()?;
        ensure!(after == pods, "{pods:?}, then {after:?}");

        up.signal(Signal::KILL)?;
        up.wait(wait::SOON)?;
        session.wait_until_nothing_is_left(IDLE)
    })
}

#[test]
fn a_pod_lets_in_whoever_has_its_token_and_dials_what_they_brought_and_nothing_else() -> Outcome {
    scenario(|scene| {
        let session = Session::new(scene)?;
        let file = scene.hosts_file(CALLER)?;
        let _up = session.up(GATEWAY_IMAGE, &file)?;
        let (node, name) = (session.namespace.node(), session.namespace.name());
        let pods = session.gateways()?;
        let gateway = session.namespace.address_of(pods.first().context("no pod")?)?;
        let gateway = gateway.to_string();
        let token = session.namespace.kubectl(&[
            "get",
            "secrets",
            "--selector=app.kubernetes.io/name=devbox-gateway",
            "--output=go-template={{range .items}}{{.data.token | base64decode}}{{end}}",
        ])?;
        let of_the_api_server = session.namespace.token("default", None)?;
        for wrong in ["wrong", &token[1..], &of_the_api_server] {
            let (status, _) = raw::ask(node, &gateway, "raw", wrong, &[])?;
            ensure!(status == 401, "{status}");
        }

        let (status, stream) = raw::ask(node, &gateway, "raw", &token, &[])?;
        let mut client = raw::Client::new(stream.with_context(|| format!("status {status}"))?);
        let pods = session.namespace.pods("app=cache")?;
        let address = session.namespace.address_of(pods.first().context("no pod")?)?;
        client.push("cache.own", 6379, &format!("{address}:6380"))?;
        ensure!(client.open("tcp/own/cache/6379")? == Ok(()));
        for (target, code) in [
            // What another session of the user has brought is that one's.
            (format!("tcp/{name}/cache/6379"), raw::NOT_FOUND),
            ("tcp/own/cache/80".to_owned(), raw::NOT_FOUND),
            ("tcp/default/kubernetes/443".to_owned(), raw::NOT_FOUND),
            (format!("{address}:6380"), raw::NOT_ALLOWED),
            (format!("tcp/{address}:6380"), raw::NOT_ALLOWED),
            ("127.0.0.1:7070".to_owned(), raw::NOT_ALLOWED),
        ] {
            let answer = client.open(&target)?;
            ensure!(answer == Err(code), "{target}: {answer:?}");
        }
        Ok(())
    })
}

#[test]
fn with_an_image_that_cannot_be_had_it_goes_over_port_forwards_and_says_why() -> Outcome {
    scenario(|scene| {
        let session = Session::new(scene)?;
        let file = scene.hosts_file(CALLER)?;
        let image = "localhost:1/no/such/image:1";
        let _up = session.up(image, &file)?;
        let provider = session.provider()?;
        ensure!(provider["via"]["way"] == "port-forward", "{provider}");
        let because = provider["via"]["because"].as_str().context("no reason")?;
        ensure!(because.contains(image), "{because}");
        let exec = session.devbox("exec", image, &["--env", "other", "--", "true"])?;
        let exec = exec.run(4 * wait::SOON)?.expect_success()?;
        let said = exec.errors();
        ensure!(
            said.contains("connections go over port-forwards") && said.contains(image),
            "{said}"
        );
        session.wait_until_nothing_is_left(2 * wait::SOON)
    })
}

#[test]
fn a_connection_waits_while_the_api_server_is_away_and_goes_on() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let started = Started::beside(&Node::find()?, "pod-away")?;
        let node = started.node();
        let session = Session::on(scene, &node)?;
        let query = [
            "--",
            "psql",
            "--host=db",
            "--no-align",
            "--tuples-only",
            "--username=postgres",
            "--command=select 'asked'",
            "--command=select 6 * 7 from pg_sleep(5)",
        ];
        let mut query = session.devbox("exec", GATEWAY_IMAGE, &query)?.start()?;
        query.wait_for_line("the first answer", 4 * wait::SOON, |line| line == "asked")?;
        // The second answer comes while nobody can pass it on.
        node.stop("kube-apiserver")?;
        std::thread::sleep(Duration::from_secs(7));
        ensure!(!query.output().contains("42"), "{}", query.everything());
        node.start("kube-apiserver")?;
        let exit = query.wait(4 * wait::SOON)?;
        ensure!(exit == Exit::code(0), "{exit}: {}", query.everything());
        ensure!(query.output().ends_with("42\n"), "{}", query.everything());
        drop(query);
        started.down()
    })
}
