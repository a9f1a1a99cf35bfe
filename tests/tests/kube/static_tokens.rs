//! Static tokens of an installed gateway (`devbox gateway manifests --token-secret`), and TLS in front of it, as an Ingress has it.

use anyhow::{Context, ensure};
use devbox_tests::{Exit, Outcome, scenario, wait};

use crate::gateway::{Cluster, HOME, ingress};
use crate::gateway_rights::with_redis;
use crate::people::{Person, roles};
use crate::raw;
use crate::session::CALLER;
use crate::user;

const OF_CI: &str = "a-token-of-ci-and-nobody-else";
const OF_NOBODY: &str = "a-token-of-somebody-without-rights";

#[test]
fn a_static_token_over_tls_gives_what_its_user_may_and_nothing_else() -> Outcome {
    scenario(|scene| {
        let tokens =
            format!("tokens: [{{name: ci, token: {OF_CI}}}, {{name: nobody, token: {OF_NOBODY}}}]\n");
        let tokens = scene.write("tokens.yaml", tokens)?;
        let cluster = Cluster::installed(
            scene,
            "gateway-tokens",
            &["--token-secret", "devbox-tokens"],
            |node| {
                let file = format!("--from-file={}", tokens.display());
                node.kubectl(["create", "secret", "generic", "devbox-tokens", &file, HOME])?;
                Ok(())
            },
        )?;
        let node = cluster.node();
        let (orders, shop) = (with_redis(&node)?, with_redis(&node)?);
        let certificate = scene.certificate()?;
        let replicas = cluster.replicas()?;
        let url = ingress(
            &shop,
            &replicas,
            (scene.address(), 8443).into(),
            Some(&certificate),
        )?;
        node.apply(&roles(scene, &orders, &url, &["--user", "devbox:ci"])?)?;

        // Its kubeconfig says where the cluster is, and may do nothing.
        let kubeconfig = orders.service_account(scene, "[]", CALLER)?;
        let authority = certificate.certificate.display().to_string();
        let trusting = ["--via", &url, "--tls-ca", &authority];
        let ask = |namespace: &str, token: &str, way: &[&str]| {
            let file = scene
                .write_secret("shown.token", token, CALLER)?
                .display()
                .to_string();
            let words = [
                &["exec", "-n", namespace],
                way,
                &["--gateway-token-file", &file],
                &["--", "redis-cli", "-h", "cache", "ping"],
            ];
            let exec = user::devbox(scene, &orders, &kubeconfig, &words.concat())?;
            exec.by(CALLER).run(4 * wait::SOON)
        };
        let answer = ask(orders.name(), OF_CI, &trusting)?.expect_success()?;
        ensure!(answer.output() == "PONG\n", "{}", answer.everything());
        let may_not = |who: &str, namespace: &str| {
            format!("devbox:{who}: you may not list services in the namespace {namespace}")
        };
        for (namespace, token, way, said) in [
            (&shop, OF_CI, &trusting[..], may_not("ci", shop.name())),
            (&orders, OF_NOBODY, &trusting, may_not("nobody", orders.name())),
            (&orders, "another", &trusting, "status 401".to_owned()),
            // Without a word about whom to trust, it is nobody.
            (&orders, OF_CI, &trusting[..2], "certificate".to_owned()),
        ] {
            let refused = ask(namespace.name(), token, way)?;
            ensure!(refused.exit != Exit::code(0), "{}", refused.everything());
            ensure!(
                refused.errors().contains(&said),
                "{said}: {}",
                refused.everything()
            );
        }

        // On the wire.
        let (_, gateway) = replicas.first().context("no replica")?;
        let ask = |namespace: &str, token| {
            let scope = format!("namespace={namespace}");
            raw::ask(&node, gateway, "raw", token, &[("Devbox-Scope", &scope)])
        };
        for (namespace, token, status) in [
            (orders.name(), "another", 401),
            (orders.name(), OF_NOBODY, 403),
            (shop.name(), OF_CI, 403),
        ] {
            let (answered, _) = ask(namespace, token)?;
            ensure!(answered == status, "{token} in {namespace}: {answered}");
        }
        let (_, stream) = ask(orders.name(), OF_CI)?;
        let mut client = raw::Client::new(stream.context("ci is not let in")?);
        ensure!(client.open(&format!("tcp/{}/cache/6379", orders.name()))? == Ok(()));
        let other = client.open(&format!("tcp/{}/cache/6379", shop.name()))?;
        ensure!(other == Err(raw::NOT_FOUND), "{other:?}");

        // A person's token of the cluster goes the same way, beside the static ones.
        let ada = Person::of(scene, &shop, &url)?;
        let answer = ada.ask(&shop, &trusting)?.expect_success()?;
        ensure!(answer.output() == "PONG\n", "{}", answer.everything());
        let refused = ada.ask(&orders, &trusting)?;
        ensure!(refused.exit != Exit::code(0), "{}", refused.everything());

        drop(ada);
        drop((orders, shop));
        cluster.finish()
    })
}
