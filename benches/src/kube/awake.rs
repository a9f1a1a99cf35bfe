//! Keeps the machine's cores from sleeping while a latency is measured.
//!
//! A core of a virtual machine that has nothing to do is given back to the host, and waking it costs tens of microseconds: one message at a time
//! then measures the host's scheduler, once for each process on the way, more than the programs.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// One process for each core that runs where nothing else wants to (`SCHED_IDLE`, sched(7)). They end with it.
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    pub(crate) fn start() -> Result<Self> {
        let mut awake = Self(Vec::new());
        // It ends when the bench does, however that ends.
        let spin = format!(
            "while kill -0 {}; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done",
            std::process::id()
        );
        for _ in 0..std::thread::available_parallelism()?.get() {
            let mut spinner = Command::new("chrt");
            spinner.args(["--idle", "0", "sh", "-c", &spin]);
            let child = spinner.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
            awake.0.push(child.context("chrt (util-linux)")?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for spinner in &mut self.0 {
            // One that has ended by itself is what is wanted.
            spinner.kill().and_then(|()| spinner.wait()).ok();
        }
    }
}
