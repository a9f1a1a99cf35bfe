//! What was asked and answered.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::answer::{Outcome, Verdict};
use crate::forward::ForwardCounts;

/// What one thread counts, in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters([AtomicU64; KINDS.len()]);

/// The labels of [`Metrics`], in the order of the counters.
const KINDS: [&str; 10] = [
    "answer",
    "nodata",
    "nxdomain",
    "formerr",
    "notimp",
    "refused",
    "badvers",
    "forwarded",
    "dropped",
    "limited",
];
const LIMITED: usize = 9;

impl Counters {
    pub(crate) fn count(&self, verdict: Verdict) {
        let kind = match verdict {
            Verdict::Reply(Outcome::Answer) => 0,
            Verdict::Reply(Outcome::NoData) => 1,
            Verdict::Reply(Outcome::NoName) => 2,
            Verdict::Reply(Outcome::FormErr) => 3,
            Verdict::Reply(Outcome::NotImp) => 4,
            Verdict::Reply(Outcome::Refused) => 5,
            Verdict::Reply(Outcome::BadVers) => 6,
            Verdict::Forward => 7,
            Verdict::Drop => 8,
        };
        self.add(kind);
    }

    pub(crate) fn count_limited(&self) {
        self.add(LIMITED);
    }

    fn add(&self, kind: usize) {
        if let Some(counter) = self.0.get(kind) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// What a server has done since its start. Its text is in the format of Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    packets: [u64; KINDS.len()],
    /// How many names are served.
    pub names: u64,
    /// What was forwarded.
    pub forward: ForwardCounts,
}

impl Metrics {
    pub(crate) fn sum<'a>(counters: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut sum = Self::default();
        for one in counters {
            for (sum, counter) in sum.packets.iter_mut().zip(&one.0) {
                *sum += counter.load(Relaxed);
            }
        }
        sum
    }

    /// How many packets came.
    pub fn packets(&self) -> u64 {
        self.packets.iter().sum()
    }

    /// How many packets met an end, by its name: `answer`, `nodata`, `nxdomain`, `formerr`, `notimp`, `refused`, `badvers`, `forwarded`,
    /// `dropped` or `limited`.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        KINDS.into_iter().zip(self.packets)
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# TYPE nameserver_packets_total counter")?;
        for (kind, count) in self.outcomes() {
            writeln!(f, "nameserver_packets_total{{outcome=\"{kind}\"}} {count}")?;
        }
        writeln!(
            f,
            "# TYPE nameserver_names gauge\nnameserver_names {}",
            self.names
        )?;
        writeln!(f, "# TYPE nameserver_forward_total counter")?;
        let ForwardCounts {
            questions,
            cached,
            joined,
            sent,
            hedged,
            foreign,
            loops,
            failed,
        } = self.forward;
        for (kind, count) in [
            ("questions", questions),
            ("cached", cached),
            ("joined", joined),
            ("sent", sent),
            ("hedged", hedged),
            ("foreign", foreign),
            ("loops", loops),
            ("failed", failed),
        ] {
            writeln!(f, "nameserver_forward_total{{event=\"{kind}\"}} {count}")?;
        }
        Ok(())
    }
}
