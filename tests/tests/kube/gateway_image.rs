//! The gateway's image runs in a pod under the strictest policy, and serves a devbox outside.

use anyhow::{Context, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Node};
use devbox_tests::{Caller, Outcome, TOKEN, need_program, scenario, wait};
use serde_json::json;

#[test]
fn a_gateway_in_a_pod_serves_exec() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let node = Node::find()?;
        node.cluster_dns()?;
        let namespace = node.services()?;
        namespace.kubectl(&[
            "label",
            "namespace",
            namespace.name(),
            "pod-security.kubernetes.io/enforce=restricted",
        ])?;
        let database = namespace.address_of("db-0")?;
        // By an address, and by a name that a static program has to look up.
        let catalog = format!(
            "environment: {}\nservices:\n\
             - {{name: db, namespace: orders, ports: [{{name: sql, port: 5432, target: '{database}:5432'}}]}}\n\
             - {{name: api, namespace: orders, ports: [{{name: https, port: 6443, target: 'outside.devbox.test:6443'}}]}}\n",
            scene.environment()
        );
        let restricted = json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        });
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "gateway"},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "gateway",
                    "image": GATEWAY_IMAGE,
                    "imagePullPolicy": "Never",
                    "args": [
                        "--catalog", "/config/catalog.yaml", "--token-file", "/config/token",
                        "--listen", "0.0.0.0:7070", "--insecure",
                    ],
                    "ports": [{"containerPort": 7070}],
                    "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
                    "resources": {"limits": {"memory": "64Mi"}},
                    "securityContext": restricted,
                    "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                }],
                "volumes": [{"name": "config", "secret": {"secretName": "gateway"}}],
            },
        });
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "gateway"},
            "stringData": {"catalog.yaml": catalog, "token": TOKEN},
        });
        namespace.apply(&format!("{secret}\n---\n{pod}\n"))?;
        namespace
            .kubectl(&["wait", "--for=condition=Ready", "pod/gateway", "--timeout=60s"])
            .or_else(|error| Err(error.context(namespace.kubectl(&["describe", "pod", "gateway"])?)))?;

        let forward = node
            .command(scene, [node.program("kubectl")])?
            .args([
                "--namespace",
                namespace.name(),
                "port-forward",
                "pod/gateway",
                ":7070",
            ])
            .start()?;
        let line = forward.wait_for_line("the local port", wait::SOON, |line| {
            line.starts_with("Forwarding from 127.0.0.1:")
        })?;
        let port = line.split([':', ' ']).nth(3).context("no port in that line")?;
        let token = scene.write_secret("token", TOKEN, Caller::Ordinary)?;
        let exec = |argv: &[&str]| {
            let command = scene
                .devbox(["exec", "--gateway", &format!("ws://127.0.0.1:{port}")])?
                .args([std::ffi::OsString::from("--token-file"), token.clone().into()])
                .args(["--env", scene.environment(), "--"])
                .args(argv.iter().copied())
                .by(Caller::Ordinary);
            node.enter(command)?.run(4 * wait::SOON)?.expect_success()
        };
        let answer = exec(&[
            "psql",
            "--host=db.orders",
            "--username=postgres",
            "--no-align",
            "--tuples-only",
            "--command=select inet_server_addr()",
        ])?;
        ensure!(
            answer.output().trim_end() == database.to_string(),
            "{}",
            answer.everything()
        );
        let answer = exec(&[
            "curl",
            "--silent",
            "--show-error",
            "--insecure",
            "https://api.orders:6443/readyz",
        ])?;
        ensure!(answer.output() == "ok", "{}", answer.everything());
        Ok(())
    })
}
