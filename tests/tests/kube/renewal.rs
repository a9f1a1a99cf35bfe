//! Credentials that end while a session goes on through a gateway: what is open stays, and the next connection is made with another one.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use devbox_tests::kube::GATEWAY_IMAGE;
use devbox_tests::{Outcome, scenario};

use crate::credentials::{Account, READ_AGAIN};
use crate::gateway::{Cluster, HOME};
use crate::gateway_rights::with_redis;
use crate::people::Person;
use crate::session::{CALLER, Redis, Session};
use crate::user;

#[test]
fn whoever_is_at_a_gateway_does_not_notice_that_a_token_has_ended() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-renewal")?;
        let node = cluster.node();
        let (orders, shop) = (with_redis(&node)?, with_redis(&node)?);

        // To a gateway pod, with a token of the API server's that is good as long as a Secret is there.
        let account = Account::read(&user::user(scene, &shop, CALLER, &["--via", "pod"])?)?;
        let token = scene.write_secret("token", account.token_bound_to(&shop, "bound")?, CALLER)?;
        let kubeconfig = account.with(scene, "by-file", &serde_json::json!({"tokenFile": token}))?;
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        let to_a_pod = Session::start(scene, &shop, &kubeconfig, &[&way[..], &["--env", "pod"]].concat())?;
        let begun = Instant::now();
        let mut of_pod = Redis(to_a_pod.connect("cache", 6379)?);
        ensure!(of_pod.ask("PING")? == "+PONG");
        fs::write(&token, shop.token(&account.name, None)?)?;

        // To an installed one, with a token of the account that stands for ada. It ends with the account, which is there again at once.
        let ada = Person::of(scene, &orders, "gateway")?;
        let to_a_gateway = Session::start(scene, &orders, &ada.kubeconfig, &["--via", "gateway"])?;
        let mut of_gateway = Redis(to_a_gateway.connect("cache", 6379)?);
        ensure!(of_gateway.ask("PING")? == "+PONG");
        node.kubectl(["delete", "serviceaccount", &ada.account()?, HOME])?;
        node.apply(&ada.roles)?;

        // Token files are read again once a minute, and by then the gateway asks again whose the other token is.
        std::thread::sleep(READ_AGAIN.saturating_sub(begun.elapsed()));
        shop.kubectl(&["delete", "secret", "bound"])?;
        for held in [&mut of_pod, &mut of_gateway] {
            ensure!(held.ask("PING")? == "+PONG");
        }

        // Both links are lost, and go on with what is good by now.
        node.stop("kube-apiserver")?;
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        for held in [&mut of_pod, &mut of_gateway] {
            ensure!(held.ask("PING")? == "+PONG");
        }
        for session in [&to_a_pod, &to_a_gateway] {
            ensure!(Redis(session.connect("cache", 6379)?).ask("PING")? == "+PONG");
        }
        let way = |session: &Session<'_>, environment: &str| {
            let status = session.status_of(environment)?;
            let way = status["providers"][0]["via"]["way"].as_str();
            Ok::<_, anyhow::Error>(way.with_context(|| status.to_string())?.to_owned())
        };
        ensure!(way(&to_a_pod, "pod")?.starts_with("gateway pod "));
        ensure!(way(&to_a_gateway, "test")?.starts_with("gateway devbox-gateway-"));
        to_a_pod.end()?;
        to_a_gateway.end()?;
        drop(ada);
        drop((orders, shop));
        cluster.finish()
    })
}
