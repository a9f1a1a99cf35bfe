//! The forwarder under virtual time: what it sends, whom it believes, what it tells its clients.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::base::iana::Rtype;
use nameserver::{Forwarder, Forwarding, Transmit, Transport};
use support::{ID, Reply, query, query_edns, read};

/// Two upstreams and a clock.
struct World {
    forwarder: Forwarder<u32>,
    now: Instant,
}

fn upstream(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 53))
}

fn world() -> World {
    world_with(Forwarding::new([upstream(1), upstream(2)]))
}

fn world_with(settings: Forwarding) -> World {
    let mut random = fastrand::Rng::with_seed(7);
    World {
        forwarder: Forwarder::new(settings, move || random.u16(..)),
        now: Instant::now(),
    }
}

impl World {
    fn ask(&mut self, client: u32, packet: &[u8]) {
        self.forwarder
            .handle_query(client, packet, Transport::Udp, self.now);
    }

    fn sent(&mut self) -> Transmit {
        self.forwarder.poll_transmit().unwrap()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.forwarder.handle_timeout(self.now);
    }

    /// Lets the clock run to the next time-out.
    fn wait(&mut self) {
        self.now = self.forwarder.poll_timeout().unwrap();
        self.forwarder.handle_timeout(self.now);
    }

    fn answer(&mut self, sent: &Transmit, packet: &[u8]) {
        self.forwarder
            .handle_reply(sent.port, sent.upstream, packet, self.now);
    }

    fn reply(&mut self) -> (u32, Reply) {
        let (client, bytes) = self.forwarder.poll_reply().unwrap();
        (client, read(&bytes))
    }

    fn no_reply(&mut self) {
        assert!(self.forwarder.poll_reply().is_none());
    }
}

/// A response to a query with A records of this TTL.
fn response(query: &[u8], addresses: u16, ttl: u32) -> Vec<u8> {
    let mut packet = query.to_vec();
    packet[2] |= 0x80;
    packet[6..8].copy_from_slice(&addresses.to_be_bytes());
    // What came as OPT goes back behind the answers.
    let question_end = 12 + packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let opt = packet.split_off(question_end);
    for number in 0..addresses {
        packet.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
        packet.extend_from_slice(&ttl.to_be_bytes());
        let [high, low] = number.to_be_bytes();
        packet.extend_from_slice(&[0, 4, 198, 51, high, low]);
    }
    packet.extend_from_slice(&opt);
    packet
}

fn with_rcode(mut packet: Vec<u8>, rcode: u8) -> Vec<u8> {
    packet[3] = (packet[3] & 0xF0) | rcode;
    packet
}

/// A response without answers, with the SOA record of `.` where it has one.
fn empty(query: &[u8], rcode: u8, soa_ttl: Option<u32>) -> Vec<u8> {
    let mut packet = with_rcode(response(query, 0, 0), rcode);
    if let Some(ttl) = soa_ttl {
        packet[9] = 1;
        packet.extend_from_slice(&[0, 0, 6, 0, 1]);
        packet.extend_from_slice(&ttl.to_be_bytes());
        packet.extend_from_slice(&[0, 22, 0, 0]);
        packet.extend_from_slice(&[0; 16]);
        packet.extend_from_slice(&ttl.to_be_bytes());
    }
    packet
}

#[test]
fn a_reply_reaches_its_client_with_its_id_and_case() {
    let mut world = world();
    world.ask(1, &query("WWW.Example.com", Rtype::A));
    let sent = world.sent();
    assert_eq!((sent.upstream, sent.transport), (upstream(1), Transport::Udp));
    assert_ne!(sent.packet[..2], ID.to_be_bytes());
    world.answer(&sent, &response(&sent.packet, 2, 300));
    let (client, reply) = world.reply();
    assert_eq!(
        (client, reply.bytes[..2].to_vec()),
        (1, ID.to_be_bytes().to_vec())
    );
    assert_eq!(
        reply.answer,
        [
            "WWW.Example.com 300 A 198.51.0.0",
            "WWW.Example.com 300 A 198.51.0.1"
        ]
    );
    assert!(reply.ra);
    assert_eq!(world.forwarder.poll_closed(), Some(sent.port));
    assert_eq!(world.forwarder.poll_timeout(), None);
}

#[test]
fn ids_and_ports_differ_from_question_to_question() {
    let mut world = world();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        world.ask(number, &query(&format!("n{number}.example.com"), Rtype::A));
        let sent = world.sent();
        seen.insert((sent.port, sent.packet[..2].to_vec()));
    }
    let ports: std::collections::BTreeSet<_> = seen.iter().map(|(port, _)| *port).collect();
    assert_eq!((seen.len(), ports.len()), (100, 100));
}

#[test]
fn a_reply_with_another_id_source_or_question_is_ignored() {
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let sent = world.sent();
    let right = response(&sent.packet, 1, 300);
    let mut id = right.clone();
    id[0] ^= 1;
    world.answer(&sent, &id);
    world
        .forwarder
        .handle_reply(sent.port, upstream(9), &right, world.now);
    let mut other = query("example.org", Rtype::A);
    other[..2].copy_from_slice(&sent.packet[..2]);
    world.answer(&sent, &response(&other, 1, 300));
    world.answer(&sent, &sent.packet);
    world.no_reply();
    assert_eq!(world.forwarder.counts().foreign, 4);
    world.answer(&sent, &right);
    assert_eq!(world.reply().1.answer.len(), 1);
    world.answer(&sent, &right);
    world.no_reply();
}

#[test]
fn a_slow_upstream_is_hedged_and_whoever_answers_first_wins() {
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let first = world.sent();
    world.pass(Duration::from_millis(199));
    assert_eq!(world.forwarder.poll_transmit(), None);
    world.pass(Duration::from_millis(1));
    let second = world.sent();
    assert_eq!(second.upstream, upstream(2));
    // The first one is still listened to.
    world.answer(&first, &response(&first.packet, 1, 300));
    assert_eq!(world.reply().1.answer.len(), 1);
    world.answer(&second, &response(&second.packet, 2, 300));
    world.no_reply();
}

#[test]
fn an_upstream_that_is_dead_delays_only_the_first_questions() {
    let mut world = world();
    for number in 0..3 {
        world.ask(number, &query(&format!("n{number}.example.com"), Rtype::A));
        assert_eq!(world.sent().upstream, upstream(1));
        world.wait();
        let second = world.sent();
        world.answer(&second, &response(&second.packet, 1, 300));
        world.reply();
    }
    world.ask(9, &query("n9.example.com", Rtype::A));
    assert_eq!(world.sent().upstream, upstream(2), "the dead one is asked last");
    world.pass(Duration::from_secs(11));
    while world.forwarder.poll_transmit().is_some() {}
    world.ask(10, &query("n10.example.com", Rtype::A));
    assert_eq!(
        world.sent().upstream,
        upstream(1),
        "and tried again after a while"
    );
}

#[test]
fn servfail_comes_at_the_deadline_and_not_later() {
    let mut world = world();
    let start = world.now;
    world.ask(1, &query_edns("example.com", Rtype::A, 1232));
    while world.forwarder.poll_timeout().is_some() {
        world.wait();
    }
    assert_eq!(world.now - start, Duration::from_secs(5));
    let (client, reply) = world.reply();
    assert_eq!(
        (client, reply.rcode.as_str(), reply.name.as_str()),
        (1, "SERVFAIL", "example.com")
    );
    assert_eq!(reply.edns, Some(1232));
    assert!(world.forwarder.counts().sent <= 6);
    assert_eq!(world.forwarder.in_flight(), 0);
}

#[test]
fn a_refusal_or_an_error_of_the_socket_leads_to_the_next_upstream_at_once() {
    for rcode in [2, 4, 5] {
        let mut world = world();
        world.ask(1, &query("example.com", Rtype::A));
        let first = world.sent();
        world.answer(&first, &empty(&first.packet, rcode, None));
        let second = world.sent();
        assert_eq!(second.upstream, upstream(2));
        world.answer(&second, &empty(&second.packet, rcode, None));
        assert_eq!(
            world.reply().1.answer.len(),
            0,
            "what the last one says is passed on"
        );
    }
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let first = world.sent();
    world.forwarder.handle_failure(first.port, world.now);
    let second = world.sent();
    assert_eq!(second.upstream, upstream(2));
    world.forwarder.handle_failure(second.port, world.now);
    assert_eq!(world.reply().1.rcode, "SERVFAIL");
}

#[test]
fn a_truncated_reply_is_fetched_over_tcp_and_cut_to_what_the_client_takes() {
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let sent = world.sent();
    let mut truncated = response(&sent.packet, 0, 0);
    truncated[2] |= 0x02;
    world.answer(&sent, &truncated);
    let tcp = world.sent();
    assert_eq!((tcp.transport, tcp.upstream), (Transport::Tcp, upstream(1)));
    world.answer(&tcp, &response(&tcp.packet, 100, 300));
    let (_, reply) = world.reply();
    assert!(reply.tc && reply.answer.is_empty() && reply.bytes.len() <= 512);
    // Its next question, over TCP, is answered from the cache, whole.
    let packet = query("example.com", Rtype::A);
    world
        .forwarder
        .handle_query(2, &packet, Transport::Tcp, world.now);
    let (_, reply) = world.reply();
    assert_eq!((reply.tc, reply.answer.len()), (false, 100));
}

#[test]
fn asked_twice_both_have_answers_and_the_ttl_runs_down() {
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let sent = world.sent();
    world.answer(&sent, &response(&sent.packet, 1, 300));
    assert_eq!(world.reply().1.answer, ["example.com 300 A 198.51.0.0"]);
    world.pass(Duration::from_secs(100));
    world.ask(2, &query("EXAMPLE.com", Rtype::A));
    assert_eq!(world.reply().1.answer, ["EXAMPLE.com 200 A 198.51.0.0"]);
    world.pass(Duration::from_secs(200));
    world.ask(3, &query("example.com", Rtype::A));
    world.no_reply();
    world.sent();
}

#[test]
fn nothing_is_kept_as_empty_without_a_soa() {
    let mut world = world();
    let example = query("example.com", Rtype::A);
    for (rcode, soa, kept) in [
        (0, None, false),
        (3, None, false),
        (2, Some(300), false),
        (0, Some(300), true),
        (3, Some(0), false),
    ] {
        let mut fresh = world_with(Forwarding::new([upstream(1)]));
        std::mem::swap(&mut world, &mut fresh);
        world.ask(1, &example);
        let sent = world.sent();
        world.answer(&sent, &empty(&sent.packet, rcode, soa));
        world.reply();
        world.ask(2, &example);
        assert_eq!(world.forwarder.poll_reply().is_some(), kept, "{rcode} {soa:?}");
    }
}

#[test]
fn the_same_question_is_asked_once_and_answered_to_all() {
    let mut world = world();
    for client in 1..=3 {
        world.ask(client, &query("example.com", Rtype::A));
    }
    let sent = world.sent();
    assert_eq!(world.forwarder.poll_transmit(), None);
    world.answer(&sent, &response(&sent.packet, 1, 300));
    let clients: Vec<_> = (0..3).map(|_| world.reply().0).collect();
    assert_eq!(clients, [1, 2, 3]);
}

#[test]
fn a_question_that_comes_back_to_us_is_a_loop() {
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let sent = world.sent();
    world.ask(2, &sent.packet);
    let (client, reply) = world.reply();
    assert_eq!((client, reply.rcode.as_str()), (2, "SERVFAIL"));
    assert_eq!(world.forwarder.counts().loops, 1);
    assert_eq!(world.forwarder.poll_transmit(), None);
}

#[test]
fn edns_is_for_one_hop() {
    let mut world = world();
    // A cookie of the client's.
    let mut packet = query_edns("example.com", Rtype::A, 4096);
    let len = packet.len();
    packet[len - 1] = 12;
    packet.extend_from_slice(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    world.ask(1, &packet);
    let sent = world.sent();
    assert_eq!(
        sent.packet[sent.packet.len() - 11..],
        [0, 0, 41, 4, 0xD0, 0, 0, 0, 0, 0, 0]
    );
    world.answer(&sent, &response(&sent.packet, 1, 300));
    let (_, reply) = world.reply();
    assert_eq!((reply.edns, reply.answer.len()), (Some(1232), 1));
    world.ask(2, &query("example.com", Rtype::A));
    assert_eq!(world.sent().packet[11], 0, "who sends no OPT gets none");
}

#[test]
fn more_questions_than_allowed_fail_at_once() {
    let settings = Forwarding {
        max_in_flight: 2,
        ..Forwarding::new([upstream(1)])
    };
    let mut world = world_with(settings);
    for number in 0..3 {
        world.ask(number, &query(&format!("n{number}.example.com"), Rtype::A));
    }
    let (client, reply) = world.reply();
    assert_eq!((client, reply.rcode.as_str()), (2, "SERVFAIL"));
    assert_eq!(world.forwarder.in_flight(), 2);
}

#[test]
fn packets_that_cannot_be_read_are_passed_on_and_back_as_they_are() {
    let mut world = world();
    world.ask(1, b"\x12\x34\x01");
    assert_eq!(world.forwarder.poll_transmit(), None);
    // Two questions, as some devices send them.
    let mut odd = query("example.com", Rtype::A);
    odd[5] = 2;
    odd.extend_from_within(12..);
    world.ask(2, &odd);
    let sent = world.sent();
    assert_eq!(sent.packet[2..], odd[2..]);
    let mut reply = sent.packet.clone();
    reply[2] |= 0x80;
    reply[3] |= 1;
    reply[5] = 1;
    reply.truncate(12 + (odd.len() - 12) / 2);
    world.answer(&sent, &reply);
    let (client, back) = world.forwarder.poll_reply().unwrap();
    assert_eq!((client, &back[..2]), (2, &ID.to_be_bytes()[..]));
    assert_eq!(read(&back).rcode, "FORMERR");
}

#[test]
fn noise_from_upstreams_changes_nothing() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut world = world();
    world.ask(1, &query("example.com", Rtype::A));
    let sent = world.sent();
    let right = response(&sent.packet, 3, 300);
    for _ in 0..20_000 {
        let mut packet = right.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..packet.len());
            packet[at] = random.u8(..);
        }
        packet.truncate(random.usize(..=packet.len()));
        world.answer(&sent, &packet);
        world.pass(Duration::from_micros(1));
        while let Some((client, reply)) = world.forwarder.poll_reply() {
            assert_eq!((client, &reply[..2]), (1, &ID.to_be_bytes()[..]));
            world.now += Duration::from_secs(4_000);
            world.ask(1, &query("example.com", Rtype::A));
        }
        while world.forwarder.poll_transmit().is_some() {}
    }
}

#[test]
fn an_opt_record_that_is_no_additional_record_makes_a_response_unreadable() {
    let opt: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    // In the answer section, in the authority section, and twice among the additional records.
    for (place, count) in [(6, 1), (8, 1), (10, 2)] {
        let mut world = world();
        world.ask(1, &query("example.com", Rtype::A));
        let sent = world.sent();
        let question_end = 12 + sent.packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut packet = sent.packet[..question_end].to_vec();
        packet[2] |= 0x80;
        packet[6..12].fill(0);
        packet[place + 1] = count;
        for _ in 0..count {
            packet.extend_from_slice(opt);
        }
        world.answer(&sent, &packet);
        world.no_reply();
    }
}
