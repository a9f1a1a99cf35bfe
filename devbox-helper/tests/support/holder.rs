//! A caller as a process of its own, so that it can be killed: a test runs its own program again with the test `holder`
//! as the only one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test's own process"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use devbox_helper_client::{Client, StartOptions};
use rustix::process::{Pid, Signal};

use crate::blocks::block;

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_devbox-helper");

/// How to start a helper for that file with the usual pool.
pub(crate) fn helper(file: &Path) -> StartOptions {
    StartOptions::new(HELPER).verbose(true).args([
        "--hosts-file",
        file.to_str().unwrap(),
        "--pool",
        "127.77.0.0/16",
    ])
}

/// The body of the test `holder`: sets a block, says so, and stays until its standard input ends. With `HOLDER_CHURN`
/// it changes the block all the while.
pub(crate) fn run() {
    let Some(file) = std::env::var_os("HOLDER_FILE") else {
        return; // run by hand, with no test at the other end
    };
    let tag = std::env::var("HOLDER_TAG").unwrap();
    let mut client = Client::start_with(&helper(Path::new(&file))).unwrap();
    client
        .set_hosts(block(
            &tag,
            &[("127.77.0.2", &["orders", "orders.backend", &tag])],
        ))
        .unwrap();
    println!("\nheld {}", client.pid());
    if std::env::var_os("HOLDER_CHURN").is_some() {
        for round in (0u8..=255).cycle() {
            let address = format!("127.77.1.{round}");
            if client
                .set_hosts(block(&tag, &[(&address, &["churn", "churn.backend"])]))
                .is_err()
            {
                break; // the helper was killed first
            }
        }
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A running caller, and its helper's pid.
pub(crate) struct Holder {
    child: Child,
    // Held open: its end is the caller's sign to leave.
    stdin: Option<ChildStdin>,
    // Held open too: a caller that cannot write would end with an error.
    _stdout: BufReader<ChildStdout>,
    helper: Pid,
}

impl Holder {
    /// Leads a process group of its own, to which the helper does not belong.
    pub(crate) fn start(file: &Path, tag: &str, churn: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "holder", "--ignored", "--nocapture"]);
        command.env("HOLDER_FILE", file).env("HOLDER_TAG", tag);
        if churn {
            command.env("HOLDER_CHURN", "1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = stdout.by_ref().lines().map(Result::unwrap);
        let held = lines.find_map(|line| line.strip_prefix("held ").map(str::to_owned));
        let helper: i32 = held.expect("the caller holds a block").parse().unwrap();
        Self {
            stdin: child.stdin.take(),
            _stdout: stdout,
            child,
            helper: Pid::from_raw(helper).unwrap(),
        }
    }

    pub(crate) fn kill_caller(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The whole process group, as a terminal that is closed hard.
    pub(crate) fn kill_group(&mut self) {
        let group = Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal_helper(&self, signal: Signal) {
        // It may have ended by itself.
        rustix::process::kill_process(self.helper, signal).ok();
    }

    pub(crate) fn leave(mut self) {
        let mut stdin = self.stdin.take().unwrap();
        stdin.flush().unwrap();
        drop(stdin);
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn helper_is_gone(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.helper.as_raw_nonzero()));
        stat.map_or(true, |stat| {
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z')
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // When a test failed half-way: nothing of it stays.
        self.child.kill().ok();
        self.child.wait().ok();
        self.signal_helper(Signal::KILL);
    }
}

/// How long it took until it was so.
pub(crate) fn until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}
