//! The rights of an installed gateway, and of its users, each taken away: what is said, and what works without it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use devbox_tests::kube::{Namespace, Node, ROLLOUT};
use devbox_tests::{Exit, Outcome, Result, Scene, scenario, wait};
use serde_json::{Value, json};

use crate::gateway::{Cluster, HOME, NOT_OUTSIDE};
use crate::session::{CALLER, REDIS, Redis, Session, figure, with_redis};
use crate::user::{self, account};

const GATEWAY: &str = "--as=system:serviceaccount:devbox:devbox-gateway";

/// A Role or a ClusterRole, with the options that lead to it.
struct Role<'a> {
    node: Node,
    name: &'a [&'a str],
}

impl Role<'_> {
    fn rules(&self) -> Result<Vec<Value>> {
        let role = self
            .node
            .kubectl([&["get", "--output=json"], self.name].concat())?;
        let mut role: Value = serde_json::from_str(&role)?;
        Ok(role["rules"].as_array_mut().context("no rules")?.split_off(0))
    }

    fn set_verbs(&self, at: usize, verbs: &Value) -> Result {
        let patch = json!([{"op": "replace", "path": format!("/rules/{at}/verbs"), "value": verbs}]);
        let patch = patch.to_string();
        self.node
            .kubectl([&["patch", "--type=json", "--patch", &patch], self.name].concat())?;
        Ok(())
    }

    /// Does something without a right of the role: the resource and the verb.
    fn without(&self, resource: &str, verb: &str, work: impl FnOnce() -> Result) -> Result {
        let rules = self.rules()?;
        let of = |rule: &Value| {
            rule["resources"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == resource))
        };
        let at = rules.iter().position(of).context("no such rule")?;
        let whole = &rules[at]["verbs"];
        let verbs = whole.as_array().context("no verbs")?;
        let left: Vec<_> = verbs.iter().filter(|one| *one != verb).collect();
        ensure!(left.len() + 1 == verbs.len(), "{verb} of {resource}: {whole}");
        // A rule has at least one, which need not mean anything.
        let left = if left.is_empty() {
            json!(["nothing"])
        } else {
            json!(left)
        };
        self.set_verbs(at, &left)?;
        let done = work();
        self.set_verbs(at, whole)?;
        done.with_context(|| format!("without {verb} of {resource}"))
    }
}

/// The gateway, its own rights, and a user who may also open port-forwards.
struct Case<'a> {
    scene: &'a Scene,
    cluster: &'a Cluster<'a>,
    node: Node,
    namespace: &'a Namespace,
    kubeconfig: PathBuf,
}

impl Case<'_> {
    /// What the gateway may is what the role says, a moment after it was changed.
    fn wait_until_it_may(&self, may: bool, resource: &str, verb: &str) -> Result {
        let subject = if resource == "configmaps" {
            "configmaps/devbox"
        } else {
            resource
        };
        let ask = ["auth", "can-i", verb, subject, GATEWAY, HOME];
        wait::until("the role's effect", wait::SOON, || {
            (self.node.kubectl(ask).is_ok() == may).then_some(())
        })
    }

    fn ask(&self, session: &Session<'_>) -> Result {
        wait::until_ok("an answer", 2 * wait::SOON, || {
            let answer = Redis(session.connect("cache", REDIS)?).ask("PING")?;
            ensure!(answer == "+PONG", "{answer}");
            Ok(())
        })
    }

    fn session(&self) -> Result<Session<'_>> {
        Session::start(self.scene, self.namespace, &self.kubeconfig, &[])
    }

    /// Waits until the gateway has said that this is missing.
    fn logged(&self, forbidden: &str) -> Result {
        let replicas = self.cluster.replicas()?;
        let [(replica, _)] = &replicas[..] else {
            bail!("{replicas:?}");
        };
        let logs = ["logs", replica, HOME];
        wait::until_ok("a line of the gateway's log", 2 * wait::SOON, || {
            let log = self.node.kubectl(logs)?;
            let is_it =
                |line: &str| line.contains("a right of this gateway is missing") && line.contains(forbidden);
            let count = log.lines().filter(|line| is_it(line)).count();
            ensure!(count == 1, "{count} times {forbidden:?}: {log}");
            Ok(())
        })
    }

    /// The session goes over port-forwards, and its status says why.
    fn turns_away(&self, forbidden: &str) -> Result {
        let session = self.session()?;
        let via = session.provider()?["via"].take();
        let because = via["because"].as_str().unwrap_or_default();
        ensure!(
            via["way"] == "port-forward" && because.contains(forbidden),
            "{via}"
        );
        self.ask(&session)?;
        session.end()?;
        self.logged(forbidden)
    }

    /// The session goes through the gateway, and its status says what is lacking.
    fn serves(&self, session: &Session<'_>, note: &str) -> Result {
        let via = session.provider()?["via"].take();
        let way = via["way"].as_str().unwrap_or_default();
        ensure!(way.starts_with("gateway devbox-gateway-"), "{via}");
        session.notes(&[note.to_owned()])?;
        self.ask(session)?;
        let (forbidden, _) = note.split_once(", so ").context("no consequence")?;
        self.logged(forbidden)
    }

    fn roll(&self) -> Result {
        self.node.kubectl([
            "delete",
            "pods",
            "--selector=devbox.dev/gateway=installed",
            "--force",
            "--grace-period=0",
            HOME,
        ])?;
        let limit = format!("--timeout={}s", ROLLOUT.as_secs());
        self.node
            .kubectl(["rollout", "status", "deployment/devbox-gateway", &limit, HOME])?;
        Ok(())
    }

    fn leases(&self) -> Result<Vec<String>> {
        let names = self.node.kubectl([
            "get",
            "leases",
            "--selector=devbox.dev/session",
            "--output=name",
            HOME,
        ])?;
        Ok(names.lines().map(str::to_owned).collect())
    }
}

const SESSIONS: &[&str] = &["role/devbox-gateway-sessions", HOME];
const REVIEWS: &[&str] = &["clusterrole/devbox-gateway-reviews-devbox"];
const CATALOG: &[&str] = &["clusterrole/devbox-gateway-catalog-devbox"];

fn of_the_gateway(case: &Case<'_>) -> Result {
    let role = |name| Role {
        node: case.node.clone(),
        name,
    };
    let name = case.namespace.name();
    let there = format!("in the namespace {name}");
    let without = |of, resource: &str, verb: &str, work: &dyn Fn(&str) -> Result| {
        role(of).without(resource, verb, || {
            case.wait_until_it_may(false, resource, verb)?;
            let place = match of {
                REVIEWS => "in the whole cluster",
                SESSIONS => "in the namespace devbox",
                _ => &there,
            };
            work(&format!("the gateway may not {verb} {resource} {place}"))
        })?;
        case.wait_until_it_may(true, resource, verb)
    };

    // The first one comes before anything is remembered of the user.
    for (of, resource, verb) in [
        (REVIEWS, "subjectaccessreviews", "create"),
        (REVIEWS, "tokenreviews", "create"),
        (CATALOG, "services", "list"),
        (CATALOG, "endpointslices", "list"),
    ] {
        without(of, resource, verb, &|forbidden| case.turns_away(forbidden))?;
    }
    for resource in ["services", "endpointslices"] {
        without(CATALOG, resource, "watch", &|forbidden| {
            let session = case.session()?;
            case.serves(&session, &format!("{forbidden}, so they are listed every 5 s"))?;
            let later = format!("later-{resource}");
            case.namespace
                .kubectl(&["expose", "pod/cache", "--port=6379", "--name", &later])?;
            session.there(&later)?;
            session.end()
        })?;
    }
    let unknown = "so a team's names, pins and order are not known";
    without(CATALOG, "configmaps", "list", &|_| {
        let session = case.session()?;
        let instead = format!("the gateway may not get configmaps {there}, {unknown}");
        case.serves(&session, &instead)?;
        session.end()
    })?;
    without(CATALOG, "configmaps", "watch", &|forbidden| {
        let session = case.session()?;
        let polled = "so a team's names, pins and order are looked at every 5 s";
        case.serves(&session, &format!("{forbidden}, {polled}"))?;
        session.end()
    })?;

    // Of sessions: those that ended have taken their Leases along.
    wait::until_ok("no Lease", 2 * wait::SOON, || {
        let left = case.leases()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let not_said = "other replicas are not told of sessions: an older connection of a session stays there until it ends by itself";
    without(SESSIONS, "leases", "create", &|forbidden| {
        let session = case.session()?;
        case.serves(&session, &format!("{forbidden}, so {not_said}"))?;
        ensure!(case.leases()?.is_empty());
        session.end()
    })?;
    let session = case.session()?;
    session.notes(&[])?;
    let lease = wait::until("its Lease", wait::SOON, || case.leases().ok()?.pop())?;
    without(SESSIONS, "leases", "update", &|forbidden| {
        // It is not what this replica has written.
        let older = ["annotate", "--overwrite", &lease, "devbox.dev/generation=0", HOME];
        case.node.kubectl(older)?;
        case.serves(&session, &format!("{forbidden}, so {not_said}"))
    })?;
    // What is granted again is noticed.
    session.notes(&[])?;
    without(SESSIONS, "leases", "delete", &|forbidden| {
        Session::end(case.session()?)?;
        let stays = "so the Lease of a session stays until its replica's pod is gone";
        case.serves(&session, &format!("{forbidden}, {stays}"))?;
        ensure!(case.leases()?.len() == 2, "{:?}", case.leases());
        Ok(())
    })?;
    session.notes(&[])?;
    session.end()?;
    for (verb, then) in [
        (
            "list",
            "so sessions at other replicas are not known: an older connection of a session stays there until it ends by itself",
        ),
        ("watch", "so they are listed every 5 s"),
    ] {
        without(SESSIONS, "leases", verb, &|forbidden| {
            // What is followed already is not asked for again.
            case.roll()?;
            let session = case.session()?;
            case.serves(&session, &format!("{forbidden}, {then}"))?;
            session.end()
        })?;
    }
    Ok(())
}

/// Each right that `devbox rbac --via gateway` gives a user.
fn of_a_user(scene: &Scene, node: &Node, namespace: &Namespace) -> Result {
    let name = namespace.name();
    let here = format!("--namespace={name}");
    let not_served = |what: &str| Some(format!("you may not {what} in the namespace {name}"));
    let no_gateway = format!("no gateway is installed in {name} or devbox, as far as can be seen");
    let cases: [(&str, &str, &str, &str, Option<String>); 6] = [
        ("user", &here, "services", "list", not_served("list services")),
        (
            "user",
            &here,
            "pods/portforward",
            "create",
            not_served("create pods/portforward"),
        ),
        ("user", &here, "configmaps", "get", None),
        (
            "token",
            &here,
            "serviceaccounts/token",
            "create",
            Some("`devbox rbac --via gateway` prints what is needed".to_owned()),
        ),
        ("client", HOME, "pods", "list", Some(no_gateway)),
        (
            "client",
            HOME,
            "pods/proxy",
            "get",
            Some("you may not get pods/proxy in the namespace devbox".to_owned()),
        ),
    ];
    let way = [&["--via", "gateway"], &NOT_OUTSIDE[..]].concat();
    for (role, place, resource, verb, said) in cases {
        // A new one each time, of whom nothing is remembered.
        let kubeconfig = user::user(scene, namespace, CALLER, &way[..2])?;
        let role = match role {
            "token" => format!("role/devbox-gateway-token-{}", account(&kubeconfig)?),
            "client" => format!("role/devbox-gateway-client-{name}"),
            role => format!("role/devbox-gateway-{role}"),
        };
        let role = Role {
            node: node.clone(),
            name: &[&role, place],
        };
        role.without(resource, verb, || {
            let Some(said) = said else {
                let session = Session::start(scene, namespace, &kubeconfig, &way)?;
                session.notes(&[format!(
                    "you may not get configmaps in the namespace {name}, so a team's names, pins and order are not known"
                )])?;
                return session.end();
            };
            let words = [&["exec", "-n", name], &way[..], &["--", "true"]].concat();
            let exec = user::devbox(scene, namespace, &kubeconfig, &words)?.by(CALLER);
            let done = exec.run(4 * wait::SOON)?;
            ensure!(done.exit != Exit::code(0), "{}", done.everything());
            ensure!(done.errors().contains(&said), "{}", done.everything());
            Ok(())
        })?;
    }
    Ok(())
}

/// Within a minute: the gateway asks every 30 s, and takes an answer that is 30 s old.
fn whoever_loses_a_right_is_let_go_of(scene: &Scene, node: &Node, namespace: &Namespace) -> Result {
    let kubeconfig = user::user(scene, namespace, CALLER, &["--via", "gateway"])?;
    let session = Session::start(scene, namespace, &kubeconfig, &["--via", "gateway"])?;
    let mut held = Redis(session.connect("cache", REDIS)?);
    ensure!(held.ask("PING")? == "+PONG");
    let here = format!("--namespace={}", namespace.name());
    let role = Role {
        node: node.clone(),
        name: &["role/devbox-gateway-user", &here],
    };
    role.without("pods/portforward", "create", || {
        let began = Instant::now();
        wait::until("the end of a connection", 6 * wait::SOON, || {
            held.ask("PING").is_err().then_some(())
        })?;
        figure(&format!(
            "a right was taken away: let go of after {:?}",
            began.elapsed()
        ));
        let why = format!(
            "you may not create pods/portforward in the namespace {}",
            namespace.name()
        );
        wait::until_ok("why", 2 * wait::SOON, || {
            let status = session.status()?.to_string();
            ensure!(status.contains(&why), "{status}");
            Ok(())
        })
    })?;
    session.end()
}

#[test]
fn each_right_of_a_gateway_and_of_its_users_taken_away_leaves_what_is_stated() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-rights")?;
        let node = cluster.node();
        // One, so that its log and its clients are everybody's.
        node.kubectl(["scale", "deployment/devbox-gateway", "--replicas=1", HOME])?;
        let namespace = with_redis(&node)?;
        wait::until("one replica", ROLLOUT, || {
            (cluster.replicas().ok()?.len() == 1).then_some(())
        })?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "gateway"])?;
        // Without the gateway the services are reached all the same.
        let forward = scene
            .devbox(["rbac", "-n", namespace.name(), "--service-account"])?
            .args([format!("{}:{}", namespace.name(), account(&kubeconfig)?)])
            .run(wait::SOON)?
            .expect_success()?;
        node.apply(&forward.output())?;
        let case = Case {
            scene,
            cluster: &cluster,
            node: node.clone(),
            namespace: &namespace,
            kubeconfig,
        };
        of_the_gateway(&case)?;

        let others = with_redis(&node)?;
        of_a_user(scene, &node, &others)?;
        whoever_loses_a_right_is_let_go_of(scene, &node, &others)?;
        drop((namespace, others));
        cluster.finish()
    })
}
