//! `devbox up --via pod` and `devbox exec --via pod`, as a user who may do what `devbox rbac --via pod` prints and nothing else.
//!
//! The service `outside` is left out: its port is the API server's, which shares the network of these tests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Finished, Outcome, Result, Scene, Signal, need_program, scenario, wait};

use crate::session::{CALLER, Session};
use crate::user;

/// A gateway that lost its last session ends after two minutes.
const IDLE: Duration = Duration::from_secs(180);

/// A namespace of which Pod Security demands everything, and a user of it.
struct Team<'a> {
    scene: &'a Scene,
    namespace: Namespace,
    kubeconfig: PathBuf,
}

impl<'a> Team<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        let node = Node::find()?;
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

    fn exec(&self, environment: &str, image: &str, command: &[&str]) -> Result<Finished> {
        let name = self.namespace.name();
        let own = ["exec", "-n", name, "--env", environment];
        let words = [&own[..], &way(image), &["--"], command].concat();
        let exec = user::devbox(self.scene, &self.namespace, &self.kubeconfig, &words)?;
        exec.by(CALLER).run(4 * wait::SOON)?.expect_success()
    }

    fn answer(&self, environment: &str, command: &[&str]) -> Result<String> {
        let out = self.exec(environment, GATEWAY_IMAGE, command)?;
        ensure!(!out.errors().contains("you may not"), "{}", out.errors());
        Ok(out.output())
    }

    fn session(&self, image: &str) -> Result<Session<'_>> {
        Session::start(self.scene, &self.namespace, &self.kubeconfig, &way(image))
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

/// With a gateway pod of this image.
fn way(image: &str) -> [&str; 6] {
    ["--exclude", "outside", "--via", "pod", "--gateway-image", image]
}

#[test]
fn exec_goes_through_a_pod_to_tcp_udp_and_what_is_no_pod() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        need_program("dig", "bind9-dnsutils")?;
        let team = Team::new(scene)?;
        let query = [
            "--no-align",
            "--tuples-only",
            "--username=postgres",
            "--command=select 6 * 7",
        ];
        // One right after another: each finds the last one's gateway as it ends.
        for host in ["db", "db-1.db"] {
            let answer = team.answer("test", &[&["psql", "--host", host], &query[..]].concat())?;
            ensure!(answer == "42\n", "{host}: {answer}");
        }
        let answer = team.answer("test", &["curl", "--silent", "--show-error", "http://web/"])?;
        let pods = team.namespace.pods("app=web")?;
        ensure!(
            pods.iter().any(|pod| answer.trim_end() == pod),
            "{answer} of {pods:?}"
        );
        // dig finds its server's address by DNS alone, and not in the hosts file.
        let lookup = "dig +short +time=5 +tries=2 +notcp @$(getent hosts dns | cut -d ' ' -f 1) orders.example && \
                      curl --silent --show-error --insecure https://by-hand/readyz";
        let answer = team.answer("test", &["sh", "-c", lookup])?;
        ensure!(answer == "10.1.2.3\nok", "{answer}");
        team.wait_until_nothing_is_left(2 * wait::SOON)
    })
}

#[test]
fn an_external_name_is_resolved_and_reached_by_the_pod() -> Outcome {
    scenario(|scene| {
        let team = Team::new(scene)?;
        let node = team.namespace.node();
        node.cluster_dns()?;
        // The name is the node's in the cluster's DNS, and in no other.
        let address = node.address()?;
        let listener = node.inside(|| Ok(TcpListener::bind((address, 0))?))?;
        let port = listener.local_addr()?.port();
        team.namespace.apply(&format!(
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
        let answer = team.answer("test", &["curl", "--silent", "--show-error", &url])?;
        ensure!(answer == "from outside\n", "{answer}");
        answering
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

#[test]
fn sessions_share_a_pod_which_goes_after_the_last_of_them_was_killed() -> Outcome {
    scenario(|scene| {
        let team = Team::new(scene)?;
        let mut session = team.session(GATEWAY_IMAGE)?;
        let pods = team.gateways()?;
        ensure!(pods.len() == 1, "{pods:?}");
        let provider = session.provider()?;
        let way = format!("gateway pod {} in {}", pods[0], team.namespace.name());
        ensure!(provider["via"]["way"] == way, "{provider}");
        ensure!(
            provider["over"] == "one raw upgrade through the API server",
            "{provider}"
        );

        team.answer("other", &["curl", "--silent", "--show-error", "http://web/"])?;
        let after = team.gateways()?;
        ensure!(after == pods, "{pods:?}, then {after:?}");

        session.up.signal(Signal::KILL)?;
        session.up.wait(wait::SOON)?;
        team.wait_until_nothing_is_left(IDLE)
    })
}

#[test]
fn with_an_image_that_cannot_be_had_it_goes_over_port_forwards_and_says_why() -> Outcome {
    scenario(|scene| {
        let team = Team::new(scene)?;
        let image = "localhost:1/no/such/image:1";
        let session = team.session(image)?;
        let provider = session.provider()?;
        ensure!(provider["via"]["way"] == "port-forward", "{provider}");
        let because = provider["via"]["because"].as_str().context("no reason")?;
        ensure!(because.contains(image), "{because}");
        let said = team.exec("other", image, &["true"])?.errors();
        ensure!(
            said.contains("connections go over port-forwards") && said.contains(image),
            "{said}"
        );
        team.wait_until_nothing_is_left(2 * wait::SOON)
    })
}
