//! One session at two replicas of an installed gateway: the newer connection has it.

use std::io::Read as _;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::kube::Node;
use devbox_tests::{Outcome, Result, scenario, wait};

use crate::gateway::{Cluster, Team};
use crate::raw;

/// A connection that was admitted, and what comes over it until it ends.
struct Connected {
    reading: JoinHandle<std::io::Result<Vec<u8>>>,
    stream: TcpStream,
}

/// Asks a replica for a session, by the raw protocol: the status of its answer, and the connection where that is 101.
fn connect(
    node: &Node,
    replica: &str,
    token: &str,
    namespace: &str,
    generation: u64,
) -> Result<(u16, Option<Connected>)> {
    let scope = format!("namespace={namespace}");
    let headers = [
        ("Devbox-Scope", scope.as_str()),
        ("Devbox-Generation", &generation.to_string()),
    ];
    let (status, stream) = raw::ask(node, replica, "twice", token, &headers)?;
    let Some(stream) = stream else {
        return Ok((status, None));
    };
    let mut reader = stream.try_clone()?;
    let reading = std::thread::spawn(move || {
        let mut told = Vec::new();
        reader.read_to_end(&mut told)?;
        Ok(told)
    });
    Ok((status, Some(Connected { reading, stream })))
}

fn token(team: &Team<'_>) -> Result<String> {
    let accounts = team
        .namespace()
        .kubectl(&["get", "serviceaccounts", "--output=name"])?;
    let account = accounts
        .lines()
        .find_map(|line| line.strip_prefix("serviceaccount/account-"))
        .context("no account")?;
    team.namespace()
        .token(&format!("account-{account}"), Some("devbox-gateway"))
}

#[test]
fn the_newer_connection_of_a_session_ends_the_older_one_at_another_replica() -> Outcome {
    scenario(|scene| {
        let cluster = Cluster::with_gateway(scene, "gateway-displaced")?;
        let team = cluster.team()?;
        let token = token(&team)?;
        let node = cluster.node();
        let replicas = cluster.replicas()?;
        ensure!(replicas.len() == 2, "{replicas:?}");
        let ask = |at: usize, generation| {
            connect(
                &node,
                &replicas[at].1,
                &token,
                team.namespace().name(),
                generation,
            )
        };
        let leases = || {
            node.kubectl([
                "get",
                "leases",
                "--namespace=devbox",
                "--output=jsonpath={range .items[*]}{.spec.holderIdentity} {.metadata.annotations.devbox\\.dev/generation}{\"\\n\"}{end}",
            ])
        };

        let older = ask(0, 5)?.1.context("generation 5 is not let in")?;
        wait::until("the lease of generation 5", wait::SOON, || {
            (leases().ok()? == format!("{} 5\n", replicas[0].0)).then_some(())
        })?;
        let began = Instant::now();
        let newer = ask(1, 7)?.1.context("generation 7 is not let in")?;
        wait::until("the end of the older one", wait::SOON, || {
            older.reading.is_finished().then_some(())
        })?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(5), "{took:?}");
        let told = older
            .reading
            .join()
            .map_err(|_| anyhow::anyhow!("the reader failed"))??;
        let told = String::from_utf8_lossy(&told).into_owned();
        ensure!(
            told.contains("a newer connection of this session has come"),
            "{told:?}"
        );
        println!("displaced after {took:?}");

        // Whoever is older does not come back, wherever they ask.
        for at in [0, 1] {
            let (status, _) = ask(at, 6)?;
            ensure!(status == 409, "replica {at}: {status}");
        }
        ensure!(!newer.reading.is_finished(), "the newer one has ended");
        ensure!(leases()? == format!("{} 7\n", replicas[1].0), "{}", leases()?);

        // Who leaves takes the lease along, and any generation may come.
        newer.stream.shutdown(std::net::Shutdown::Both)?;
        let window = Duration::from_secs(60);
        wait::until("no lease", window + wait::SOON, || {
            leases().ok()?.is_empty().then_some(())
        })?;
        // The other replica may hear of it a moment later.
        wait::until_ok("generation 1", wait::SOON, || {
            ask(0, 1)?.1.context("it is not let in")
        })?;
        drop(team);
        cluster.finish()
    })
}
