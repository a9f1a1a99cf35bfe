//! Into a real cluster: port-forwards (`--via forward`) and a gateway pod (`--via pod`) beside `kubectl port-forward`, on one node.
//!
//! `cargo xtask bench kube` starts the node of the tests; the programs, names and loads are in its network. The service is ours, in a
//! pod. CPU is that of the client alone: all processes of `devbox up`, or kubectl.

mod awake;
mod load;
mod objects;
mod ways;

use std::time::Duration;

use anyhow::{Context, Result};
use devbox_tests::kube::Node;
use devbox_tests::{Scene, scenario};

use self::objects::Cluster;
use self::ways::{Kubectl, Up};
use crate::measure::{cpu_seconds, median, memory_of_all_kib};
use crate::{Bench, Report, Unit};

pub(crate) const BENCH: Bench = Bench {
    name: "kube",
    about: "into a cluster: port-forwards and a gateway pod, beside kubectl port-forward",
    run,
};

const FORWARD: &str = "forward";
const POD: &str = "pod";
const KUBECTL: &str = "kubectl";
const DIRECT: &str = "direct";

/// How often each way is measured, in turns.
const ROUNDS: usize = 3;

/// Long enough for connections that are kept ready, or for another request, to be closed again.
const IDLE: Duration = Duration::from_secs(100);

fn run(report: &mut Report) -> Result<()> {
    let node = Node::find().context("use `cargo xtask bench kube`")?;
    report.compare_with(KUBECTL);
    let mut ran = Ok(());
    let done = scenario(|scene| {
        ran = measure(scene, &node, report);
        Ok(())
    });
    done.map_err(|failed| anyhow::anyhow!("{failed:?}"))?;
    ran
}

fn measure(scene: &Scene, node: &Node, report: &mut Report) -> Result<()> {
    let cluster = Cluster::new(scene, node)?;
    // What one part measured stays, whatever becomes of another.
    let parts: [(&str, Result<()>); 4] = [
        ("start", starts(scene, &cluster, report)),
        ("one service", roads(scene, &cluster, report)),
        ("100 services", many(scene, node, report, 100)),
        ("1,000 services", many(scene, node, report, 1000)),
    ];
    for (part, measured) in parts {
        if let Err(error) = measured {
            report.note(format!("{part}: left out: {error:#}"));
        }
    }
    report.note(
        "\"no core sleeps\": beside processes that run only when nothing else does; otherwise the time for which a sleeping core is \
         woken, once for each process on the way, is part of the figure",
    );
    report.note(format!(
        "medians of {ROUNDS} rounds, in turns; the 100 and 1,000 services lead to the same two pods"
    ));
    Ok(())
}

/// One service, from the start to its first answer by name.
fn starts(scene: &Scene, cluster: &Cluster, report: &mut Report) -> Result<()> {
    let (mut forward, mut pod, mut kubectl) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let up = Up::start(scene, cluster, FORWARD)?;
        forward.push(up.first_answer(objects::ECHO_SERVICE)?);
        let changed = cluster.add_service(&format!("late-{}", scene.unique()))?;
        let reachable = up.first_answer_since(&changed.name, changed.ready)?;
        figures(report, &ADDED, FORWARD, reachable);
        drop(up);
        let up = Up::start(scene, cluster, POD)?;
        pod.push(up.first_answer(objects::ECHO_SERVICE)?);
        drop(up);
        cluster.wait_until_no_gateway()?;
        kubectl.push(Kubectl::start(scene, cluster)?.first_answer()?);
    }
    for (subject, values) in [(FORWARD, forward), (POD, pod), (KUBECTL, kubectl)] {
        figures(report, &START, subject, median(&values));
    }
    Ok(())
}

/// What each way carries, and how fast.
fn roads(scene: &Scene, cluster: &Cluster, report: &mut Report) -> Result<()> {
    let forward = Up::start(scene, cluster, FORWARD)?;
    let pod = Up::start(scene, cluster, POD)?;
    let kubectl = Kubectl::start(scene, cluster)?;
    forward.first_answer(objects::ECHO_SERVICE)?;
    pod.first_answer(objects::ECHO_SERVICE)?;
    kubectl.first_answer()?;
    let ways = [
        (
            FORWARD,
            forward.address_of(objects::ECHO_SERVICE)?,
            Some(forward.pid()),
        ),
        (POD, pod.address_of(objects::ECHO_SERVICE)?, Some(pod.pid())),
        (KUBECTL, kubectl.address(), Some(kubectl.pid())),
        (DIRECT, cluster.pod_address()?, None),
    ];
    let mut rounds: Vec<Vec<load::Round>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, address, pid), rounds) in ways.iter().zip(&mut rounds) {
            let cpu = || pid.map_or(0.0, |pid| cpu_seconds(&[pid]));
            rounds.push(cluster.node().inside(|| load::round(*address, &cpu))?);
        }
    }
    for (row, value) in load::ROWS {
        for ((subject, _, pid), rounds) in ways.iter().zip(&rounds) {
            let values: Vec<f64> = rounds.iter().map(value).collect();
            if row.unit != Unit::CPU_PER_GIB || pid.is_some() {
                figures(report, row, subject, median(&values));
            }
        }
    }
    for (subject, up) in [(FORWARD, &forward), (POD, &pod)] {
        let (echo, refused) = (
            up.address_of(objects::ECHO_SERVICE)?,
            up.address_of(objects::REFUSED_SERVICE)?,
        );
        let answered = cluster.node().inside(|| load::beside_trouble(echo, refused))?;
        figures(report, &TROUBLE, subject, answered);
    }
    let refused = kubectl.refused_address();
    let answered = cluster
        .node()
        .inside(|| load::beside_trouble(kubectl.address(), refused))?;
    figures(report, &TROUBLE, KUBECTL, answered);
    Ok(())
}

/// What a port-forward costs whom: the programs that work for each new one.
const SERVERS: [&str; 4] = ["kube-apiserver", "kubelet", "containerd", "etcd"];

/// Many services at once.
fn many(scene: &Scene, node: &Node, report: &mut Report, services: usize) -> Result<()> {
    let cluster = Cluster::new(scene, node)?;
    let names = cluster.add_services(services)?;
    let servers = SERVERS.map(|server| node.pid_of(server));
    let servers = servers.into_iter().collect::<devbox_tests::Result<Vec<_>>>()?;
    for way in [FORWARD, POD] {
        let up = Up::start(scene, &cluster, way)?;
        let published = up.published(&names)?;
        let before = cpu_seconds(&servers);
        let answered = up.all_answered(&names)?;
        let of_servers = cpu_seconds(&servers) - before;
        let (cpu, writes) = (cpu_seconds(&[up.pid()]), up.hosts_writes()? as f64);
        if services == 100 {
            for (row, value) in HUNDRED.iter().zip([published, answered]) {
                figures(report, row, way, value);
            }
        } else {
            std::thread::sleep(IDLE);
            let memory = memory_of_all_kib(up.pid()) as f64 / 1024.0;
            let connections = up.api_connections()? as f64;
            let values = [published, answered, of_servers, cpu, memory, connections, writes];
            for (row, value) in THOUSAND.iter().zip(values) {
                figures(report, row, way, value);
            }
            if way == POD {
                // The pod is ready: the first session's.
                let second = Up::start(scene, &cluster, way)?;
                let values = [second.published(&names)?, second.all_answered(&names)?];
                for (row, value) in THOUSAND_WITH_POD.iter().zip(values) {
                    figures(report, row, way, value);
                }
            }
        }
        drop(up);
        cluster.wait_until_no_gateway()?;
        if services == 1000 && way == FORWARD {
            let cores = std::thread::available_parallelism()?;
            report.note(format!(
                "every connection over port-forwards is one of its own: {} worked {of_servers:.1} s for the first 1,000, \
                 so that {cores} cores need {:.1} s whatever the client does",
                SERVERS.join(", "),
                of_servers / cores.get() as f64
            ));
        }
    }
    Ok(())
}

/// A row of the table.
struct Row {
    name: &'static str,
    unit: Unit,
    wanted: &'static str,
}

const fn row(name: &'static str, unit: Unit, wanted: &'static str) -> Row {
    Row { name, unit, wanted }
}

fn figures(report: &mut Report, row: &Row, subject: &str, value: f64) {
    report.figure(row.name, subject, value, row.unit);
    report.wanted(row.name, row.wanted);
}

const MIB: Unit = Unit {
    name: "MiB",
    more_is_better: false,
};

const START: Row = row("start to the first answer", Unit::SECONDS, "forward .25, pod 1.5");
const ADDED: Row = row("service added, to its answer", Unit::SECONDS, ".3");
const TROUBLE: Row = row(
    "of 20 answered, beside a stalled reader and a refused port",
    Unit {
        name: "",
        more_is_better: true,
    },
    "20",
);
const HUNDRED: [Row; 2] = [
    row("100 services: published", Unit::SECONDS, ""),
    row("100 services: all answered", Unit::SECONDS, ".6"),
];
const THOUSAND_WITH_POD: [Row; 2] = [
    row(
        "1,000 services: published, where the pod is ready",
        Unit::SECONDS,
        "1",
    ),
    row(
        "1,000 services: all answered, where the pod is ready",
        Unit::SECONDS,
        "pod 1.5",
    ),
];
const THOUSAND: [Row; 7] = [
    row("1,000 services: published", Unit::SECONDS, "forward 1"),
    row("1,000 services: all answered", Unit::SECONDS, "forward 3.5"),
    row(
        "1,000 services: CPU of the node's servers meanwhile",
        Unit::SECONDS,
        "",
    ),
    row("1,000 services: CPU", Unit::SECONDS, "2"),
    row("1,000 services: memory", MIB, "50"),
    row("1,000 services: API connections once idle", Unit::COUNT, "4"),
    row("1,000 services: hosts writes", Unit::COUNT, "1"),
];
