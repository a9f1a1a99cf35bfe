//! The API server is away for 20 s, and sessions go on when it is back.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devbox_tests::kube::{GATEWAY_IMAGE, Namespace, Node};
use devbox_tests::{Exit, Outcome, Process, Result, Scene, need_program, scenario, wait};

use crate::node::Started;
use crate::session::{CALLER, REDIS, Redis, Session, figure};
use crate::user;

/// How long it is away, and how long a new connection waits for it.
pub(crate) const AWAY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// The service `outside` has the port of the API server, which would not find it free.
const NOT_OUTSIDE: [&str; 2] = ["--exclude", "outside"];

/// A new connection is held for as long as is said and no longer, and then reset. The status has the reason, as a table and in JSON.
pub(crate) fn is_waited_for_and_then_refused(session: &Session<'_>) -> Result {
    let (error, waited) = session.refused("cache", REDIS)?;
    ensure!(error.kind() == io::ErrorKind::ConnectionReset, "{error}");
    // The clock starts a moment after the connection was accepted; nothing else ends the wait.
    let soon = PATIENCE + Duration::from_secs(3);
    ensure!(waited >= PATIENCE && waited < soon, "{waited:?}");
    let service = session.service("cache")?;
    let failure = service["ports"][0]["last_failure"]
        .as_str()
        .context("no failure")?;
    ensure!(
        failure.starts_with("timed out: the API server of test is not reachable: ")
            && failure.ends_with("; waited 10 s"),
        "{failure}"
    );
    // The last column is as narrow as it has to be.
    let table = session.status_as("test", &[])?;
    let words: Vec<_> = table.split_whitespace().collect();
    ensure!(words.join(" ").contains(failure), "{failure} is not in {table}");
    figure(&format!("refused after {waited:?}: {failure}"));
    Ok(())
}

/// psql, to whose query the answer comes after so many seconds.
pub(crate) fn long_query(
    scene: &Scene,
    namespace: &Namespace,
    session: &Session<'_>,
    seconds: u32,
) -> Result<Process> {
    let host = session.of("db").context("db has no address")?.to_string();
    let query = format!("--command=select 6 * 7 from pg_sleep({seconds})");
    let psql = [
        "psql",
        "--host",
        &host,
        "--username=postgres",
        "--no-align",
        "--tuples-only",
    ];
    let begun = "--command=select 'begun'";
    let words = [&psql[..], &[begun, &query]].concat();
    let psql = namespace.node().command(scene, words)?.by(CALLER).start()?;
    psql.wait_for_line("a query that has begun", 4 * wait::SOON, |line| line == "begun")?;
    Ok(psql)
}

/// A stream that waited had its answer, whole.
pub(crate) fn is_answered(query: &mut Process) -> Result {
    let exit = query.wait(4 * wait::SOON)?;
    ensure!(
        exit == Exit::code(0) && query.output() == "begun\n42\n",
        "{exit}: {}",
        query.everything()
    );
    Ok(())
}

fn stays_away(stopped: Instant) {
    std::thread::sleep(AWAY.saturating_sub(stopped.elapsed()));
}

fn is_back(node: &Node) -> Result {
    node.start("kube-apiserver")?;
    node.wait_until_served()
}

fn answers(session: &Session<'_>) -> Result {
    wait::until_ok("an answer", 2 * wait::SOON, || {
        let answer = Redis(session.connect("cache", REDIS)?).ask("PING")?;
        ensure!(answer == "+PONG", "{answer}");
        Ok(())
    })
}

/// What came and went meanwhile.
fn catches_up(session: &Session<'_>, namespace: &Namespace, within: Duration) -> Result {
    namespace.kubectl(&["expose", "deployment/web", "--name=later", "--port=8080"])?;
    namespace.kubectl(&["delete", "service/cache"])?;
    // The cluster's own controllers, which make its slice, were without an API server as well.
    wait::until("the new service's name", within, || session.of("later"))?;
    session.gone("cache")
}

#[test]
fn port_forwards_are_reset_new_connections_wait_and_are_refused_and_then_all_is_as_before() -> Outcome {
    scenario(|scene| {
        let started = Started::beside(&Node::find()?, "forward-away")?;
        let node = started.node();
        let namespace = node.services()?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &[])?;
        let session = Session::start(scene, &namespace, &kubeconfig, &NOT_OUTSIDE)?;
        let mut held = Redis(session.connect("cache", REDIS)?);
        ensure!(held.ask("PING")? == "+PONG");
        let held = held.hold();

        let stopped = Instant::now();
        node.stop("kube-apiserver")?;
        held.expect_reset_at_once(stopped, "a port-forward whose API server was stopped")?;
        is_waited_for_and_then_refused(&session)?;
        let provider = session.provider()?;
        let stale = provider["stale"].as_str().unwrap_or_default();
        ensure!(stale.starts_with("test is not reachable"), "{provider}");

        stays_away(stopped);
        is_back(&node)?;
        answers(&session)?;
        catches_up(&session, &namespace, 4 * wait::SOON)?;
        session.end()?;
        drop(namespace);
        started.down()
    })
}

#[test]
fn streams_through_a_gateway_pod_wait_and_new_connections_wait_and_are_refused() -> Outcome {
    scenario(|scene| {
        need_program("psql", "postgresql-client")?;
        let started = Started::beside(&Node::find()?, "pod-away")?;
        let node = started.node();
        let namespace = node.services()?;
        let kubeconfig = user::user(scene, &namespace, CALLER, &["--via", "pod"])?;
        let way = [
            &NOT_OUTSIDE[..],
            &["--via", "pod", "--gateway-image", GATEWAY_IMAGE],
        ]
        .concat();
        let session = Session::start(scene, &namespace, &kubeconfig, &way)?;
        let mut held = Redis(session.connect("cache", REDIS)?);
        ensure!(held.ask("PING")? == "+PONG");
        // Its answer comes while nobody can pass it on.
        let mut query = long_query(scene, &namespace, &session, 10)?;

        let stopped = Instant::now();
        node.stop("kube-apiserver")?;
        is_waited_for_and_then_refused(&session)?;
        stays_away(stopped);
        ensure!(
            !query.output().contains("42"),
            "it was not away: {}",
            query.output()
        );
        is_back(&node)?;
        is_answered(&mut query)?;
        // The same connection goes on.
        ensure!(held.ask("PING")? == "+PONG");
        answers(&session)?;
        catches_up(&session, &namespace, 2 * wait::SOON)?;
        session.end()?;
        drop((query, namespace));
        started.down()
    })
}
