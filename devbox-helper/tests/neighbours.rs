//! Several sessions in one hosts file: a name has one owner.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

#[path = "support/blocks.rs"]
mod blocks;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blocks::block;
use devbox_helper_client::{Client, Error, HelperError, HostsBlock, HostsReport, StartOptions};
use tempfile::TempDir;

const BEFORE: &str = "127.0.0.1 localhost\n10.0.0.1 mine\n";

fn hosts() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    fs::write(&file, BEFORE).unwrap();
    (folder, file)
}

fn client(file: &Path) -> Client {
    started(file, &["--allow-take"])
}

fn started(file: &Path, more: &[&str]) -> Client {
    let args = ["--hosts-file", file.to_str().unwrap(), "--pool", "127.77.0.0/16"];
    let args = [&args, more].concat();
    let options = StartOptions::new(env!("CARGO_BIN_EXE_devbox-helper"));
    Client::start_with(&options.verbose(true).args(args)).unwrap()
}

fn dev() -> HostsBlock {
    let names = ["orders", "orders.dev", "mine"];
    block("devbox-dev", &[("127.77.0.2", &names), ("127.77.0.3", &["web"])])
}

fn staging() -> HostsBlock {
    let names = ["orders", "orders.staging"];
    block(
        "devbox-staging",
        &[("127.77.1.2", &names), ("127.77.1.3", &["web"])],
    )
}

fn held(report: &HostsReport) -> Vec<(&str, Vec<&str>)> {
    let held = report.held.iter();
    held.map(|held| (held.tag.as_str(), held.names.iter().map(String::as_str).collect()))
        .collect()
}

/// The address of a name, which has one.
fn address(file: &Path, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| line.split('#').next().unwrap());
    let with_name = lines.filter(|line| line.split_whitespace().skip(1).any(|word| word == name));
    let found: Vec<_> = with_name
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    match found.as_slice() {
        [one] => (*one).to_owned(),
        other => panic!("{name} leads to {other:?}:\n{text}"),
    }
}

#[test]
fn names_of_the_session_that_came_first_stay_its_own_until_it_leaves() {
    let (_folder, file) = hosts();
    let (mut first, mut second) = (client(&file), client(&file));
    assert!(first.set_hosts(dev()).unwrap().held.is_empty());
    let report = second.set_hosts(staging()).unwrap();
    assert_eq!(held(&report), [("devbox-dev", vec!["orders", "web"])]);
    assert_eq!(report.held[0].helper_pid, Some(first.pid()));
    assert_eq!(address(&file, "orders"), "127.77.0.2");
    assert_eq!(address(&file, "orders.staging"), "127.77.1.2");
    assert_eq!(address(&file, "mine"), "10.0.0.1");
    assert!(
        !second.set_hosts(staging()).unwrap().changed,
        "it is as it should be"
    );
    assert!(!first.set_hosts(dev()).unwrap().changed);

    assert!(first.close().unwrap().success());
    assert!(second.set_hosts(staging()).unwrap().held.is_empty());
    assert_eq!(address(&file, "orders"), "127.77.1.2");
    assert_eq!(address(&file, "web"), "127.77.1.3");
    assert!(second.close().unwrap().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
}

#[test]
fn a_session_with_nothing_but_held_names_has_no_block() {
    let (_folder, file) = hosts();
    let (mut first, mut second) = (client(&file), client(&file));
    first.set_hosts(dev()).unwrap();
    let alone = fs::read(&file).unwrap();
    let other_user = HostsBlock {
        tag: "devbox-other".to_owned(),
        ..dev()
    };
    let report = second.set_hosts(other_user).unwrap();
    assert_eq!(report.held[0].names, ["orders", "orders.dev", "web"]);
    assert_eq!(fs::read(&file).unwrap(), alone);
    assert!(second.clear_hosts().is_ok());
    assert!(second.close().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), alone);
}

#[test]
fn two_that_take_names_do_not_fight() {
    let (_folder, file) = hosts();
    let (mut first, mut second) = (client(&file), client(&file));
    first.take_hosts(dev()).unwrap();
    assert!(second.take_hosts(staging()).unwrap().held.is_empty());
    assert_eq!(address(&file, "orders"), "127.77.1.2");
    assert_eq!(address(&file, "orders.dev"), "127.77.0.2");
    for _ in 0..3 {
        let report = first.take_hosts(dev()).unwrap();
        assert!(!report.changed);
        assert_eq!(held(&report), [("devbox-staging", vec!["orders", "web"])]);
        assert!(!second.take_hosts(staging()).unwrap().changed);
    }
    // A name that it asks for the first time it takes.
    let more = block("devbox-dev", &[("127.77.0.9", &["orders.staging", "orders"])]);
    let report = first.take_hosts(more).unwrap();
    assert_eq!(held(&report), [("devbox-staging", vec!["orders"])]);
    assert_eq!(address(&file, "orders.staging"), "127.77.0.9");
    assert_eq!(
        held(&second.take_hosts(staging()).unwrap()),
        [("devbox-dev", vec!["orders.staging"])]
    );
    assert!(second.close().unwrap().success());
    assert!(first.take_hosts(dev()).unwrap().held.is_empty());
    assert!(first.close().unwrap().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
}

#[test]
fn names_are_taken_only_by_a_helper_that_may() {
    let (_folder, file) = hosts();
    let (mut first, mut second) = (started(&file, &[]), started(&file, &[]));
    first.set_hosts(dev()).unwrap();
    let before = fs::read_to_string(&file).unwrap();
    let refused = second.take_hosts(staging()).unwrap_err();
    assert!(
        matches!(refused, Error::Helper(HelperError::NotAllowed { .. })),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert!(!second.set_hosts(staging()).unwrap().held.is_empty());
}

#[test]
fn a_former_tag_that_somebody_else_has_is_left_alone() {
    let (_folder, file) = hosts();
    let mut session = client(&file);
    session.set_hosts(dev()).unwrap();
    let theirs = "# BEGIN devbox-dev\n127.77.9.9 theirs\n# END devbox-dev\n";
    fs::write(&file, format!("{BEFORE}{theirs}")).unwrap();
    session.set_hosts(staging()).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(theirs), "{text}");
    assert!(session.close().unwrap().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{BEFORE}{theirs}"));
}

#[test]
fn what_a_killed_session_left_holds_nothing() {
    let (_folder, file) = hosts();
    // A process before the last start of the machine.
    let left = "# BEGIN devbox-a owner=1.1.before\n127.77.9.9 orders\n# END devbox-a\n";
    fs::write(&file, format!("{BEFORE}{left}")).unwrap();
    let mut next = client(&file);
    let report = next.set_hosts(staging()).unwrap();
    assert!(report.held.is_empty());
    assert_eq!(report.removed[0].tag, "devbox-a");
    assert_eq!(address(&file, "orders"), "127.77.1.2");
    assert!(next.close().unwrap().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
}

#[test]
fn no_reader_sees_a_name_twice_while_it_changes_hands() {
    let (_folder, file) = hosts();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut sessions = [client(&file), client(&file)];
        sessions[0].take_hosts(dev()).unwrap();
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                // It has one address from the first write to the last.
                seen.insert(address(&file, "orders"));
            }
            seen.len()
        });
        for round in 1..100 {
            let session = &mut sessions[round % 2];
            // It lets go of everything it asked for, and takes it.
            session.clear_hosts().unwrap();
            let wanted = [dev(), staging()][round % 2].clone();
            assert!(session.take_hosts(wanted).unwrap().held.is_empty());
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(reader.join().unwrap(), 2);
        for session in sessions {
            assert!(session.close().unwrap().success());
        }
    });
}
