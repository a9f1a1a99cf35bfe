//! The machine as all callers of this process change it: who holds what, the blocks in the hosts file, the network. One thread owns
//! it, and time is an argument.

mod verbs;

pub(crate) use verbs::OWNER;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use devbox_helper_client::{
    ClaimReport, HeldNames, HelperError, HostsBlock, HostsReport, NetworkUndone, OLDEST_VERSION,
    ReleaseReport, Reply, StatusReport, SweepReport, Token, VERSION,
};
use hostsfile::{HostName, Owner};
use netif::Change;
use subtle::ConstantTimeEq;

use crate::claims::{ClaimId, Claims, Left, Refusal, Resource};
use crate::error::Error;
use crate::hosts::{Hosts, may_pass};
use crate::name_check;
use crate::network::{Network, Undo};
use crate::policy::Policy;

/// What a request is answered with.
pub(crate) enum Answer {
    Reply(Reply),
    /// A socket or another descriptor, in the form in which they are passed.
    Passed(TcpListener),
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    pub(crate) policy: Policy,
}

pub(crate) struct Machine {
    /// This process, as blocks name it.
    owner: String,
    claims: Claims,
    members: BTreeMap<ClaimId, Member>,
    network: Network,
    /// What was changed for the sake of what is held. Nothing where the machine had it already.
    made: HashMap<Resource, Vec<Change>>,
    /// What helpers had left on the network that were killed, for the first who asks.
    undone: NetworkUndone,
    /// The blocks of claims that have ended, where they could not be removed yet.
    behind: Vec<Hosts>,
}

struct Member {
    uid: u32,
    hosts: Hosts,
    /// The block that was asked for last, with names that others have.
    wanted: Option<HostsBlock>,
    grace: Option<Grace>,
    /// When a claim without a connection ends.
    ends_at: Option<Instant>,
}

struct Grace {
    lasts: Duration,
    token: Token,
}

impl Machine {
    pub(crate) fn new(owner: String, claims: Claims, network: Network) -> Self {
        Self {
            owner,
            claims,
            members: BTreeMap::new(),
            network,
            made: HashMap::new(),
            undone: NetworkUndone::default(),
            behind: Vec::new(),
        }
    }

    /// What helpers had left on the network that were killed was undone before anybody is served.
    pub(crate) fn has_undone(&mut self, undo: Undo) {
        let Undo {
            removed,
            left,
            failed,
        } = undo;
        self.undone = NetworkUndone {
            removed,
            left,
            failed,
        };
    }

    fn clean_up(&mut self, id: ClaimId) -> Result<SweepReport, HelperError> {
        let mut report = self.member(id)?.hosts.clean_up()?;
        report.network = std::mem::take(&mut self.undone);
        Ok(report)
    }

    /// The only caller of this process, whose block names the process and no claim.
    pub(crate) fn enter_alone(&mut self, caller: Caller) -> Result<ClaimId, HelperError> {
        let owner = self.owner.clone();
        self.enter_as(caller, |_| owner)
    }

    /// One caller among others.
    pub(crate) fn enter(&mut self, caller: Caller) -> Result<ClaimId, HelperError> {
        let owner = self.owner.clone();
        self.enter_as(caller, |id| format!("{owner}.{}", id.0))
    }

    fn enter_as(
        &mut self,
        caller: Caller,
        owner: impl FnOnce(ClaimId) -> String,
    ) -> Result<ClaimId, HelperError> {
        let id = self.claims.enter(caller.uid, caller.pid).map_err(refused)?;
        let owner = Owner::new(&owner(id)).map_err(|error| HelperError::Malformed {
            message: error.to_string(),
        })?;
        self.members.insert(
            id,
            Member {
                uid: caller.uid,
                hosts: Hosts::new(caller.policy, owner),
                wanted: None,
                grace: None,
                ends_at: None,
            },
        );
        Ok(id)
    }

    /// The connection of a claim is gone.
    pub(crate) fn close(&mut self, id: ClaimId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        match &member.grace {
            Some(grace) => member.ends_at = Some(now + grace.lasts),
            None => self.leave(id),
        }
    }

    /// Gives up the room that claims took which have ended, where there are none now.
    pub(crate) fn rest(&mut self) -> bool {
        let is_idle = self.members.is_empty();
        if is_idle {
            self.claims.shrink();
            self.network.shrink();
            self.made.shrink_to_fit();
        }
        is_idle
    }

    /// When [`tick`](Self::tick) is to be called.
    pub(crate) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let ends = self.members.values().filter_map(|member| member.ends_at);
        let again = (!self.behind.is_empty()).then(|| now + TRY_AGAIN);
        ends.chain(again).min()
    }

    /// Ends the claims whose grace is over, and tries again what could not be undone.
    pub(crate) fn tick(&mut self, now: Instant) {
        let over = |member: &Member| member.ends_at.is_some_and(|end| end <= now);
        let ended: Vec<ClaimId> = self
            .members
            .iter()
            .filter(|(_, member)| over(member))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.leave(id);
        }
        self.behind
            .retain_mut(|hosts| hosts.release().is_err_and(|error| may_pass(&error)));
    }

    /// Undoes everything of everybody, at the end of the process.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let mut undone = Ok(());
        let members = std::mem::take(&mut self.members)
            .into_values()
            .map(|member| member.hosts);
        for mut hosts in members.chain(std::mem::take(&mut self.behind)) {
            undone = undone.and(hosts.undo_with_patience());
        }
        let Undo { left, .. } = self.network.remove_all();
        match left.is_empty() {
            true => undone,
            false => undone.and(Err(Error::Network { left })),
        }
    }

    fn leave(&mut self, id: ClaimId) {
        let left = self.claims.leave(id);
        if let Some(mut member) = self.members.remove(&id)
            && let Err(error) = member.hosts.release()
            && may_pass(&error)
        {
            self.behind.push(member.hosts);
        }
        self.settle(&left);
    }

    fn release(&mut self, id: ClaimId) -> Result<ReleaseReport, HelperError> {
        let member = self.member(id)?;
        member.wanted = None;
        // There is nothing to take over.
        member.grace = None;
        let released = member.hosts.release();
        let left = self.claims.release(id);
        self.settle(&left);
        released
    }

    /// Undoes what nobody holds any more, and gives names to those who waited for them.
    fn settle(&mut self, left: &Left) -> usize {
        self.rewrite(&left.richer);
        // The oldest first, as they were made; they are undone the other way round.
        let resources = left.resources.iter().rev();
        let changes: Vec<Change> = resources
            .filter_map(|gone| self.made.remove(gone))
            .flatten()
            .collect();
        self.network.remove(&changes).removed
    }

    fn set_hosts(&mut self, id: ClaimId, block: HostsBlock, take: bool) -> Result<HostsReport, HelperError> {
        let checked = self.member(id)?.hosts.check(&block, take)?;
        let addresses = checked
            .entries
            .iter()
            .map(|entry| Resource::Address(entry.address));
        let addresses: BTreeSet<Resource> = addresses.collect();
        let addresses: Vec<Resource> = addresses.into_iter().collect();
        self.claims.acquire(id, &addresses).map_err(refused)?;
        let names: BTreeSet<HostName> = checked
            .entries
            .into_iter()
            .flat_map(|entry| entry.names)
            .collect();
        let former = self.claims.names(id);
        let shifted = self.claims.set_names(id, &names, take).map_err(refused)?;
        // Who loses a name first, so that it is never in two blocks.
        self.rewrite(&shifted.poorer);
        let granted = self.granted(id, &block);
        let held = self.held(id, &block);
        let member = self.member(id)?;
        let written = member.hosts.set(&granted, take);
        let mut report = match written {
            Ok(report) => report,
            Err(error) => {
                let shifted = self.claims.set_names(id, &former, false).map_err(refused)?;
                self.rewrite(&shifted.poorer);
                self.rewrite(&shifted.richer);
                return Err(error);
            }
        };
        member.wanted = Some(block);
        self.rewrite(&shifted.richer);
        report.held.extend(held);
        Ok(report)
    }

    fn clear_hosts(&mut self, id: ClaimId) -> Result<HostsReport, HelperError> {
        let member = self.member(id)?;
        let report = member.hosts.clear()?;
        member.wanted = None;
        let shifted = self
            .claims
            .set_names(id, &BTreeSet::new(), false)
            .map_err(refused)?;
        self.rewrite(&shifted.richer);
        Ok(report)
    }

    /// Writes the blocks of these claims with the names that they have now. Where that fails they are as before, and their callers
    /// ask again while names of theirs are held elsewhere.
    fn rewrite(&mut self, ids: &BTreeSet<ClaimId>) {
        for id in ids {
            let wanted = self.members.get(id).and_then(|member| member.wanted.clone());
            if let Some(wanted) = wanted {
                let granted = self.granted(*id, &wanted);
                if let Some(member) = self.members.get_mut(id) {
                    member.hosts.set(&granted, false).ok();
                }
            }
        }
    }

    /// The part of a block whose names the claim has.
    fn granted(&self, id: ClaimId, block: &HostsBlock) -> HostsBlock {
        let is_granted = |name: &String| {
            let name = name_check::parse(name);
            name.is_ok_and(|name| self.claims.name_holder(&name) == Some(id))
        };
        let mut granted = block.clone();
        for entry in &mut granted.entries {
            entry.names.retain(is_granted);
        }
        granted.entries.retain(|entry| !entry.names.is_empty());
        granted
    }

    /// The names of a block that other claims have.
    fn held(&self, id: ClaimId, block: &HostsBlock) -> Vec<HeldNames> {
        let mut held: BTreeMap<ClaimId, Vec<String>> = BTreeMap::new();
        for text in block.entries.iter().flat_map(|entry| &entry.names) {
            let holder = name_check::parse(text)
                .ok()
                .and_then(|name| self.claims.name_holder(&name));
            if let Some(holder) = holder.filter(|holder| *holder != id) {
                held.entry(holder).or_default().push(text.clone());
            }
        }
        let tell = |(holder, names): (ClaimId, Vec<String>)| {
            let wanted = self
                .members
                .get(&holder)
                .and_then(|member| member.wanted.as_ref());
            HeldNames {
                tag: wanted.map_or_else(String::new, |block| block.tag.clone()),
                helper_pid: Some(std::process::id()),
                names,
            }
        };
        held.into_iter().map(tell).collect()
    }

    /// Lets the claim outlive its connection.
    fn hold(&mut self, id: ClaimId, lasts: Duration) -> Result<Token, HelperError> {
        let token = new_token()?;
        self.member(id)?.grace = Some(Grace {
            lasts,
            token: token.clone(),
        });
        Ok(token)
    }

    /// The claim that waits for this token and user takes the place of the caller's own, which must be empty.
    fn resume(&mut self, id: &mut ClaimId, token: &Token) -> Result<(), HelperError> {
        let own = self.member(*id)?;
        let uid = own.uid;
        if own.wanted.is_some() || self.claims.resources(*id).next().is_some() {
            return Err(HelperError::Malformed {
                message: "a claim is taken over before anything else is asked for".into(),
            });
        }
        // All are compared, each in constant time: how long it takes says nothing about any token.
        let mut found = None;
        for (waiting, member) in &self.members {
            let Some(grace) = member.grace.as_ref().filter(|_| member.ends_at.is_some()) else {
                continue;
            };
            let is_same = bool::from(grace.token.0.as_bytes().ct_eq(token.0.as_bytes()));
            if is_same && member.uid == uid {
                found = Some(*waiting);
            }
        }
        let found = found.ok_or(HelperError::NoSuchClaim)?;
        let pid = self.claims.holder(*id).pid;
        self.leave(*id);
        *id = found;
        self.claims.hand_over(found, pid);
        self.member(found)?.ends_at = None;
        Ok(())
    }

    fn status(&self, asking: ClaimId) -> StatusReport {
        let uid = self.claims.holder(asking).uid;
        let report = |id: ClaimId| {
            let holder = self.claims.holder(id);
            let is_told = uid == 0 || holder.uid == uid;
            let mut report = ClaimReport {
                holder,
                waits: self
                    .members
                    .get(&id)
                    .is_some_and(|member| member.ends_at.is_some()),
                names: self.claims.count_names(id),
                addresses: Vec::new(),
                listeners: Vec::new(),
                network: Vec::new(),
            };
            for resource in self.claims.resources(id).filter(|_| is_told) {
                match resource {
                    Resource::Address(address) => report.addresses.push(*address),
                    Resource::Listener(endpoint) => report.listeners.push(*endpoint),
                    other => report.network.push(other.to_string()),
                }
            }
            report
        };
        StatusReport {
            pid: std::process::id(),
            versions: (OLDEST_VERSION, VERSION),
            claims: self.claims.ids().map(report).collect(),
        }
    }

    fn member(&mut self, id: ClaimId) -> Result<&mut Member, HelperError> {
        self.members.get_mut(&id).ok_or(HelperError::NoSuchClaim)
    }
}

pub(crate) fn refused(refusal: Refusal) -> HelperError {
    match refusal {
        Refusal::Held { what, holder } => HelperError::Held { what, holder },
        Refusal::Limit { what, most } => HelperError::Limit {
            what: what.to_owned(),
            most,
        },
        Refusal::NotHeld { what } => HelperError::NotHeld { what },
    }
}

/// 128 random bits.
fn new_token() -> Result<Token, HelperError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| HelperError::Unsupported {
        what: format!("random numbers ({error})"),
    })?;
    Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

const TRY_AGAIN: Duration = Duration::from_millis(500);
