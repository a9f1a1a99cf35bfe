//! What is left in the hosts file however caller and helper end: nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[path = "support/blocks.rs"]
mod blocks;
#[path = "support/holder.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use blocks::block;
use devbox_helper_client::{Client, Error, HelperError, Keeper};
use rustix::process::{Pid, Signal, kill_process};
use support::{Holder, helper, until};
use tempfile::TempDir;

/// Everything that an editor could spoil: both line ends, a byte that is no UTF-8, blank lines, no final newline.
const ORIGINAL: &[u8] =
    b"127.0.0.1\tlocalhost\r\n# caf\xe9  \n\n\n10.1.2.3 mine.example  mine # my own\n\r\n::1 ip6-localhost";

const SOON: Duration = Duration::from_secs(2);

#[test]
#[ignore = "a caller that other tests run as a process of its own"]
fn holder() {
    support::run();
}

fn hosts() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    (dir, file)
}

fn is_restored(file: &Path) -> bool {
    fs::read(file).unwrap() == ORIGINAL
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()
}

#[test]
fn the_block_stands_while_the_caller_does() {
    let (_dir, file) = hosts();
    let holder = Holder::start(&file, "devbox-a", false);
    let held = text(&file);
    assert!(held.contains("# BEGIN devbox-a "), "{held}");
    assert!(held.contains("127.77.0.2 orders orders.backend"), "{held}");
    holder.leave();
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn killed_caller_leaves_nothing() {
    let (_dir, file) = hosts();
    let mut holder = Holder::start(&file, "devbox-a", false);
    assert!(!is_restored(&file));
    holder.kill_caller();
    let took = until("the file is as before", SOON, || is_restored(&file));
    println!("restored {took:?} after the caller's end");
    until("the helper is gone", SOON, || holder.helper_is_gone());
}

#[test]
fn killed_process_group_leaves_nothing() {
    let (_dir, file) = hosts();
    let mut holder = Holder::start(&file, "devbox-a", false);
    assert!(!is_restored(&file));
    holder.kill_group();
    until("the file is as before", SOON, || is_restored(&file));
}

#[test]
fn killed_helper_leaves_a_block_for_the_next_sweep() {
    let (_dir, file) = hosts();
    let holder = Holder::start(&file, "devbox-a", false);
    assert!(
        devbox_helper::sweep(&file).unwrap().removed.is_empty(),
        "its owner lives"
    );
    holder.signal_helper(Signal::KILL);
    until("the helper is gone", SOON, || holder.helper_is_gone());
    assert!(!is_restored(&file));
    let report = devbox_helper::sweep(&file).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(report.removed[0].tag, "devbox-a");
    assert!(is_restored(&file), "{}", text(&file));
    assert!(devbox_helper::sweep(&file).unwrap().removed.is_empty());
}

#[test]
fn killed_helper_and_caller_leave_a_block_for_the_next_helper() {
    let (_dir, file) = hosts();
    let mut holder = Holder::start(&file, "devbox-a", false);
    holder.signal_helper(Signal::KILL);
    holder.kill_caller();
    until("the helper is gone", SOON, || holder.helper_is_gone());
    let mut next = Client::start_with(&helper(&file)).unwrap();
    assert_eq!(next.sweep().unwrap().removed.len(), 1);
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn block_of_a_dead_helper_can_be_taken_over() {
    let (_dir, file) = hosts();
    let mut holder = Holder::start(&file, "devbox-a", false);
    holder.signal_helper(Signal::KILL);
    holder.kill_caller();
    until("the helper is gone", SOON, || holder.helper_is_gone());
    let mut next = Client::start_with(&helper(&file)).unwrap();
    next.set_hosts(block("devbox-a", &[("127.77.0.9", &["web"])]))
        .unwrap();
    assert!(
        text(&file).contains("127.77.0.9 web") && !text(&file).contains("orders"),
        "{}",
        text(&file)
    );
    assert!(next.close().unwrap().success());
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn a_keeper_starts_another_helper_in_place_of_one_that_was_killed() {
    let (_dir, file) = hosts();
    let web = || block("devbox-a", &[("127.77.0.9", &["web"])]);
    let mut keeper = Keeper::start(&helper(&file).args(["--keep"])).unwrap();
    let mut first = keeper.another().unwrap();
    first.set_hosts(web()).unwrap();
    let pid = i32::try_from(first.pid()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let mut second = keeper.another().unwrap();
    assert_ne!(second.pid(), first.pid());
    second.set_hosts(web()).unwrap();
    drop(second);
    until("the file is as before", SOON, || is_restored(&file));
    // That one ended by itself: nobody is meant to take its place.
    assert!(matches!(keeper.another(), Err(Error::NoWelcome { .. })));
}

#[test]
fn a_keeper_says_why_it_cannot_be_one() {
    let options = helper(Path::new("hosts")).args(["--keep"]).verbose(false);
    match Keeper::start(&options).unwrap().another() {
        Err(Error::NoWelcome { message, .. }) => assert!(message.contains("Path"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sweep_takes_what_is_proved_of_a_dead_session_and_a_cleanup_what_no_marker_names() {
    let (_dir, file) = hosts();
    for gone in [&["# END"][..], &["# BEGIN", "# END"]] {
        let mut holder = Holder::start(&file, "devbox-a", false);
        holder.signal_helper(Signal::KILL);
        holder.kill_caller();
        until("the helper is gone", SOON, || holder.helper_is_gone());
        let bytes = fs::read(&file).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let kept = lines.filter(|line| !gone.iter().any(|marker| line.starts_with(marker.as_bytes())));
        fs::write(&file, kept.flatten().copied().collect::<Vec<u8>>()).unwrap();
        let swept = devbox_helper::sweep(&file).unwrap();
        let named = gone.len() == 1;
        assert_eq!(
            (swept.removed.len(), is_restored(&file)),
            (usize::from(named), named)
        );
        let cleaned = devbox_helper::clean_up(&file).unwrap();
        assert_eq!(cleaned.stray_lines > 0, !named);
        assert!(cleaned.left.is_empty() && is_restored(&file), "{}", text(&file));
    }
}

#[test]
fn sessions_side_by_side_end_each_for_itself() {
    let (_dir, file) = hosts();
    for first_to_end in 0..2 {
        let mut holders = [
            Holder::start(&file, "devbox-a", false),
            Holder::start(&file, "devbox-b", false),
        ];
        let other = ["# BEGIN devbox-b ", "# BEGIN devbox-a "][first_to_end];
        let one = ["# BEGIN devbox-a ", "# BEGIN devbox-b "][first_to_end];
        holders[first_to_end].kill_caller();
        until("one block is gone", SOON, || !text(&file).contains(one));
        assert!(text(&file).contains(other), "{}", text(&file));
        holders[1 - first_to_end].kill_caller();
        until("the file is as before", SOON, || is_restored(&file));
    }
}

#[test]
fn tag_of_a_living_session_is_not_taken_over() {
    let (_dir, file) = hosts();
    let holder = Holder::start(&file, "devbox-a", false);
    let before = fs::read(&file).unwrap();
    let mut second = Client::start_with(&helper(&file)).unwrap();
    match second.set_hosts(block("devbox-a", &[("127.77.0.9", &["web"])])) {
        Err(Error::Helper(HelperError::TagTaken { tag, pid, .. })) => {
            assert_eq!(tag, "devbox-a");
            assert!(pid.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert!(second.close().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), before);
    holder.leave();
}

#[test]
fn signals_of_a_terminal_do_not_end_the_helper() {
    let (_dir, file) = hosts();
    let mut client = Client::start_with(&helper(&file)).unwrap();
    let pid = rustix::process::Pid::from_raw(client.pid().try_into().unwrap()).unwrap();
    for (round, signal) in (1..).zip([
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
    ]) {
        rustix::process::kill_process(pid, signal).unwrap();
        let address = format!("127.77.0.{round}");
        // Neither ended nor stopped: it still does its work.
        client
            .set_hosts(block("devbox-a", &[(&address, &["web"])]))
            .unwrap();
        assert!(text(&file).contains(&address), "{signal:?}: {}", text(&file));
    }
    assert!(client.close().unwrap().success());
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn terminated_helper_undoes_first() {
    let (_dir, file) = hosts();
    let holder = Holder::start(&file, "devbox-a", false);
    assert!(!is_restored(&file));
    holder.signal_helper(Signal::TERM);
    until("the helper is gone", SOON, || holder.helper_is_gone());
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn released_block_is_gone_before_the_answer() {
    let (_dir, file) = hosts();
    let mut client = Client::start_with(&helper(&file)).unwrap();
    assert_eq!(client.release().unwrap().removed_block, None);
    let report = client
        .set_hosts(block("devbox-a", &[("127.77.0.2", &["web"])]))
        .unwrap();
    assert!(report.changed && report.conflicts.is_empty(), "{report:?}");
    let again = client
        .set_hosts(block("devbox-a", &[("127.77.0.2", &["web"])]))
        .unwrap();
    assert!(!again.changed, "{again:?}");
    assert_eq!(
        client.release().unwrap().removed_block.as_deref(),
        Some("devbox-a")
    );
    assert!(is_restored(&file), "{}", text(&file));
    // It can begin again.
    client
        .set_hosts(block("devbox-b", &[("127.77.0.3", &["web"])]))
        .unwrap();
    client
        .set_hosts(block("devbox-c", &[("127.77.0.3", &["web"])]))
        .unwrap();
    assert!(
        !text(&file).contains("devbox-b"),
        "one block a caller: {}",
        text(&file)
    );
    assert!(client.clear_hosts().unwrap().changed);
    assert!(is_restored(&file), "{}", text(&file));
    client
        .set_hosts(block("devbox-c", &[("127.77.0.3", &["web"])]))
        .unwrap();
    client.set_hosts(block("devbox-c", &[])).unwrap();
    assert!(is_restored(&file), "no entries, no block: {}", text(&file));
}

#[test]
fn names_of_the_user_stay_the_users() {
    let (_dir, file) = hosts();
    let mut client = Client::start_with(&helper(&file)).unwrap();
    let report = client
        .set_hosts(block(
            "devbox-a",
            &[
                ("127.77.0.2", &["mine", "orders"]),
                ("127.77.0.3", &["mine.example"]),
            ],
        ))
        .unwrap();
    let conflicts: Vec<_> = report
        .conflicts
        .iter()
        .map(|c| (c.name.as_str(), c.line))
        .collect();
    assert_eq!(conflicts, [("mine.example", 5), ("mine", 5)]);
    assert_eq!(
        report.conflicts[0].address,
        "10.1.2.3".parse::<std::net::IpAddr>().unwrap()
    );
    assert!(text(&file).contains("127.77.0.2 orders"), "{}", text(&file));
    assert!(
        !text(&file).contains("127.77.0.3") && !text(&file).contains("127.77.0.2 mine"),
        "{}",
        text(&file)
    );
    client.close().unwrap();
    assert!(is_restored(&file), "{}", text(&file));
}

#[test]
fn lines_that_the_user_adds_meanwhile_stay() {
    let (_dir, file) = hosts();
    let holder = Holder::start(&file, "devbox-a", false);
    let mut edited = b"10.9.9.9 first\n".to_vec();
    edited.extend(fs::read(&file).unwrap());
    edited.extend(b"10.9.9.8 last\n");
    fs::write(&file, edited).unwrap();
    holder.leave();
    let after = text(&file);
    assert!(
        after.starts_with("10.9.9.9 first\n127.0.0.1\tlocalhost\r\n"),
        "{after}"
    );
    assert!(
        after.ends_with("10.9.9.8 last\n") && !after.contains("devbox-a"),
        "{after}"
    );
}

#[test]
fn file_that_is_locked_is_told_and_undone_later() {
    let (_dir, file) = hosts();
    let mut first = Client::start_with(&helper(&file)).unwrap();
    first
        .set_hosts(block("devbox-a", &[("127.77.0.2", &["web"])]))
        .unwrap();
    let mut second = Client::start_with(&helper(&file)).unwrap();
    let lock = Lock::hold(&file);
    // It begins to undo, and finds the file locked for longer than one attempt takes.
    let ending = std::thread::spawn(move || first.close().unwrap());
    match second.set_hosts(block("devbox-b", &[("127.77.0.3", &["api"])])) {
        Err(Error::Helper(HelperError::Locked { file: told, waited })) => {
            assert_eq!(told, file);
            assert!(waited > Duration::from_secs(1), "{waited:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(text(&file).contains("devbox-a"), "{}", text(&file));
    lock.release();
    assert!(ending.join().unwrap().success());
    assert!(second.close().unwrap().success());
    assert!(is_restored(&file), "{}", text(&file));
}

/// A helper that is stopped until this is dropped.
struct Stopped(rustix::process::Pid);

impl Stopped {
    fn new(helper: &Client) -> Self {
        let pid = rustix::process::Pid::from_raw(helper.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        rustix::process::kill_process(self.0, Signal::CONT).unwrap();
    }
}

#[test]
fn stopped_helper_is_given_up_and_serves_again_when_it_goes_on() {
    let (_dir, file) = hosts();
    let mut options = helper(&file);
    options.reply_timeout = Duration::from_millis(200);
    let mut client = Client::start_with(&options).unwrap();
    let stopped = Stopped::new(&client);
    let web = || block("devbox-a", &[("127.77.0.2", &["web"])]);
    assert!(matches!(client.set_hosts(web()), Err(Error::TimedOut { .. })));
    assert!(is_restored(&file));
    drop(stopped);
    // The first request is carried out now; its reply is not taken for that to another.
    until("it answers again", SOON, || match client.sweep() {
        Ok(report) => report.removed.is_empty(),
        Err(Error::TimedOut { .. }) => false,
        Err(other) => panic!("{other:?}"),
    });
    assert!(text(&file).contains("127.77.0.2 web"), "{}", text(&file));
    assert!(!client.set_hosts(web()).unwrap().changed);
    assert!(client.close().unwrap().success());
    assert!(is_restored(&file), "{}", text(&file));
}

/// Another program in the middle of an edit.
struct Lock {
    let_go: mpsc::Sender<()>,
    editing: std::thread::JoinHandle<()>,
}

impl Lock {
    fn hold(file: &Path) -> Self {
        let hosts = hostsfile::HostsFile::open(file).unwrap();
        let (let_go, wait) = mpsc::channel::<()>();
        let (held, holds) = mpsc::channel();
        let editing = std::thread::spawn(move || {
            let mut asked = 0;
            // The first question is asked without the lock, and again with it when it has no answer.
            let outcome = hosts.edit_with(|_| {
                asked += 1;
                if asked == 1 {
                    return Err(hostsfile::Error::Unsupported { what: "a hurry" });
                }
                held.send(()).unwrap();
                wait.recv().unwrap();
                Ok(Vec::new())
            });
            assert!(!outcome.unwrap().changed);
        });
        holds.recv().unwrap();
        Self { let_go, editing }
    }

    fn release(self) {
        self.let_go.send(()).unwrap();
        self.editing.join().unwrap();
    }
}

/// Kills caller, helper or both at any moment of their work; what is left after a sweep is what was there before.
#[test]
fn killed_at_random_moments_the_file_is_as_before_after_a_sweep() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (dir, file) = hosts();
    for round in 0..40 {
        let mut holder = Holder::start(&file, "devbox-a", true);
        assert!(!is_restored(&file), "the block stands, whatever comes");
        let victims = random.u8(0..4);
        println!("round {round}: {victims}");
        std::thread::sleep(Duration::from_micros(random.u64(0..20_000)));
        match victims {
            0 => holder.kill_caller(),
            1 => holder.signal_helper(Signal::KILL),
            2 => {
                holder.kill_caller();
                std::thread::sleep(Duration::from_micros(random.u64(0..3_000)));
                holder.signal_helper(Signal::KILL);
            }
            _ => {
                holder.signal_helper(Signal::KILL);
                holder.kill_group();
            }
        }
        until("the helper is gone", SOON, || holder.helper_is_gone());
        if victims != 0 {
            devbox_helper::sweep(&file).unwrap();
        }
        assert!(is_restored(&file), "{}", text(&file));
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["hosts"], "no half-written file stays either");
}
