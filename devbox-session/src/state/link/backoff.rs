//! How long to wait before the next try.

use std::time::Duration;

/// Exponential pauses with jitter between half and the whole, so that many clients of one far side do not come back
/// in step.
#[derive(Debug)]
pub(in crate::state) struct Backoff {
    pub(in crate::state) shortest: Duration,
    pub(in crate::state) longest: Duration,
    pub(in crate::state) seed: u64,
}

impl Backoff {
    pub(super) fn pause(&mut self, attempt: u32) -> Duration {
        let whole = self
            .shortest
            .saturating_mul(1 << attempt.saturating_sub(1).min(16))
            .min(self.longest);
        // xorshift64 (Marsaglia 2003): no more is needed to spread clients.
        let mut seed = self.seed | 1;
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.seed = seed;
        whole / 2 + whole.mul_f64((seed % 1_000) as f64 / 2_000.0)
    }
}
