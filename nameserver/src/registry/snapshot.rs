//! One state of the registry. A write changes a copy that shares the shards it does not touch.

use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::claims::{Claim, Claims};
use crate::data::Data;
use crate::name::{self, Name};

/// A copy of the pointers to all shards takes microseconds, and a write copies a thousandth of a large registry for each name
/// that it changes.
const SHARDS: usize = 1024;

/// A state of the registry that never changes.
#[derive(Clone)]
pub struct Snapshot {
    hasher: RandomState,
    nodes: Shards<HashTable<Arc<Node>>>,
    v4: Shards<Vec<Reverse<Ipv4Addr>>>,
    v6: Shards<Vec<Reverse<Ipv6Addr>>>,
    names: usize,
    wildcards: usize,
    generation: u32,
}

type Shards<T> = Box<[Arc<T>]>;

/// A name that exists: it has records, or lies between a zone and a name that has some (RFC 4592 §2.2.2).
#[derive(Clone)]
pub(crate) struct Node {
    name: Name,
    claims: Claims,
    /// How many nodes lie one label below.
    children: u32,
}

/// A canonical name of an address; sorted by address.
#[derive(Clone)]
struct Reverse<A> {
    address: A,
    owner: u32,
    name: Name,
}

/// What became of one owner's part of one name.
pub(super) struct Edit {
    pub(super) changed: bool,
    pub(super) had: bool,
    pub(super) has: bool,
}

impl Node {
    /// Whether anything is published under the name; it may exist only because of the names below it.
    pub(crate) fn has_records(&self) -> bool {
        !self.claims.is_empty()
    }

    /// The records, each once (RFC 2181 §5), of all owners.
    pub(crate) fn distinct(&self) -> impl Iterator<Item = &Data> {
        self.claims.distinct()
    }

    /// What the owner published who had the name last.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Data> {
        self.claims.newest()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            nodes: shards(),
            v4: shards(),
            v6: shards(),
            names: 0,
            wildcards: 0,
            generation: 0,
        }
    }
}

fn shards<T: Default>() -> Shards<T> {
    let empty = Arc::new(T::default());
    (0..SHARDS).map(|_| Arc::clone(&empty)).collect()
}

impl Snapshot {
    /// How many names have records.
    pub fn len(&self) -> usize {
        self.names
    }

    /// Whether no name has records.
    pub fn is_empty(&self) -> bool {
        self.names == 0
    }

    /// Counts the changes; the serial of the zones (RFC 1982).
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The addresses of exactly this name, of all owners.
    pub fn addresses(&self, name: &Name) -> impl Iterator<Item = IpAddr> + '_ {
        let node = self.node(name.as_wire());
        node.into_iter()
            .flat_map(Node::distinct)
            .filter_map(Data::address)
    }

    /// The canonical names of an address, of all owners.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &Name> + '_ {
        let (v4, v6) = match address {
            IpAddr::V4(address) => (Some(range(self.shard_of(&self.v4, &address), address)), None),
            IpAddr::V6(address) => (None, Some(range(self.shard_of(&self.v6, &address), address))),
        };
        let v4 = v4.into_iter().flatten().map(|reverse| &reverse.name);
        v4.chain(v6.into_iter().flatten().map(|reverse| &reverse.name))
    }

    /// Whether any name is a wildcard; without one, closest enclosers need not be looked for.
    pub(crate) fn has_wildcards(&self) -> bool {
        self.wildcards > 0
    }

    /// The node of a name in lower-case wire form.
    pub(crate) fn node(&self, wire: &[u8]) -> Option<&Node> {
        let hash = self.hasher.hash_one(wire);
        let shard = self.nodes.get(shard(hash))?;
        shard
            .find(hash, |node| node.name.as_wire() == wire)
            .map(|node| &**node)
    }

    pub(super) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    pub(super) fn names_of_owner(&self, owner: u32) -> Vec<Name> {
        let nodes = self.nodes.iter().flat_map(|shard| shard.iter());
        nodes
            .filter(|node| node.claims.as_slice().iter().any(|claim| claim.owner == owner))
            .map(|node| node.name.clone())
            .collect()
    }

    /// Makes `data`, which is sorted, all that this owner has under this name.
    pub(super) fn set_claims(
        &mut self,
        name: &Name,
        owner: u32,
        order: u32,
        data: &[&Data],
        canonical: bool,
    ) -> Edit {
        let before = self.node(name.as_wire());
        let old = before.map_or_else(Claims::default, |node| node.claims.of(owner));
        let mut edit = Edit {
            changed: false,
            had: !old.is_empty(),
            has: !data.is_empty(),
        };
        let old = old.as_slice();
        if !old.iter().map(|claim| &claim.data).eq(data.iter().copied()) {
            edit.changed = true;
            // Whoever has the name longer does not become the newest by changing what it has.
            let order = old.first().map_or(order, |claim| claim.order);
            let new = data.iter().map(|data| Claim {
                owner,
                order,
                data: Data::clone(data),
            });
            self.edit_node(name, |claims| claims.replace(owner, new));
        }
        let gone = old
            .iter()
            .filter(|claim| data.binary_search(&&claim.data).is_err());
        for address in gone.filter_map(|claim| claim.data.address()) {
            self.set_reverse(address, owner, name, false);
        }
        for address in data.iter().filter_map(|data| data.address()) {
            edit.changed |= self.set_reverse(address, owner, name, canonical);
        }
        edit
    }

    /// Changes the claims of a node that is made for it, and that goes with its last claim.
    fn edit_node(&mut self, name: &Name, change: impl FnOnce(&mut Claims)) {
        self.add_node(name);
        let Some(node) = self.node_mut(name.as_wire()) else {
            return;
        };
        let had = !node.claims.is_empty();
        change(&mut node.claims);
        let has = !node.claims.is_empty();
        self.names = self.names + usize::from(has) - usize::from(had);
        if name.is_wildcard() {
            self.wildcards = self.wildcards + usize::from(has) - usize::from(had);
        }
        self.drop_node_if_idle(name.as_wire());
    }

    fn node_mut(&mut self, wire: &[u8]) -> Option<&mut Node> {
        let hash = self.hasher.hash_one(wire);
        let shard = Arc::make_mut(self.nodes.get_mut(shard(hash))?);
        shard
            .find_mut(hash, |node| node.name.as_wire() == wire)
            .map(Arc::make_mut)
    }

    /// Makes the node of a name and those between it and the root, where they are missing.
    fn add_node(&mut self, name: &Name) {
        let mut missing = (self.node(name.as_wire()).is_none()).then(|| (name.clone(), 0));
        while let Some((name, children)) = missing.take() {
            let wire = name.as_wire();
            if let Some(parent) = name::parent(wire).filter(|parent| parent.len() > 1) {
                if let Some(parent) = self
                    .node(parent)
                    .is_some()
                    .then(|| self.node_mut(parent))
                    .flatten()
                {
                    parent.children += 1;
                } else {
                    missing = Some((Name::from_lower_wire(parent), 1));
                }
            }
            let hasher = &self.hasher;
            let hash = hasher.hash_one(wire);
            if let Some(shard) = self.nodes.get_mut(shard(hash)) {
                let node = Arc::new(Node {
                    name,
                    claims: Claims::default(),
                    children,
                });
                Arc::make_mut(shard).insert_unique(hash, node, |node| hasher.hash_one(node.name.as_wire()));
            }
        }
    }

    /// Takes away the node of a name that has nothing and nothing below it, and then those above it that were there for it.
    fn drop_node_if_idle(&mut self, wire: &[u8]) {
        let mut wire = wire;
        while self
            .node(wire)
            .is_some_and(|node| node.claims.is_empty() && node.children == 0)
        {
            let hash = self.hasher.hash_one(wire);
            let Some(shard) = self.nodes.get_mut(shard(hash)) else {
                return;
            };
            if let Ok(found) = Arc::make_mut(shard).find_entry(hash, |node| node.name.as_wire() == wire) {
                found.remove();
            }
            let Some(parent) = name::parent(wire).filter(|parent| parent.len() > 1) else {
                return;
            };
            if let Some(node) = self.node_mut(parent) {
                node.children -= 1;
            }
            wire = parent;
        }
    }

    fn set_reverse(&mut self, address: IpAddr, owner: u32, name: &Name, wanted: bool) -> bool {
        match address {
            IpAddr::V4(address) => {
                let at = shard(self.hasher.hash_one(address));
                self.v4
                    .get_mut(at)
                    .is_some_and(|shard| set_in(shard, address, owner, name, wanted))
            }
            IpAddr::V6(address) => {
                let at = shard(self.hasher.hash_one(address));
                self.v6
                    .get_mut(at)
                    .is_some_and(|shard| set_in(shard, address, owner, name, wanted))
            }
        }
    }

    fn shard_of<'a, A: std::hash::Hash, T>(&self, shards: &'a Shards<Vec<T>>, address: &A) -> &'a [T] {
        shards
            .get(shard(self.hasher.hash_one(address)))
            .map_or(&[], |shard| shard)
    }
}

/// Not the lowest bits: the tables choose their buckets by those, nor the highest, which they compare first.
fn shard(hash: u64) -> usize {
    let [_, _, high, low, ..] = hash.to_be_bytes();
    usize::from(u16::from_be_bytes([high, low])) % SHARDS
}

fn range<A: Ord + Copy>(sorted: &[Reverse<A>], address: A) -> &[Reverse<A>] {
    let start = sorted.partition_point(|reverse| reverse.address < address);
    let len = sorted
        .iter()
        .skip(start)
        .take_while(|reverse| reverse.address == address)
        .count();
    sorted.get(start..start + len).unwrap_or_default()
}

fn set_in<A: Ord + Copy>(
    shard: &mut Arc<Vec<Reverse<A>>>,
    address: A,
    owner: u32,
    name: &Name,
    wanted: bool,
) -> bool {
    let found = range(shard, address)
        .iter()
        .position(|reverse| reverse.owner == owner && reverse.name == *name);
    if found.is_some() == wanted {
        return false;
    }
    let start = shard.partition_point(|reverse| reverse.address < address);
    let shard = Arc::make_mut(shard);
    match found {
        Some(position) => {
            shard.remove(start + position);
        }
        None => {
            if shard.len() == shard.capacity() {
                // Not twice as much, which would be the larger part of a large registry's memory.
                shard.reserve_exact(1 + shard.len() / 16);
            }
            let name = name.clone();
            shard.insert(start, Reverse { address, owner, name });
        }
    }
    true
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
