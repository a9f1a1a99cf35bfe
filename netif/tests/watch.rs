//! Each test has a network namespace of its own, in which it changes addresses, routes and interfaces by ip(8).
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use netif::watch::{Change, Watch};
use nix::sched::{CloneFlags, unshare};

const LONG: Option<Duration> = Some(Duration::from_secs(10));
/// Nothing comes for so long after what is noise. What is news is there within a few milliseconds.
const SHORT: Option<Duration> = Some(Duration::from_millis(300));

/// Runs `test` on a thread that is alone in a network namespace; what it starts is in it as well.
fn in_namespace(name: &str, test: fn()) {
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("SKIP {name}: no network namespace can be made: {error}");
                return;
            }
            if Command::new("ip").arg("-V").output().is_err() {
                eprintln!("SKIP {name}: there is no ip(8), of iproute2");
                return;
            }
            test();
        });
        if let Err(panic) = running.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {said}");
}

/// A pair of interfaces that are up, as a cable between two machines.
fn cable() {
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    // Until the IPv6 addresses of the two are no longer tentative, there is news.
    ip("-6 addr flush dev left");
    ip("-6 addr flush dev right");
}

/// The changes until one is as wanted, merged.
fn until(watch: &mut Watch, wanted: impl Fn(&Change) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(change) = watch.wait(LONG).unwrap() {
        if wanted(&change) {
            return;
        }
        assert!(Instant::now() < deadline, "only {change}");
    }
    panic!("no change was told");
}

fn quiet(watch: &mut Watch, after: &str) {
    assert_eq!(watch.wait(SHORT).unwrap(), None, "after {after}");
}

#[test]
fn addresses_routes_and_links_are_told_and_at_once() {
    in_namespace("addresses_routes_and_links_are_told_and_at_once", || {
        cable();
        let mut watch = Watch::new().unwrap();
        ip("addr add 10.9.0.1/24 dev left");
        let asked = Instant::now();
        until(&mut watch, |change| change.addresses);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        ip("route add 10.10.0.0/16 via 10.9.0.2");
        until(&mut watch, |change| change.routes && !change.addresses);
        ip("route del 10.10.0.0/16");
        until(&mut watch, |change| change.routes);
        ip("addr del 10.9.0.1/24 dev left");
        until(&mut watch, |change| change.addresses);
        // The other end of the cable is pulled out.
        ip("link set right down");
        until(&mut watch, |change| change.links);
        ip("addr add 2001:db8::1/64 dev left nodad");
        until(&mut watch, |change| change.addresses);
        ip("link set right up");
        until(&mut watch, |change| change.links);
        ip("link del left");
        until(&mut watch, |change| change.links);
    });
}

#[test]
fn what_happens_on_the_loopback_interface_is_no_news() {
    in_namespace("what_happens_on_the_loopback_interface_is_no_news", || {
        let mut watch = Watch::new().unwrap();
        for line in [
            "link set lo up",
            "addr add 127.77.3.4/32 dev lo",
            "addr add 10.77.3.4/32 dev lo",
            "-6 addr add fd77::5/128 dev lo",
            "route add 10.78.0.0/24 dev lo",
            "route del 10.78.0.0/24 dev lo",
            "addr del 127.77.3.4/32 dev lo",
            "link set lo down",
        ] {
            ip(line);
            quiet(&mut watch, line);
        }
    });
}

#[test]
fn what_is_repeated_is_no_news() {
    in_namespace("what_is_repeated_is_no_news", || {
        cable();
        ip("addr add 2001:db8::1/64 dev left nodad valid_lft 100 preferred_lft 100");
        let mut watch = Watch::new().unwrap();
        for line in [
            // As a router's advertisement does every few seconds.
            "addr change 2001:db8::1/64 dev left nodad valid_lft 200 preferred_lft 200 noprefixroute",
            "link set left txqueuelen 77",
            // A container that is being made; nothing leads there yet.
            "link add new type veth peer name newer",
        ] {
            ip(line);
            quiet(&mut watch, line);
        }
        ip("link set left down");
        until(&mut watch, |change| change.links);
    });
}

#[test]
fn a_flood_is_a_few_changes_and_what_was_missed_is_told() {
    in_namespace("a_flood_is_a_few_changes_and_what_was_missed_is_told", || {
        cable();
        ip("addr add 10.9.0.1/24 dev left");
        let mut watch = Watch::new().unwrap();
        // More than a socket's queue holds (net.core.rmem_default), while nobody reads.
        let lines: String = (0..8000)
            .map(|index| {
                format!(
                    "route add 10.{}.{}.0/24 via 10.9.0.2\n",
                    100 + index / 250,
                    index % 250
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        ip(&format!("-batch {}", file.path().display()));
        let mut told = Vec::new();
        while let Some(change) = watch.wait(SHORT).unwrap() {
            told.push(change);
        }
        assert!(told.len() <= 3, "{told:?}");
        assert!(told.iter().any(|change| change.missed), "{told:?}");
        // It goes on as before.
        ip("addr add 10.11.0.1/24 dev left");
        until(&mut watch, |change| change.addresses);
    });
}

#[test]
fn an_interrupted_wait_ends_without_a_change_and_the_next_one_waits() {
    in_namespace(
        "an_interrupted_wait_ends_without_a_change_and_the_next_one_waits",
        || {
            let mut watch = Watch::new().unwrap();
            let interrupter = watch.interrupter();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| watch.wait(None).unwrap());
                interrupter.interrupt();
                assert_eq!(waiting.join().unwrap(), None);
            });
            quiet(&mut watch, "it was interrupted");
        },
    );
}
