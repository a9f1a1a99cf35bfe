use std::time::{Duration, Instant, SystemTime};

/// A clock that is ahead by less than this was set, or read late on a busy machine.
const NOTICED: Duration = Duration::from_secs(5);

/// Notices from two clocks that this machine has slept. The monotonic clock stands still meanwhile on most systems, and the time of day
/// goes on; where both go on, or the process was stopped, the next look comes late.
///
/// Pure: whoever owns it looks at the clocks, every few seconds.
///
/// ```
/// use std::time::{Duration, Instant, SystemTime};
///
/// use devbox_session::{Clocks, LOOK_AT_CLOCKS};
///
/// let (mut now, mut today) = (Instant::now(), SystemTime::now());
/// let mut clocks = Clocks::new(now, today);
/// now += LOOK_AT_CLOCKS;
/// today += LOOK_AT_CLOCKS;
/// assert_eq!(clocks.handle_look(now, today), None);
/// now += LOOK_AT_CLOCKS;
/// today += Duration::from_secs(3600);
/// assert!(clocks.handle_look(now, today).is_some_and(|slept| slept > Duration::from_secs(3500)));
/// ```
#[derive(Debug, Clone)]
pub struct Clocks {
    monotonic: Instant,
    of_day: SystemTime,
}

/// How often [`Clocks`] are looked at, at the least.
pub const LOOK_AT_CLOCKS: Duration = Duration::from_secs(2);

impl Clocks {
    /// Begins, with the two clocks as they are.
    #[must_use]
    pub fn new(monotonic: Instant, of_day: SystemTime) -> Self {
        Self { monotonic, of_day }
    }

    /// The two clocks as they are at this moment, no later than [`LOOK_AT_CLOCKS`] after the last time. For how long this machine, or
    /// this process, did nothing since then, if that was longer than 5 s. A time of day that was set forward looks the same, which
    /// costs a needless check of the links; one that was set back is no sleep.
    pub fn handle_look(&mut self, monotonic: Instant, of_day: SystemTime) -> Option<Duration> {
        let passed = monotonic.saturating_duration_since(self.monotonic);
        let by_day = of_day.duration_since(self.of_day).unwrap_or_default();
        *self = Self { monotonic, of_day };
        let slept = by_day.max(passed).saturating_sub(LOOK_AT_CLOCKS.min(passed));
        (slept > NOTICED).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleep_is_told_and_once() {
        const HOUR: Duration = Duration::from_secs(3600);
        let second = Duration::from_secs(1);
        let (mut now, mut today) = (Instant::now(), SystemTime::now());
        let mut clocks = Clocks::new(now, today);
        // How far each clock goes until the next look, and whether that is a sleep.
        let looks = [
            (second, second, false),
            // Suspended: the monotonic clock stood still.
            (second, HOUR, true),
            (second, second, false),
            // Suspended where both clocks go on, or stopped by a signal.
            (HOUR, HOUR, true),
            (2 * second, 2 * second, false),
            // A busy machine, or a time of day that is corrected.
            (4 * second, 4 * second, false),
            (second, 4 * second, false),
            (second, Duration::ZERO, false),
        ];
        for (index, (by_monotonic, by_day, slept)) in looks.into_iter().enumerate() {
            now += by_monotonic;
            today += by_day;
            let told = clocks.handle_look(now, today);
            assert_eq!(told.is_some(), slept, "look {index}: {told:?}");
        }
        assert_eq!(clocks.handle_look(now + second, today - HOUR), None, "set back");
    }
}
