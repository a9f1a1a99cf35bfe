//! The installed helper: what a session's claim takes, how fast a whole pool is there, what it holds in memory, and `devbox up` with it.
//!
//! The program is the one that is installed, in a mount namespace and a network of its own, so only root can measure. Where the kernel
//! has no dummy interface, a TUN interface is measured in its place, and the row says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devbox_helper_client::{Client, HostsBlock, HostsEntry, InterfaceKind, NewInterface};
use devbox_tests::networks::Networks;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, CatalogFile, Installed, Machine, Scene, Service, Signal, scenario, wait};

use crate::measure::{median, memory_kib, own_memory_kib};
use crate::{Bench, OURS, Report, Unit};

pub(crate) const BENCH: Bench = Bench {
    name: "helper",
    about: "the installed helper: claims, whole pools, its memory, and `devbox up` with it",
    run,
};

/// As `devbox helper install` writes it, with the users of this bench.
const POLICY: &str =
    "users = [\"nobody\"]\npools = [\"127.0.0.0/8\", \"10.107.0.0/16\"]\ninterfaces = true\n";

/// How often what is fast is measured.
const RUNS: usize = 11;

/// How many sessions come and go before the memory is read, and how many of them there are at once: one user may have 16.
const SESSIONS: u8 = 100;
const AT_ONCE: usize = 10;

const POOL: &str = "10.107.0.0/16";

fn run(report: &mut Report) -> Result<()> {
    let devbox = std::env::var_os("DEVBOX_BIN").context("use `cargo xtask bench helper`")?;
    let program = Path::new(&devbox).with_file_name("devbox-helper");
    ensure!(program.is_file(), "there is no {}", program.display());
    let mut ran = Ok(());
    let done = scenario(|scene| {
        ran = measure(scene, &program, report);
        Ok(())
    });
    done.map_err(|failed| anyhow::anyhow!("{failed:?}"))?;
    ran
}

fn measure(scene: &Scene, program: &Path, report: &mut Report) -> Result<()> {
    let machine = Machine::start(scene)?;
    let networks = Networks::start(scene)?;
    let place = Place {
        scene,
        machine: &machine,
        network: Path::new("/run/netns").join(networks.near()),
    };
    let installed = Installed::new(scene, &machine, POLICY)?;
    let installed = installed.in_network(&place.network).program(program);
    let helper = installed.environment_of_the_unit()?.start()?;
    let socket = Installed::socket(&helper);
    wait::until_ok("the helper", wait::SOON, || {
        Ok(Client::connect(&socket).map(drop)?)
    })?;
    names(&socket, report)?;
    memory(&socket, helper.pid(), report)?;
    pools(&socket, report)?;
    up(&place, report)?;
    report.note(format!(
        "medians of {RUNS}; memory after the claims of {SESSIONS} sessions, {AT_ONCE} at once, have ended"
    ));
    Ok(())
}

struct Place<'a> {
    scene: &'a Scene,
    machine: &'a Machine,
    network: PathBuf,
}

/// A session's names, each with an address of its own.
fn block(session: u8, names: u16) -> HostsBlock {
    let entry = |number: u16| {
        let [high, low] = (number + 1).to_be_bytes();
        HostsEntry {
            address: [127, session + 1, high, low].into(),
            names: vec![format!("svc{number}.backend{session}")],
        }
    };
    HostsBlock {
        tag: format!("devbox-{session}"),
        entries: (0..names).map(entry).collect(),
    }
}

fn names(socket: &Path, report: &mut Report) -> Result<()> {
    let (mut applied, mut undone) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut client = Client::connect(socket)?;
        let begun = Instant::now();
        client.set_hosts(block(0, 1000))?;
        applied.push(milliseconds(begun));
        let begun = Instant::now();
        client.release()?;
        undone.push(milliseconds(begun));
    }
    report.figure("1,000 names: applied", OURS, median(&applied), Unit::MILLISECONDS);
    report.figure("1,000 names: undone", OURS, median(&undone), Unit::MILLISECONDS);
    Ok(())
}

fn memory(socket: &Path, helper: u32, report: &mut Report) -> Result<()> {
    let sessions: Vec<u8> = (0..SESSIONS).collect();
    for sessions in sessions.chunks(AT_ONCE) {
        let mut clients = Vec::new();
        for session in sessions {
            let mut client = Client::connect(socket)?;
            client.set_hosts(block(*session, 50))?;
            clients.push(client);
        }
    }
    // Once it serves another caller alone, it has undone everything.
    let mut client = Client::connect(socket)?;
    wait::until_ok("the end of all claims", wait::SOON, || {
        let claims = client.status()?.claims.len();
        ensure!(claims == 1, "{claims} claims");
        Ok(())
    })?;
    drop(client);
    for (row, kib) in [
        ("memory, idle: with the program's own pages", memory_kib(helper)),
        ("memory, idle: not shared", own_memory_kib(helper)),
    ] {
        let kib = kib.context("the memory of the helper cannot be read")?;
        report.figure(row, OURS, kib as f64, Unit::KIB);
    }
    Ok(())
}

fn pools(socket: &Path, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut client = Client::connect(socket)?;
        let begun = Instant::now();
        ensure!(client.open_pool(POOL)?.changed == 1);
        times.push(milliseconds(begun));
        client.release()?;
    }
    let row = "65,536 addresses by one route";
    report.figure(row, OURS, median(&times), Unit::MILLISECONDS);

    let mut client = Client::connect(socket)?;
    let interface = |kind| NewInterface {
        name: "devbox0".to_owned(),
        kind,
        mtu: None,
    };
    let kind = match client.create_interface(interface(InterfaceKind::Dummy)) {
        Ok(_) => "a dummy",
        Err(_) => {
            client.create_interface(interface(InterfaceKind::Tun))?;
            "a TUN"
        }
    };
    let addresses: Vec<String> = POOL
        .parse::<ipnet::IpNet>()?
        .hosts()
        .map(|address| address.to_string())
        .collect();
    let begun = Instant::now();
    let added = client.add_addresses(addresses.clone(), Some("devbox0".to_owned()))?;
    let row = format!("{} single addresses on {kind} interface", added.changed);
    report.figure(&row, OURS, begun.elapsed().as_secs_f64(), Unit::SECONDS);
    let begun = Instant::now();
    client.remove_addresses(addresses, Some("devbox0".to_owned()))?;
    let row = format!("{row}: removed");
    report.figure(&row, OURS, begun.elapsed().as_secs_f64(), Unit::SECONDS);
    Ok(())
}

/// The catalog is a file, which is there at once: from the start of the program to the line `ready`.
fn up(place: &Place<'_>, report: &mut Report) -> Result<()> {
    let echo = Echo::start(place.scene)?;
    for services in [1, 100] {
        let wanted = (0..services).map(|n| Service::new(&format!("svc{n}"), "backend", 82, echo.address()));
        let catalog = CatalogFile::of_environment(place.scene, "dev", &wanted.collect::<Vec<_>>())?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let up = place.scene.devbox(["up", "--catalog"])?.args([catalog.path()]);
            let up = up
                .by(Caller::Ordinary)
                .inside(place.machine)
                .in_network(&place.network);
            let begun = Instant::now();
            let mut up = up.start()?.stop_with(Signal::TERM);
            up.wait_for_line("the line `ready`", wait::SOON, |line| line.trim_end() == "ready")?;
            times.push(milliseconds(begun));
            up.signal(Signal::TERM)?;
            up.wait(Duration::from_secs(10))?;
        }
        let row = format!("`devbox up`, {services} services: from its start to ready");
        report.figure(&row, OURS, median(&times), Unit::MILLISECONDS);
    }
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
