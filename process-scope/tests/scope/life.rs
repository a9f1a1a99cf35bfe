//! How long the command lives, and what reaches it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process_scope::{ExitOutcome, Scope, ScopedCommand};

use crate::support::{ADDRESS, LINE, am_root, example, fifo, readable_folder, text, users};

fn scope() -> Scope {
    Scope {
        hosts: b"127.0.0.1 localhost\n".to_vec(),
        program: example(),
    }
}

fn may_spawn() -> bool {
    users().iter().any(|user| user.is_root() || !am_root())
}

#[test]
fn killing_the_parent_ends_the_command() {
    for user in users() {
        let mut parent = user
            .scoped(&["sh", "-c", "echo running; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "running\n", "{}", user.name);
        parent.kill().unwrap();
        parent.wait().unwrap();
        // The command holds the pipe's other end: it closes when the command has ended.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0, "{}", user.name);
    }
}

#[test]
fn the_end_of_the_thread_that_spawned_it_does_not_end_the_command() {
    if !may_spawn() {
        return;
    }
    let folder = readable_folder();
    let go = fifo(folder.path());
    let command = ScopedCommand::new(["sh", "-c", "read line <\"$0\"; exit 9", go.to_str().unwrap()]);
    let mut scoped = std::thread::spawn(move || process_scope::spawn(&scope(), &command).unwrap())
        .join()
        .unwrap();
    // The thread is gone. Were the command gone with it, nobody would open the pipe's other end.
    assert!(scoped.child.try_wait().unwrap().is_none());
    std::fs::write(&go, "go\n").unwrap();
    assert_eq!(scoped.wait().unwrap(), ExitOutcome::Code(9));
}

#[test]
fn a_signal_reaches_the_command_and_no_later_process() {
    if !may_spawn() {
        return;
    }
    let mut scoped = process_scope::spawn(&scope(), &ScopedCommand::new(["sleep", "1000"])).unwrap();
    let signaller = scoped.signaller().unwrap();
    assert!(signaller.send(15).unwrap());
    assert_eq!(scoped.wait().unwrap(), ExitOutcome::Signal(15));
    assert!(!signaller.send(15).unwrap());
    assert!(signaller.send(0).is_err());
    // Asked again, the answer is the same.
    assert_eq!(scoped.wait().unwrap(), ExitOutcome::Signal(15));
}

#[test]
fn commands_started_side_by_side_do_not_hold_each_other_up() {
    if !may_spawn() {
        return;
    }
    // Were a descriptor of one inherited by another, its start would wait for the other's end.
    let started: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                process_scope::spawn(&scope(), &ScopedCommand::new(["sleep", "1000"])).unwrap()
            })
        })
        .collect();
    for thread in started {
        let mut scoped = thread.join().unwrap();
        scoped.child.kill().unwrap();
        assert_eq!(scoped.wait().unwrap(), ExitOutcome::Signal(9));
    }
}

#[test]
fn probing_says_that_it_can_be_done_here() {
    if may_spawn() {
        scope().probe().unwrap();
    }
}

#[test]
fn whoever_stays_behind_lets_the_caller_go_and_waits_for_what_the_command_left() {
    for user in users() {
        let folder = readable_folder();
        let go = fifo(folder.path());
        let script = "exec 2>/dev/null; (exec >/dev/null; read line <\"$0\"; getent hosts orders.backend >\"$0.out\"; echo end >>\"$0.out\") & echo hi; exit 7";
        // The output ends as well, although the one who stays had it.
        let output = user
            .command(&user.program)
            .args(["--stay", LINE, "--", "sh", "-c", script, go.to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", user.name);
        assert_eq!(text(&output.stdout), "hi");
        std::fs::write(&go, "go\n").unwrap();
        let result = go.with_extension("out");
        let deadline = Instant::now() + Duration::from_secs(30);
        let found = loop {
            let found = std::fs::read_to_string(&result).unwrap_or_default();
            if found.ends_with("end\n") {
                break found;
            }
            assert!(Instant::now() < deadline, "{}: {found:?}", user.name);
            std::thread::yield_now();
        };
        assert!(found.starts_with(ADDRESS), "{}: {found:?}", user.name);
    }
}

#[test]
fn an_outcome_is_the_same_for_who_waits_for_the_front() {
    for user in users() {
        let run = |script: &str| {
            let mut command = user.command(&user.program);
            command
                .args(["--stay", "--", "sh", "-c", script])
                .status()
                .unwrap()
        };
        assert_eq!(run("exit 3").code(), Some(3), "{}", user.name);
        let killed = run("kill -TERM $$");
        assert_eq!(killed.signal(), Some(15));
        // Something is left behind, for a moment.
        let killed = run("sleep 0.2 & kill -KILL $$");
        assert_eq!(killed.signal(), Some(9));
    }
}
