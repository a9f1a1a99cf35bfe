//! How long the command lives, and what reaches it.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use process_scope::{ExitOutcome, Scope, ScopedCommand};

use crate::support::{am_root, example, fifo, readable_folder, users};

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
