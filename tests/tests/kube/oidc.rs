//! OpenID Connect: an issuer whose ID tokens are good for seconds and whose refresh tokens are taken once, a kubeconfig of a user who has
//! logged in there, and an API server that accepts them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Certificate, Outcome, Process, Result, Scene, Skip, need_program, scenario, wait};
use serde_json::{Value, json};

use crate::session::{CALLER, REDIS, Redis, Session, with_redis};
use crate::user;

/// What the API server is told of issuers, and notices while it runs.
const TRUST: &str = "authentication.yaml";
/// How long an ID token is good. Ten seconds before its end it is renewed.
const LIFETIME: Duration = Duration::from_secs(15);
/// Whom the issuer's tokens are for, as the API server calls them.
const USER: &str = "oidc:id2";

struct Issuer<'a> {
    scene: &'a Scene,
    url: String,
    certificate: Certificate,
    /// What the node's file said before.
    trust: (PathBuf, String),
    _program: Process,
}

impl Drop for Issuer<'_> {
    fn drop(&mut self) {
        // Where it fails, the node is gone.
        fs::write(&self.trust.0, &self.trust.1).ok();
    }
}

impl<'a> Issuer<'a> {
    fn start(scene: &'a Scene, node: &Node) -> Result<Self> {
        need_program("curl", "curl")?;
        let program = node.program("issuer");
        if !program.exists() {
            return Err(Skip::new("the OpenID Connect issuer is not built").into());
        }
        let certificate = scene.certificate()?;
        let address = format!("{}:8444", scene.address());
        let argv = [
            program.as_os_str(),
            address.as_ref(),
            certificate.certificate.as_os_str(),
            certificate.key.as_os_str(),
            LIFETIME.as_secs().to_string().as_ref(),
        ]
        .map(ToOwned::to_owned);
        let program = node.command(scene, argv)?.by(CALLER).start()?;
        let url = format!("https://{address}");
        program.wait_for_line("the issuer", wait::SOON, |line| line == url)?;
        let trust = node.folder().join(TRUST);
        let before = fs::read_to_string(&trust)?;
        Ok(Self {
            scene,
            url,
            certificate,
            trust: (trust, before),
            _program: program,
        })
    }

    /// Makes the API server accept its tokens.
    fn is_trusted(&self) -> Result {
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {
                    "url": self.url, "audiences": ["devbox"],
                    "certificateAuthority": fs::read_to_string(&self.certificate.certificate)?,
                },
                "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}},
            }],
        });
        fs::write(&self.trust.0, config.to_string())?;
        Ok(())
    }

    /// What it gives somebody who logs in: an ID token and a refresh token.
    fn log_in(&self, node: &Node) -> Result<[String; 2]> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/issuer/log-in");
        let argv = [
            script.as_os_str(),
            self.url.as_ref(),
            self.certificate.certificate.as_os_str(),
        ]
        .map(ToOwned::to_owned);
        let told = node
            .command(self.scene, argv)?
            .run(wait::SOON)?
            .expect_success()?;
        let told: Value = serde_json::from_str(&told.output())?;
        let token = |name: &str| {
            let token = told[name].as_str().map(str::to_owned);
            token.with_context(|| format!("no {name} in {told}"))
        };
        Ok([token("id_token")?, token("refresh_token")?])
    }

    /// The values of an `auth-provider`.
    fn provider(&self, [id, refresh]: &[String; 2]) -> Value {
        json!({"auth-provider": {"name": "oidc", "config": {
            "idp-issuer-url": self.url, "idp-certificate-authority": self.certificate.certificate,
            "client-id": "devbox", "client-secret": "secret", "id-token": id, "refresh-token": refresh,
        }}})
    }
}

/// A kubeconfig with a comment, in a folder of its user's. What leads to it is a link.
fn kubeconfig(scene: &Scene, namespace: &Namespace, user: &Value) -> Result<PathBuf> {
    let there = namespace.service_account(scene, "[]", CALLER)?;
    let mut config: Value = serde_json::from_slice(&fs::read(there)?)?;
    config["users"][0]["user"] = user.clone();
    let folder = scene.folder_of("kube", CALLER)?;
    scene.write_secret("kube/config", format!("# by hand\n{config}\n"), CALLER)?;
    let link = folder.join("link");
    if !link.is_symlink() {
        symlink("config", &link)?;
    }
    Ok(link)
}

/// What somebody may do who uses port-forwards.
fn has_rights(scene: &Scene, namespace: &Namespace) -> Result {
    let words = ["rbac", "--via", "forward", "-n", namespace.name(), "--user", USER];
    let roles = scene.devbox(words)?.run(wait::SOON)?.expect_success()?;
    namespace.node().apply(&roles.output())
}

fn ask(session: &Session<'_>) -> Result<Redis> {
    let mut connection = Redis(session.connect("cache", REDIS)?);
    let answer = connection.ask("PING")?;
    ensure!(answer == "+PONG", "{answer}");
    Ok(connection)
}

/// Asks over two connections that begin at the same time: where the token has expired, both sessions want the next one.
fn ask_both(one: &Session<'_>, two: &Session<'_>) -> Result {
    let both = [one.connect("cache", REDIS)?, two.connect("cache", REDIS)?];
    for connection in both {
        let answer = Redis(connection).ask("PING")?;
        ensure!(answer == "+PONG", "{answer}");
    }
    Ok(())
}

#[test]
fn tokens_of_an_issuer_are_renewed_in_the_kubeconfig_that_two_sessions_and_kubectl_share() -> Outcome {
    scenario(|scene| {
        let namespace = with_redis(&Node::find()?)?;
        let node = namespace.node();
        let issuer = Issuer::start(scene, node)?;
        issuer.is_trusted()?;
        has_rights(scene, &namespace)?;
        let kubectl = |kubeconfig: &Path| -> Result {
            let kubectl = node.command(scene, [node.program("kubectl")])?;
            let kubectl = kubectl.env("KUBECONFIG", kubeconfig);
            let kubectl = kubectl.args(["get", "services", "--namespace", namespace.name()]);
            kubectl.by(CALLER).run(wait::SOON)?.expect_success()?;
            Ok(())
        };
        wait::until_ok(
            "an API server that has heard of the issuer",
            12 * wait::SOON,
            || {
                let [id, _] = issuer.log_in(node)?;
                kubectl(&kubeconfig(scene, &namespace, &json!({"token": id}))?)
            },
        )?;

        let first = issuer.log_in(node)?;
        let config = kubeconfig(scene, &namespace, &issuer.provider(&first))?;
        let one = Session::start(scene, &namespace, &config, &["--env", "one"])?;
        let mut held = ask(&one)?;
        let two = Session::start(scene, &namespace, &config, &["--env", "two"])?;
        let mut failed = None;
        let answered = || {
            let asked = ask_both(&one, &two).err();
            failed = failed.take().or(asked);
            failed.is_none()
        };
        let stayed = wait::stays("both sessions reach the service", 2 * LIFETIME, answered);
        failed.map_or(stayed, Err)?;
        ensure!(held.ask("PING")? == "+PONG");
        let text = fs::read_to_string(&config)?;
        ensure!(text.starts_with("# by hand\n"), "{text}");
        for token in &first {
            ensure!(!text.contains(token), "not renewed: {text}");
        }
        let (mode, owner) = (
            fs::metadata(&config)?.mode() & 0o7777,
            fs::metadata(&config)?.uid(),
        );
        ensure!(
            config.is_symlink() && mode == 0o600 && owner != 0,
            "{mode:o} of {owner}"
        );
        one.end()?;
        two.end()?;

        // kubectl goes on with what they were given, and a session with what kubectl was given.
        let renewed = |before: String, by: &str| -> Result<String> {
            let now = fs::read_to_string(&config)?;
            ensure!(now != before, "not renewed by {by}");
            Ok(now)
        };
        std::thread::sleep(LIFETIME);
        let before = fs::read_to_string(&config)?;
        kubectl(&config)?;
        let before = renewed(before, "kubectl")?;
        std::thread::sleep(LIFETIME);
        let three = Session::start(scene, &namespace, &config, &["--env", "three"])?;
        ask(&three)?;
        renewed(before, "a session")?;
        three.end()?;

        // Refresh tokens are taken once: there is nothing to be had for the first one.
        let spent = kubeconfig(scene, &namespace, &issuer.provider(&first))?;
        let words = ["up", "--no-hosts", "-n", namespace.name()];
        let up = user::devbox(scene, &namespace, &spent, &words)?.by(CALLER);
        let refused = up.run(2 * wait::SOON)?.expect_code(1)?;
        refused.expect_text(&[&format!(
            "{} does not renew the ID token: invalid_grant; log in again",
            issuer.url
        )])?;
        Ok(())
    })
}
