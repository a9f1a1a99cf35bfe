//! Which addresses there are to give, and how one is chosen.

mod space;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(crate) use self::space::Space;
use crate::address::{AddressRange, Family, Runs, number};
use crate::hash::{KeyHasher, scale};
use crate::{Error, Key};

/// How an address is chosen for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// By a fixed hash of the key: the same key has the same address wherever the pool is the same. The default.
    #[default]
    ByHash,
    /// The lowest address that was never used; where all were, the one that has rested longest.
    LowestFree,
}

/// The addresses that are given out, and the rules by which.
///
/// [`Pool::default`] is `127.77.0.0/16` by hash, of which 65,024 addresses are given. [`Pool::builder`] makes others.
/// A pool is plain data: what is leased stands in an [`Allocator`](crate::Allocator).
///
/// ```
/// use ipalloc::{Key, Pool};
///
/// let key = Key::new("dev/backend/orders")?;
/// assert_eq!(Pool::default().size(), 65_024);
/// assert_eq!(Pool::default().first_choice(&key).to_string(), "127.77.45.67");
///
/// // A v6 pool chooses by the same hash.
/// let v6 = Pool::builder().prefix("fd77:6465:7662::/64".parse().unwrap()).build()?;
/// assert!(v6.contains(v6.first_choice(&key)));
/// # Ok::<(), ipalloc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    prefixes: Vec<IpNet>,
    strategy: Strategy,
    salt: String,
    name: String,
    avoid_edge_octets: bool,
    quarantine: Duration,
    share_by_port: bool,
    beside: Option<Ipv6Net>,
    hasher: KeyHasher,
    space: Space,
    reserved: Runs,
}

impl Pool {
    /// How long an address rests by default: three days, so that what was left open over a weekend reaches nobody else.
    pub const DEFAULT_QUARANTINE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

    /// A pool of these prefixes by hash, with the defaults of [`Pool::builder`].
    ///
    /// # Errors
    /// As [`PoolBuilder::build`].
    pub fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Result<Self, Error> {
        Self::builder().prefixes(prefixes).build()
    }

    /// A pool with choices of one's own.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// The prefixes, in the order of their addresses.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// How an address is chosen.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// The text that goes into the hash beside the key.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// The name that goes into the hash beside the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether v4 addresses that end in .0 and .255 are passed over.
    pub fn avoids_edge_octets(&self) -> bool {
        self.avoid_edge_octets
    }

    /// How long an address that was released rests at least.
    pub fn quarantine(&self) -> Duration {
        self.quarantine
    }

    /// Whether endpoints of several keys may stand at one address, at ports of their own.
    pub fn shares_by_port(&self) -> bool {
        self.share_by_port
    }

    /// How many addresses hashing spreads over: all but network, broadcast and edge octets. Those that are
    /// [reserved](PoolBuilder::reserve) still count.
    pub fn size(&self) -> u128 {
        self.space.len()
    }

    /// How many addresses can be given: [`size`](Pool::size) without what is reserved.
    pub fn usable(&self) -> u128 {
        self.usable_without(&self.reserved)
    }

    /// Whether the pool gives this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.place(address).is_some() && !self.reserved.contains(number(address))
    }

    /// The address that the hash of a key points at, whoever holds it. With
    /// [`Strategy::LowestFree`] it says nothing.
    pub fn first_choice(&self, key: &Key) -> IpAddr {
        self.address(self.first_place(key))
    }

    /// The v6 address that stands beside a v4 address of this pool, which it holds in its last 32 bits; see [`PoolBuilder::beside`].
    pub fn beside(&self, address: IpAddr) -> Option<Ipv6Addr> {
        match (self.beside, address) {
            (Some(net), IpAddr::V4(v4)) => Some(Ipv6Addr::from_bits(
                net.network().to_bits() | u128::from(v4.to_bits()),
            )),
            _ => None,
        }
    }

    /// The v4 address that a v6 address stands beside.
    #[inline]
    pub(crate) fn besides_whom(&self, address: IpAddr) -> Option<IpAddr> {
        match (self.beside, address) {
            (Some(net), IpAddr::V6(v6)) if net.contains(&v6) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the v4 address is the last 32 bits"
                )]
                let v4 = IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32));
                (self.beside(v4) == Some(v6)).then_some(v4)
            }
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn family(&self) -> Family {
        self.space.family()
    }

    pub(crate) fn hash(&self, key: &Key) -> u128 {
        self.hasher.number(key)
    }

    /// By hash, where the search for an address of this key begins.
    #[inline]
    pub(crate) fn first_place(&self, key: &Key) -> u128 {
        self.place_of_hash(self.hash(key))
    }

    /// By hash, where the search for an address of a key with this hash begins.
    pub(crate) fn place_of_hash(&self, hash: u128) -> u128 {
        scale(hash, self.space.len())
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn reserved(&self) -> &Runs {
        &self.reserved
    }

    pub(crate) fn address(&self, place: u128) -> IpAddr {
        self.family().address(self.space.number(place))
    }

    pub(crate) fn place(&self, address: IpAddr) -> Option<u128> {
        if Family::of(address) == self.family() {
            self.space.place(number(address))
        } else {
            None
        }
    }

    /// Whether the address lies in one of the prefixes, given or not.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    pub(crate) fn usable_without(&self, reserved: &Runs) -> u128 {
        self.space.len() - self.space.count_places(reserved)
    }

    /// The prefixes as one text: what a store belongs to.
    pub(crate) fn prefix_texts(&self) -> Vec<String> {
        self.prefixes.iter().map(ToString::to_string).collect()
    }
}

impl Default for Pool {
    /// `127.77.0.0/16` by hash.
    fn default() -> Self {
        let prefix = Ipv4Net::new_assert(Ipv4Addr::new(127, 77, 0, 0), 16);
        #[expect(
            clippy::expect_used,
            reason = "the pool's rules are kept, as the tests of this crate see"
        )]
        Self::new([prefix.into()]).expect("the default pool is a pool")
    }
}

impl fmt::Display for Pool {
    /// The prefixes: `127.77.0.0/16`, or `10.0.0.0/24, 10.0.2.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix_texts().join(", "))
    }
}

/// Builds a [`Pool`]. What changes which addresses there are to hash into (prefixes, [`avoid_edge_octets`](Self::avoid_edge_octets)), the
/// salt and the name moves the keys that are not live or locked; a reservation moves only the keys that meet it.
#[derive(Clone, Debug)]
pub struct PoolBuilder {
    prefixes: Vec<IpNet>,
    strategy: Strategy,
    salt: String,
    name: String,
    avoid_edge_octets: Option<bool>,
    reserve_gateway: Option<bool>,
    reserved: Vec<AddressRange>,
    quarantine: Duration,
    share_by_port: bool,
    beside: Option<Ipv6Net>,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            strategy: Strategy::default(),
            salt: String::new(),
            name: String::new(),
            avoid_edge_octets: None,
            reserve_gateway: None,
            reserved: Vec::new(),
            quarantine: Pool::DEFAULT_QUARANTINE,
            share_by_port: false,
            beside: None,
        }
    }
}

impl PoolBuilder {
    /// Adds a prefix. All prefixes of a pool are of one family; their order means nothing.
    ///
    /// The first and the last address of a v4 prefix (network and broadcast) and the first of a v6 prefix (its routers' anycast address, RFC 4291
    /// §2.6.1) are never given, but in a /31, /32, /127 and /128, which have none (RFC 3021, RFC 6164).
    #[must_use]
    pub fn prefix(mut self, prefix: IpNet) -> Self {
        self.prefixes.push(prefix);
        self
    }

    /// Adds prefixes.
    #[must_use]
    pub fn prefixes(mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        self.prefixes.extend(prefixes);
        self
    }

    /// How an address is chosen. Default: [`Strategy::ByHash`].
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// A text that goes into the hash, so that two projects with the same names have different addresses. Default: empty.
    #[must_use]
    pub fn salt(mut self, salt: &str) -> Self {
        salt.clone_into(&mut self.salt);
        self
    }

    /// The name of the pool, which goes into the hash beside the salt: pools of one name (a v4 and a v6 one) choose from one number. Default: empty.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Keeps off every v4 address that ends in .0 or .255, at which some clients stumble: 65,024 addresses of a /16 remain. Default: on by
    /// hash, off with [`Strategy::LowestFree`].
    #[must_use]
    pub fn avoid_edge_octets(mut self, avoid: bool) -> Self {
        self.avoid_edge_octets = Some(avoid);
        self
    }

    /// Reserves the address after the first of each prefix (.1) for a gateway, where the prefix has more than two addresses. Default: on
    /// with [`Strategy::LowestFree`], which is for an interface of one's own; off by hash.
    #[must_use]
    pub fn reserve_gateway(mut self, reserve: bool) -> Self {
        self.reserve_gateway = Some(reserve);
        self
    }

    /// Keeps an address, a prefix or a range from being given. What lies outside of the prefixes does no harm.
    ///
    /// Always reserved are 127.0.0.1 and ::1, and the loopback addresses that systems commonly use already: 127.0.0.53 and 127.0.0.54
    /// (systemd-resolved), 127.0.1.1 (the host's own name on Debian).
    #[must_use]
    pub fn reserve(mut self, range: impl Into<AddressRange>) -> Self {
        self.reserved.push(range.into());
        self
    }

    /// How long a released address is kept from other keys. Default: [`Pool::DEFAULT_QUARANTINE`].
    #[must_use]
    pub fn quarantine(mut self, time: Duration) -> Self {
        self.quarantine = time;
        self
    }

    /// Lets endpoints of several keys, leased by [`Allocator::lease_port`](crate::Allocator::lease_port), stand at one address
    /// at ports of their own: for pools with few addresses. Default: off, a key has its address for itself.
    #[must_use]
    pub fn share_by_port(mut self, share: bool) -> Self {
        self.share_by_port = share;
        self
    }

    /// A v6 prefix of /96 or shorter, such as a ULA /64, whose addresses stand beside the v4 addresses of the pool: 127.77.3.4 has
    /// `fd77::7f4d:304` in `fd77::/64`. So a key has a v4 and a v6 address by one lease, and neither can collide without the other. Default: none.
    #[must_use]
    pub fn beside(mut self, prefix: Ipv6Net) -> Self {
        self.beside = Some(prefix);
        self
    }

    /// Checks the choices and makes them a pool.
    ///
    /// # Errors
    /// [`Error::EmptyPool`] where no address remains, [`Error::HostBits`], [`Error::MixedFamilies`], [`Error::Overlap`] for the prefixes,
    /// [`Error::BadSalt`] where salt or name have a NUL byte, [`Error::BadBeside`].
    pub fn build(self) -> Result<Pool, Error> {
        let mut prefixes = self.prefixes;
        prefixes.sort_unstable();
        let Some(first) = prefixes.first() else {
            return Err(Error::EmptyPool {
                pool: "(no prefix)".to_owned(),
            });
        };
        let family = Family::of(first.addr());
        for prefix in &prefixes {
            if Family::of(prefix.addr()) != family {
                return Err(Error::MixedFamilies {
                    one: *first,
                    other: *prefix,
                });
            }
            if prefix.addr() != prefix.network() {
                return Err(Error::HostBits {
                    prefix: *prefix,
                    network: prefix.trunc(),
                });
            }
        }
        for (one, other) in prefixes.iter().zip(prefixes.iter().skip(1)) {
            if one.contains(other) || other.contains(one) {
                return Err(Error::Overlap {
                    one: *one,
                    other: *other,
                });
            }
        }
        if self.salt.contains('\0') || self.name.contains('\0') {
            return Err(Error::BadSalt);
        }
        if let Some(net) = self.beside
            && (family == Family::V6 || net.prefix_len() > 96 || net.addr() != net.network())
        {
            return Err(Error::BadBeside { prefix: net });
        }
        let by_hash = self.strategy == Strategy::ByHash;
        let avoid_edge_octets = self.avoid_edge_octets.unwrap_or(by_hash);
        let mut reserved = Runs::default();
        for range in always_reserved()
            .chain(self.reserved)
            .filter(|range| range.family() == family)
        {
            reserved.insert(number(range.first()), number(range.last()));
        }
        if self.reserve_gateway.unwrap_or(!by_hash) {
            for prefix in prefixes
                .iter()
                .filter(|prefix| prefix.max_prefix_len() - prefix.prefix_len() >= 2)
            {
                let gateway = number(prefix.network()) + 1;
                reserved.insert(gateway, gateway);
            }
        }
        let space = Space::new(family, &prefixes, avoid_edge_octets);
        let pool = Pool {
            hasher: KeyHasher::new(&self.salt, &self.name),
            prefixes,
            strategy: self.strategy,
            salt: self.salt,
            name: self.name,
            avoid_edge_octets,
            quarantine: self.quarantine,
            share_by_port: self.share_by_port,
            beside: self.beside,
            space,
            reserved,
        };
        if pool.usable() == 0 {
            return Err(Error::EmptyPool {
                pool: pool.to_string(),
            });
        }
        Ok(pool)
    }
}

fn always_reserved() -> impl Iterator<Item = AddressRange> {
    [[0, 0, 1], [0, 0, 53], [0, 0, 54], [0, 1, 1]]
        .into_iter()
        .map(|[b, c, d]| AddressRange::from(IpAddr::V4(Ipv4Addr::new(127, b, c, d))))
        .chain([AddressRange::from(IpAddr::V6(Ipv6Addr::LOCALHOST))])
}
