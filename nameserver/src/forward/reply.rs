//! What an upstream said.

use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};

use super::flow::Key;
use crate::wire::HEADER_LEN;

/// A response that can be read to its end.
pub(super) struct Answer<'a> {
    message: &'a Message<[u8]>,
    records: Records,
}

/// Where the records of a response are.
#[derive(Debug, Clone, Default)]
struct Records {
    /// Where each TTL is, but that of OPT.
    ttls: Vec<usize>,
    /// Where an OPT record at the very end begins.
    opt_at: Option<usize>,
    least_ttl: Option<u32>,
    /// How long it holds that there is nothing, by the SOA record in the authority section (RFC 2308 §5).
    negative_ttl: Option<u32>,
}

impl<'a> Answer<'a> {
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let message = Message::from_slice(packet).ok()?;
        if !message.header().qr() {
            return None;
        }
        let records = Records::of(message).or_else(|| {
            // A truncated response may end in the middle of a record (RFC 2181 §9).
            message.header().tc().then(Records::default)
        })?;
        Some(Self { message, records })
    }

    pub(super) fn id(&self) -> u16 {
        self.message.header().id()
    }

    pub(super) fn rcode(&self) -> Rcode {
        self.message.header().rcode()
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.message.header().tc()
    }

    /// Whether its question is the one that was asked. Packets that could not be read have none to compare.
    pub(super) fn is_for(&self, key: Option<&Key>) -> bool {
        let Some(key) = key else { return true };
        let asked = self
            .message
            .as_slice()
            .get(HEADER_LEN..HEADER_LEN + key.question.len());
        self.message.header_counts().qdcount() == 1
            && asked.is_some_and(|asked| asked.eq_ignore_ascii_case(&key.question))
    }

    /// The response without its OPT record, which is for one hop.
    pub(super) fn to_stored(&self) -> Stored {
        let mut bytes = self.message.as_slice().to_vec();
        if let Some(at) = self.records.opt_at {
            bytes.truncate(at);
            let additional = self.message.header_counts().arcount() - 1;
            bytes[10..12].copy_from_slice(&additional.to_be_bytes());
        }
        // RA: whoever asked us got recursion.
        bytes[3] |= 0x80;
        Stored {
            lifetime: self.lifetime(),
            ttls: self
                .records
                .ttls
                .iter()
                .copied()
                .filter(|at| *at < bytes.len())
                .collect(),
            bytes,
        }
    }

    /// How long it may be kept; `None` if not at all.
    fn lifetime(&self) -> Option<Duration> {
        if self.is_truncated() {
            return None;
        }
        let answers = self.message.header_counts().ancount();
        let seconds = match (self.rcode(), answers) {
            (Rcode::NOERROR, 1..) => self.records.least_ttl?,
            // Nothing is kept as empty without somebody's word for how long (RFC 2308 §5).
            (Rcode::NOERROR | Rcode::NXDOMAIN, _) => self.records.negative_ttl?.min(MAX_NEGATIVE_TTL),
            _ => return None,
        };
        (seconds > 0).then(|| Duration::from_secs(seconds.min(MAX_TTL).into()))
    }
}

impl Records {
    fn of(message: &Message<[u8]>) -> Option<Self> {
        let mut found = Self::default();
        let mut questions = message.question();
        for question in questions.by_ref() {
            question.ok()?;
        }
        let mut section = questions.answer().ok()?;
        let mut number = 0;
        let mut has_opt = false;
        loop {
            let mut begin = section.pos();
            while let Some(record) = section.next() {
                let record = record.ok()?;
                let end = section.pos();
                let ttl_at = end - usize::from(record.rdlen()) - 6;
                if record.rtype() == Rtype::OPT {
                    // RFC 6891 §6.1.1: at most one, among the additional records.
                    if number != ADDITIONAL || has_opt {
                        return None;
                    }
                    has_opt = true;
                    found.opt_at = (end == message.as_slice().len()).then_some(begin);
                } else {
                    let ttl = record.ttl().as_secs();
                    found.ttls.push(ttl_at);
                    found.least_ttl = Some(found.least_ttl.map_or(ttl, |least| least.min(ttl)));
                    if number == AUTHORITY && record.rtype() == Rtype::SOA {
                        let minimum = message.as_slice().get(end - 4..end)?;
                        let minimum = minimum.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte));
                        found.negative_ttl = Some(ttl.min(minimum));
                    }
                }
                begin = end;
            }
            number += 1;
            match section.next_section().ok()? {
                Some(next) => section = next,
                None => return Some(found),
            }
        }
    }
}

/// A response that can be given to anybody who asks the same.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    bytes: Vec<u8>,
    ttls: Vec<usize>,
    pub(super) lifetime: Option<Duration>,
}

impl Stored {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn has_question(&self) -> bool {
        self.bytes.get(5) == Some(&1)
    }

    /// The same after some time: every TTL is less by it.
    pub(super) fn aged(&self, age: Duration) -> Self {
        let mut aged = self.clone();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for at in &self.ttls {
            if let Some(space) = aged.bytes.get_mut(*at..at + 4) {
                let ttl = space
                    .iter()
                    .fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
                space.copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
            }
        }
        aged
    }
}

/// The numbers of sections among those with records.
const AUTHORITY: u32 = 1;
const ADDITIONAL: u32 = 2;

/// Nothing is kept for longer than an hour, and that there is nothing for no longer than a minute: a developer's names come and go.
const MAX_TTL: u32 = 3_600;
const MAX_NEGATIVE_TTL: u32 = 60;
