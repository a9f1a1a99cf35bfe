//! Which address each service has: its own, derived from its name, or another candidate for this session only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipalloc::{Allocator, Key, Timestamp};

use crate::key::ServiceKey;
use crate::lease_keeper::LeaseChange;

/// How many addresses are tried for a service where addresses are in use. After that a port is taken to be held on
/// every address. Those that other sessions of the same user hold are not among them.
pub(super) const CANDIDATES: usize = 4;
/// How many are tried in all.
const MOST_CANDIDATES: usize = 64;

/// The addresses of a session's services.
#[derive(Debug)]
pub(super) struct Leases {
    allocator: Allocator,
    placements: BTreeMap<ServiceKey, Placement>,
    /// Whose address a key is: two providers may serve one environment, and then one of them has another key.
    owners: BTreeMap<Key, ServiceKey>,
    /// Keys that are pinned for this session only.
    pinned: BTreeSet<Key>,
    changes: Vec<LeaseChange>,
}

#[derive(Debug)]
struct Placement {
    own: Key,
    address: Option<IpAddr>,
    /// 0 is its own address, the others are for this session only.
    candidate: usize,
    /// How many of those up to this one count.
    counted: usize,
    /// Its own address is the one that its name gives it among the names of this session: worth remembering.
    usual: bool,
    kept: bool,
    /// Why it does not have the address that it was to be pinned to.
    unpinned: Option<String>,
}

impl Leases {
    pub(super) fn new(allocator: Allocator) -> Self {
        Self {
            allocator,
            placements: BTreeMap::new(),
            owners: BTreeMap::new(),
            pinned: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// Gives services their addresses, all of a batch together: the outcome is a function of the set of names and not
    /// of their order. Answers those that got none, and why.
    ///
    /// Each comes with the address that it is to have, if any. A pin of this machine and a line of the lock file come first; where
    /// another service has the address, or the pool does not, it gets one as if nothing had been said.
    pub(super) fn place<'k>(
        &mut self,
        services: impl IntoIterator<Item = (&'k ServiceKey, Option<IpAddr>)>,
        now: Timestamp,
    ) -> Vec<(ServiceKey, String)> {
        let mut faults = Vec::new();
        let mut fresh = Vec::new();
        let mut pins = BTreeMap::new();
        for (service, pin) in services {
            if self.placements.contains_key(service) {
                continue;
            }
            let Some(own) = self.own_key(service) else {
                let why = "its name is too long for an address to be chosen by it";
                faults.push((service.clone(), why.to_owned()));
                continue;
            };
            self.owners.insert(own.clone(), service.clone());
            if let Some(address) = pin {
                pins.insert(own.clone(), address);
            }
            fresh.push((service.clone(), own));
        }
        let mut refused = self.pin(pins, now);
        let usual = self
            .allocator
            .assign(fresh.iter().map(|(_, own)| own))
            .unwrap_or_default();
        let mut leased = self.allocator.lease_all(fresh.iter().map(|(_, own)| own), now);
        for (service, own) in fresh {
            let address = match leased.remove(&own) {
                Some(Ok(address)) => Some(address),
                Some(Err(error)) => {
                    faults.push((service.clone(), format!("no address is left for it: {error}")));
                    None
                }
                None => None,
            };
            let wanted = usual.get(&own).copied();
            // A former session may have left it elsewhere, where its usual address was held then.
            let address = match (address, wanted) {
                (Some(address), Some(wanted)) if address != wanted => self.move_to(&own, wanted, now),
                _ => address,
            };
            let pinned = self.pinned.contains(&own);
            let usual = address.is_some() && wanted == address && !pinned;
            let unpinned = refused.remove(&own);
            self.placements.insert(
                service,
                Placement {
                    own,
                    address,
                    candidate: 0,
                    counted: 0,
                    usual,
                    kept: false,
                    unpinned,
                },
            );
        }
        faults
    }

    /// Moves a key that has an address to another one, if it may have that: one that is free, or that it had before itself. Answers the
    /// address that it has then.
    fn move_to(&mut self, own: &Key, wanted: IpAddr, now: Timestamp) -> Option<IpAddr> {
        let free = self.allocator.lease_where(own, now, |offered| offered == wanted);
        if let Ok(address) = free {
            return Some(address);
        }
        self.allocator.release(own, now);
        if self.allocator.lease_at(own, wanted, now).is_ok() {
            return Some(wanted);
        }
        // What it had rests for nobody but itself.
        self.allocator.lease(own, now).ok()
    }

    /// Pins keys for this session. Answers why not, for those where that cannot be.
    fn pin(&mut self, pins: BTreeMap<Key, IpAddr>, now: Timestamp) -> BTreeMap<Key, String> {
        let mut refused = BTreeMap::new();
        for (key, address) in pins {
            match self.allocator.fixed(&key) {
                Some(has) if has == address => continue,
                Some(has) => {
                    let why = format!("a pin on this machine or a line of the lock file gives it {has}");
                    refused.insert(key, format!("it is to be at {address}, and {why}"));
                    continue;
                }
                None => {}
            }
            // What a former session left it with does not bind this one.
            if self.allocator.get(&key).is_some_and(|held| held != address) {
                self.allocator.release(&key, now);
            }
            match self.allocator.pin(&key, address, now) {
                Ok(()) => {
                    self.pinned.insert(key);
                }
                Err(error) => {
                    refused.insert(key, format!("it is to be at {address}: {error}"));
                }
            }
        }
        refused
    }

    /// Why a service does not have the address that it was to be pinned to.
    pub(super) fn unpinned(&self, service: &ServiceKey) -> Option<&str> {
        self.placements.get(service)?.unpinned.as_deref()
    }

    /// The service is gone; its addresses rest.
    pub(super) fn release(&mut self, service: &ServiceKey, now: Timestamp) {
        let Some(placement) = self.placements.remove(service) else {
            return;
        };
        self.owners.remove(&placement.own);
        if placement.candidate != 0
            && let Some(key) = candidate_key(&placement.own, placement.candidate)
        {
            self.allocator.release(&key, now);
        }
        if self.pinned.remove(&placement.own) {
            self.allocator.unpin(&placement.own);
        }
        self.allocator.release(&placement.own, now);
        if placement.kept {
            self.changes.push(LeaseChange::Released { key: placement.own });
        }
    }

    /// The service's address, and the one beside it in the other family where the pool has one.
    pub(super) fn addresses(&self, service: &ServiceKey) -> Vec<IpAddr> {
        let address = self
            .placements
            .get(service)
            .and_then(|placement| placement.address);
        let beside = address.and_then(|address| self.allocator.pool().beside(address));
        address.into_iter().chain(beside.map(IpAddr::V6)).collect()
    }

    /// Moves a service to its next candidate, for this session only: its own address stays leased to it. `counts` says whether
    /// who holds the present one may hold all of them. After the last one it comes back to its own, and the answer is `true`.
    pub(super) fn next_candidate(
        &mut self,
        service: &ServiceKey,
        counts: bool,
        now: Timestamp,
    ) -> Result<bool, String> {
        let placement = self.placements.get(service);
        let (from, counted) = placement.map_or((0, 0), |found| (found.candidate, found.counted));
        let (to, counted) = (from + 1, counted + usize::from(counts));
        let last = counted == CANDIDATES || to == MOST_CANDIDATES;
        self.settle_at(service, if last { 0 } else { to }, now)?;
        if let Some(placement) = self.placements.get_mut(service).filter(|_| !last) {
            placement.counted = counted;
        }
        Ok(last)
    }

    /// Moves a service back to its own address.
    pub(super) fn go_home(&mut self, service: &ServiceKey, now: Timestamp) -> Result<(), String> {
        self.settle_at(service, 0, now)
    }

    fn settle_at(&mut self, service: &ServiceKey, candidate: usize, now: Timestamp) -> Result<(), String> {
        let placement = self
            .placements
            .get_mut(service)
            .ok_or("its name is too long for an address to be chosen by it")?;
        if placement.candidate != 0
            && let Some(key) = candidate_key(&placement.own, placement.candidate)
        {
            self.allocator.release(&key, now);
        }
        placement.candidate = 0;
        placement.counted = 0;
        let key =
            candidate_key(&placement.own, candidate).ok_or("its name is too long for another address")?;
        let address = self
            .allocator
            .lease(&key, now)
            .map_err(|error| format!("no address is left for it: {error}"))?;
        placement.address = Some(address);
        placement.candidate = candidate;
        Ok(())
    }

    /// The service is offered: its address is worth remembering, if it is its own.
    pub(super) fn keep(&mut self, service: &ServiceKey) {
        let Some(placement) = self.placements.get_mut(service) else {
            return;
        };
        if let (false, true, 0, Some(address)) = (
            placement.kept,
            placement.usual,
            placement.candidate,
            placement.address,
        ) {
            placement.kept = true;
            self.changes.push(LeaseChange::Leased {
                key: placement.own.clone(),
                address,
            });
        }
    }

    pub(super) fn take_changes(&mut self) -> Vec<LeaseChange> {
        std::mem::take(&mut self.changes)
    }

    /// A service's address is derived from its full name, the environment included. Of two providers that serve one
    /// environment, the one that came later is told apart by its place.
    fn own_key(&self, service: &ServiceKey) -> Option<Key> {
        let environment = &service.environment;
        let id = &service.service;
        let member = id
            .member
            .as_ref()
            .map_or_else(String::new, |member| format!("/{member}"));
        let text = format!("{environment}/{}/{}{member}", id.namespace, id.name);
        let key = Key::new(&text).ok()?;
        match self.owners.get(&key) {
            Some(owner) if owner != service => Key::new(&format!("{text}@{}", service.provider.0)).ok(),
            _ => Some(key),
        }
    }
}

fn candidate_key(own: &Key, candidate: usize) -> Option<Key> {
    match candidate {
        0 => Some(own.clone()),
        // No label contains a plus sign, so that this is nobody's own key.
        number => Key::new(&format!("{}+{number}", own.as_str())).ok(),
    }
}

#[cfg(test)]
mod tests {
    use ipalloc::Pool;

    use super::*;
    use crate::key::ProviderId;

    fn leases(pool: &str) -> Leases {
        Leases::new(Allocator::new(Pool::new([pool.parse().unwrap()]).unwrap()))
    }

    fn key(provider: usize, service: &str) -> ServiceKey {
        ServiceKey {
            provider: ProviderId(provider),
            environment: "staging".parse().unwrap(),
            service: service.parse().unwrap(),
        }
    }

    fn unpinned(services: &[ServiceKey]) -> impl DoubleEndedIterator<Item = (&ServiceKey, Option<IpAddr>)> {
        services.iter().map(|service| (service, None))
    }

    const NOW: Timestamp = Timestamp::from_secs(1);

    #[test]
    fn a_pin_comes_before_the_rule_in_any_order_of_the_batch_and_ends_with_the_service() {
        let (orders, web) = (key(0, "orders.backend"), key(0, "web.backend"));
        let mut by_rule = leases("127.78.0.0/16");
        by_rule.place([(&orders, None), (&web, None)], NOW);
        let [of_orders, of_web] = [&orders, &web].map(|key| by_rule.addresses(key)[0]);
        for reversed in [false, true] {
            let mut leases = leases("127.78.0.0/16");
            // The one is pinned to the address that the other would have.
            let mut batch = [(&orders, None), (&web, Some(of_orders))];
            if reversed {
                batch.reverse();
            }
            assert!(leases.place(batch, NOW).is_empty());
            assert_eq!(leases.addresses(&web), [of_orders]);
            assert_ne!(leases.addresses(&orders), [of_orders]);
            assert_eq!(leases.unpinned(&web), None);
            leases.keep(&web);
            assert!(
                leases.take_changes().is_empty(),
                "it is this catalog's, and no other session's"
            );
            leases.release(&web, NOW);
            leases.place([(&web, None)], NOW);
            assert_eq!(leases.addresses(&web), [of_web], "as if it had never been pinned");
        }
    }

    #[test]
    fn a_service_that_was_pinned_for_a_while_comes_home() {
        let web = key(0, "web.backend");
        let mut leases = leases("127.78.0.0/16");
        leases.place([(&web, None)], NOW);
        let home = leases.addresses(&web);
        for pin in [
            Some("127.78.3.4".parse().unwrap()),
            None,
            Some("10.0.0.1".parse().unwrap()),
        ] {
            leases.release(&web, NOW);
            leases.place([(&web, pin)], NOW);
        }
        assert_eq!(leases.addresses(&web), home);
    }

    #[test]
    fn a_pin_that_cannot_be_had_is_told_and_the_service_has_its_own_address() {
        let (orders, web, late) = (
            key(0, "orders.backend"),
            key(0, "web.backend"),
            key(0, "late.backend"),
        );
        let mut by_rule = leases("127.78.0.0/16");
        by_rule.place([(&orders, None), (&late, None)], NOW);
        let [of_orders, of_late] = [&orders, &late].map(|key| by_rule.addresses(key));
        let mut leases = leases("127.78.0.0/16");
        let outside = "10.0.0.1".parse().unwrap();
        let pin = Some("127.78.3.4".parse().unwrap());
        leases.place([(&orders, Some(outside)), (&web, pin)], NOW);
        assert_eq!(leases.addresses(&orders), of_orders);
        assert!(leases.unpinned(&orders).unwrap().contains("10.0.0.1"));
        leases.place([(&late, pin)], NOW);
        assert_eq!(leases.addresses(&late), of_late);
        assert!(leases.unpinned(&late).unwrap().contains("staging/backend/web"));
    }

    #[test]
    fn a_pin_on_this_machine_is_stronger() {
        let orders = key(0, "orders.backend");
        let mut allocator = Allocator::new(Pool::new(["127.78.0.0/16".parse().unwrap()]).unwrap());
        let (here, there) = ("127.78.1.1".parse().unwrap(), "127.78.2.2".parse().unwrap());
        let own = Key::new("staging/backend/orders").unwrap();
        allocator.pin(&own, here, NOW).unwrap();
        let mut leases = Leases::new(allocator);
        leases.place([(&orders, Some(there))], NOW);
        assert_eq!(leases.addresses(&orders), [here]);
        assert!(leases.unpinned(&orders).unwrap().contains("127.78.1.1"));
        leases.release(&orders, NOW);
        leases.place([(&orders, None)], NOW);
        assert_eq!(
            leases.addresses(&orders),
            [here],
            "a pin of this machine outlives the service"
        );
    }

    #[test]
    fn a_batch_is_placed_the_same_in_any_order() {
        // Nearly as many as the pool has addresses.
        let services: Vec<_> = (0..240).map(|n| key(0, &format!("s{n}.backend"))).collect();
        let mut one = leases("127.78.0.0/24");
        let mut other = leases("127.78.0.0/24");
        assert!(one.place(unpinned(&services), NOW).is_empty());
        assert!(other.place(unpinned(&services).rev(), NOW).is_empty());
        for service in &services {
            assert_eq!(one.addresses(service), other.addresses(service));
            assert_eq!(one.addresses(service).len(), 1);
        }
    }

    #[test]
    fn candidates_differ_and_the_last_leads_back_home() {
        let mut leases = leases("127.78.0.0/16");
        let orders = key(0, "orders.backend");
        leases.place([(&orders, None)], NOW);
        let home = leases.addresses(&orders);
        let mut seen = vec![home.clone()];
        for _ in 1..CANDIDATES {
            assert_eq!(leases.next_candidate(&orders, true, NOW), Ok(false));
            assert!(!seen.contains(&leases.addresses(&orders)));
            seen.push(leases.addresses(&orders));
        }
        assert_eq!(leases.next_candidate(&orders, true, NOW), Ok(true));
        assert_eq!(leases.addresses(&orders), home);
    }

    #[test]
    fn addresses_that_the_users_own_sessions_hold_use_up_no_candidates() {
        let mut leases = leases("127.78.0.0/16");
        let orders = key(0, "orders.backend");
        leases.place([(&orders, None)], NOW);
        let mut seen = vec![leases.addresses(&orders)];
        for _ in 0..20 {
            assert_eq!(leases.next_candidate(&orders, false, NOW), Ok(false));
            assert!(!seen.contains(&leases.addresses(&orders)));
            seen.push(leases.addresses(&orders));
        }
        let foreign = (0..).find(|_| leases.next_candidate(&orders, true, NOW) == Ok(true));
        assert_eq!(foreign, Some(CANDIDATES - 1));
        // However many there are, it comes to an end.
        let own = (0..).find(|_| leases.next_candidate(&orders, false, NOW) == Ok(true));
        assert_eq!(own, Some(MOST_CANDIDATES - 1));
    }

    #[test]
    fn a_member_never_shares_the_key_of_a_candidate() {
        let mut leases = leases("127.78.0.0/16");
        let (service, member) = (key(0, "db.backend"), key(0, "1.db.backend"));
        leases.place([(&service, None), (&member, None)], NOW);
        leases.next_candidate(&service, true, NOW).unwrap();
        assert_ne!(leases.addresses(&service), leases.addresses(&member));
    }

    #[test]
    fn one_name_of_two_providers_has_two_addresses() {
        let mut leases = leases("127.78.0.0/16");
        let (first, second) = (key(0, "orders.backend"), key(1, "orders.backend"));
        leases.place([(&first, None), (&second, None)], NOW);
        assert_ne!(leases.addresses(&first), leases.addresses(&second));
        let mut alone = self::leases("127.78.0.0/16");
        alone.place([(&second, None)], NOW);
        assert_eq!(
            alone.addresses(&second),
            leases.addresses(&first),
            "an address follows from the name"
        );
    }

    #[test]
    fn only_an_own_address_of_an_offered_service_is_kept_and_let_go() {
        let mut leases = leases("127.78.0.0/16");
        let (home, moved, silent) = (key(0, "a.b"), key(0, "c.d"), key(0, "e.f"));
        leases.place([&home, &moved, &silent].map(|key| (key, None)), NOW);
        leases.next_candidate(&moved, true, NOW).unwrap();
        leases.keep(&home);
        leases.keep(&home);
        leases.keep(&moved);
        for service in [&home, &moved, &silent] {
            leases.release(service, NOW);
        }
        let changes = leases.take_changes();
        assert!(
            matches!(&changes[..], [LeaseChange::Leased { key: one, .. }, LeaseChange::Released { key: two }] if one == two),
            "{changes:?}"
        );
    }

    #[test]
    fn a_pool_with_a_prefix_beside_gives_an_address_of_each_family() {
        let pool = Pool::builder()
            .prefix("127.78.0.0/16".parse().unwrap())
            .beside("fd77::/64".parse().unwrap())
            .build()
            .unwrap();
        let mut leases = Leases::new(Allocator::new(pool));
        let orders = key(0, "orders.backend");
        leases.place([(&orders, None)], NOW);
        let addresses = leases.addresses(&orders);
        assert!(
            matches!(addresses[..], [IpAddr::V4(_), IpAddr::V6(_)]),
            "{addresses:?}"
        );
    }

    #[test]
    fn a_full_pool_is_a_fault_of_the_service_alone() {
        let mut leases = leases("127.78.0.0/30");
        let services: Vec<_> = (0..5).map(|n| key(0, &format!("s{n}.backend"))).collect();
        let faults = leases.place(unpinned(&services), NOW);
        assert!(!faults.is_empty() && faults.len() < services.len(), "{faults:?}");
        assert!(faults.iter().all(|(_, why)| why.contains("no address is left")));
    }
}
