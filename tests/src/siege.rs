//! What an attack did to a process: its memory, and what others experienced meanwhile.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::proc;
use crate::process::Process;
use crate::wait;

/// An attack is broken off where it has cost this much: the machine has other users.
const FUSE_BYTES: u64 = 2 << 30;

const MIB: u64 = 1 << 20;

/// Something that must hold under an attack.
#[derive(Debug, Clone)]
pub struct Bound {
    /// What must hold, with the limit.
    pub claim: String,
    /// Whether it did.
    pub held: bool,
}

/// One attack's line in the table.
#[derive(Debug, Clone)]
pub struct Row {
    attack: &'static str,
    before: u64,
    peak: u64,
    after: Option<u64>,
    seen: String,
    bounds: Vec<Bound>,
}

impl Row {
    /// A row of an attack on a process with this memory.
    pub(crate) fn new(attack: &'static str, memory: Memory) -> Row {
        Row {
            attack,
            before: memory.before,
            peak: memory.peak,
            after: None,
            seen: if memory.fused {
                "broken off at 2 GiB; ".to_owned()
            } else {
                String::new()
            },
            bounds: Vec::new(),
        }
    }

    /// Adds what was experienced.
    #[must_use]
    pub(crate) fn seen(mut self, what: impl fmt::Display) -> Row {
        self.seen += &what.to_string();
        self
    }

    /// Adds something that must hold.
    #[must_use]
    pub(crate) fn bound(mut self, claim: impl Into<String>, held: bool) -> Row {
        let claim = claim.into();
        self.bounds.push(Bound { claim, held });
        self
    }

    /// Adds that the memory must not grow by more than this, at the peak.
    #[must_use]
    pub(crate) fn grows_at_most(self, mebibytes: u64) -> Row {
        let grown = self.peak.saturating_sub(self.before);
        self.bound(
            format!("its memory grows by at most {mebibytes} MiB"),
            grown <= mebibytes * MIB,
        )
    }

    /// Waits for `settle` and adds the memory that is left, which must not be more than this above what it was before. Nothing
    /// without a time to wait.
    pub(crate) fn settles(mut self, pid: u32, settle: Duration, mebibytes: u64) -> crate::Result<Row> {
        if settle.is_zero() {
            return Ok(self);
        }
        std::thread::sleep(settle);
        let (after, _) = proc::resident_bytes(pid)?;
        self.after = Some(after);
        let kept = after.saturating_sub(self.before);
        Ok(self.bound(
            format!("it keeps at most {mebibytes} MiB more than before"),
            kept <= mebibytes * MIB,
        ))
    }

    /// What did not hold.
    pub fn broken(&self) -> Vec<&str> {
        let broken = self.bounds.iter().filter(|bound| !bound.held);
        broken.map(|bound| bound.claim.as_str()).collect()
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// If one was broken; it names all that were.
    pub fn within_bounds(self) -> crate::Result {
        let broken = self.broken();
        ensure!(broken.is_empty(), "{self}\nnot so: {}", broken.join("; "));
        Ok(())
    }

    /// The table's first line.
    pub fn heading() -> String {
        format!(
            "{:<34} {:>8} {:>8} {:>8}  {}",
            "attack (resident memory in MiB)", "before", "peak", "after", "meanwhile"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / MIB as f64);
        let after = self.after.map_or_else(|| "-".to_owned(), mebibytes);
        write!(
            f,
            "{:<34} {:>8} {:>8} {after:>8}  {}",
            self.attack,
            mebibytes(self.before),
            mebibytes(self.peak),
            self.seen
        )?;
        self.broken()
            .iter()
            .try_for_each(|claim| write!(f, "\n    BROKEN: {claim}"))
    }
}

/// The memory of a process that is attacked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    before: u64,
    peak: u64,
    fused: bool,
}

/// An attack under way: watches its victim's memory, and breaks it off where it costs too much.
#[derive(Debug)]
pub(crate) struct Siege {
    victim: u32,
    before: u64,
}

impl Siege {
    /// Of the process `victim`, which is not attacked yet.
    pub(crate) fn before(victim: u32) -> crate::Result<Siege> {
        let (before, _) = proc::resident_bytes(victim)?;
        Ok(Siege { victim, before })
    }

    /// Watches until `attacker` and `meanwhile`, which runs beside it, have ended. The attacker is ended once the other has, but not
    /// before `within`.
    pub(crate) fn during<T: Send>(
        &self,
        attacker: &mut Process,
        within: Duration,
        meanwhile: impl FnOnce() -> T + Send,
    ) -> crate::Result<(Memory, T)> {
        std::thread::scope(|scope| {
            let beside = scope.spawn(meanwhile);
            let (mut peak, mut fused) = (self.before, false);
            let started = Instant::now();
            while attacker.ended()?.is_none() || !beside.is_finished() {
                // A victim that is gone is found out by whoever asks it for something.
                if let Ok((now, most)) = proc::resident_bytes(self.victim) {
                    peak = most;
                    fused |= now > FUSE_BYTES;
                }
                let enough = beside.is_finished() && started.elapsed() > within;
                if (fused || enough) && attacker.ended()?.is_none() {
                    attacker.signal(crate::Signal::KILL)?;
                    attacker.wait(wait::SOON)?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let memory = Memory {
                before: self.before,
                peak,
                fused,
            };
            let Ok(seen) = beside.join() else {
                anyhow::bail!("what ran beside the attack failed")
            };
            Ok((memory, seen))
        })
    }
}
