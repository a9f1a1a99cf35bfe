//! Which programs that may not connect were told of: each once for a port.

use std::collections::BTreeSet;

use tunnel_bridge::listener::Stranger;

use super::listeners::PortKey;
use crate::key::ServiceKey;

/// So many are remembered. Others are only counted.
const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    told: BTreeSet<(ServiceKey, PortKey, Stranger)>,
}

impl Strangers {
    /// Whether that somebody was turned away is news.
    pub(super) fn handle(&mut self, service: &ServiceKey, port: PortKey, stranger: Stranger) -> bool {
        self.told.len() < REMEMBERED && self.told.insert((service.clone(), port, stranger))
    }
}

#[cfg(test)]
mod tests {
    use devbox_helper_client::Protocol;

    use super::*;
    use crate::key::ProviderId;

    #[test]
    fn each_is_news_once_and_what_is_remembered_is_bounded() {
        let service = ServiceKey {
            provider: ProviderId(0),
            environment: "dev".parse().unwrap(),
            service: "orders.backend".parse().unwrap(),
        };
        let mut strangers = Strangers::default();
        let mut news = |port, uid| strangers.handle(&service, (port, Protocol::Tcp), Stranger::User { uid });
        assert!(news(80, 1));
        assert!(!news(80, 1));
        assert!(news(80, 2));
        assert!(news(81, 1));
        let told = (0..5000).filter(|uid| news(90, *uid)).count();
        assert_eq!(told, REMEMBERED - 3);
    }
}
