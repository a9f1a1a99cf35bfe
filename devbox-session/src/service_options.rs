//! What the user wants of a service's connections, and who may make them.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use service_catalog::{Label, MAX_ALIASES, Service, ServiceId};
use tunnel_bridge::listener::{Access, Bandwidth, ConnectionLimit, Rules};

use crate::key::ServiceKey;

pub use text::BadServiceOption;

/// What the user wants of one service. The default leaves all to its catalog, and holds its connections to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Whether everybody may connect who reaches its address; `None` leaves that to [`ListenerPolicy::share`].
    pub share: Option<bool>,
    /// After how long without a byte either way a connection is reset.
    pub idle_timeout: Option<Duration>,
    /// How many connections to it may be open at once, on all of its ports together.
    pub max_connections: Option<NonZeroUsize>,
    /// How many bytes a second its connections may carry together, each way.
    pub bandwidth: Option<NonZeroU64>,
    /// Whether it is told the program's address by a PROXY protocol header (version 2), which it must expect.
    pub proxy_protocol: bool,
    /// Further names in its own namespace, in place of those that its catalog gives it. Its own name and doubles are passed over, and so
    /// is what is over [`MAX_ALIASES`].
    pub names: Option<Vec<Label>>,
    /// The address that it is to have, in place of the one that its catalog pins it to.
    pub pin: Option<IpAddr>,
    /// Its place among the services that would have the same name, whichever far side they are of: the lowest has it. Those without one
    /// come after it.
    pub order: Option<u16>,
}

impl ServiceOptions {
    /// Puts what the user wants in place of what the catalog says.
    pub(crate) fn prevail(&self, service: &mut Service) {
        if let Some(names) = &self.names {
            let own = |name: &&Label| service.id.member.is_none() && **name == service.id.name;
            let mut aliases = Vec::new();
            for name in names.iter().filter(|name| !own(name)) {
                if aliases.len() < MAX_ALIASES && !aliases.contains(name) {
                    aliases.push(name.clone());
                }
            }
            service.aliases = aliases;
        }
        service.pin = self.pin.or(service.pin);
    }
}

/// Who may connect to a session's listeners, and what the connections of each service are held to. The default lets everybody
/// connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerPolicy {
    /// Whether everybody may connect who reaches an address. Otherwise, on loopback, only [`user`](Self::user) and root may; on
    /// another address, those of the one of [`prefixes`](Self::prefixes) that it is in.
    pub share: bool,
    /// The session's own user, by its numeric id; `None` where that is not known, and then everybody may connect on loopback.
    pub user: Option<u32>,
    /// The prefixes that addresses are chosen from.
    pub prefixes: Vec<IpNet>,
    /// What is wanted of single services.
    pub services: BTreeMap<ServiceId, ServiceOptions>,
}

const ROOT: u32 = 0;

impl ListenerPolicy {
    /// Who may connect to a service at an address of its.
    pub fn access(&self, service: &ServiceId, address: IpAddr) -> Access {
        let own = self.services.get(service).and_then(|options| options.share);
        if own.unwrap_or(self.share) {
            return Access::Everybody;
        }
        let address = address.to_canonical();
        if address.is_loopback() {
            return self
                .user
                .map_or(Access::Everybody, |user| Access::Users([user, ROOT].into()));
        }
        let around = self.prefixes.iter().find(|prefix| prefix.contains(&address));
        around.map_or(Access::Everybody, |prefix| Access::Prefix(*prefix))
    }
}

/// The rules of a session's listeners. What the ports and addresses of a service share is kept here.
#[derive(Debug)]
pub(crate) struct ListenerRules {
    policy: ListenerPolicy,
    /// Only of services that have options, so that no catalog makes it grow.
    shared: HashMap<ServiceKey, Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    limit: Option<Arc<ConnectionLimit>>,
    bandwidth: Option<Arc<Bandwidth>>,
}

impl ListenerRules {
    pub(crate) fn new(policy: ListenerPolicy) -> Self {
        Self {
            policy,
            shared: HashMap::new(),
        }
    }

    pub(crate) fn of(&mut self, service: &ServiceKey, address: IpAddr) -> Rules {
        let access = self.policy.access(&service.service, address);
        let Some(options) = self.policy.services.get(&service.service) else {
            return Rules {
                access,
                ..Rules::default()
            };
        };
        let shared = self.shared.entry(service.clone()).or_insert_with(|| Shared {
            limit: options
                .max_connections
                .map(|most| Arc::new(ConnectionLimit::new(most.get()))),
            bandwidth: options.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
        });
        Rules {
            access,
            limit: shared.limit.clone(),
            idle_timeout: options.idle_timeout,
            bandwidth: shared.bandwidth.clone(),
            proxy_protocol: options.proxy_protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ProviderId;

    fn policy() -> ListenerPolicy {
        let shared = ServiceOptions {
            share: Some(true),
            max_connections: NonZeroUsize::new(3),
            ..ServiceOptions::default()
        };
        ListenerPolicy {
            user: Some(1000),
            prefixes: vec!["127.77.0.0/16".parse().unwrap(), "10.7.0.0/16".parse().unwrap()],
            services: BTreeMap::from([("web.shop".parse().unwrap(), shared)]),
            ..ListenerPolicy::default()
        }
    }

    #[test]
    fn loopback_is_for_the_user_and_root_and_another_address_for_its_prefix() {
        let policy = policy();
        let access =
            |service: &str, address: &str| policy.access(&service.parse().unwrap(), address.parse().unwrap());
        let own = Access::Users([1000, 0].into());
        assert_eq!(access("orders.backend", "127.77.1.2"), own);
        assert_eq!(access("orders.backend", "::1"), own);
        assert_eq!(access("orders.backend", "::ffff:127.0.0.1"), own);
        assert_eq!(
            access("orders.backend", "10.7.1.1"),
            Access::Prefix("10.7.0.0/16".parse().unwrap())
        );
        assert_eq!(access("web.shop", "127.77.1.2"), Access::Everybody);
        let shared = ListenerPolicy {
            share: true,
            ..policy.clone()
        };
        let orders = "orders.backend".parse().unwrap();
        assert_eq!(
            shared.access(&orders, "127.77.1.2".parse().unwrap()),
            Access::Everybody
        );
    }

    #[test]
    fn what_the_user_says_comes_before_the_catalog_and_what_they_do_not_say_is_the_catalogs() {
        let labels = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<Label>>()
        };
        let mut service = Service::new("orders.backend".parse().unwrap(), Vec::new()).unwrap();
        service.aliases = labels(&["db"]);
        service.pin = Some("127.77.0.1".parse().unwrap());
        let as_told = service.clone();
        ServiceOptions::default().prevail(&mut service);
        assert_eq!(service, as_told);
        let own = ServiceOptions {
            names: Some(labels(&["store", "orders", "store"])),
            pin: Some("127.77.0.2".parse().unwrap()),
            ..ServiceOptions::default()
        };
        own.prevail(&mut service);
        assert_eq!(service.aliases, labels(&["store"]));
        assert_eq!(service.pin, own.pin);
        service.check().unwrap();
    }

    #[test]
    fn the_ports_of_a_service_share_its_limit_and_others_have_none() {
        let mut rules = ListenerRules::new(policy());
        let key = |service: &str| ServiceKey {
            provider: ProviderId(0),
            environment: "dev".parse().unwrap(),
            service: service.parse().unwrap(),
        };
        let at = "127.77.1.2".parse().unwrap();
        let (one, two) = (rules.of(&key("web.shop"), at), rules.of(&key("web.shop"), at));
        assert!(Arc::ptr_eq(&one.limit.unwrap(), &two.limit.unwrap()));
        assert!(rules.of(&key("orders.backend"), at).limit.is_none());
        assert_eq!(rules.shared.len(), 1);
    }
}
