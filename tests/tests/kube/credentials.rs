//! Ways to be somebody for an API server: what a kubeconfig can hold, and what becomes of a session when its credential is another one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node, SERVICES_IMAGE};
use devbox_tests::{Outcome, Result, Scene, Signal, need_program, scenario, wait};
use serde_json::{Value, json};

use crate::session::{CALLER, REDIS, Redis, Session, with_redis};

/// What a port-forward needs.
const RULES: &str = "[{apiGroups: [''], resources: [services], verbs: [list, watch]}, \
                     {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}, \
                     {apiGroups: [''], resources: [pods/portforward], verbs: [get, create]}]";

/// The API server remembers for so long that a token is good.
const REMEMBERED: Duration = Duration::from_secs(12);

/// Token files are read again once a minute.
pub(crate) const READ_AGAIN: Duration = Duration::from_secs(62);

fn with_account(scene: &Scene) -> Result<(Namespace, Account)> {
    let namespace = with_redis(&Node::find()?)?;
    let kubeconfig = namespace.service_account(scene, RULES, CALLER)?;
    let account = Account::read(&kubeconfig)?;
    Ok((namespace, account))
}

/// A service account, and a kubeconfig of it.
pub(crate) struct Account {
    config: Value,
    pub(crate) name: String,
}

impl Account {
    /// The service account of a kubeconfig.
    pub(crate) fn read(kubeconfig: &Path) -> Result<Self> {
        let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
        let name = config["users"][0]["name"].as_str().context("no user")?.to_owned();
        Ok(Self { config, name })
    }

    /// The kubeconfig, with another credential.
    pub(crate) fn with(&self, scene: &Scene, name: &str, user: &Value) -> Result<PathBuf> {
        let mut config = self.config.clone();
        config["users"][0]["user"] = user.clone();
        scene.write_secret(name, config.to_string(), CALLER)
    }

    /// A token that is good as long as a Secret is there.
    pub(crate) fn token_bound_to(&self, namespace: &Namespace, secret: &str) -> Result<String> {
        namespace.kubectl(&["create", "secret", "generic", secret])?;
        let bound = ["--bound-object-kind=Secret", "--bound-object-name", secret];
        let token = namespace.kubectl(&[&["create", "token", &self.name], &bound[..]].concat())?;
        Ok(token.trim_end().to_owned())
    }
}

fn ask(session: &Session<'_>) -> Result<Redis> {
    let mut connection = Redis(session.connect("cache", REDIS)?);
    let answer = connection.ask("PING")?;
    ensure!(answer == "+PONG", "{answer}");
    Ok(connection)
}

/// The Secret goes, and with it the token that the session had at first: new connections are answered all the same, and the one that is held
/// does not notice.
fn outlives_its_token(
    session: &Session<'_>,
    namespace: &Namespace,
    secret: &str,
    held: &mut Redis,
) -> Result {
    namespace.kubectl(&["delete", "secret", secret])?;
    wait::stays("new connections are answered", REMEMBERED, || {
        ask(session).is_ok()
    })?;
    ask(session).context("the last new connection")?;
    let answer = held.ask("PING").context("the connection that was held")?;
    ensure!(answer == "+PONG", "{answer}");
    Ok(())
}

#[test]
fn tokens_of_files_and_plugins_are_renewed_and_open_connections_do_not_notice() -> Outcome {
    scenario(|scene| {
        let (namespace, account) = with_account(scene)?;
        let lasting = namespace.token(&account.name, None)?;

        let file = scene.write_secret(
            "token",
            account.token_bound_to(&namespace, "of-the-file")?,
            CALLER,
        )?;
        let kubeconfig = account.with(scene, "by-file", &json!({"tokenFile": file}))?;
        let by_file = Session::start(scene, &namespace, &kubeconfig, &["--env", "file"])?;
        let begun = Instant::now();
        let mut of_file = ask(&by_file).context("the first token of the file")?;
        fs::write(&file, &lasting)?;

        // A token of a plug-in is asked for again a minute before its time is up: here after some seconds.
        let current = scene.write_secret(
            "current",
            account.token_bound_to(&namespace, "of-the-plugin")?,
            CALLER,
        )?;
        let asked = scene.write_secret("asked", "", CALLER)?;
        let plugin = plugin(scene, &current, &asked)?;
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": "Never",
        });
        let kubeconfig = account.with(scene, "by-plugin", &json!({"exec": exec}))?;
        let by_plugin = Session::start(scene, &namespace, &kubeconfig, &["--env", "plugin"])?;
        let mut of_plugin = ask(&by_plugin).context("the plug-in's first token")?;
        fs::write(&current, &lasting)?;
        let times = || Ok::<_, anyhow::Error>(fs::read_to_string(&asked)?.lines().count());
        let before = times()?;
        wait::until_ok("another token", 2 * wait::SOON, || {
            ask(&by_plugin)?;
            ensure!(times()? > before, "asked {before} times");
            Ok(())
        })?;
        outlives_its_token(&by_plugin, &namespace, "of-the-plugin", &mut of_plugin)?;
        by_plugin.end()?;

        std::thread::sleep(READ_AGAIN.saturating_sub(begun.elapsed()));
        ask(&by_file).context("the file, read again")?;
        outlives_its_token(&by_file, &namespace, "of-the-file", &mut of_file)?;
        by_file.end()
    })
}

/// Gives the token of a file for 65 s, and writes down that it was asked.
fn plugin(scene: &Scene, token: &Path, asked: &Path) -> Result<PathBuf> {
    let plugin = scene.write(
        "credential-plugin",
        format!(
            "#!/bin/sh\necho asked >> {}\nprintf '{}' \"$(cat {})\" \"$(date --utc --date='65 seconds' +%FT%TZ)\"\n",
            asked.display(),
            r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s", "expirationTimestamp": "%s"}}"#,
            token.display(),
        ),
    )?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    Ok(plugin)
}

#[test]
fn a_certificate_is_shown_and_a_proxy_is_gone_through() -> Outcome {
    scenario(|scene| {
        let tinyproxy = need_program("tinyproxy", "tinyproxy-bin")?;
        let (namespace, account) = with_account(scene)?;
        let kubeconfig = namespace.user(scene, RULES, CALLER)?;
        let session = Session::start(scene, &namespace, &kubeconfig, &["--env", "certificate"])?;
        ask(&session)?;
        session.end()?;

        let address = scene.free_address()?;
        let config = scene.write(
            "tinyproxy.conf",
            format!(
                "Listen {}\nPort {}\nMaxClients 50\nTimeout 60\nLogLevel Connect\n",
                address.ip(),
                address.port()
            ),
        )?;
        let argv = [
            tinyproxy.as_os_str(),
            "-d".as_ref(),
            "-c".as_ref(),
            config.as_os_str(),
        ];
        let node = namespace.node();
        let proxy = node.command(scene, argv)?.by(CALLER).start()?;
        let proxy = proxy.stop_with(Signal::TERM);
        let mut config = account.config;
        config["clusters"][0]["cluster"]["proxy-url"] = json!(format!("http://{address}"));
        let kubeconfig = scene.write_secret("by-proxy", config.to_string(), CALLER)?;
        wait::until_ok("the proxy", wait::SOON, || {
            node.inside(|| Ok(std::net::TcpStream::connect(address)?))
        })?;
        let session = Session::start(scene, &namespace, &kubeconfig, &["--env", "proxy"])?;
        ask(&session)?;
        let server = format!("CONNECT {}:6443", node.address()?);
        let count = proxy.everything().matches(&server).count();
        // The watches' connection, and a port-forward.
        ensure!(count >= 2, "{count}: {}", proxy.everything());
        session.end()
    })
}

/// A pod with devbox, as the service account of a kubeconfig, and beside it a program that uses its names.
fn pod_with_devbox(namespace: &Namespace, account: &Account) -> String {
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inside", "namespace": namespace.name()},
        "spec": {
            "serviceAccountName": account.name,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000},
            "initContainers": [{
                "name": "hosts", "image": SERVICES_IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", ": > /shared/hosts"],
                "volumeMounts": mounts, "securityContext": restricted,
            }],
            "containers": [
                {
                    "name": "devbox", "image": GATEWAY_IMAGE, "imagePullPolicy": "Never",
                    // Neither a kubeconfig nor a namespace is named.
                    "command": ["/devbox", "up", "--via", "forward", "--hosts-file", "/shared/hosts"],
                    "env": [{"name": "HOME", "value": "/shared"}, {"name": "XDG_RUNTIME_DIR", "value": "/shared"}],
                    "volumeMounts": mounts, "securityContext": restricted,
                },
                {
                    "name": "client", "image": SERVICES_IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "600"],
                    "volumeMounts": mounts, "securityContext": restricted,
                },
            ],
            "volumes": [{"name": "shared", "emptyDir": {}}],
        },
    })
    .to_string()
}

#[test]
fn in_a_pod_it_is_the_pods_service_account() -> Outcome {
    scenario(|scene| {
        let (namespace, account) = with_account(scene)?;
        let pod = pod_with_devbox(&namespace, &account);
        namespace.apply(&pod)?;
        let logs = || namespace.kubectl(&["logs", "inside", "--container=devbox"]);
        wait::until_ok("a session that is ready", 6 * wait::SOON, || {
            let log = logs()?;
            ensure!(log.lines().any(|line| line == "ready"), "{log}");
            Ok(())
        })?;
        // The image has no programs for it.
        let ask = "while read -r address names; do case \" $names \" in *' cache '*) redis-cli -h $address ping; esac; done < /shared/hosts";
        let answer = namespace.kubectl(&["exec", "inside", "--container=client", "--", "sh", "-c", ask]);
        let answer = answer.with_context(|| logs().unwrap_or_default())?;
        ensure!(answer == "PONG\n", "{answer}: {}", logs()?);
        Ok(())
    })
}
