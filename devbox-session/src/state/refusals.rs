//! Which refusals of connections were told: once for a port and a cause, until it works again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tunnel_bridge::RefusalKind;

use super::listeners::PortKey;
use crate::key::ServiceKey;

/// A cause that was not seen for so long is news again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A port and a cause are told no more often than this.
const BETWEEN: Duration = Duration::from_secs(10);
/// So many are remembered. Others are not told meanwhile; `status` has the last failure of every port.
const REMEMBERED: usize = 4096;

/// The refusals that were told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: BTreeMap<(ServiceKey, PortKey, RefusalKind), Told>,
}

#[derive(Debug)]
struct Told {
    /// When it was told.
    at: Instant,
    /// When it was seen last.
    last: Instant,
    /// Bytes that had come back from the service by then: more of them mean that it has worked since.
    received_bytes: u64,
}

impl Refusals {
    /// A connection was refused. Whether that is news.
    pub(super) fn handle_refused(
        &mut self,
        service: &ServiceKey,
        port: PortKey,
        kind: RefusalKind,
        received_bytes: u64,
        now: Instant,
    ) -> bool {
        let key = (service.clone(), port, kind);
        if let Some(before) = self.told.get_mut(&key) {
            let since = |then| now.saturating_duration_since(then);
            // Other connections to the same port may work all the while.
            let worked = received_bytes != before.received_bytes && since(before.at) >= BETWEEN;
            let news = worked || since(before.last) >= FORGOTTEN_AFTER;
            before.last = now;
            if news {
                before.at = now;
                before.received_bytes = received_bytes;
            }
            return news;
        }
        let told = Told {
            at: now,
            last: now,
            received_bytes,
        };
        if self.told.len() >= REMEMBERED {
            self.told
                .retain(|_, told| now.saturating_duration_since(told.last) < FORGOTTEN_AFTER);
        }
        let room = self.told.len() < REMEMBERED;
        if room {
            self.told.insert(key, told);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use devbox_helper_client::Protocol;

    use super::*;
    use crate::key::ProviderId;

    const PORT: PortKey = (5432, Protocol::Tcp);

    fn service(name: &str) -> ServiceKey {
        ServiceKey {
            provider: ProviderId(0),
            environment: "dev".parse().unwrap(),
            service: format!("{name}.backend").parse().unwrap(),
        }
    }

    #[test]
    fn a_cause_is_news_once_until_it_works_or_is_long_ago() {
        let mut refusals = Refusals::default();
        let mut now = Instant::now();
        let orders = service("orders");
        let mut refused = |kind, bytes, now| refusals.handle_refused(&orders, PORT, kind, bytes, now);
        assert!(refused(RefusalKind::Refused, 0, now));
        for _ in 0..1000 {
            now += FORGOTTEN_AFTER / 2;
            assert!(!refused(RefusalKind::Refused, 0, now), "it goes on");
        }
        assert!(refused(RefusalKind::TimedOut, 0, now), "another cause");
        assert!(refused(RefusalKind::Refused, 7, now), "it had worked meanwhile");
        for bytes in 8..100 {
            assert!(
                !refused(RefusalKind::Refused, bytes, now),
                "others work all the while"
            );
        }
        now += BETWEEN;
        assert!(refused(RefusalKind::Refused, 100, now));
        let mut refused = |kind, _, now| refusals.handle_refused(&orders, PORT, kind, 100, now);
        assert!(!refused(RefusalKind::Refused, 7, now));
        assert!(refused(RefusalKind::Refused, 7, now + FORGOTTEN_AFTER));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let told = |refusals: &mut Refusals, now| {
            let new = (0..2 * REMEMBERED).map(|number| service(&format!("s{number}")));
            let news =
                new.filter(|service| refusals.handle_refused(service, PORT, RefusalKind::Refused, 0, now));
            news.count()
        };
        assert_eq!(told(&mut refusals, now), REMEMBERED);
        assert_eq!(told(&mut refusals, now), 0);
        assert_eq!(refusals.told.len(), REMEMBERED);
        assert!(
            told(&mut refusals, now + FORGOTTEN_AFTER) >= REMEMBERED,
            "they are forgotten"
        );
        assert!(refusals.told.len() <= REMEMBERED);
    }
}
