//! The link to one provider: when to connect, when to wait, and which environment may be dialed over it.

mod backoff;
mod interruption;

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use devbox_provider::{ConnectError, Status, Verdict};
use service_catalog::Label;

use self::interruption::Interruption;
use super::notices::Notices;
use crate::key::ProviderId;
use crate::report::{Event, LinkState, ProviderReport};
use crate::settings::ProviderSettings;

pub(super) use backoff::Backoff;

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
    /// What its catalog says of how it came about.
    notes: Vec<String>,
    /// Failures of this outage that were reported.
    reported: Vec<Discriminant<ConnectError>>,
    reported_wrong: Option<Label>,
    /// It was told of this outage that connecting takes long.
    reported_slow: bool,
    /// Losses in a row of a link that had not held.
    flaps: u32,
    /// How often the far side has left a link that was brief, since one has held.
    brief_leavings: u32,
    /// While the link waits for another connection under it.
    interruption: Interruption,
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

/// What is to be done about a link after the network has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Whether it still carries anything is not known.
    Check,
    /// Nothing, or it is time to connect.
    Done,
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
            notes: Vec::new(),
            reported: Vec::new(),
            reported_wrong: None,
            reported_slow: false,
            flaps: 0,
            brief_leavings: 0,
            interruption: Interruption::default(),
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
            Phase::Up { since, .. } => {
                let stable = (self.flaps >= UNSTABLE_AFTER).then(|| since + hold);
                [stable, self.interruption.poll_timeout()]
                    .into_iter()
                    .flatten()
                    .min()
            }
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
        if self.is_up() {
            self.interruption.handle_timeout(&self.name, now, notices);
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

    /// The network is another one than before, or was for a while without this machine: what was known of the way to the far
    /// side is not true any more. A try that is under way may wait for an answer that cannot come.
    pub(super) fn look_again(&mut self, now: Instant) -> Look {
        match &mut self.phase {
            Phase::Up { .. } | Phase::AwaitCatalog { .. } => return Look::Check,
            Phase::Connecting { attempt, .. } => {
                self.phase = Phase::Waiting {
                    attempt: attempt.saturating_sub(1),
                    until: now,
                    reason: "the network has changed".to_owned(),
                };
            }
            Phase::Waiting { attempt, until, .. } => {
                *until = now;
                // The first connect is given up after so many tries, on whichever network.
                if self.seen_catalog {
                    *attempt = 0;
                }
            }
            Phase::Failed { .. } => {}
        }
        Look::Done
    }

    /// The link has lost the connection under it and waits for another one, until then. Nothing is lost yet.
    pub(super) fn handle_interrupted(&mut self, now: Instant, until: Instant) {
        if self.is_up() {
            self.interruption.handle_interrupted(now, until);
        }
    }

    /// The link goes on over another connection, with everything that it carried.
    pub(super) fn handle_resumed(&mut self, now: Instant, resumes: u64, notices: &mut Notices) {
        if let Phase::AwaitCatalog { .. } | Phase::Up { .. } = self.phase {
            self.interruption
                .handle_resumed(&self.name, now, resumes, notices);
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
            self.interruption.handle_connected();
        }
    }

    /// The whole catalog came.
    pub(super) fn handle_catalog(
        &mut self,
        found: &Label,
        notes: Vec<String>,
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
                self.away_since = self.interruption.end().unwrap_or(now);
            }
            self.wait(attempt, reason, now, backoff);
            return Arrival::Wrong;
        }
        self.notes = notes;
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
            self.away_since = self.interruption.end().unwrap_or(now);
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
            self.away_since = self.interruption.end().unwrap_or(now);
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
                Phase::Up { .. } => self.interruption.state(),
                Phase::Waiting { attempt, reason, .. } => LinkState::Waiting {
                    attempt: *attempt,
                    reason: reason.clone(),
                },
                Phase::Failed { reason } => LinkState::Failed {
                    reason: reason.clone(),
                },
            },
            stale: self.stale.clone(),
            notes: self.notes.clone(),
            resumed: self.interruption.resumed(),
        }
    }
}

#[cfg(test)]
mod tests;
