//! An installed gateway (`devbox gateway manifests`), and users who may do what `devbox rbac --via gateway` prints and nothing else.
//!
//! Each test has a node of its own: the gateway is in the namespace where sessions look for one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node, ROLLOUT};
use devbox_tests::{
    Certificate, Exit, Finished, Outcome, Process, Result, Scene, need_program, scenario, wait,
};
use serde_json::Value;

use crate::away::{AWAY, is_answered, is_waited_for_and_then_refused, long_query};
use crate::endpoints;
use crate::node::Started;
use crate::session::{CALLER, REDIS, Redis, Session, figure, with_redis};
use crate::user::{self, Asking, account};

/// Where gateways listen, in their pods.
const GATEWAY_PORT: u16 = 7070;
pub(crate) const HOME: &str = "--namespace=devbox";
/// The service `outside` is left out: its port is the API server's, which shares the network of these tests.
pub(crate) const NOT_OUTSIDE: [&str; 2] = ["--exclude", "outside"];

/// A node with an installed gateway.
pub(crate) struct Cluster<'a> {
    scene: &'a Scene,
    started: Started,
}

impl<'a> Cluster<'a> {
    pub(crate) fn with_gateway(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::installed(scene, name, &[], |_| Ok(()))
    }

    /// The same, with further words for `devbox gateway manifests`. `prepare` comes before they are applied.
    pub(crate) fn installed(
        scene: &'a Scene,
        name: &str,
        more: &[&str],
        prepare: impl FnOnce(&Node) -> Result,
    ) -> Result<Self> {
        let started = Started::beside(&Node::find()?, name)?;
        let node = started.node();
        node.kubectl(["create", "namespace", "devbox"])?;
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        node.kubectl(["label", "namespace", "devbox", restricted])?;
        let manifests = scene
            .devbox([
                "gateway",
                "manifests",
                "--image",
                GATEWAY_IMAGE,
                "--ingress",
                "devbox.test",
            ])?
            .args(more.iter().copied())
            .run(wait::SOON)?
            .expect_success()?;
        prepare(&node)?;
        // Strictly: a key that is not known would be an error.
        node.apply(&manifests.output())?;
        let wanted = [
            "rollout",
            "status",
            "deployment/devbox-gateway",
            "--timeout=120s",
            HOME,
        ];
        if let Err(error) = node.kubectl(wanted) {
            return Err(error.context(node.kubectl(["describe", "pods", HOME])?));
        }
        Ok(Self { scene, started })
    }

    pub(crate) fn node(&self) -> Node {
        self.started.node()
    }

    /// A namespace with services, and the kubeconfig of a user of it.
    pub(crate) fn team(&self) -> Result<Team<'a>> {
        let namespace = self.node().services()?;
        let kubeconfig = user::user(self.scene, &namespace, CALLER, &["--via", "gateway"])?;
        Ok(Team {
            scene: self.scene,
            namespace,
            kubeconfig,
        })
    }

    /// The replicas: name and address.
    pub(crate) fn replicas(&self) -> Result<Vec<(String, String)>> {
        let selector = "--selector=devbox.dev/gateway=installed";
        let list = self
            .node()
            .kubectl(["get", "pods", HOME, selector, "--output=json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods = list["items"].as_array().context("no list")?;
        let staying = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying
            .map(|pod| {
                let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
                Ok((text(&pod["metadata"]["name"])?, text(&pod["status"]["podIP"])?))
            })
            .collect()
    }

    /// Kills a replica's program without warning; deleting its pod would let it drain. The pod starts it again.
    fn kill(&self, replica: &str) -> Result {
        let pid = self.node().process_in("devbox", replica, "devbox")?.to_string();
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &pid])
            .status()?;
        ensure!(killed.success(), "kill: {killed}");
        Ok(())
    }

    /// Ends the node, and checks that nothing of it stays.
    pub(crate) fn finish(&self) -> Result {
        self.started.down()
    }

    /// A figure of a replica's metrics.
    pub(crate) fn metric(&self, address: &str, name: &str) -> Result<u64> {
        let url = format!("http://{address}:7071/metrics");
        let told = self
            .node()
            .command(self.scene, ["curl", "--silent", "--fail", &url])?;
        let told = told.run(wait::SOON)?.expect_success()?.output();
        let line = told
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in {told}"))?.parse()?)
    }
}

pub(crate) struct Team<'a> {
    scene: &'a Scene,
    namespace: Namespace,
    kubeconfig: PathBuf,
}

impl Team<'_> {
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn exec(&self, namespace: &str, more: &[&str], command: &[&str]) -> Result<Finished> {
        let words = [
            &["exec", "-n", namespace],
            &NOT_OUTSIDE[..],
            more,
            &["--"],
            command,
        ]
        .concat();
        user::devbox(self.scene, &self.namespace, &self.kubeconfig, &words)?
            .by(CALLER)
            .run(4 * wait::SOON)
    }

    fn start(&self, more: &[&str], script: &str) -> Result<Process> {
        let own = ["exec", "-n", self.namespace.name()];
        let words = [&own[..], &NOT_OUTSIDE, more, &["--", "sh", "-c", script]].concat();
        user::devbox(self.scene, &self.namespace, &self.kubeconfig, &words)?
            .by(CALLER)
            .start()
    }
}

#[test]
fn each_user_of_a_gateway_reaches_their_own_namespace_and_no_other() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        need_program("dig", "bind9-dnsutils")?;
        let cluster = Cluster::with_gateway(scene, "gateway-users")?;
        let teams = [cluster.team()?, cluster.team()?];
        for (ours, theirs) in [(&teams[0], &teams[1]), (&teams[1], &teams[0])] {
            let own = ours.namespace.name();
            // What is not said is found out: there is a gateway.
            for via in [&[][..], &["--via", "gateway"]] {
                let answer = ours.exec(own, via, &["curl", "--silent", "--show-error", "http://web/"])?;
                let answer = answer.expect_success()?;
                let pods = ours.namespace.pods("app=web")?;
                ensure!(
                    pods.iter().any(|pod| answer.output().trim_end() == pod),
                    "{}",
                    answer.everything()
                );
            }
            let other = theirs.namespace.name();
            let refused = ours.exec(other, &["--via", "gateway"], &["curl", "http://web/"])?;
            ensure!(refused.exit != Exit::code(0), "{}", refused.everything());
            let why = format!("you may not list services in the namespace {other}");
            refused.expect_text(&[&why])?;
            // Of both, the own one is there, and the other one is named.
            let ask = format!("curl --silent http://web.{own}/ && ! getent hosts web.{other}");
            let both = ours.exec(own, &["-n", other, "--via", "gateway"], &["sh", "-c", &ask])?;
            let both = both.expect_success()?;
            both.expect_text(&[&why])?;
        }
        let ours = &teams[0];
        let own = ours.namespace.name();
        let all = "psql --host=db-1.db --username=postgres --no-align --tuples-only --command='select 6 * 7' && \
                   redis-cli -h cache ping && \
                   dig +short +time=5 +tries=2 +notcp @$(getent hosts dns | cut -d ' ' -f 1) orders.example && \
                   curl --silent --show-error --insecure https://by-hand/readyz";
        let answer = ours
            .exec(own, &["--via", "gateway"], &["sh", "-c", all])?
            .expect_success()?;
        ensure!(
            answer.output() == "42\nPONG\n10.1.2.3\nok",
            "{}",
            answer.everything()
        );

        let session = Session::start(scene, &ours.namespace, &ours.kubeconfig, &NOT_OUTSIDE)?;
        let via = session.provider()?["via"].take();
        let way = via["way"].as_str().context("no way")?;
        ensure!(way.starts_with("gateway devbox-gateway-"), "{via}");
        ensure!(via["because"] == "it is installed", "{via}");
        session.end()?;
        drop(teams);
        cluster.started.down()
    })
}

#[test]
fn an_external_name_is_followed_where_that_was_installed_and_never_to_the_gateway_itself() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::installed(scene, "gateway-names", &["--external-names"], |_| Ok(()))?;
        let node = cluster.node();
        node.cluster_dns()?;
        let team = cluster.team()?;
        let address = node.address()?;
        let listener = node.inside(|| Ok(TcpListener::bind((address, 0))?))?;
        let port = listener.local_addr()?.port();
        let stands_for = |name: &str, host: &str, port: u16| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: \
                 {{type: ExternalName, externalName: {host}, ports: [{{port: {port}}}]}}}}\n---\n"
            )
        };
        // At the second one the gateway itself would answer.
        let services = [
            stands_for("elsewhere", "outside.devbox.test", port),
            stands_for("itself", "inside.devbox.test", 7071),
        ];
        team.namespace.apply(&services.concat())?;
        let answering = std::thread::spawn(move || -> Result {
            let (mut connection, _) = listener.accept()?;
            ensure!(connection.read(&mut [0; 1024])? > 0, "no request");
            connection.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\nfrom outside\n")?;
            Ok(())
        });
        let ask = |url: &str| {
            let command = ["curl", "--silent", "--show-error", url];
            // With the reasons of refused connections.
            team.exec(team.namespace.name(), &["--via", "gateway", "-v"], &command)
        };
        let answer = ask(&format!("http://elsewhere:{port}/"))?.expect_success()?;
        ensure!(answer.output() == "from outside\n", "{}", answer.everything());
        answering
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let refused = ask("http://itself:7071/healthz")?;
        ensure!(refused.exit != Exit::code(0), "{}", refused.everything());
        refused.expect_text(&["inside.devbox.test:7071: no address of a service"])?;
        drop(team);
        cluster.finish()
    })
}

#[test]
fn with_a_replica_go_its_connections_and_no_others() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-killed")?;
        let team = cluster.team()?;
        let replicas = cluster.replicas()?;
        ensure!(replicas.len() == 2, "{replicas:?}");
        // It goes to one of them, which is the one that is killed.
        let way = [&["--via", "gateway"][..], &NOT_OUTSIDE].concat();
        let session = Session::start(scene, &team.namespace, &team.kubeconfig, &way)?;
        let via = session.provider()?["via"].take();
        let shown = via["way"].as_str().unwrap_or_default();
        let victim = replicas.iter().position(|(name, _)| shown.contains(name));
        let victim = victim.with_context(|| format!("none of {replicas:?}: {via}"))?;
        let mut held = Redis(session.connect("cache", REDIS)?);
        ensure!(held.ask("PING")? == "+PONG");
        let script = "curl --silent --show-error --limit-rate 30M --output /dev/null http://web/big; echo ended $?; \
                      curl --silent --show-error --max-time 30 --output /dev/null http://web/ && echo again";
        // Sessions are spread by their names.
        let mut downloads: Vec<(usize, Process)> = Vec::new();
        while [0, 1].iter().any(|at| !downloads.iter().any(|(of, _)| of == at)) {
            ensure!(downloads.len() < 16, "all sessions are at one replica");
            let open = |at: usize| cluster.metric(&replicas[at].1, "devbox_gateway_streams");
            let before = [open(0)?, open(1)?];
            let environment = format!("e{}", downloads.len());
            let download = team.start(&["--env", &environment, "--via", "gateway"], script)?;
            let at = wait::until("the download", 4 * wait::SOON, || {
                [0, 1]
                    .into_iter()
                    .find(|at| open(*at).is_ok_and(|now| now > before[*at]))
            })?;
            downloads.push((at, download));
        }
        let held = held.hold();
        let killed = Instant::now();
        cluster.kill(&replicas[victim].0)?;
        held.expect_reset_at_once(killed, "a stream whose replica was killed")?;
        wait::until("the loss, told", 2 * wait::SOON, || {
            session.up.everything().contains("link lost").then_some(())
        })?;
        session.end()?;
        for (at, download) in &mut downloads {
            let exit = download.wait(ROLLOUT)?;
            ensure!(exit == Exit::code(0), "{exit}: {}", download.everything());
            // curl: 56 is a reset, 0 the whole download.
            let ended = if *at == victim {
                "ended 56\nagain\n"
            } else {
                "ended 0\nagain\n"
            };
            ensure!(
                download.output() == ended,
                "replica {at}: {}",
                download.everything()
            );
        }
        drop(downloads);
        drop(team);
        cluster.started.down()
    })
}

#[test]
fn no_new_connection_fails_while_the_gateway_is_restarted_and_open_ones_are_drained() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-restarted")?;
        let team = cluster.team()?;
        let asking = Asking::start(scene, |script| team.start(&["--via", "gateway"], script))?;
        let way = [&["--via", "gateway"][..], &NOT_OUTSIDE].concat();
        let session = Session::start(scene, &team.namespace, &team.kubeconfig, &way)?;
        let at = || -> Result<String> {
            let via = session.provider()?["via"].take();
            Ok(via["way"].as_str().context("no way")?.to_owned())
        };
        let node = cluster.node();
        let before = cluster.replicas()?;
        let first = at()?;
        let (replica, _) = before
            .iter()
            .find(|(name, _)| first.contains(name))
            .with_context(|| format!("none of {before:?}: {first}"))?;
        let restart = || -> Result {
            node.kubectl(["rollout", "restart", "deployment/devbox-gateway", HOME])?;
            // A stream that is open when its replica is told to go, and ends after its session is at another one.
            wait::until("the end of the session's replica", ROLLOUT, || {
                let staying = cluster.replicas().ok()?;
                (!staying.iter().any(|(name, _)| name == replica)).then_some(())
            })?;
            let mut query = long_query(scene, &team.namespace, &session, 15)?;
            let left = Instant::now();
            wait::until_ok("another replica", 2 * wait::SOON, || {
                let now = at()?;
                ensure!(now != first, "{now}");
                Ok(())
            })?;
            figure(&format!("a session left its replica after {:?}", left.elapsed()));
            ensure!(!query.output().contains("42"), "the query was over before");
            is_answered(&mut query)?;
            node.kubectl([
                "rollout",
                "status",
                "deployment/devbox-gateway",
                "--timeout=120s",
                HOME,
            ])?;
            // The old ones go after the rollout is over.
            wait::until("the end of the old replicas", ROLLOUT, || {
                let all = node.kubectl(["get", "pods", HOME, "--output=name"]).ok()?;
                (!before.iter().any(|(name, _)| all.contains(name))).then_some(())
            })
        };
        asking.during("a restart of the gateway", restart)?;
        session.end()?;
        asking.wait_for_more()?;
        asking.none_failed(scene)?;
        drop(team);
        cluster.started.down()
    })
}

#[test]
fn through_an_installed_gateway_connections_follow_their_pods() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-pods")?;
        let team = cluster.team()?;
        let way = [&["--via", "gateway"][..], &NOT_OUTSIDE].concat();
        user::no_request_fails_through_a_restart(scene, &team.namespace, &team.kubeconfig, &way)?;
        user::streams_end_with_their_pod(scene, &team.namespace, &team.kubeconfig, &way)?;
        let namespace = cluster.node().namespace()?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &way[..2])?;
        endpoints::each_connection_goes_where_it_can(scene, &namespace, &kubeconfig, &way)?;
        drop(namespace);
        drop(team);
        cluster.started.down()
    })
}

/// nginx in place of an Ingress controller, in the node's own network, at this address: with TLS where there is a certificate.
pub(crate) fn ingress(
    namespace: &Namespace,
    replicas: &[(String, String)],
    listen: SocketAddr,
    certificate: Option<&Certificate>,
) -> Result<String> {
    let (ssl, scheme) = match certificate {
        Some(_) => (
            " ssl; ssl_certificate /etc/tls/tls.crt; ssl_certificate_key /etc/tls/tls.key",
            "https",
        ),
        None => ("", "ws"),
    };
    let servers: String = replicas
        .iter()
        .map(|(_, address)| format!("server {address}:7070;"))
        .collect();
    let configuration = format!(
        "daemon off; master_process off; pid /tmp/pid; error_log stderr; events {{}} http {{ access_log off; \
         client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; \
         scgi_temp_path /tmp/scgi; \
         map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }} \
         upstream gateway {{ hash $uri consistent; {servers} }} \
         server {{ listen {listen}{ssl}; location /kube/devbox/tunnel/client/ {{ proxy_pass http://gateway; proxy_http_version 1.1; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; \
         proxy_read_timeout 3600; proxy_send_timeout 3600; }} }} }}"
    );
    let configuration = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ingress"}, "data": {"nginx.conf": configuration},
    });
    if let Some(Certificate { certificate, key }) = certificate {
        let [certificate, key] = [("cert", certificate), ("key", key)]
            .map(|(option, file)| format!("--{option}={}", file.display()));
        namespace.kubectl(&["create", "secret", "tls", "ingress", &certificate, &key])?;
    }
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ingress"},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000},
            "containers": [{
                "name": "nginx", "image": "devbox.test/services:1", "imagePullPolicy": "Never",
                "command": ["nginx", "-e", "stderr", "-p", "/tmp", "-c", "/etc/ingress/nginx.conf"],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/ingress"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "ingress"}}],
        },
    });
    if certificate.is_some() {
        let spec = &mut pod["spec"];
        let mount = serde_json::json!({"name": "tls", "mountPath": "/etc/tls"});
        let mounts = spec["containers"][0]["volumeMounts"].as_array_mut();
        mounts.context("no mounts")?.push(mount);
        let volume = serde_json::json!({"name": "tls", "secret": {"secretName": "ingress"}});
        spec["volumes"].as_array_mut().context("no volumes")?.push(volume);
    }
    namespace.apply(&format!("{configuration}\n---\n{pod}\n"))?;
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/ingress", "--timeout=60s"])?;
    Ok(format!("{scheme}://{listen}"))
}

#[test]
fn over_an_ingress_everything_goes_on_while_the_api_server_is_away() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let cluster = Cluster::with_gateway(scene, "gateway-away")?;
        let team = cluster.team()?;
        let listen = (scene.address(), 8081).into();
        let url = ingress(&team.namespace, &cluster.replicas()?, listen, None)?;
        // A session through the API server is interrupted, and its stream waits.
        let way = [&["--via", "gateway"][..], &NOT_OUTSIDE].concat();
        let proxied = Session::start(scene, &team.namespace, &team.kubeconfig, &way)?;
        let mut waiting = long_query(scene, &team.namespace, &proxied, 15)?;
        let held = "psql --host=db --username=postgres --no-align --tuples-only --command=\"select 'begun'\" \
                    --command='select 6 * 7 from pg_sleep(22)'";
        let over = ["--via", url.as_str()];
        let mut held = team.start(&over, held)?;
        held.wait_for_line("a query that has begun", 4 * wait::SOON, |line| line == "begun")?;
        let asking = Asking::start(scene, |script| team.start(&over, script))?;
        let node = cluster.node();
        asking.during("an API server that is away", || {
            let stopped = Instant::now();
            node.stop("kube-apiserver")?;
            is_waited_for_and_then_refused(&proxied)?;
            std::thread::sleep(AWAY.saturating_sub(stopped.elapsed()));
            Ok(())
        })?;
        ensure!(!waiting.output().contains("42"), "{}", waiting.everything());
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        is_answered(&mut held)?;
        is_answered(&mut waiting)?;
        proxied.end()?;
        asking.wait_for_more()?;
        asking.none_failed(scene)?;
        // Kubernetes' own controllers may pause for a minute after that (client-go's backoff), each for itself: until they have replaced a
        // pod of something else, connections could go to pods that are gone, whoever makes them.
        team.namespace.restart("deployment/dns")?;
        let way = [&over[..], &NOT_OUTSIDE].concat();
        user::no_request_fails_through_a_restart(scene, &team.namespace, &team.kubeconfig, &way)?;
        drop((held, waiting));
        drop(team);
        cluster.started.down()
    })
}

/// The API server is kept from the gateways' port. The kubelet gets there: a port-forward begins in the pod's own network.
fn without_a_route(scene: &Scene, node: &Node) -> Result {
    let rules = format!(
        "table inet devbox_test {{\nchain output {{\ntype filter hook output priority 0\ntcp dport {GATEWAY_PORT} reject with tcp reset\n}}\n}}\n"
    );
    let nft = node.command(scene, ["nft", &rules])?;
    nft.run(wait::SOON)?.expect_success()?;
    Ok(())
}

/// A session that goes through a gateway, over one port-forward to it, and says why.
fn goes_over_one_forward(session: &Session<'_>, way: &str) -> Result {
    let provider = session.provider()?;
    let via = provider["via"]["way"].as_str().unwrap_or_default();
    ensure!(via.starts_with(way), "{provider}");
    let over = provider["over"].as_str().unwrap_or_default();
    let because = "one port-forward, because the API server does not get through to the ";
    ensure!(over.starts_with(because), "{provider}");
    let answer = Redis(session.connect("cache", REDIS)?).ask("PING")?;
    ensure!(answer == "+PONG", "{answer}");
    Ok(())
}

#[test]
fn where_the_api_server_does_not_get_through_to_a_gateway_one_port_forward_does() -> Outcome {
    scenario(|scene| {
        need_program("nft", "nftables")?;
        let cluster = Cluster::with_gateway(scene, "no-route")?;
        let node = cluster.node();
        without_a_route(scene, &node)?;
        let namespace = with_redis(&node)?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        let session = Session::start(scene, &namespace, &kubeconfig, &way)?;
        goes_over_one_forward(&session, "gateway pod ")?;
        session.end()?;

        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "gateway"])?;
        let way = ["--via", "gateway"];
        // Without the right to a port-forward there, it is said what the API server has answered.
        let words = [&["exec", "-n", namespace.name()], &way[..], &["--", "true"]].concat();
        let exec = user::devbox(scene, &namespace, &kubeconfig, &words)?.by(CALLER);
        let done = exec.run(4 * wait::SOON)?;
        ensure!(done.exit != Exit::code(0), "{}", done.everything());
        ensure!(done.errors().contains("(status 50"), "{}", done.everything());

        let account = account(&kubeconfig)?;
        let account = format!("--serviceaccount={}:{account}", namespace.name());
        let create = [
            "create",
            "role",
            "forward",
            "--verb=get,create",
            "--resource=pods/portforward",
            HOME,
        ];
        node.kubectl(create)?;
        node.kubectl([
            "create",
            "rolebinding",
            "forward",
            "--role=forward",
            &account,
            HOME,
        ])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &way)?;
        goes_over_one_forward(&session, "gateway devbox-gateway-")?;
        session.end()?;
        drop(namespace);
        cluster.finish()
    })
}
