//! A question in flight, who waits for it, and whom it was sent to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;

use super::port::PortId;
use super::reply::Stored;
use crate::wire::{HEADER_LEN, OPT_LEN, Query, Transport, fit, opt_record, write_error};

pub(super) type FlowId = u64;

/// What makes two questions the same, whoever asks them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Name in lower case, type and class.
    pub(super) question: Box<[u8]>,
    edns: bool,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    pub(super) fn of(query: &Query<'_>) -> Self {
        let mut question = query.name().to_vec();
        question.extend_from_slice(&query.rtype.to_int().to_be_bytes());
        question.extend_from_slice(&query.class.to_int().to_be_bytes());
        Self {
            question: question.into(),
            edns: query.edns.is_some(),
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled(),
        }
    }
}

/// The question as an upstream gets it: of EDNS only that there is one, our size and DO. Options are for one hop (RFC 6891 §6.1.1).
pub(super) fn upstream_query(query: &Query<'_>) -> Vec<u8> {
    let mut packet = vec![
        0,
        0,
        0x01,
        u8::from(query.checking_disabled()) << 4,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    packet.extend_from_slice(query.question());
    if let Some(edns) = query.edns {
        packet[11] = 1;
        packet.extend_from_slice(&opt_record(UPSTREAM_UDP_LEN, 0, edns.dnssec_ok));
    }
    packet
}

/// Passes every path without fragments, which could be forged (RFC 9715 §3).
const UPSTREAM_UDP_LEN: u16 = 1232;

pub(super) struct Flow<C> {
    /// `None` for packets that cannot be read.
    pub(super) key: Option<Key>,
    pub(super) packet: Vec<u8>,
    pub(super) waiters: Vec<Waiter<C>>,
    /// Those without a reply.
    pub(super) attempts: Vec<Attempt>,
    /// How often it was sent, but for TCP after truncation.
    pub(super) asked: usize,
    pub(super) tried: Vec<usize>,
    pub(super) deadline: Instant,
    pub(super) wake: Option<Instant>,
}

impl<C> Flow<C> {
    pub(super) fn new(key: Option<Key>, packet: Vec<u8>, waiter: Waiter<C>, deadline: Instant) -> Self {
        Self {
            key,
            packet,
            waiters: vec![waiter],
            attempts: Vec::new(),
            asked: 0,
            tried: Vec::new(),
            deadline,
            wake: None,
        }
    }
}

/// A packet that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) upstream: usize,
    pub(super) port: PortId,
    pub(super) id: u16,
    pub(super) transport: Transport,
    pub(super) sent_at: Instant,
}

/// Who is to get the reply, and what it must look like.
pub(super) struct Waiter<C> {
    client: C,
    /// The header and the question as they came; the whole packet where it could not be read.
    head: Vec<u8>,
    /// How long the reply may be.
    limit: usize,
    opt: Option<[u8; OPT_LEN]>,
    /// Whether `head` ends with a question.
    readable: bool,
}

impl<C> Waiter<C> {
    pub(super) fn new(client: C, packet: &[u8], query: Option<&Query<'_>>, transport: Transport) -> Self {
        let mut head = packet.to_vec();
        if let Some(query) = query {
            head.truncate(HEADER_LEN + query.question().len());
        }
        Self {
            client,
            head,
            limit: query.map_or(usize::from(u16::MAX), |query| {
                query.reply_limit(transport, u16::MAX)
            }),
            opt: query
                .and_then(|query| query.edns)
                .map(|edns| opt_record(UPSTREAM_UDP_LEN, 0, edns.dnssec_ok)),
            readable: query.is_some(),
        }
    }

    pub(super) fn id(&self) -> u16 {
        match self.head.as_slice() {
            &[high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }

    /// The reply with this client's id, case and EDNS.
    pub(super) fn reply(self, stored: &Stored) -> (C, Vec<u8>) {
        let mut bytes = stored.bytes().to_vec();
        bytes[..2].copy_from_slice(self.head.get(..2).unwrap_or_default());
        if !self.readable {
            return (self.client, bytes);
        }
        let question = self.head.get(HEADER_LEN..).unwrap_or_default();
        if stored.has_question()
            && let Some(space) = bytes.get_mut(HEADER_LEN..HEADER_LEN + question.len())
        {
            space.copy_from_slice(question);
        }
        fit(&mut bytes, question.len(), self.limit, self.opt);
        (self.client, bytes)
    }

    /// SERVFAIL.
    pub(super) fn fail(self) -> (C, Vec<u8>) {
        let mut bytes = Vec::new();
        write_error(&self.head, Rcode::SERVFAIL, &mut bytes);
        bytes[3] |= 0x80;
        if self.readable {
            bytes[5] = 1;
            let question = self.head.get(HEADER_LEN..).unwrap_or_default();
            bytes.extend_from_slice(question);
            fit(&mut bytes, question.len(), self.limit, self.opt);
        }
        (self.client, bytes)
    }
}

/// A server that is asked.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Smoothed, as TCP does it (RFC 6298 §2).
    round_trip: Option<Duration>,
    initial_patience: Duration,
    misses: u32,
    down_until: Option<Instant>,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr, initial_patience: Duration) -> Self {
        Self {
            address,
            round_trip: None,
            initial_patience,
            misses: 0,
            down_until: None,
        }
    }

    /// For how long it alone is waited for.
    pub(super) fn patience(&self) -> Duration {
        let Some(round_trip) = self.round_trip else {
            return self.initial_patience;
        };
        (round_trip * 3).clamp(MIN_PATIENCE, self.initial_patience * 2)
    }

    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    pub(super) fn answered(&mut self, took: Duration) {
        self.misses = 0;
        self.down_until = None;
        self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
    }

    /// Whoever misses several in a row is asked last for a while, so that it delays nobody.
    pub(super) fn missed(&mut self, now: Instant) {
        self.misses = self.misses.saturating_add(1);
        if self.misses >= DOWN_AFTER {
            self.down_until = Some(now + DOWN_FOR);
        }
    }
}

const MIN_PATIENCE: Duration = Duration::from_millis(50);
const DOWN_AFTER: u32 = 3;
const DOWN_FOR: Duration = Duration::from_secs(10);
