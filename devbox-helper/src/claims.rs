//! Who holds what on this machine: names, addresses, prefixes, interfaces, suffixes. A state machine that touches nothing; whoever
//! owns it carries out what it says.
//!
//! - A **name** has one holder. Whoever asks for it later waits behind, and has it when those before have left. A claim that takes
//!   names goes before the other claims of the same user, never before another user's.
//! - An **address** has one user, whose claims share it: their own leases keep them apart.
//! - A **prefix** (a pool that is made this machine's own) is shared by everybody; it goes with its last holder.
//! - An **interface** and a resolver's **suffix** have one claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use devbox_helper_client::{Endpoint, Holder};
use hostsfile::HostName;
use ipnet::IpNet;
use netif::{InterfaceName, Suffix};

/// One caller's claim. Numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClaimId(pub(crate) u64);

/// What is held as a whole, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    Address(IpAddr),
    Pool(IpNet),
    Interface(InterfaceName),
    Suffix(Suffix),
    /// A listener that was handed over. The kernel says who may have it; here it only counts, and is shown.
    Listener(Endpoint),
}

/// Who may hold the same thing together.
enum Sharing {
    OneClaim,
    OneUser,
    Everybody,
}

impl Resource {
    fn sharing(&self) -> Sharing {
        match self {
            Self::Interface(_) | Self::Suffix(_) => Sharing::OneClaim,
            Self::Address(_) | Self::Listener(_) => Sharing::OneUser,
            Self::Pool(_) => Sharing::Everybody,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "the address {address}"),
            Self::Pool(pool) => write!(f, "the prefix {pool}"),
            Self::Interface(name) => write!(f, "the interface {name}"),
            Self::Suffix(suffix) => write!(f, "the suffix {suffix}"),
            Self::Listener(endpoint) => write!(f, "the listener {endpoint}"),
        }
    }
}

/// How much one claim may hold, and how many claims there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) claims: usize,
    pub(crate) claims_of_a_user: usize,
    pub(crate) names: usize,
    pub(crate) resources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            claims: 64,
            claims_of_a_user: 16,
            names: 100_000,
            resources: 200_000,
        }
    }
}

/// Why something is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Held { what: String, holder: Holder },
    Limit { what: &'static str, most: usize },
    NotHeld { what: String },
}

/// The other claims that have other names than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shifted {
    /// They have lost some.
    pub(crate) poorer: BTreeSet<ClaimId>,
    /// They have got some.
    pub(crate) richer: BTreeSet<ClaimId>,
}

/// What follows from a claim's end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// What nobody holds any more, newest first.
    pub(crate) resources: Vec<Resource>,
    /// The claims that have more names than before.
    pub(crate) richer: BTreeSet<ClaimId>,
}

/// Who holds what.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    limits: Limits,
    last: u64,
    claims: BTreeMap<ClaimId, Claim>,
    /// Who asked for a name: the holder first.
    names: HashMap<HostName, Vec<ClaimId>>,
    holders: HashMap<Resource, BTreeSet<ClaimId>>,
}

#[derive(Debug)]
struct Claim {
    uid: u32,
    pid: u32,
    names: BTreeSet<HostName>,
    /// In the order in which they were acquired.
    resources: BTreeMap<u64, Resource>,
    positions: HashMap<Resource, u64>,
    acquired: u64,
}

impl Claims {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Gives up room that is not used.
    pub(crate) fn shrink(&mut self) {
        self.names.shrink_to_fit();
        self.holders.shrink_to_fit();
    }

    /// A new claim that holds nothing.
    pub(crate) fn enter(&mut self, uid: u32, pid: u32) -> Result<ClaimId, Refusal> {
        let limit = |what, most| Err(Refusal::Limit { what, most });
        if self.claims.len() >= self.limits.claims {
            return limit("callers", self.limits.claims);
        }
        let own = self.claims.values().filter(|claim| claim.uid == uid).count();
        if own >= self.limits.claims_of_a_user {
            return limit("callers of one user", self.limits.claims_of_a_user);
        }
        self.last += 1;
        let id = ClaimId(self.last);
        self.claims.insert(
            id,
            Claim {
                uid,
                pid,
                names: BTreeSet::new(),
                resources: BTreeMap::new(),
                positions: HashMap::new(),
                acquired: 0,
            },
        );
        Ok(id)
    }

    /// Makes these the names that a claim asks for, in place of those before. With `take`, names that it did not ask for before are
    /// taken from this user's other claims.
    pub(crate) fn set_names(
        &mut self,
        id: ClaimId,
        wanted: &BTreeSet<HostName>,
        take: bool,
    ) -> Result<Shifted, Refusal> {
        if wanted.len() > self.limits.names {
            return Err(Refusal::Limit {
                what: "names",
                most: self.limits.names,
            });
        }
        let Some(claim) = self.claims.get_mut(&id) else {
            return Ok(Shifted::default());
        };
        let uid = claim.uid;
        let former = std::mem::replace(&mut claim.names, wanted.clone());
        let mut shifted = Shifted::default();
        for name in former.difference(wanted) {
            shifted.richer.extend(self.leave_name(id, name));
        }
        for name in wanted.difference(&former) {
            let queue = self.names.entry(name.clone()).or_default();
            let is_own = |other: &ClaimId| self.claims.get(other).is_some_and(|claim| claim.uid == uid);
            let place = if take { queue.iter().position(is_own) } else { None };
            queue.insert(place.unwrap_or(queue.len()), id);
            if place == Some(0) {
                shifted.poorer.extend(queue.get(1));
            }
        }
        Ok(shifted)
    }

    /// Whether a claim has a name that it asked for; otherwise who has it.
    pub(crate) fn name_holder(&self, name: &HostName) -> Option<ClaimId> {
        self.names.get(name)?.first().copied()
    }

    /// How many names a claim has, and how many it waits for.
    pub(crate) fn count_names(&self, id: ClaimId) -> (usize, usize) {
        let Some(claim) = self.claims.get(&id) else {
            return (0, 0);
        };
        let has = |name: &&HostName| self.name_holder(name) == Some(id);
        let held = claim.names.iter().filter(has).count();
        (held, claim.names.len() - held)
    }

    /// The names that a claim asks for.
    pub(crate) fn names(&self, id: ClaimId) -> BTreeSet<HostName> {
        self.claims
            .get(&id)
            .map(|claim| claim.names.clone())
            .unwrap_or_default()
    }

    /// Grants all of these or none.
    pub(crate) fn acquire(&mut self, id: ClaimId, wanted: &[Resource]) -> Result<(), Refusal> {
        let Some(claim) = self.claims.get(&id) else {
            return Ok(());
        };
        if claim.resources.len() + wanted.len() > self.limits.resources {
            return Err(Refusal::Limit {
                what: "addresses, listeners and interfaces",
                most: self.limits.resources,
            });
        }
        for resource in wanted {
            if let Some(other) = self.in_the_way(id, claim.uid, resource) {
                return Err(Refusal::Held {
                    what: resource.to_string(),
                    holder: self.holder(other),
                });
            }
        }
        for resource in wanted {
            let holders = self.holders.entry(resource.clone()).or_default();
            if holders.insert(id)
                && let Some(claim) = self.claims.get_mut(&id)
            {
                claim.acquired += 1;
                claim.resources.insert(claim.acquired, resource.clone());
                claim.positions.insert(resource.clone(), claim.acquired);
            }
        }
        Ok(())
    }

    /// Gives something up. `true` if nobody holds it any more: it is to be undone.
    pub(crate) fn give_up(&mut self, id: ClaimId, resource: &Resource) -> Result<bool, Refusal> {
        let position = self
            .claims
            .get_mut(&id)
            .and_then(|claim| Some((claim.positions.remove(resource)?, claim)));
        let Some((position, claim)) = position else {
            return Err(Refusal::NotHeld {
                what: resource.to_string(),
            });
        };
        claim.resources.remove(&position);
        Ok(self.drop_holder(id, resource))
    }

    pub(crate) fn holds(&self, id: ClaimId, resource: &Resource) -> bool {
        self.holders
            .get(resource)
            .is_some_and(|holders| holders.contains(&id))
    }

    /// What a claim holds, oldest first.
    pub(crate) fn resources(&self, id: ClaimId) -> impl Iterator<Item = &Resource> {
        self.claims
            .get(&id)
            .into_iter()
            .flat_map(|claim| claim.resources.values())
    }

    /// Ends a claim.
    pub(crate) fn leave(&mut self, id: ClaimId) -> Left {
        let left = self.release(id);
        self.claims.remove(&id);
        left
    }

    /// Has a claim give up everything.
    pub(crate) fn release(&mut self, id: ClaimId) -> Left {
        let Some(claim) = self.claims.get_mut(&id) else {
            return Left::default();
        };
        let names = std::mem::take(&mut claim.names);
        let resources = std::mem::take(&mut claim.resources);
        claim.positions.clear();
        let mut left = Left::default();
        for name in &names {
            left.richer.extend(self.leave_name(id, name));
        }
        for resource in resources.into_values().rev() {
            if self.drop_holder(id, &resource) {
                left.resources.push(resource);
            }
        }
        left
    }

    /// Another process has the claim: its pid is told from here on.
    pub(crate) fn hand_over(&mut self, id: ClaimId, pid: u32) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.pid = pid;
        }
    }

    pub(crate) fn holder(&self, id: ClaimId) -> Holder {
        let claim = self.claims.get(&id);
        Holder {
            uid: claim.map_or(u32::MAX, |claim| claim.uid),
            pid: claim.map_or(0, |claim| claim.pid),
            claim: id.0,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ClaimId> {
        self.claims.keys().copied()
    }

    /// Who keeps this claim from holding it.
    fn in_the_way(&self, id: ClaimId, uid: u32, resource: &Resource) -> Option<ClaimId> {
        let holders = self.holders.get(resource)?;
        // All holders of one thing are of the same kind: the first speaks for them.
        let first = *holders.first()?;
        let is_free = holders.contains(&id)
            || match resource.sharing() {
                Sharing::OneClaim => false,
                Sharing::OneUser => self.claims.get(&first).is_some_and(|claim| claim.uid == uid),
                Sharing::Everybody => true,
            };
        (!is_free).then_some(first)
    }

    /// Who has the name in place of the claim that leaves its queue.
    fn leave_name(&mut self, id: ClaimId, name: &HostName) -> Option<ClaimId> {
        let queue = self.names.get_mut(name)?;
        let place = queue.iter().position(|other| *other == id)?;
        queue.remove(place);
        let next = queue.first().copied();
        if next.is_none() {
            self.names.remove(name);
        }
        next.filter(|_| place == 0)
    }

    fn drop_holder(&mut self, id: ClaimId, resource: &Resource) -> bool {
        let Some(holders) = self.holders.get_mut(resource) else {
            return false;
        };
        holders.remove(&id);
        let is_last = holders.is_empty();
        if is_last {
            self.holders.remove(resource);
        }
        is_last
    }
}

#[cfg(test)]
mod tests;
