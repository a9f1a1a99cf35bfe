//! Which endpoint a connection goes to, on each way into a cluster: one that is ready, and none that ends.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Outcome, Result, Scene, scenario, wait};

use crate::node::Started;
use crate::session::{CALLER, Redis, Session, figure, redis_pod};
use crate::user;

const PORT: u16 = 7001;

/// `a` and `b` answer for `pair` and `bound`; of `half`, one of two slices has a port at which nobody listens; of `near`, `b` is elsewhere.
fn manifests(namespace: &Namespace) -> Result<String> {
    let services = "\
{apiVersion: v1, kind: Service, metadata: {name: pair}, spec: {selector: {app: pair}, ports: [{port: 7001, targetPort: redis}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bound}, spec: {selector: {app: pair}, ports: [{port: 7001, targetPort: 6379}],
  sessionAffinity: ClientIP}}
---
{apiVersion: v1, kind: Service, metadata: {name: half}, spec: {ports: [{port: 7001}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: near}, spec: {ports: [{port: 7001}]}}
---
";
    let slice = |service: &str, number: u8, pod: &str, port: u16, zone: &str| -> Result<String> {
        Ok(format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {service}-{number}, \
             labels: {{kubernetes.io/service-name: {service}}}}}, ports: [{{port: {port}, protocol: TCP}}], endpoints: [{{addresses: [{}], \
             zone: {zone}, conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: {}}}}}]}}\n---\n",
            namespace.address_of(pod)?,
            namespace.name()
        ))
    };
    Ok([
        services.to_owned(),
        slice("half", 1, "a", 6379, "here")?,
        slice("half", 2, "b", 1, "here")?,
        slice("near", 1, "a", 6379, "here")?,
        slice("near", 2, "b", 6379, "there")?,
    ]
    .concat())
}

/// A connection, and the pod that it is to.
fn connect(session: &Session<'_>, service: &str) -> Result<(Redis, String)> {
    let mut connection = Redis(session.connect(service, PORT)?);
    let pod = connection.pod().with_context(|| format!("of {service}"))?;
    Ok((connection, pod))
}

/// Who answers new connections that are held together.
fn who_answers(session: &Session<'_>, service: &str, count: usize) -> Result<Vec<(Redis, String)>> {
    (0..count).map(|_| connect(session, service)).collect()
}

fn by_pod(connections: &[(Redis, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, pod) in connections {
        *counts.entry(pod.as_str()).or_default() += 1;
    }
    counts
}

/// New connections all go to this pod from some moment on; until then they are answered by any.
fn until_all_go_to(session: &Session<'_>, service: &str, pod: &str) -> Result {
    let mut failed = None;
    let all = wait::until(
        &format!("only {pod} for {service}"),
        2 * wait::SOON,
        || match who_answers(session, service, 4) {
            Ok(held) => held.iter().all(|(_, of)| of == pod).then_some(()),
            Err(error) => {
                failed = Some(error);
                Some(())
            }
        },
    );
    match failed {
        Some(error) => Err(error),
        None => all,
    }
}

/// Reset at once: within a small part of the time that a connection waits for a cluster that is away.
fn ensure_reset_at_once(session: &Session<'_>, service: &str, reason: &str) -> Result {
    let (error, took) = session.refused(service, PORT)?;
    let is_reset = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    ensure!(is_reset, "{service}: {error}");
    ensure!(took < Duration::from_secs(3), "{service}: {took:?}");
    figure(&format!("{service} without an endpoint: reset after {took:?}"));
    let why = session.not_ready(service)?;
    ensure!(why == reason, "{service}: {why}");
    let status = session.service(service)?;
    let failure = status["ports"][0]["last_failure"].as_str().unwrap_or_default();
    ensure!(
        failure.contains("refused") && failure.contains(reason),
        "{service}: {status}"
    );
    Ok(())
}

/// A program that asks for 64 MiB and reads none of it.
fn nobody_notices_who_does_not_read(session: &Session<'_>) -> Result {
    let (mut stalled, _) = connect(session, "pair")?;
    stalled.ask("SETRANGE big 16777216 x")?;
    stalled.0.write_all("GET big\r\n".repeat(4).as_bytes())?;
    let began = Instant::now();
    for _ in 0..10 {
        drop(connect(session, "pair")?);
    }
    figure(&format!(
        "ten new connections beside a stalled one: {:?}",
        began.elapsed()
    ));
    ensure!(began.elapsed() < wait::SOON, "{:?}", began.elapsed());
    Ok(())
}

/// A program that ends its own direction still gets its answer, and the far side's end behind it.
fn half_close_is_carried(session: &Session<'_>) -> Result {
    let mut connection = session.connect("pair", PORT)?;
    connection.write_all(b"PING\r\n")?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(answer == "+PONG\r\n", "{answer:?}");
    Ok(())
}

/// The whole story on one way into the cluster.
pub(crate) fn each_connection_goes_where_it_can(
    scene: &Scene,
    namespace: &Namespace,
    kubeconfig: &Path,
    way: &[&str],
) -> Result {
    namespace.apply(&[redis_pod("a", "pair"), redis_pod("b", "pair")].concat())?;
    let ready = ["wait", "--for=condition=Ready", "--timeout=60s"];
    namespace.kubectl(&[&ready[..], &["pod/a", "pod/b"]].concat())?;
    namespace.apply(&manifests(namespace)?)?;
    wait::until_ok("the endpoints", wait::SOON, || {
        let slices = ["get", "endpointslices", "--output=jsonpath={..conditions.ready}"];
        let ready = namespace.kubectl(&slices)?;
        ensure!(ready.matches("true").count() >= 8, "{ready}");
        Ok(())
    })?;
    let config = format!(
        "kubernetes: [{{namespaces: [{}], zone: here}}]\n",
        namespace.name()
    );
    let config = scene.write("zone.yaml", config)?.display().to_string();
    let session = Session::start(
        scene,
        namespace,
        kubeconfig,
        &[&["--config", &config], way].concat(),
    )?;

    // Those that are open are spread evenly, and the pod that has fewer is next.
    let mut held = who_answers(&session, "pair", 6)?;
    ensure!(
        by_pod(&held) == BTreeMap::from([("a", 3), ("b", 3)]),
        "{:?}",
        by_pod(&held)
    );
    let (of_a, of_b): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, pod)| pod == "a");
    held = of_a.into_iter().take(1).chain(of_b).collect();
    wait::until("two in a row to the pod that has fewer", 2 * wait::SOON, || {
        let two = who_answers(&session, "pair", 2).ok()?;
        (by_pod(&two).get("a") == Some(&2)).then_some(())
    })?;
    // One client's go where its first one went, although another pod has fewer.
    let bound = who_answers(&session, "bound", 5)?;
    ensure!(by_pod(&bound).len() == 1, "{:?}", by_pod(&bound));
    drop(bound);
    // A refusal costs a connection nothing; and an endpoint elsewhere is for when there is none here.
    for service in ["half", "near"] {
        let all = who_answers(&session, service, 8)?;
        ensure!(
            by_pod(&all) == BTreeMap::from([("a", 8)]),
            "{service}: {:?}",
            by_pod(&all)
        );
    }

    nobody_notices_who_does_not_read(&session)?;
    if way[1] != "forward" {
        half_close_is_carried(&session)?;
    }

    // A pod that ends gets no new ones and keeps those that it has, one of them.
    namespace.kubectl(&["delete", "pod/a", "--wait=false"])?;
    until_all_go_to(&session, "pair", "b")?;
    until_all_go_to(&session, "bound", "b")?;
    let after = who_answers(&session, "pair", 8)?;
    ensure!(
        by_pod(&after) == BTreeMap::from([("b", 8)]),
        "{:?}",
        by_pod(&after)
    );
    drop(after);

    namespace.kubectl(&["delete", "pod/b", "--wait=false"])?;
    let leaving = "its pods are being terminated";
    wait::until_ok("nobody for new connections", 2 * wait::SOON, || {
        let why = session.not_ready("pair")?;
        ensure!(why == leaving, "{why}");
        Ok(())
    })?;
    for service in ["pair", "bound"] {
        ensure_reset_at_once(&session, service, leaving)?;
    }
    for (connection, pod) in &mut held {
        let still = connection.pod()?;
        ensure!(still == *pod, "{still} instead of {pod}");
    }

    namespace.apply(&redis_pod("c", "pair"))?;
    wait::until("an answer of the next pod", 4 * wait::SOON, || {
        let (_, pod) = connect(&session, "pair").ok()?;
        (pod == "c").then_some(())
    })?;
    session.end()
}

#[test]
fn over_port_forwards_each_connection_goes_where_it_can() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        each_connection_goes_where_it_can(scene, &namespace, &kubeconfig, &["--via", "forward"])
    })
}

#[test]
fn through_a_gateway_pod_each_connection_goes_where_it_can() -> Outcome {
    scenario(|scene| {
        let namespace = Node::find()?.namespace()?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        let way = ["--via", "pod", "--gateway-image", GATEWAY_IMAGE];
        each_connection_goes_where_it_can(scene, &namespace, &kubeconfig, &way)
    })
}

#[test]
fn pods_with_addresses_of_both_families_are_one_each_and_reached_at_either() -> Outcome {
    scenario(|scene| {
        let started = Started::of_both_families(&Node::find()?, "families")?;
        let namespace = started.node().namespace()?;
        let pods = [redis_pod("a", "pair"), redis_pod("b", "pair")].concat();
        namespace.apply(&pods.replace("0.0.0.0", "'*', '-::*'"))?;
        namespace.apply(
            "\
{apiVersion: v1, kind: Service, metadata: {name: pair}, spec: {selector: {app: pair}, ports: [{port: 7001, targetPort: redis}],
  ipFamilyPolicy: RequireDualStack}}
---
{apiVersion: v1, kind: Service, metadata: {name: six}, spec: {selector: {app: pair}, ports: [{port: 7001, targetPort: redis}],
  ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]}}
",
        )?;
        let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "pod/a", "pod/b"];
        namespace.kubectl(&ready)?;
        let slices = [
            "get",
            "endpointslices",
            "--output=jsonpath={.items[*].addressType}",
        ];
        wait::until_ok("the endpoints", wait::SOON, || {
            let families = namespace.kubectl(&slices)?;
            let count = |family| families.matches(family).count();
            ensure!(count("IPv4") == 1 && count("IPv6") == 2, "{families}");
            Ok(())
        })?;
        for way in [
            &["--via", "forward"][..],
            &["--via", "pod", "--gateway-image", GATEWAY_IMAGE],
        ] {
            let kubeconfig = user::user(scene, &namespace, CALLER, &way[..2])?;
            let session = Session::start(scene, &namespace, &kubeconfig, way)?;
            for service in ["pair", "six"] {
                let held = wait::until_ok("both pods", wait::SOON, || who_answers(&session, service, 4))?;
                ensure!(
                    by_pod(&held) == BTreeMap::from([("a", 2), ("b", 2)]),
                    "{service}, {way:?}: {:?}",
                    by_pod(&held)
                );
            }
            session.end()?;
        }
        namespace.kill_pods("app=pair")?;
        drop(namespace);
        started.down()
    })
}
