//! What is answered: a pure function of the registry, the settings and a packet.

use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use ipnet::IpNet;

use crate::data::Data;
use crate::name::{self, Name};
use crate::registry::{Node, Registry, Snapshot};
use crate::wire::{NoQuery, Owner, Place, Query, Reply, Shape, Transport, write_error};
use crate::zone::{DEFAULT_TTL, Reverse, Zone, reverse_apex_len, seconds};

/// What of a name with several owners is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// What all owners published.
    #[default]
    All,
    /// What the owner published who had the name last.
    Newest,
}

/// What becomes of a packet that has a header but cannot be read beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unreadable {
    /// FORMERR.
    #[default]
    Refuse,
    /// It is forwarded as it is, if we forward at all.
    Forward,
}

/// How questions are answered.
#[derive(Debug, Clone)]
pub struct Answering {
    /// The suffixes that are ours. Default: none; then only the registry's names themselves are.
    pub zones: Vec<Zone>,
    /// The prefixes whose PTR questions are ours, whether or not an address has a name. Default: none.
    pub prefixes: Vec<IpNet>,
    /// How long answers outside the zones hold. Default: [`DEFAULT_TTL`].
    pub ttl: Duration,
    /// What of a name with several owners is answered. Default: all of it.
    pub sharing: Sharing,
    /// Whether other questions can be forwarded; REFUSED otherwise. Default: `false`.
    pub forwarding: bool,
    /// What becomes of packets that cannot be read. Default: FORMERR.
    pub unreadable: Unreadable,
    /// Whether we are the only resolver of the system, as in a container: `use-application-dns.net` does not exist then, which keeps
    /// browsers from asking elsewhere. Default: `false`.
    pub sole_resolver: bool,
    /// The longest datagram that we send, and say that we take. Default: 1232 bytes, which passes every path without fragments.
    pub udp_len: u16,
}

impl Default for Answering {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            prefixes: Vec::new(),
            ttl: DEFAULT_TTL,
            sharing: Sharing::default(),
            forwarding: false,
            unreadable: Unreadable::default(),
            sole_resolver: false,
            udp_len: 1232,
        }
    }
}

/// What is to be done about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The reply is to be sent back.
    Reply(Outcome),
    /// Somebody else knows.
    Forward,
    /// There must be no reply.
    Drop,
}

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Records.
    Answer,
    /// The name has no such records.
    NoData,
    /// There is no such name.
    NoName,
    /// The packet breaks the format.
    FormErr,
    /// Another operation than a query.
    NotImp,
    /// Not ours, or not for anybody.
    Refused,
    /// A version of EDNS that does not exist yet.
    BadVers,
}

/// Answers questions from a registry. Holds no socket and reads no clock; cheap to clone.
///
/// ```
/// use nameserver::{Answering, Outcome, Record, Registry, Responder, Transport, Verdict, Zone};
/// let registry = Registry::default();
/// registry.publish("me", &[Record::addresses("api".parse()?, [[127, 77, 0, 2].into()])]);
/// let zones = vec![Zone::new("devbox.test".parse()?)];
/// let responder = Responder::new(registry, Answering { zones, ..Answering::default() });
///
/// // "api.devbox.test A?"
/// let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x06devbox\x04test\x00\x00\x01\x00\x01";
/// let mut reply = Vec::new();
/// assert_eq!(responder.respond(query, Transport::Udp, &mut reply), Verdict::Reply(Outcome::Answer));
/// assert!(reply.ends_with(&[127, 77, 0, 2]));
/// # Ok::<(), nameserver::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Responder {
    registry: Registry,
    settings: Arc<Answering>,
}

impl Responder {
    /// Answers from this registry.
    pub fn new(registry: Registry, settings: Answering) -> Self {
        Self {
            registry,
            settings: Arc::new(settings),
        }
    }

    /// The names that are answered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Decides about a packet, and writes the reply, if there is to be one, over what `reply` holds.
    pub fn respond(&self, packet: &[u8], transport: Transport, reply: &mut Vec<u8>) -> Verdict {
        let settings = &*self.settings;
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(NoQuery::Short | NoQuery::Response) => return Verdict::Drop,
            Err(NoQuery::Operation) => {
                write_error(packet, Rcode::NOTIMP, reply);
                return Verdict::Reply(Outcome::NotImp);
            }
            Err(NoQuery::Malformed) => {
                if settings.forwarding && settings.unreadable == Unreadable::Forward {
                    return Verdict::Forward;
                }
                write_error(packet, Rcode::FORMERR, reply);
                return Verdict::Reply(Outcome::FormErr);
            }
        };
        let snapshot = self.registry.read();
        let mut writer = Writer {
            query: &query,
            settings,
            snapshot: &snapshot,
            transport,
            reply,
        };
        writer.respond()
    }
}

/// One question being answered.
struct Writer<'a> {
    query: &'a Query<'a>,
    settings: &'a Answering,
    snapshot: &'a Snapshot,
    transport: Transport,
    reply: &'a mut Vec<u8>,
}

/// The code of a version of EDNS that is not ours (RFC 6891 §9).
const BADVERS: u16 = 16;

/// Where the owner of the SOA record is, and how long answers hold.
#[derive(Clone, Copy)]
struct Authority {
    owner: Owner,
    ttl: u32,
    negative_ttl: u32,
}

impl<'a> Writer<'a> {
    fn respond(&mut self) -> Verdict {
        let query = self.query;
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return self.without_records(BADVERS, Outcome::BadVers);
        }
        // Whole zones are not given away, nor classes that are not the Internet's.
        if !matches!(query.class, Class::IN | Class::ANY) || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR)
        {
            return self.without_records(Rcode::REFUSED.to_int().into(), Outcome::Refused);
        }
        let name = query.name();
        let zones = self.settings.zones.iter();
        let zone = zones
            .filter(|zone| name::is_within(name, zone.apex.as_wire()))
            .max_by_key(|zone| zone.apex.as_wire().len());
        match zone {
            Some(zone) => self.inside(zone),
            None => self.outside(),
        }
    }

    /// A name of a zone of ours.
    fn inside(&mut self, zone: &Zone) -> Verdict {
        let name = self.query.name();
        let apex = zone.apex.as_wire();
        let authority = Authority {
            owner: Owner::suffix(self.query, apex.len()),
            ttl: zone.ttl,
            negative_ttl: zone.negative_ttl,
        };
        let snapshot = self.snapshot;
        let full = snapshot.node(name);
        if let Some(node) = full.filter(|node| node.has_records())
            && name != apex
        {
            return self.records(node, authority);
        }
        let relative = Relative::new(name, apex);
        let short = relative.of(name).and_then(|name| snapshot.node(name));
        let with_records = [full, short]
            .into_iter()
            .flatten()
            .find(|node| node.has_records());
        if name == apex {
            if self.query.rtype == Rtype::SOA {
                return self.soa(authority);
            }
            // NODATA, not NXDOMAIN: the apex exists, it has the SOA record. Whoever heard that it does not exist could
            // conclude that nothing below it does (RFC 8020).
            return match with_records {
                Some(node) => self.records(node, authority),
                None => self.no_data(authority),
            };
        }
        if let Some(node) = with_records {
            return self.records(node, authority);
        }
        if full.or(short).is_some() {
            // Exists, because of the names below it (RFC 4592 §2.2.2).
            return self.no_data(authority);
        }
        if !snapshot.has_wildcards() {
            return self.no_name(authority);
        }
        let mut encloser = name;
        while let Some(parent) = name::parent(encloser) {
            encloser = parent;
            let relative = relative.of(encloser);
            let exists = encloser == apex
                || snapshot.node(encloser).is_some()
                || relative.is_some_and(|name| snapshot.node(name).is_some());
            if exists {
                let full = wildcard(snapshot, encloser);
                let found = full.or_else(|| relative.and_then(|name| wildcard(snapshot, name)));
                return match found {
                    Some(node) => self.records(node, authority),
                    None => self.no_name(authority),
                };
            }
        }
        self.no_name(authority)
    }

    /// A name outside the zones: ours only if the registry has it.
    fn outside(&mut self) -> Verdict {
        let name = self.query.name();
        let settings = self.settings;
        let own = Authority {
            owner: Owner::QUESTION,
            ttl: seconds(settings.ttl),
            negative_ttl: seconds(settings.ttl),
        };
        if let Some(node) = self.published(name) {
            return self.records(node, own);
        }
        if let Some(reverse) = Reverse::of(name) {
            return self.reverse(reverse, own);
        }
        let mut full = [0; Name::MAX_LEN];
        for zone in settings.zones.iter().filter(|zone| zone.bare) {
            let found = join(name, zone.apex.as_wire(), &mut full).and_then(|full| self.snapshot.node(full));
            if let Some(node) = found.filter(|node| node.has_records()) {
                let (ttl, negative_ttl) = (zone.ttl, zone.negative_ttl);
                return self.records(
                    node,
                    Authority {
                        ttl,
                        negative_ttl,
                        ..own
                    },
                );
            }
        }
        if settings.sole_resolver && name == CANARY {
            return self.no_name(own);
        }
        self.elsewhere()
    }

    /// A name that is published outside the zones, itself or by a wildcard.
    fn published(&self, name: &[u8]) -> Option<&'a Node> {
        let snapshot = self.snapshot;
        let exact = snapshot.node(name);
        if exact.is_some() || !snapshot.has_wildcards() {
            return exact.filter(|node| node.has_records());
        }
        let mut encloser = name::parent(name)?;
        while snapshot.node(encloser).is_none() {
            encloser = name::parent(encloser)?;
        }
        wildcard(snapshot, encloser)
    }

    /// What an address is called, if it is ours.
    fn reverse(&mut self, reverse: Reverse, own: Authority) -> Verdict {
        let name = self.query.name();
        let ours = |prefix: &&IpNet| match &reverse {
            Reverse::Address(address) => prefix.contains(address),
            Reverse::Prefix(below) => prefix.contains(below),
        };
        let prefix = self.settings.prefixes.iter().find(ours);
        let authority = prefix.map_or(own, |prefix| Authority {
            owner: Owner::suffix(self.query, reverse_apex_len(name, prefix)),
            ..own
        });
        match reverse {
            Reverse::Address(address) => {
                let mut names = self.snapshot.names_of(address).peekable();
                if names.peek().is_some() {
                    if !matches!(self.query.rtype, Rtype::PTR | Rtype::ANY) {
                        return self.no_data(authority);
                    }
                    let mut reply = self.start(Rcode::NOERROR);
                    for name in names {
                        reply.answer(Owner::QUESTION, own.ttl, &Data::ptr(name));
                    }
                    reply.finish();
                    return Verdict::Reply(Outcome::Answer);
                }
                match prefix {
                    Some(_) => self.no_name(authority),
                    None => self.elsewhere(),
                }
            }
            Reverse::Prefix(_) if prefix.is_some() => self.no_data(own),
            Reverse::Prefix(_) => self.elsewhere(),
        }
    }

    fn elsewhere(&mut self) -> Verdict {
        // A question that must not be passed on has no answer here (RFC 1035 §4.1.1, RD).
        if self.settings.forwarding && self.query.wants_recursion() {
            return Verdict::Forward;
        }
        self.without_records(Rcode::REFUSED.to_int().into(), Outcome::Refused)
    }

    /// The records of a name that are asked for, or that there are none.
    fn records(&mut self, node: &Node, authority: Authority) -> Verdict {
        let rtype = self.query.rtype;
        let asked = |data: &&Data| rtype == Rtype::ANY || data.rtype() == rtype.to_int();
        let sharing = self.settings.sharing;
        let mut reply = self.start(Rcode::NOERROR);
        let mut found = 0;
        let add = |data: &Data| {
            reply.answer(Owner::QUESTION, authority.ttl, data);
            found += 1;
        };
        match sharing {
            Sharing::All => node.distinct().filter(asked).for_each(add),
            Sharing::Newest => node.newest().filter(asked).for_each(add),
        }
        if found == 0 {
            return self.no_data(authority);
        }
        reply.finish();
        Verdict::Reply(Outcome::Answer)
    }

    fn soa(&mut self, authority: Authority) -> Verdict {
        let serial = self.snapshot.generation();
        let mut reply = self.start(Rcode::NOERROR);
        let Authority {
            owner,
            ttl,
            negative_ttl,
        } = authority;
        reply.soa(owner, ttl, negative_ttl, serial, Place::Answer);
        reply.finish();
        Verdict::Reply(Outcome::Answer)
    }

    /// The name exists, but has nothing of that type (RFC 2308 §2.2).
    fn no_data(&mut self, authority: Authority) -> Verdict {
        self.negative(Rcode::NOERROR, authority);
        Verdict::Reply(Outcome::NoData)
    }

    /// There is no such name (RFC 2308 §2.1).
    fn no_name(&mut self, authority: Authority) -> Verdict {
        self.negative(Rcode::NXDOMAIN, authority);
        Verdict::Reply(Outcome::NoName)
    }

    fn negative(&mut self, rcode: Rcode, authority: Authority) {
        let serial = self.snapshot.generation();
        let mut reply = self.start(rcode);
        let Authority {
            owner, negative_ttl, ..
        } = authority;
        // A resolver keeps it for the lesser of the record's TTL and its last field (RFC 2308 §5).
        reply.soa(owner, negative_ttl, negative_ttl, serial, Place::Authority);
        reply.finish();
    }

    fn without_records(&mut self, rcode: u16, outcome: Outcome) -> Verdict {
        Reply::start(self.query, rcode, self.shape(false), self.reply).finish();
        Verdict::Reply(outcome)
    }

    fn start(&mut self, rcode: Rcode) -> Reply<'_> {
        Reply::start(self.query, rcode.to_int().into(), self.shape(true), self.reply)
    }

    fn shape(&self, authoritative: bool) -> Shape {
        Shape {
            transport: self.transport,
            udp_len: self.settings.udp_len,
            authoritative,
            recursion_available: self.settings.forwarding,
        }
    }
}

/// The name that browsers ask for before they go around the system's resolver.
const CANARY: &[u8] = b"\x13use-application-dns\x03net\x00";

/// `*.encloser`, if it has records.
fn wildcard<'s>(snapshot: &'s Snapshot, encloser: &[u8]) -> Option<&'s Node> {
    let mut name = [0; Name::MAX_LEN];
    let node = snapshot.node(join(b"\x01*\x00", encloser, &mut name)?)?;
    (node.has_records()).then_some(node)
}

/// `name` without its root label, followed by `suffix`; `None` if that is too long for a name.
fn join<'b>(name: &[u8], suffix: &[u8], into: &'b mut [u8; Name::MAX_LEN]) -> Option<&'b [u8]> {
    let (_, labels) = name.split_last()?;
    let len = labels.len() + suffix.len();
    let space = into.get_mut(..len)?;
    let (front, back) = space.split_at_mut(labels.len());
    front.copy_from_slice(labels);
    back.copy_from_slice(suffix);
    Some(space)
}

/// The names of a zone without its suffix.
struct Relative {
    /// The labels before the apex and a root label, or only the root label.
    wire: [u8; Name::MAX_LEN],
    len: usize,
    name_len: usize,
}

impl Relative {
    fn new(name: &[u8], apex: &[u8]) -> Self {
        let len = name.len() - apex.len();
        let mut wire = [0; Name::MAX_LEN];
        wire[..len].copy_from_slice(&name[..len]);
        Self {
            wire,
            len,
            name_len: name.len(),
        }
    }

    /// The same for the name or one above it; `None` for the apex and above.
    fn of(&self, name: &[u8]) -> Option<&[u8]> {
        let start = self.name_len - name.len();
        (start < self.len)
            .then(|| self.wire.get(start..=self.len))
            .flatten()
    }
}
