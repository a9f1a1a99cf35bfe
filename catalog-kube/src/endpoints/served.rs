//! Where the endpoints are that take new connections, and what of that has changed since when.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use service_catalog::Protocol;

use crate::road::{Endpoint, Host};

/// Hosts that are gone and remembered, for who has not been told. Who is further behind is told everything.
const MAX_GONE: usize = 1024;

/// The hosts of endpoints, each with its ports. What a change costs depends on the change, and not on how many there are.
#[derive(Debug, Default)]
pub(super) struct Served {
    hosts: BTreeMap<Host, Ports>,
    /// Every host, by when it changed last.
    changed: BTreeMap<u64, Host>,
    /// Those that have no ports any more.
    gone: BTreeMap<u64, Host>,
    version: u64,
    /// Of changes up to this one, some are forgotten.
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Ports {
    /// With how many services' endpoints are there.
    by_number: BTreeMap<(NonZeroU16, Protocol), usize>,
    changed: u64,
}

/// What has changed since a version, and which version that leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) version: u64,
    /// Hosts that are not here are gone.
    pub(crate) is_everything: bool,
    /// Hosts with all of their ports; one without any is gone.
    pub(crate) hosts: Vec<(Host, Vec<(NonZeroU16, Protocol)>)>,
}

impl Served {
    pub(super) fn add(&mut self, endpoint: &Endpoint) {
        let ports = self.hosts.entry(endpoint.host.clone()).or_default();
        let count = ports
            .by_number
            .entry((endpoint.port, endpoint.protocol))
            .or_default();
        *count += 1;
        if *count == 1 {
            self.touch(&endpoint.host);
        }
    }

    /// Takes back one [`add`](Self::add).
    pub(super) fn remove(&mut self, endpoint: &Endpoint) {
        let key = (endpoint.port, endpoint.protocol);
        let Some(ports) = self.hosts.get_mut(&endpoint.host) else {
            return;
        };
        if let Some(count) = ports.by_number.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                ports.by_number.remove(&key);
                self.touch(&endpoint.host);
            }
        }
    }

    fn touch(&mut self, host: &Host) {
        let Some(ports) = self.hosts.get_mut(host) else {
            return;
        };
        self.changed.remove(&ports.changed);
        self.gone.remove(&ports.changed);
        self.version += 1;
        ports.changed = self.version;
        self.changed.insert(self.version, host.clone());
        if ports.by_number.is_empty() {
            self.gone.insert(self.version, host.clone());
        }
        if self.gone.len() > MAX_GONE
            && let Some((version, host)) = self.gone.pop_first()
        {
            self.hosts.remove(&host);
            self.changed.remove(&version);
            self.forgotten = version;
        }
    }

    /// What has changed since `version`; everything where that is `None`, or too long ago.
    pub(super) fn since(&self, version: Option<u64>) -> Changes {
        let of = |host: &Host| {
            let ports = self.hosts.get(host).map(|ports| ports.by_number.keys().copied());
            (host.clone(), ports.into_iter().flatten().collect::<Vec<_>>())
        };
        let version = version.filter(|version| *version >= self.forgotten);
        let hosts = match version {
            Some(version) => self
                .changed
                .range(version + 1..)
                .map(|(_, host)| of(host))
                .collect(),
            None => {
                let all = self.hosts.keys().map(of);
                all.filter(|(_, ports)| !ports.is_empty()).collect()
            }
        };
        Changes {
            version: self.version,
            is_everything: version.is_none(),
            hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(host: u16, port: u16) -> Endpoint {
        let [high, low] = host.to_be_bytes();
        Endpoint {
            host: Host::Address([10, 0, high, low].into()),
            port: port.try_into().unwrap(),
            protocol: Protocol::Tcp,
            pod: None,
        }
    }

    type Known = BTreeMap<Host, Vec<(NonZeroU16, Protocol)>>;

    fn tell(known: &mut Known, changes: Changes) -> u64 {
        if changes.is_everything {
            known.clear();
        }
        for (host, ports) in changes.hosts {
            if ports.is_empty() {
                known.remove(&host);
            } else {
                known.insert(host, ports);
            }
        }
        changes.version
    }

    proptest! {
        #[test]
        fn who_is_told_the_changes_knows_what_who_asks_for_everything_does(
            steps in prop::collection::vec((0..6_u16, 1..4_u16, any::<bool>(), any::<bool>()), 0..80),
        ) {
            let (mut served, mut there) = (Served::default(), Vec::new());
            let (mut known, mut seen) = (Known::new(), None);
            for (host, port, add, ask) in steps {
                let endpoint = endpoint(host, port);
                if add {
                    served.add(&endpoint);
                    there.push(endpoint);
                } else if let Some(at) = there.iter().position(|other| *other == endpoint) {
                    served.remove(&endpoint);
                    there.swap_remove(at);
                }
                if ask {
                    seen = Some(tell(&mut known, served.since(seen)));
                }
            }
            tell(&mut known, served.since(seen));
            let mut whole = Known::new();
            tell(&mut whole, served.since(None));
            prop_assert_eq!(&known, &whole);
            let mut expected = Known::new();
            there.sort();
            there.dedup();
            for endpoint in there {
                expected.entry(endpoint.host).or_default().push((endpoint.port, endpoint.protocol));
            }
            prop_assert_eq!(known, expected);
        }
    }

    #[test]
    fn one_change_among_ten_thousand_is_one_host() {
        let mut served = Served::default();
        for host in 0..10_000 {
            served.add(&endpoint(host, 80));
        }
        let seen = served.since(None).version;
        served.add(&endpoint(77, 81));
        served.add(&endpoint(78, 80));
        assert_eq!(
            served.since(Some(seen)).hosts.len(),
            1,
            "the second changes nothing"
        );
    }

    #[test]
    fn hosts_that_went_are_not_remembered_for_ever_and_nobody_misses_one() {
        let mut served = Served::default();
        served.add(&endpoint(0, 80));
        let mut known = Known::new();
        let early = tell(&mut known, served.since(None));
        for host in 1..5000 {
            served.add(&endpoint(host, 80));
            served.remove(&endpoint(host, 80));
        }
        served.remove(&endpoint(0, 80));
        assert!(served.hosts.len() <= MAX_GONE + 1 && served.changed.len() <= MAX_GONE + 1);
        assert!(served.since(Some(early)).is_everything);
        tell(&mut known, served.since(Some(early)));
        assert!(known.is_empty());
        assert!(!served.since(Some(served.version)).is_everything);
    }
}
