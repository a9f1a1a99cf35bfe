//! People at an installed gateway, as on any laptop: users with a client certificate, for whom the API server gives no token of their own.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Exit, Finished, Outcome, Result, Scene, scenario, wait};

use crate::gateway::{Cluster, HOME};
use crate::session::{CALLER, with_redis};
use crate::{raw, user};

/// Somebody with a client certificate, who may do what `devbox rbac` prints and nothing else.
pub(crate) struct Person<'a> {
    scene: &'a Scene,
    namespace: &'a Namespace,
    pub(crate) name: String,
    pub(crate) kubeconfig: PathBuf,
    /// What `devbox rbac` printed for them.
    pub(crate) roles: String,
}

impl<'a> Person<'a> {
    /// Somebody who has nothing yet.
    fn unknown(scene: &'a Scene, namespace: &'a Namespace) -> Result<Self> {
        let kubeconfig = namespace.user(scene, "[]", CALLER)?;
        let name = kubeconfig.file_stem().and_then(|name| name.to_str());
        Ok(Self {
            scene,
            namespace,
            name: name.context("no name")?.to_owned(),
            kubeconfig,
            roles: String::new(),
        })
    }

    /// Somebody of this namespace.
    pub(crate) fn of(scene: &'a Scene, namespace: &'a Namespace, via: &str) -> Result<Self> {
        let mut person = Self::unknown(scene, namespace)?;
        person.roles = roles(scene, namespace, via, &["--user", &person.name])?;
        namespace.node().apply(&person.roles)?;
        if via == "gateway" {
            person.wait_for_their_rights()?;
        }
        Ok(person)
    }

    /// The API server hears of new roles as it hears of everything: a little later.
    fn wait_for_their_rights(&self) -> Result {
        let account = self.account()?;
        let (namespace, node) = (self.namespace.name(), self.namespace.node());
        let as_account = format!("system:serviceaccount:devbox:{account}");
        let may = |who: &str, what: &[&str]| {
            let ask = ["auth", "can-i", "--as", who];
            node.kubectl([&ask[..], what].concat()).is_ok()
        };
        wait::until("new roles", wait::SOON, || {
            let all = may(&as_account, &["list", "services", "--namespace", namespace])
                && may(&self.name, &["list", "pods", HOME])
                && may(&self.name, &["get", "pods", "--subresource=proxy", HOME])
                && self.may_be(&account);
            all.then_some(())
        })
    }

    /// The service account that stands for them.
    pub(crate) fn account(&self) -> Result<String> {
        let objects = self.namespace.node().kubectl([
            "get",
            "serviceaccounts",
            HOME,
            "--output=jsonpath={.items[*].metadata.name}",
        ])?;
        let own = format!("devbox-user-{}-", self.name);
        let account = objects.split(' ').find(|name| name.starts_with(&own));
        Ok(account.context("no account")?.to_owned())
    }

    pub(crate) fn ask(&self, namespace: &Namespace, more: &[&str]) -> Result<Finished> {
        let exec = ["exec", "-n", namespace.name()];
        let words = [&exec[..], more, &["--", "redis-cli", "-h", "cache", "ping"]].concat();
        user::devbox(self.scene, self.namespace, &self.kubeconfig, &words)?
            .by(CALLER)
            .run(4 * wait::SOON)
    }

    fn reaches(&self, namespace: &Namespace) -> Result {
        let answer = self.ask(namespace, &["--via", "gateway"])?.expect_success()?;
        ensure!(answer.output() == "PONG\n", "{}", answer.everything());
        Ok(())
    }

    fn is_refused(&self, namespace: &Namespace, said: &str) -> Result {
        let refused = self.ask(namespace, &["--via", "gateway"])?;
        ensure!(refused.exit != Exit::code(0), "{}", refused.everything());
        ensure!(refused.errors().contains(said), "{}", refused.everything());
        Ok(())
    }

    /// Whether they may ask for tokens of an account.
    fn may_be(&self, account: &str) -> bool {
        let account = format!("serviceaccounts/{account}");
        let ask = [
            "auth",
            "can-i",
            "create",
            &account,
            "--subresource=token",
            HOME,
            "--as",
        ];
        let node = self.namespace.node();
        node.kubectl([&ask[..], &[&self.name]].concat()).is_ok()
    }
}

/// What `devbox rbac` prints for this subject.
pub(crate) fn roles(scene: &Scene, namespace: &Namespace, via: &str, subject: &[&str]) -> Result<String> {
    let printed = scene
        .devbox(["rbac", "-n", namespace.name(), "--via", via])?
        .args(subject.iter().copied())
        .run(wait::SOON)?
        .expect_success()?;
    Ok(printed.output())
}

/// The address of the only pod with Redis.
fn address(namespace: &Namespace) -> Result<String> {
    Ok(format!("{}:6379", namespace.address_of("cache")?))
}

/// What a client that is let in is not given, whatever it asks for.
fn opens_nothing_else(
    node: &Node,
    gateway: &str,
    token: &str,
    ours: &Namespace,
    theirs: &Namespace,
) -> Result {
    let scope = format!("namespace={}", ours.name());
    let (status, stream) = raw::ask(node, gateway, "raw", token, &[("Devbox-Scope", &scope)])?;
    let mut client = raw::Client::new(stream.with_context(|| format!("status {status}"))?);
    let own = format!("tcp/{}/cache/6379", ours.name());
    ensure!(client.open(&own)? == Ok(()));
    for (target, code) in [
        (format!("tcp/{}/cache/6379", theirs.name()), raw::NOT_FOUND),
        (format!("tcp/{}/cache/cache/6379", theirs.name()), raw::NOT_FOUND),
        (format!("tcp/{}/cache/80", ours.name()), raw::NOT_FOUND),
        ("tcp/default/kubernetes/443".to_owned(), raw::NOT_FOUND),
        (address(theirs)?, raw::NOT_ALLOWED),
        (address(ours)?, raw::NOT_ALLOWED),
        (format!("tcp/{}", address(theirs)?), raw::NOT_ALLOWED),
        ("127.0.0.1:7071".to_owned(), raw::NOT_ALLOWED),
        // It takes no catalogs of clients.
        ("catalog/push".to_owned(), raw::NOT_ALLOWED),
    ] {
        let answer = client.open(&target)?;
        ensure!(answer == Err(code), "{target}: {answer:?}");
    }
    // Nor is what it did not ask for there when it asks for both.
    let scope = format!("{scope}&namespace={}", theirs.name());
    let (_, stream) = raw::ask(node, gateway, "raw-both", token, &[("Devbox-Scope", &scope)])?;
    let mut client = raw::Client::new(stream.context("it is not let in")?);
    ensure!(client.open(&own)? == Ok(()));
    let other = client.open(&format!("tcp/{}/cache/6379", theirs.name()))?;
    ensure!(other == Err(raw::NOT_FOUND), "{other:?}");
    Ok(())
}

#[test]
fn each_person_reaches_what_they_may_themselves_and_nobody_elses() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-people")?;
        let node = cluster.node();
        let (orders, shop) = (with_redis(&node)?, with_redis(&node)?);
        let ada = Person::of(scene, &orders, "gateway")?;
        let bob = Person::of(scene, &shop, "gateway")?;
        // Whoever comes later takes nothing from the others.
        let carol = Person::of(scene, &orders, "gateway")?;
        for (person, ours, theirs) in [
            (&ada, &orders, &shop),
            (&bob, &shop, &orders),
            (&carol, &orders, &shop),
        ] {
            person.reaches(ours)?;
            let why = format!("you may not list services in the namespace {}", theirs.name());
            person.is_refused(theirs, &why)?;
            // Of both, the own one is there, and the other one is named.
            let both = person.ask(ours, &["-n", theirs.name(), "--via", "gateway"])?;
            let both = both.expect_success()?;
            ensure!(both.output() == "PONG\n", "{}", both.everything());
            both.expect_text(&[&why])?;
        }
        let account = ada.account()?;
        ensure!(ada.may_be(&account), "ada cannot be {account}");
        ensure!(!bob.may_be(&account) && !carol.may_be(&account), "{account}");

        // On the wire, and with tokens that are not for it.
        let token = |audience| {
            let create = ["create", "token", &account, HOME, audience];
            Ok::<_, anyhow::Error>(node.kubectl(create)?.trim_end().to_owned())
        };
        let replicas = cluster.replicas()?;
        let (_, gateway) = replicas.first().context("no replica")?;
        opens_nothing_else(
            &node,
            gateway,
            &token("--audience=devbox-gateway")?,
            &orders,
            &shop,
        )?;
        let scope = format!("namespace={}", orders.name());
        let of_the_api_server = token("--audience=https://kubernetes.default.svc")?;
        for wrong in ["wrong", &of_the_api_server] {
            let (status, _) = raw::ask(&node, gateway, "raw", wrong, &[("Devbox-Scope", &scope)])?;
            ensure!(status == 401, "{status}");
        }

        let role = format!("rolebinding/devbox-gateway-token-{}", carol.account()?);
        node.kubectl(["delete", &role, HOME])?;
        let said = format!(
            "no token of the service account {} in devbox, nor of one of your groups, for the gateway: you may not create \
             serviceaccounts/token in the namespace devbox; `devbox rbac --via gateway` prints what is needed",
            carol.account()?
        );
        wait::until_ok("the end of a right", wait::SOON, || {
            carol.is_refused(&orders, &said)
        })?;
        // Without a word about the way there are port-forwards, which carol may not open: her rights are those of her account.
        ensure!(carol.ask(&orders, &[])?.exit != Exit::code(0));

        // What is given to a group is given to whoever is in it.
        let dave = Person::unknown(scene, &shop)?;
        dave.is_refused(&shop, "devbox")?;
        node.apply(&roles(scene, &shop, "gateway", &["--group", "testers"])?)?;
        wait::until_ok("what a group may", wait::SOON, || dave.reaches(&shop))?;
        let why = format!("you may not list services in the namespace {}", orders.name());
        dave.is_refused(&orders, &why)?;
        ada.reaches(&orders)?;
        drop((ada, bob, carol, dave));
        drop((orders, shop));
        cluster.finish()
    })
}
