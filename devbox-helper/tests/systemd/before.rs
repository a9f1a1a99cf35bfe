//! From the installation to the machine's end without a word.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use devbox_helper_client::{HostsBlock, HostsEntry, InterfaceKind, NewInterface, NewResolver};

use crate::stage::{
    DEVBOX, HELPER, LOW_PORT, SERVICE, SOCKET, Session, Stage, assert_as_before, assert_echoes, client,
    eventually, helper_pid, kill, kill_for_good, resolve, state, told,
};
use crate::{Scene, sandbox};

pub(crate) const SCENES: [Scene; 13] = [
    ("installation_starts_only_the_socket", install),
    (
        "first_session_starts_the_helper_and_has_a_low_port",
        first_session,
    ),
    ("two_users_have_a_session_each_and_a_name_goes_over", two_users),
    ("pool_is_reached_and_goes_with_its_session", pool),
    ("resolver_rule_is_followed_by_resolved", resolver_rule),
    ("killed_session_leaves_nothing", killed_session),
    ("killed_helper_comes_back_each_time", killed_helper),
    (
        "helper_and_callers_killed_together_leave_nothing",
        killed_together,
    ),
    (
        "cleanup_undoes_everything_where_no_helper_runs",
        cleanup_without_a_helper,
    ),
    ("a_whole_pool_is_there_soon_on_a_dummy_interface", whole_pool),
    ("sandbox_refuses_what_the_helper_never_does", sandbox::refuses),
    (
        "policy_that_is_none_is_told_by_a_helper_that_stays",
        policy_that_is_none,
    ),
    ("refusals_are_in_the_journal", journal),
];

fn install(stage: &mut Stage) {
    let uid = stage.ana.uid.to_string();
    told(
        DEVBOX,
        &["helper", "install", "--program", HELPER, "--user", &uid],
    );
    assert_eq!((&*state(SOCKET), &*state(SERVICE)), ("active", "inactive"));
    // A second user, and resolver rules, are for the administrator to allow.
    let path = "/etc/devbox/policy.toml";
    let policy = fs::read_to_string(path).unwrap();
    let policy = policy
        .replace(&format!("users = [{uid}]"), &format!("users = [{uid}, \"ben\"]"))
        .replace("resolver = false", "resolver = true");
    fs::write(path, policy).unwrap();
    told(DEVBOX, &["helper", "policy"]);
}

fn first_session(stage: &mut Stage) {
    assert_eq!(state(SERVICE), "inactive");
    let session = Session::start(&stage.ana, &[]);
    assert_eq!(state(SERVICE), "active");
    assert_echoes(resolve("orders.backend").unwrap(), LOW_PORT);
    session.end();
    assert_as_before();
}

fn two_users(stage: &mut Stage) {
    let ana = Session::start(&stage.ana, &[]);
    let first = resolve("orders.backend").unwrap();
    let ben = Session::start(&stage.ben, &[]);
    assert_eq!(
        resolve("orders.backend"),
        Some(first),
        "who came first keeps the name"
    );
    let status = told(DEVBOX, &["helper", "status"]);
    for user in [&stage.ana, &stage.ben] {
        assert!(status.contains(&format!("user {}", user.uid)), "{status}");
    }
    ana.end();
    let second = eventually("the name, for the second user", || {
        resolve("orders.backend").filter(|address| *address != first)
    });
    assert_echoes(second, LOW_PORT);
    ben.end();
    assert_as_before();
}

fn pool(stage: &mut Stage) {
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    let address = resolve("orders.backend").unwrap();
    assert!(address.to_string().starts_with("10.107."), "{address}");
    assert!(told("ip", &["route", "show", "table", "local"]).contains("local 10.107.0.0/16 dev lo"));
    assert_echoes(address, LOW_PORT);
    session.end();
    assert_as_before();
}

/// A dummy interface, a server of names on it, and the system's own resolver.
fn resolver_rule(_: &mut Stage) {
    let mut client = client();
    make_interface(&mut client);
    fs::write(
        "/run/names.yaml",
        "records: [{names: [db.shop.internal], addresses: [10.107.7.9]}]",
    )
    .unwrap();
    let mut server = Command::new(DEVBOX)
        .args([
            "dns",
            "serve",
            "--listen",
            "10.107.7.1:53",
            "--zone",
            "shop.internal",
        ])
        .args(["--registry", "/run/names.yaml"])
        .spawn()
        .unwrap();
    assert_eq!(resolve("db.shop.internal"), None);
    client.set_resolver(rule()).unwrap();
    client.flush().unwrap();
    let address = eventually("the name of the rule", || resolve("db.shop.internal"));
    assert_eq!(address.to_string(), "10.107.7.9");
    let query = told("resolvectl", &["query", "db.shop.internal"]);
    assert!(
        query.contains("10.107.7.9") && query.contains("devbox7"),
        "{query}"
    );
    // Only what is below the suffix is asked there.
    assert_eq!(resolve("db.elsewhere.internal"), None);
    client.clear_resolver(rule()).unwrap();
    client.flush().unwrap();
    assert_eq!(resolve("db.shop.internal"), None);
    client.set_resolver(rule()).unwrap();
    // It goes with its interface, whatever becomes of the caller.
    drop(client);
    assert_as_before();
    server.kill().unwrap();
    server.wait().unwrap();
}

fn killed_session(stage: &mut Stage) {
    Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]).kill();
    assert_as_before();
}

/// More often than systemd starts a service again by default (5 times in 10 s).
fn killed_helper(stage: &mut Stage) {
    let mut client = client();
    make_interface(&mut client);
    let mut former = None;
    for _ in 0..8 {
        let pid = eventually("another helper", || {
            helper_pid().filter(|pid| Some(*pid) != former)
        });
        kill(pid);
        former = Some(pid);
    }
    let pid = eventually("the last helper", || {
        helper_pid().filter(|pid| Some(*pid) != former)
    });
    // What the first one left is gone before anybody is served.
    assert_as_before();
    // A session asks again for what it had.
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    let address = resolve("orders.backend").unwrap();
    assert_eq!(helper_pid(), Some(pid));
    kill(pid);
    eventually("the names, from the next helper", || {
        let is_another = helper_pid().is_some_and(|now| now != pid);
        (is_another && resolve("orders.backend") == Some(address)).then_some(())
    });
    eventually("the prefix, from the next helper", || {
        told("ip", &["route", "show", "table", "local"])
            .contains("local 10.107.0.0/16 dev lo")
            .then_some(())
    });
    assert_echoes(address, LOW_PORT);
    session.end();
    assert_as_before();
}

fn killed_together(stage: &mut Stage) {
    let mut client = client();
    make_interface(&mut client);
    client.set_resolver(rule()).unwrap();
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    // Stopped, so that it can undo nothing; then all of them are gone at once.
    let pid = helper_pid().unwrap();
    let stopped = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    session.kill();
    drop(client);
    kill(pid);
    assert_as_before();
}

/// One of everything is left, and nothing is there that would undo it: neither a helper, nor a socket that would start one.
fn cleanup_without_a_helper(stage: &mut Stage) {
    let mut client = client();
    make_interface(&mut client);
    client.set_resolver(rule()).unwrap();
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    kill_for_good(|| {
        session.kill();
        drop(client);
    });
    assert!(told("ip", &["-br", "link"]).contains("devbox7"));
    assert!(told("resolvectl", &["domain"]).contains("shop.internal"));
    assert!(
        fs::read_to_string("/etc/hosts")
            .unwrap()
            .contains("# BEGIN devbox-")
    );

    // As sudo runs it for her.
    let uid = stage.ana.uid.to_string();
    let cleanup = Command::new(DEVBOX)
        .arg("cleanup")
        .env("SUDO_UID", &uid)
        .env("SUDO_GID", &uid)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&cleanup.stdout);
    assert!(
        cleanup.status.success() && text.contains("network: undid"),
        "{cleanup:?}"
    );
    assert_as_before();
    let journals: Vec<_> = fs::read_dir("/var/lib/devbox").unwrap().flatten().collect();
    assert!(journals.is_empty(), "{journals:?}");

    told("systemctl", &["reset-failed", SERVICE]);
    told("systemctl", &["start", SOCKET]);
}

/// Who connects is told what is wrong, by a helper that stays: systemd would start another one for as long as somebody waits.
fn policy_that_is_none(_: &mut Stage) {
    let path = "/etc/devbox/policy.toml";
    let policy = fs::read_to_string(path).unwrap();
    told("systemctl", &["stop", SERVICE]);
    fs::write(path, "users = [").unwrap();
    for _ in 0..2 {
        let status = Command::new(DEVBOX).args(["helper", "status"]).output().unwrap();
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(!status.status.success() && said.contains(path), "{said}");
    }
    let restarts = told("systemctl", &["show", "-p", "NRestarts", "--value", SERVICE]);
    assert_eq!((restarts.trim(), &*state(SERVICE)), ("0", "active"));
    fs::write(path, policy).unwrap();
    told(DEVBOX, &["helper", "status"]);
}

/// What takes seconds where addresses are added to an interface one by one: 65,534 of them on a dummy, by one request.
fn whole_pool(_: &mut Stage) {
    let mut client = client();
    let interface = NewInterface {
        name: "devbox8".to_owned(),
        kind: InterfaceKind::Dummy,
        mtu: None,
    };
    client.create_interface(interface).unwrap();
    let addresses = |host: u32| format!("10.107.{}.{}", host / 256, host % 256);
    let all: Vec<String> = (1..65_535).map(addresses).collect();
    let count = all.len();
    let begun = Instant::now();
    client
        .add_addresses(all.clone(), Some("devbox8".to_owned()))
        .unwrap();
    let added = begun.elapsed();
    std::net::TcpListener::bind("10.107.200.201:0").unwrap();
    let begun = Instant::now();
    client.remove_addresses(all, Some("devbox8".to_owned())).unwrap();
    println!(
        "  {count} single addresses on a dummy interface: {:.2} s, and {:.2} s until they are gone (wanted: 10 s; this machine is emulated)",
        added.as_secs_f32(),
        begun.elapsed().as_secs_f32()
    );
    // The machine is emulated: how much slower that is depends on the one beneath it.
    assert!(added < Duration::from_secs(60), "{added:?}");
    drop(client);
    assert_as_before();
}

fn journal(_: &mut Stage) {
    let refused = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", DEVBOX, "helper", "status"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    eventually("the refusal, in the journal", || {
        let question = [
            "-t",
            "devbox-helper",
            "DEVBOX_OUTCOME=refused",
            "DEVBOX_UID=65534",
            "-o",
            "cat",
        ];
        told("journalctl", &question)
            .contains("the policy lists neither this user")
            .then_some(())
    });
}

/// Holds one of everything, and ends the machine as a power cut does.
pub(crate) fn leave_everything_and_start_anew(stage: &Stage) -> ExitCode {
    let mut client = client();
    make_interface(&mut client);
    client.set_resolver(rule()).unwrap();
    let entry = HostsEntry {
        address: "10.107.7.1".parse().unwrap(),
        names: vec!["db.left".to_owned()],
    };
    let block = HostsBlock {
        tag: "devbox-left".to_owned(),
        entries: vec![entry],
    };
    client.set_hosts(block).unwrap();
    let _session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    assert_eq!(hosts.matches("# BEGIN devbox-").count(), 2, "{hosts}");
    let journals = fs::read_dir("/var/lib/devbox").unwrap().flatten();
    assert!(
        journals
            .filter(|journal| journal.metadata().unwrap().len() > 0)
            .count()
            == 1
    );
    told("sync", &[]);
    told("/program/busybox", &["reboot", "-f"]);
    std::thread::sleep(Duration::MAX);
    ExitCode::FAILURE
}

pub(crate) fn make_interface(client: &mut devbox_helper_client::Client) {
    let interface = NewInterface {
        name: "devbox7".to_owned(),
        kind: InterfaceKind::Dummy,
        mtu: None,
    };
    client.create_interface(interface).unwrap();
    client
        .add_addresses(vec!["10.107.7.1/24".to_owned()], Some("devbox7".to_owned()))
        .unwrap();
}

fn rule() -> NewResolver {
    NewResolver {
        interface: "devbox7".to_owned(),
        suffixes: vec!["shop.internal".to_owned()],
        servers: vec!["10.107.7.1:53".parse().unwrap()],
    }
}
