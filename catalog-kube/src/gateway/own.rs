//! What an installed gateway itself must be allowed to do, what is so where it may not, and where that is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Forbidden;

/// A right of the gateway.
#[derive(Debug)]
pub(crate) struct OwnRight {
    pub(crate) resource: &'static str,
    /// Each with what is so without it.
    pub(crate) verbs: &'static [(&'static str, &'static str)],
}

const NOBODY_KNOWN: &str =
    "only clients with a static token are let in; others are told so, and `auto` goes over port-forwards";
const NOBODY: &str = "no client is let in; they are told so, and `auto` goes over port-forwards";
const TURNED_AWAY: &str = "clients are not served the namespace; those that want no other are turned away, and `auto` goes over port-forwards";
const LISTED: &str = "they are listed every 5 s";
const NO_TEAM: &str = "a team's names, pins and order are not known";
const NOT_SEEN: &str = "sessions at other replicas are not known: an older connection of a session stays there until it ends by itself";
const NOT_SAID: &str = "other replicas are not told of sessions: an older connection of a session stays there until it ends by itself";

/// All that the manifests grant.
pub(crate) const OWN: &[OwnRight] = &[
    OwnRight {
        resource: "tokenreviews",
        verbs: &[("create", NOBODY_KNOWN)],
    },
    OwnRight {
        resource: "subjectaccessreviews",
        verbs: &[("create", NOBODY)],
    },
    OwnRight {
        resource: LEASES,
        verbs: &[
            ("list", NOT_SEEN),
            ("watch", LISTED),
            ("create", NOT_SAID),
            ("update", NOT_SAID),
            (
                "delete",
                "the Lease of a session stays until its replica's pod is gone",
            ),
        ],
    },
    OwnRight {
        resource: "services",
        verbs: &[("list", TURNED_AWAY), ("watch", LISTED)],
    },
    OwnRight {
        resource: "endpointslices",
        verbs: &[("list", TURNED_AWAY), ("watch", LISTED)],
    },
    OwnRight {
        resource: "configmaps",
        verbs: &[("list", NO_TEAM), ("watch", LISTED)],
    },
];

pub(crate) const LEASES: &str = "leases";

/// What is so without a right. What is tried in place of another one and is not granted, `get` for `list`, stands for it.
fn without(forbidden: &Forbidden) -> &'static str {
    let mut rights = OWN.iter();
    let right = rights.find(|right| right.resource == forbidden.resource);
    let verbs = right.map_or(&[][..], |right| right.verbs);
    let named = verbs.iter().find(|(verb, _)| *verb == forbidden.verb);
    named
        .or_else(|| verbs.first())
        .map_or("what needs it fails", |(_, without)| without)
}

/// What was refused to the gateway lately. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lacking(Arc<watch::Sender<Refused>>);

/// By what was refused: when it was the last time.
pub(crate) type Refused = HashMap<Forbidden, Instant>;

/// What has not been refused for so long is news when it is again. Longer than anything waits before it is tried again.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// As many are remembered at most. Whoever may use a namespace makes the gateway ask for it.
const MAX: usize = 1024;

impl Lacking {
    /// Something was refused. It is logged unless that was known.
    pub(crate) fn handle_refused(&self, forbidden: &Forbidden, now: Instant) {
        let is_news = self.0.send_if_modified(|refused| {
            refused.retain(|_, at| now.saturating_duration_since(*at) < FORGOTTEN);
            if refused.len() >= MAX && !refused.contains_key(forbidden) {
                refused.clear();
            }
            refused.insert(forbidden.clone(), now).is_none()
        });
        if is_news {
            tracing::warn!(%forbidden, without_it = without(forbidden), "a right of this gateway is missing");
        }
    }

    /// This was done.
    pub(crate) fn handle_done(&self, verb: &str, resource: &str, namespace: Option<&str>) {
        let is = |forbidden: &Forbidden| {
            forbidden.verb == verb
                && forbidden.resource == resource
                && forbidden.namespace.as_deref() == namespace
        };
        // Looked at first, since it is seldom there.
        if !self.0.borrow().keys().any(is) {
            return;
        }
        let changed = self.0.send_if_modified(|refused| {
            let before = refused.len();
            refused.retain(|forbidden, _| !is(forbidden));
            refused.len() != before
        });
        if changed {
            tracing::info!(verb, resource, "a right that this gateway lacked is there");
        }
    }

    /// Hears of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Refused> {
        let mut changes = self.0.subscribe();
        // What is known by now is news to who asks.
        changes.mark_changed();
        changes
    }
}

/// What a client is told of sessions that are not shared as they should be.
pub(crate) fn notes(refused: &Refused) -> Vec<String> {
    let of_sessions = refused.keys().filter(|forbidden| forbidden.resource == LEASES);
    let mut notes: Vec<_> = of_sessions
        .map(|forbidden| format!("{forbidden}, so {}", without(forbidden)))
        .collect();
    notes.sort();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Who;

    fn forbidden(verb: &str, resource: &str) -> Forbidden {
        Forbidden {
            who: Who::Gateway,
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: Some("devbox".to_owned()),
        }
    }

    #[test]
    fn what_is_refused_again_and_again_is_news_once_until_it_was_done() {
        let lacking = Lacking::default();
        let mut changes = lacking.changes();
        changes.mark_unchanged();
        let mut is_news = |at| {
            lacking.handle_refused(&forbidden("watch", "leases"), at);
            let news = changes.has_changed().unwrap();
            changes.mark_unchanged();
            news
        };
        let now = Instant::now();
        assert!(is_news(now));
        assert!(!is_news(now + FORGOTTEN / 2));
        assert!(!is_news(now + FORGOTTEN), "it was refused in between");
        assert!(is_news(now + 3 * FORGOTTEN));
        lacking.handle_done("list", "leases", Some("devbox"));
        lacking.handle_done("watch", "leases", Some("shop"));
        assert!(!is_news(now + 3 * FORGOTTEN));
        lacking.handle_done("watch", "leases", Some("devbox"));
        assert!(is_news(now + 3 * FORGOTTEN));
    }

    #[test]
    fn clients_are_told_what_concerns_their_sessions() {
        let now = Instant::now();
        let refused = Refused::from([
            (forbidden("delete", "leases"), now),
            (forbidden("watch", "services"), now),
        ]);
        assert_eq!(
            notes(&refused),
            [
                "the gateway may not delete leases in the namespace devbox, so the Lease of a session stays until its replica's pod is gone"
            ]
        );
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let lacking = Lacking::default();
        let now = Instant::now();
        for number in 0..3 * MAX {
            lacking.handle_refused(&forbidden("list", &format!("r{number}")), now);
        }
        assert!(lacking.0.borrow().len() <= MAX);
    }
}
