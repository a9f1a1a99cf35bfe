//! The link to one provider: when to connect, when to wait, and which environment may be dialed over it.

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use devbox_provider::{ConnectError, Status, Verdict};
use service_catalog::Label;

use super::notices::Notices;
use crate::key::ProviderId;
use crate::report::{Event, LinkState, ProviderReport};
use crate::settings::ProviderSettings;

/// How long a far side may take to send its catalog once it has answered.
const CATALOG_PATIENCE: Duration = Duration::from_secs(10);

/// A connect that takes longer is told of.
const SLOW: Duration = Duration::from_secs(1);

/// After so many losses in a row, none of them after the link had held, further ones are only counted.
const UNSTABLE_AFTER: u32 = 3;

/// A far side that is replaced is back at once, also several times in a row. But one that leaves again and again within
/// less than `BRIEF` is one that fails after so many times, until a link has held.
const BRIEF: Duration = Duration::from_secs(1);
const BRIEF_LEAVINGS: u32 = 25;

/// Exponential pauses with jitter between half and the whole, so that many clients of one far side do not come back
/// in step.
#[derive(Debug)]
pub(super) struct Backoff {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    pub(super) seed: u64,
}

impl Backoff {
    fn pause(&mut self, attempt: u32) -> Duration {
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

#[derive(Debug)]
enum Phase {
    Connecting {
        attempt: u32,
        since: Instant,
    },
    /// The far side answered; nothing is dialed before its catalog shows the right environment.
    AwaitCatalog {
        attempt: u32,
        since: Instant,
    },
    Up {
        attempt: u32,
        since: Instant,
    },
    Waiting {
        attempt: u32,
        until: Instant,
        reason: String,
    },
    Failed {
        reason: String,
    },
}

/// The link to one provider.
#[derive(Debug)]
pub(super) struct Link {
    name: String,
    status: Status,
    /// What was asked for, and from the first catalog on what the session is for.
    environment: Option<Label>,
    /// The next catalog decides the environment: the first one, or the one after a switch.
    settling: bool,
    switching: bool,
    phase: Phase,
    /// Since when there is no link.
    away_since: Instant,
    seen_catalog: bool,
    /// Why the first connect was given up, how often it was tried, and for how long.
    given_up: Option<(ConnectError, u32, Duration)>,
    stale: Option<String>,
    /// Failures of this outage that were reported.
    reported: Vec<Discriminant<ConnectError>>,
    reported_wrong: Option<Label>,
    /// It was told of this outage that connecting takes long.
    reported_slow: bool,
    /// Losses in a row of a link that had not held.
    flaps: u32,
    /// How often the far side has left a link that was brief, since one has held.
    brief_leavings: u32,
}

/// What a catalog on a new link means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the session's environment; after a switch, the new one.
    Accepted { switched: bool },
    /// It is another environment: let go of the link.
    Wrong,
    /// No catalog was expected: the link is on its way out.
    Unexpected,
}

/// What a failed connect means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is tried again.
    Retry,
    /// The first connect is given up.
    GivenUp,
    /// Another connection of this session is in charge.
    Superseded { message: String },
}

impl Link {
    pub(super) fn new(settings: &ProviderSettings, now: Instant) -> Self {
        Self {
            name: settings.name.clone(),
            status: Status::new("", ""),
            environment: settings.environment.clone(),
            settling: true,
            switching: false,
            phase: Phase::Waiting {
                attempt: 0,
                until: now,
                reason: String::new(),
            },
            away_since: now,
            seen_catalog: false,
            given_up: None,
            stale: None,
            reported: Vec::new(),
            reported_wrong: None,
            reported_slow: false,
            flaps: 0,
            brief_leavings: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_status(&mut self, status: Status) {
        self.status = status;
    }

    /// The environment, once a catalog has shown it.
    pub(super) fn settled(&self) -> Option<&Label> {
        self.environment.as_ref().filter(|_| !self.settling)
    }

    /// Whether the first catalog has come, or is not waited for.
    pub(super) fn has_answered(&self) -> bool {
        self.seen_catalog || self.given_up.is_some()
    }

    pub(super) fn given_up(&self) -> Option<&(ConnectError, u32, Duration)> {
        self.given_up.as_ref().filter(|_| !self.seen_catalog)
    }

    /// Whether the catalog of the link that is up is the session's.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// The environment to ask for, if it is time to connect.
    pub(super) fn poll_connect(&mut self, now: Instant) -> Option<Option<Label>> {
        let Phase::Waiting { attempt, until, .. } = self.phase else {
            return None;
        };
        (until <= now).then(|| {
            self.phase = Phase::Connecting {
                attempt: attempt + 1,
                since: now,
            };
            self.environment.clone()
        })
    }

    pub(super) fn poll_timeout(&self, hold: Duration) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until, .. } => Some(until),
            Phase::Connecting { since, .. } if !self.reported_slow => Some(since + SLOW),
            Phase::AwaitCatalog { since, .. } => Some(since + CATALOG_PATIENCE),
            Phase::Up { since, .. } if self.flaps >= UNSTABLE_AFTER => Some(since + hold),
            _ => None,
        }
    }

    /// Lets time pass: a connect that takes long is told, a link that has held is stable again.
    pub(super) fn handle_timeout(&mut self, now: Instant, hold: Duration, notices: &mut Notices) {
        if let Phase::Connecting { since, .. } = self.phase
            && now.saturating_duration_since(since) >= SLOW
            && !std::mem::replace(&mut self.reported_slow, true)
        {
            notices.push(Event::StillConnecting {
                provider: self.name.clone(),
                far_side: self.status.far_side.clone(),
                waits_for: self.status.waits_for.clone(),
            });
        }
        if let Phase::Up { since, .. } = self.phase
            && self.flaps >= UNSTABLE_AFTER
            && now.saturating_duration_since(since) >= hold
        {
            notices.push(Event::LinkStable {
                provider: self.name.clone(),
                losses: std::mem::take(&mut self.flaps),
            });
        }
    }

    /// Whether the far side answered and its catalog should have come.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::AwaitCatalog { since, .. } if now >= since + CATALOG_PATIENCE)
    }

    /// Whether the far side answered and has never sent a catalog.
    pub(super) fn awaits_first_catalog(&self) -> bool {
        matches!(self.phase, Phase::AwaitCatalog { .. }) && !self.seen_catalog
    }

    pub(super) fn handle_connected(&mut self, now: Instant) {
        if let Phase::Connecting { attempt, .. } = self.phase {
            self.phase = Phase::AwaitCatalog { attempt, since: now };
        }
    }

    /// The whole catalog came.
    pub(super) fn handle_catalog(
        &mut self,
        found: &Label,
        now: Instant,
        backoff: &mut Backoff,
        notices: &mut Notices,
    ) -> Arrival {
        let (attempt, fresh_link) = match self.phase {
            Phase::AwaitCatalog { attempt, .. } => (attempt, true),
            Phase::Up { attempt, .. } => (attempt, false),
            _ => return Arrival::Unexpected,
        };
        if let Some(wanted) = self.environment.clone().filter(|wanted| wanted != found) {
            let reason = format!("it serves `{found}` now, and this session is for `{wanted}`");
            if self.reported_wrong.replace(found.clone()).as_ref() != Some(found) {
                notices.push(Event::WrongEnvironment {
                    provider: self.name.clone(),
                    wanted: wanted.to_string(),
                    found: found.to_string(),
                });
            }
            if !fresh_link {
                self.away_since = now;
            }
            self.wait(attempt, reason, now, backoff);
            return Arrival::Wrong;
        }
        // Whatever was said of the catalog of the link before: this one is live until it says otherwise.
        if fresh_link && self.stale.take().is_some() {
            notices.push(Event::CatalogFresh {
                provider: self.name.clone(),
            });
        }
        if fresh_link {
            if self.seen_catalog && self.flaps < UNSTABLE_AFTER {
                notices.push(Event::LinkRestored {
                    provider: self.name.clone(),
                    away: now.saturating_duration_since(self.away_since),
                });
            }
            self.phase = Phase::Up { attempt, since: now };
        }
        if self.flaps < UNSTABLE_AFTER {
            self.reported.clear();
            self.reported_slow = false;
        }
        self.reported_wrong = None;
        self.seen_catalog = true;
        self.given_up = None;
        self.settling = false;
        self.environment = Some(found.clone());
        Arrival::Accepted {
            switched: std::mem::take(&mut self.switching),
        }
    }

    /// The connect failed.
    pub(super) fn handle_failed(
        &mut self,
        error: ConnectError,
        now: Instant,
        first_tries: u32,
        backoff: &mut Backoff,
        notices: &mut Notices,
    ) -> Failure {
        let (Phase::Connecting { attempt, .. } | Phase::AwaitCatalog { attempt, .. }) = self.phase else {
            return Failure::Retry;
        };
        let reason = error.to_string();
        let verdict = error.verdict();
        if let ConnectError::Superseded { message, .. } = error {
            self.phase = Phase::Failed { reason };
            return Failure::Superseded { message };
        }
        let first = !self.seen_catalog && self.given_up.is_none();
        if verdict == Verdict::Final && !self.seen_catalog {
            self.phase = Phase::Failed { reason };
        } else {
            let kind = discriminant(&error);
            let retry_in = self.wait(attempt, reason.clone(), now, backoff);
            let last_of_first = first && attempt >= first_tries;
            // At the beginning nobody knows yet whether it ever works, and each of these takes its time.
            let each = first && matches!(error, ConnectError::TimedOut { .. });
            let told = self.reported.contains(&kind);
            if !last_of_first && (each || !told) {
                if !told {
                    self.reported.push(kind);
                }
                notices.push(Event::ConnectFailed {
                    provider: self.name.clone(),
                    reason,
                    retry_in,
                });
            }
        }
        if first && (verdict == Verdict::Final || attempt >= first_tries) {
            let waited = now.saturating_duration_since(self.away_since);
            self.given_up = Some((error, attempt, waited));
            return Failure::GivenUp;
        }
        Failure::Retry
    }

    /// It let us in and is not what was asked for: given up.
    pub(super) fn fail(&mut self, error: ConnectError, now: Instant) {
        self.phase = Phase::Failed {
            reason: error.to_string(),
        };
        self.given_up = Some((error, 1, now.saturating_duration_since(self.away_since)));
    }

    /// The link was lost.
    pub(super) fn handle_lost(
        &mut self,
        reason: String,
        now: Instant,
        hold: Duration,
        backoff: &mut Backoff,
        notices: &mut Notices,
    ) {
        let (attempt, since, was_up) = match self.phase {
            Phase::Up { attempt, since } => (attempt, since, true),
            Phase::AwaitCatalog { attempt, since } => (attempt, since, false),
            _ => return,
        };
        if was_up {
            self.away_since = now;
        }
        let held = was_up && now.saturating_duration_since(since) >= hold;
        self.flaps = if held { 0 } else { self.flaps + 1 };
        if self.flaps == UNSTABLE_AFTER {
            notices.push(Event::LinkUnstable {
                provider: self.name.clone(),
                losses: self.flaps,
            });
        } else if was_up && self.flaps < UNSTABLE_AFTER {
            notices.push(Event::LinkLost {
                provider: self.name.clone(),
                reason: reason.clone(),
            });
        }
        if held {
            self.brief_leavings = 0;
            // At once: a far side that was replaced is back already, and one that was not costs a single failed try.
            self.phase = Phase::Waiting {
                attempt: 0,
                until: now,
                reason,
            };
        } else {
            // A link that did not hold goes on where its tries were.
            self.wait(attempt, reason, now, backoff);
        }
    }

    /// The far side said that it leaves. One that is replaced again and again is not one that fails again and again: as
    /// long as its links come up and stay for a moment, the pauses do not grow, unless too many were brief.
    pub(super) fn handle_left(
        &mut self,
        reason: String,
        now: Instant,
        hold: Duration,
        backoff: &mut Backoff,
        notices: &mut Notices,
    ) {
        let lasted = match self.phase {
            Phase::Up { since, .. } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        self.handle_lost(reason.clone(), now, hold, backoff, notices);
        if lasted < BRIEF.min(hold) {
            self.brief_leavings = self.brief_leavings.saturating_add(1);
        }
        let served = lasted >= BRIEF || self.brief_leavings <= BRIEF_LEAVINGS;
        if served
            && lasted >= backoff.shortest
            && matches!(self.phase, Phase::Waiting { attempt, .. } if attempt > 0)
        {
            self.wait(0, reason, now, backoff);
        }
    }

    /// What is wanted from here on is another environment. Whether there is a link to let go of.
    pub(super) fn switch(&mut self, environment: Label, now: Instant) -> bool {
        let linked = matches!(
            self.phase,
            Phase::AwaitCatalog { .. } | Phase::Up { .. } | Phase::Connecting { .. }
        );
        if self.is_up() {
            self.away_since = now;
        }
        self.environment = Some(environment);
        self.settling = true;
        self.switching = true;
        self.given_up = None;
        self.reported.clear();
        self.reported_wrong = None;
        self.reported_slow = false;
        self.phase = Phase::Waiting {
            attempt: 0,
            until: now,
            reason: "switching to another environment".to_owned(),
        };
        linked
    }

    /// Takes how far the catalog can be trusted. Whether that is news.
    pub(super) fn handle_stale(
        &mut self,
        id: ProviderId,
        stale: Option<String>,
        notices: &mut Notices,
    ) -> bool {
        if self.stale == stale {
            return false;
        }
        let provider = self.name.clone();
        let event = match stale.clone() {
            Some(reason) => Event::CatalogStale { provider, reason },
            None => Event::CatalogFresh { provider },
        };
        notices.push_about(id, event);
        self.stale = stale;
        true
    }

    fn wait(&mut self, attempt: u32, reason: String, now: Instant, backoff: &mut Backoff) -> Duration {
        let pause = backoff.pause(attempt.max(1));
        self.phase = Phase::Waiting {
            attempt,
            until: now + pause,
            reason,
        };
        pause
    }

    pub(super) fn report(&self) -> ProviderReport {
        ProviderReport {
            name: self.name.clone(),
            status: self.status.clone(),
            environment: self.environment.as_ref().map(ToString::to_string),
            link: match &self.phase {
                Phase::Connecting { attempt, .. } | Phase::AwaitCatalog { attempt, .. } => {
                    LinkState::Connecting { attempt: *attempt }
                }
                Phase::Up { .. } => LinkState::Up,
                Phase::Waiting { attempt, reason, .. } => LinkState::Waiting {
                    attempt: *attempt,
                    reason: reason.clone(),
                },
                Phase::Failed { reason } => LinkState::Failed {
                    reason: reason.clone(),
                },
            },
            stale: self.stale.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(5);

    struct World {
        link: Link,
        backoff: Backoff,
        notices: Notices,
        now: Instant,
    }

    impl World {
        fn new(environment: Option<&str>) -> Self {
            let now = Instant::now();
            let settings = ProviderSettings {
                name: "gateway".to_owned(),
                environment: environment.map(|label| label.parse().unwrap()),
            };
            Self {
                link: Link::new(&settings, now),
                backoff: Backoff {
                    shortest: Duration::from_millis(100),
                    longest: HOLD,
                    seed: 7,
                },
                notices: Notices::default(),
                now,
            }
        }

        fn connect(&mut self) -> Option<Option<Label>> {
            if let Some(until) = self.link.poll_timeout(HOLD) {
                self.now = self.now.max(until);
            }
            self.link.poll_connect(self.now)
        }

        fn up(&mut self, environment: &str) -> Arrival {
            self.connect().expect("it is time to connect");
            self.link.handle_connected(self.now);
            let label = environment.parse().unwrap();
            self.link
                .handle_catalog(&label, self.now, &mut self.backoff, &mut self.notices)
        }

        fn lose(&mut self) {
            self.link.handle_lost(
                "cut".to_owned(),
                self.now,
                HOLD,
                &mut self.backoff,
                &mut self.notices,
            );
        }

        fn leave(&mut self) {
            let reason = "the far side ended the link".to_owned();
            self.link
                .handle_left(reason, self.now, HOLD, &mut self.backoff, &mut self.notices);
        }

        fn fail(&mut self, error: ConnectError) -> Failure {
            self.connect().expect("it is time to connect");
            self.link
                .handle_failed(error, self.now, 3, &mut self.backoff, &mut self.notices)
        }

        fn events(&mut self) -> Vec<Event> {
            std::iter::from_fn(|| self.notices.poll_event()).collect()
        }
    }

    fn away() -> ConnectError {
        ConnectError::Unreachable {
            far_side: "g".to_owned(),
            reason: "refused".to_owned(),
        }
    }

    #[test]
    fn without_a_choice_the_first_catalog_decides_the_environment_for_good() {
        let mut world = World::new(None);
        assert_eq!(world.up("staging"), Arrival::Accepted { switched: false });
        assert_eq!(world.link.settled().map(Label::as_str), Some("staging"));
        world.now += HOLD;
        world.lose();
        assert_eq!(
            world.up("dev"),
            Arrival::Wrong,
            "a restarted far side may be another environment"
        );
        assert!(!world.link.is_up());
        assert!(
            world
                .events()
                .iter()
                .any(|event| matches!(event, Event::WrongEnvironment { found, .. } if found == "dev"))
        );
        assert_eq!(world.up("dev"), Arrival::Wrong);
        assert!(world.events().is_empty(), "said once");
        assert_eq!(world.up("staging"), Arrival::Accepted { switched: false });
    }

    #[test]
    fn a_catalog_of_another_environment_on_a_live_link_ends_the_link() {
        let mut world = World::new(None);
        world.up("staging");
        let other = "dev".parse().unwrap();
        let arrival = world
            .link
            .handle_catalog(&other, world.now, &mut world.backoff, &mut world.notices);
        assert_eq!(arrival, Arrival::Wrong);
        assert!(!world.link.is_up());
    }

    #[test]
    fn a_connect_that_takes_long_is_told_once_with_what_it_waits_for() {
        let mut world = World::new(None);
        let status = Status::new("gateway", "wss://g/").waiting_for(Some("TCP connection to 10.1.2.3:443"));
        let late = ConnectError::TimedOut {
            far_side: "wss://g/".to_owned(),
            after: Duration::from_secs(10),
            waited_for: None,
        };
        for tries in 1..=2 {
            world.connect().expect("it is time to connect");
            world.link.set_status(status.clone());
            if tries == 1 {
                assert_eq!(world.link.poll_timeout(HOLD), Some(world.now + SLOW));
            }
            world.now += SLOW;
            world.link.handle_timeout(world.now, HOLD, &mut world.notices);
            world
                .link
                .handle_failed(late.clone(), world.now, 3, &mut world.backoff, &mut world.notices);
        }
        let told = world.events();
        let [
            Event::StillConnecting { waits_for, .. },
            Event::ConnectFailed { .. },
            Event::ConnectFailed { .. },
        ] = &told[..]
        else {
            panic!("each failed try of the first connect is told: {told:?}");
        };
        assert_eq!(waits_for.as_deref(), Some("TCP connection to 10.1.2.3:443"));
    }

    #[test]
    fn an_outage_is_reported_once_and_each_kind_of_failure_once() {
        let mut world = World::new(None);
        world.up("staging");
        world.now += HOLD;
        world.lose();
        for _ in 0..100 {
            assert_eq!(world.fail(away()), Failure::Retry);
        }
        world.fail(ConnectError::CredentialRefused {
            far_side: "g".to_owned(),
            file: None,
            message: "no".to_owned(),
        });
        let kinds: Vec<_> = world
            .events()
            .into_iter()
            .map(|event| match event {
                Event::LinkLost { .. } => "lost",
                Event::ConnectFailed { reason, .. } if reason.contains("token") => "token",
                Event::ConnectFailed { .. } => "away",
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(kinds, ["lost", "away", "token"]);
        assert!(matches!(
            world.link.report().link,
            LinkState::Waiting { attempt: 101, .. }
        ));
    }

    #[test]
    fn a_link_that_does_not_hold_goes_quiet_until_it_does() {
        let mut world = World::new(None);
        world.up("staging");
        for _ in 0..50 {
            world.lose();
            world.up("staging");
        }
        let told = world.events();
        assert!(told.len() < 8, "{told:?}");
        assert!(
            told.iter()
                .any(|event| matches!(event, Event::LinkUnstable { losses: 3, .. }))
        );
        world.now += HOLD;
        world.link.handle_timeout(world.now, HOLD, &mut world.notices);
        assert!(matches!(
            world.events().as_slice(),
            [Event::LinkStable { losses: 50, .. }]
        ));
    }

    #[test]
    fn the_first_connect_is_given_up_and_a_later_one_never() {
        let mut world = World::new(None);
        assert_eq!(world.fail(away()), Failure::Retry);
        assert_eq!(world.fail(away()), Failure::Retry);
        assert_eq!(world.fail(away()), Failure::GivenUp);
        assert_eq!(
            world.fail(away()),
            Failure::Retry,
            "it is still tried, for a session that has others"
        );
        world.up("staging");
        world.now += HOLD;
        world.lose();
        for _ in 0..20 {
            assert_eq!(world.fail(away()), Failure::Retry);
        }
        assert_eq!(world.link.given_up(), None);
    }

    #[test]
    fn a_far_side_that_is_replaced_again_and_again_is_back_at_once_each_time() {
        let mut world = World::new(None);
        world.up("staging");
        for _ in 0..20 {
            world.now += Duration::from_millis(500);
            world.leave();
            let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
            assert!(pause <= world.backoff.shortest, "{pause:?}");
            world.up("staging");
        }
        // One that lets in and leaves at once is a failure like any other.
        for _ in 0..20 {
            world.leave();
            world.up("staging");
        }
        world.leave();
        assert!(world.link.poll_timeout(HOLD).unwrap() - world.now >= HOLD / 2);
    }

    #[test]
    fn a_far_side_that_always_leaves_is_asked_more_and_more_seldom_until_a_link_has_held() {
        const ALMOST_BRIEF: Duration = Duration::from_millis(999);
        for lasts in [Duration::from_millis(100), ALMOST_BRIEF] {
            let mut world = World::new(None);
            let begun = world.now;
            let mut tries = 0;
            while world.now < begun + Duration::from_secs(600) {
                world.up("staging");
                tries += 1;
                world.now += lasts;
                world.leave();
            }
            // The allowance, the tries until the pause is the longest, and those of half the longest pause at least.
            assert!(
                (BRIEF_LEAVINGS..BRIEF_LEAVINGS + 10 + 240).contains(&tries),
                "{tries} tries within 10 min"
            );
            let pause = |world: &World| world.link.poll_timeout(HOLD).unwrap() - world.now;
            assert!(pause(&world) >= HOLD / 2);
            // Once one has held, it is back at once again.
            world.up("staging");
            world.now += HOLD;
            world.leave();
            for _ in 0..BRIEF_LEAVINGS {
                assert!(pause(&world) <= world.backoff.shortest);
                world.up("staging");
                world.now += lasts;
                world.leave();
            }
        }
    }

    #[test]
    fn a_far_side_that_is_replaced_every_second_is_back_at_once_without_end() {
        let mut world = World::new(None);
        for _ in 0..1000 {
            world.up("staging");
            world.now += BRIEF;
            world.leave();
            let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
            assert!(pause <= world.backoff.shortest, "{pause:?}");
        }
    }

    #[test]
    fn superseded_never_connects_again() {
        let mut world = World::new(None);
        let superseded = ConnectError::Superseded {
            far_side: "g".to_owned(),
            message: "generation 9".to_owned(),
        };
        assert!(matches!(world.fail(superseded), Failure::Superseded { .. }));
        world.now += Duration::from_secs(3600);
        assert_eq!(world.link.poll_connect(world.now), None);
        assert_eq!(world.link.poll_timeout(HOLD), None);
    }

    #[test]
    fn pauses_grow_to_the_longest_and_stay_there() {
        let mut world = World::new(None);
        world.up("staging");
        world.now += HOLD;
        world.lose();
        for _ in 0..30 {
            world.fail(away());
            let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
            assert!(pause <= HOLD, "{pause:?}");
        }
        assert!(world.link.poll_timeout(HOLD).unwrap() - world.now >= HOLD / 2);
    }

    #[test]
    fn a_stale_catalog_is_fresh_again_with_the_next_link() {
        let mut world = World::new(None);
        world.up("staging");
        world
            .link
            .handle_stale(ProviderId(0), Some("line 3".to_owned()), &mut world.notices);
        world.now += HOLD;
        world.lose();
        world.up("staging");
        assert_eq!(world.link.report().stale, None);
        assert!(
            world
                .events()
                .iter()
                .any(|event| matches!(event, Event::CatalogFresh { .. }))
        );
    }

    #[test]
    fn a_switch_asks_for_the_other_environment_and_takes_no_other() {
        let mut world = World::new(Some("staging"));
        assert_eq!(world.connect(), Some(Some("staging".parse().unwrap())));
        world.link.handle_connected(world.now);
        assert!(world.link.switch("dev".parse().unwrap(), world.now));
        assert_eq!(world.connect(), Some(Some("dev".parse().unwrap())));
        world.link.handle_connected(world.now);
        let staging = "staging".parse().unwrap();
        let late = world
            .link
            .handle_catalog(&staging, world.now, &mut world.backoff, &mut world.notices);
        assert_eq!(late, Arrival::Wrong);
        assert_eq!(world.up("dev"), Arrival::Accepted { switched: true });
    }
}
