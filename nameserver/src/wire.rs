//! A query as it came, and a reply as it is put together. The library `domain` takes messages apart; a reply is the question as it
//! came, followed by records whose owner is a pointer into it.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::opt::Opt;
use domain::base::{Message, ParsedRecord};

use crate::data::Data;
use crate::name::Name;

/// The header of every message (RFC 1035 §4.1.1).
pub(crate) const HEADER_LEN: usize = 12;

/// What fits into a datagram for whoever sends no OPT (RFC 1035 §2.3.4).
const PLAIN_UDP_LEN: usize = 512;

/// An OPT record without options.
pub(crate) const OPT_LEN: usize = 11;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As one datagram.
    Udp,
    /// On a stream: TCP or TLS.
    Tcp,
}

/// A query that can be understood.
pub(crate) struct Query<'a> {
    packet: &'a [u8],
    /// Where the question ends.
    question_end: usize,
    lower: [u8; Name::MAX_LEN],
    pub(crate) rtype: Rtype,
    pub(crate) class: Class,
    pub(crate) edns: Option<Edns>,
}

/// What the OPT record of a query says (RFC 6891 §6.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    udp_len: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// What came in place of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoQuery {
    /// Shorter than a header: there is no id to answer with.
    Short,
    /// A response. Whoever answers these can be made to talk to itself.
    Response,
    /// An operation other than QUERY.
    Operation,
    /// Something that the format does not allow.
    Malformed,
}

impl<'a> Query<'a> {
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, NoQuery> {
        let message = Message::from_slice(packet).map_err(|_| NoQuery::Short)?;
        let header = message.header();
        if header.qr() {
            return Err(NoQuery::Response);
        }
        if header.opcode() != Opcode::QUERY {
            return Err(NoQuery::Operation);
        }
        let counts = message.header_counts();
        if counts.qdcount() != 1 {
            return Err(NoQuery::Malformed);
        }
        let mut section = message.question();
        let Some(Ok(question)) = section.next() else {
            return Err(NoQuery::Malformed);
        };
        let name = question.qname();
        // There is nothing before the first name that it could point to but the header.
        if name.is_compressed() {
            return Err(NoQuery::Malformed);
        }
        let question_end = section.pos();
        let mut lower = [0; Name::MAX_LEN];
        let wire = packet
            .get(HEADER_LEN..question_end - 4)
            .ok_or(NoQuery::Malformed)?;
        let space = lower.get_mut(..wire.len()).ok_or(NoQuery::Malformed)?;
        space.copy_from_slice(wire);
        // Lengths are at most 63, below the letters.
        space.make_ascii_lowercase();
        let edns = if counts.ancount() == 0 && counts.nscount() == 0 && counts.arcount() == 0 {
            if question_end != packet.len() {
                return Err(NoQuery::Malformed);
            }
            None
        } else {
            edns(message)?
        };
        Ok(Self {
            packet,
            question_end,
            lower,
            rtype: question.qtype(),
            class: question.qclass(),
            edns,
        })
    }

    /// The name that is asked for, in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        let len = self.question_end - 4 - HEADER_LEN;
        self.lower.get(..len).unwrap_or_default()
    }

    /// The question as it came: name, type and class.
    pub(crate) fn question(&self) -> &'a [u8] {
        self.packet.get(HEADER_LEN..self.question_end).unwrap_or_default()
    }

    pub(crate) fn wants_recursion(&self) -> bool {
        self.packet.get(2).is_some_and(|flags| flags & 0x01 != 0)
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.packet.get(3).is_some_and(|flags| flags & 0x10 != 0)
    }

    /// How long the reply may be.
    pub(crate) fn reply_limit(&self, transport: Transport, our_udp_len: u16) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_UDP_LEN,
            // Sizes below 512 mean 512 (RFC 6891 §6.2.3).
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_len.min(our_udp_len)).max(PLAIN_UDP_LEN),
        }
    }
}

/// Reads all records behind the question: they must be well-formed up to the packet's last byte.
fn edns(message: &Message<[u8]>) -> Result<Option<Edns>, NoQuery> {
    let malformed = |_| NoQuery::Malformed;
    let (_, answer, authority, mut additional) = message.sections().map_err(malformed)?;
    for record in answer.chain(authority) {
        if record.map_err(malformed)?.rtype() == Rtype::OPT {
            return Err(NoQuery::Malformed);
        }
    }
    let mut edns = None;
    for record in additional.by_ref() {
        let record = record.map_err(malformed)?;
        if record.rtype() == Rtype::OPT {
            // One at most, and the root's (RFC 6891 §6.1.1).
            if edns.is_some() || !record.owner().is_root() {
                return Err(NoQuery::Malformed);
            }
            edns = Some(opt(&record)?);
        }
    }
    if additional.pos() != message.as_slice().len() {
        return Err(NoQuery::Malformed);
    }
    Ok(edns)
}

fn opt(record: &ParsedRecord<'_, [u8]>) -> Result<Edns, NoQuery> {
    // Also checks that the options add up.
    if !matches!(record.to_record::<Opt<_>>(), Ok(Some(_))) {
        return Err(NoQuery::Malformed);
    }
    let [_, version, flags, _] = record.ttl().as_secs().to_be_bytes();
    Ok(Edns {
        udp_len: record.class().to_int(),
        version,
        dnssec_ok: flags & 0x80 != 0,
    })
}

/// A reply to a query that could not be read, if it is to have one: the header alone.
pub(crate) fn write_error(packet: &[u8], rcode: Rcode, reply: &mut Vec<u8>) {
    reply.clear();
    if let &[id_high, id_low, flags, ..] = packet {
        // The operation and RD as they came.
        reply.extend_from_slice(&[id_high, id_low, 0x80 | (flags & 0x79), rcode.to_int()]);
        reply.extend_from_slice(&[0; 8]);
    }
}

/// An OPT record without options (RFC 6891 §6.1.2).
pub(crate) fn opt_record(udp_len: u16, extended_rcode: u8, dnssec_ok: bool) -> [u8; OPT_LEN] {
    let [high, low] = udp_len.to_be_bytes();
    [
        0,
        0,
        41,
        high,
        low,
        extended_rcode,
        0,
        u8::from(dnssec_ok) << 7,
        0,
        0,
        0,
    ]
}

/// Adds an OPT record to a reply of somebody else's that has none, and leaves only the question where it is too long.
pub(crate) fn fit(reply: &mut Vec<u8>, question_len: usize, limit: usize, opt: Option<[u8; OPT_LEN]>) {
    let opt_len = opt.map_or(0, |opt| opt.len());
    if reply.len() + opt_len > limit {
        reply.truncate(HEADER_LEN + question_len);
        reply[2] |= 0x02;
        reply[6..12].fill(0);
    }
    if let Some(opt) = opt {
        let additional = u16::from_be_bytes([reply[10], reply[11]]).saturating_add(1);
        reply[10..12].copy_from_slice(&additional.to_be_bytes());
        reply.extend_from_slice(&opt);
    }
}

/// Where a record's owner is: a position in the message, as the first bytes of a record (RFC 1035 §4.1.4).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(u16);

impl Owner {
    /// The name that was asked for.
    pub(crate) const QUESTION: Self = Self(0xC000 | 12);

    /// The last `len` bytes of the name that was asked for.
    pub(crate) fn suffix(query: &Query<'_>, len: usize) -> Self {
        let skipped = query.name().len().saturating_sub(len);
        Self(u16::try_from(skipped).map_or(Self::QUESTION.0, |skipped| Self::QUESTION.0 + skipped))
    }
}

/// A reply in the making. It is whole when [`finish`](Reply::finish) has set the counts.
pub(crate) struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    question_end: usize,
    /// How long it may be, without what OPT will take.
    limit: usize,
    edns: Option<EdnsReply>,
    answers: u16,
    authorities: u16,
    truncated: bool,
}

#[derive(Clone, Copy)]
struct EdnsReply {
    udp_len: u16,
    extended_rcode: u8,
    dnssec_ok: bool,
}

/// The settings of a reply.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) transport: Transport,
    /// The longest datagram that we take and send.
    pub(crate) udp_len: u16,
    pub(crate) authoritative: bool,
    pub(crate) recursion_available: bool,
}

impl<'a> Reply<'a> {
    pub(crate) fn start(query: &Query<'_>, rcode: u16, shape: Shape, bytes: &'a mut Vec<u8>) -> Self {
        bytes.clear();
        let head = query.packet.get(..HEADER_LEN).unwrap_or(&[0; HEADER_LEN]);
        let [low, high] = rcode.to_le_bytes().map(|byte| byte);
        let extended_rcode = (high << 4) | (low >> 4);
        let flags = 0x80 | (u8::from(shape.authoritative) << 2) | (head[2] & 0x01);
        // AD is never set: nothing was validated here. CD is copied (RFC 4035 §3.2.2).
        let more = (u8::from(shape.recursion_available) << 7) | (head[3] & 0x10) | (low & 0x0F);
        bytes.extend_from_slice(&[head[0], head[1], flags, more, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(query.question());
        let edns = query.edns.map(|edns| EdnsReply {
            udp_len: shape.udp_len,
            extended_rcode,
            dnssec_ok: edns.dnssec_ok,
        });
        let limit = query.reply_limit(shape.transport, shape.udp_len);
        Self {
            question_end: bytes.len(),
            bytes,
            limit: limit - edns.map_or(0, |_| OPT_LEN),
            edns,
            answers: 0,
            authorities: 0,
            truncated: false,
        }
    }

    /// Adds a record to the answer.
    pub(crate) fn answer(&mut self, owner: Owner, ttl: u32, data: &Data) {
        let added = data.with_wire(|rdata| self.record(owner, data.rtype(), ttl, rdata));
        self.answers += u16::from(added);
    }

    /// Adds the SOA record that says for how long there is no such record (RFC 2308 §2), or that was asked for.
    pub(crate) fn soa(&mut self, owner: Owner, ttl: u32, negative_ttl: u32, serial: u32, place: Place) {
        let mut rdata = [0; SOA_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(space) = rdata.get_mut(at..at + bytes.len()) {
                space.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        // As in the zones that everyone has (RFC 6303 §3): "SOA @ nobody.invalid. SERIAL 3600 1200 604800 TTL".
        put(&owner.0.to_be_bytes());
        put(NOBODY);
        for number in [serial, 3600, 1200, 604_800, negative_ttl] {
            put(&number.to_be_bytes());
        }
        let added = self.record(owner, Rtype::SOA.to_int(), ttl, &rdata);
        match place {
            Place::Answer => self.answers += u16::from(added),
            Place::Authority => self.authorities += u16::from(added),
        }
    }

    fn record(&mut self, owner: Owner, rtype: u16, ttl: u32, rdata: &[u8]) -> bool {
        let Ok(len) = u16::try_from(rdata.len()) else {
            return false;
        };
        if self.truncated || self.bytes.len() + 12 + rdata.len() > self.limit {
            self.truncated = true;
            return false;
        }
        let mut head = [0; 12];
        head[..2].copy_from_slice(&owner.0.to_be_bytes());
        head[2..4].copy_from_slice(&rtype.to_be_bytes());
        head[4..6].copy_from_slice(&Class::IN.to_int().to_be_bytes());
        head[6..10].copy_from_slice(&ttl.to_be_bytes());
        head[10..].copy_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(rdata);
        true
    }

    /// Sets counts and flags, adds OPT. Where not all fitted, no record is in it: a part of a set is worth nothing (RFC 2181 §9).
    pub(crate) fn finish(self) {
        let Self { bytes, edns, .. } = self;
        let (answers, authorities) = if self.truncated {
            bytes.truncate(self.question_end);
            bytes[2] |= 0x02;
            (0, 0)
        } else {
            (self.answers, self.authorities)
        };
        bytes[6..8].copy_from_slice(&answers.to_be_bytes());
        bytes[8..10].copy_from_slice(&authorities.to_be_bytes());
        if let Some(edns) = edns {
            bytes[11] = 1;
            bytes.extend_from_slice(&opt_record(edns.udp_len, edns.extended_rcode, edns.dnssec_ok));
        }
    }
}

/// In which section a record goes.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Answer,
    Authority,
}

const NOBODY: &[u8] = b"\x06nobody\x07invalid\x00";
const SOA_LEN: usize = 2 + NOBODY.len() + 20;
