//! DNS packets of a client and of an upstream: every reply is readable, has its packet's id and fits; an upstream's packets that were
//! not asked for change nothing.
#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use nameserver::{
    Answering, Data, Forwarder, Forwarding, Record, Registry, Responder, Transport, Unreadable, Verdict, Zone, to_text,
};

static RESPONDER: LazyLock<Responder> = LazyLock::new(|| {
    let registry = Registry::default();
    let name = |text: &str| text.parse().expect("a name");
    let address = |text: &str| Data::from(text.parse::<std::net::IpAddr>().expect("an address"));
    registry.publish(
        "fuzz",
        &[
            Record { names: vec![name("a"), name("*.w")], data: vec![address("127.77.0.2"), address("fd00::2")] },
            Record { names: vec![name("_s._tcp.a")], data: vec![Data::srv(0, 0, 1, &name("a"))] },
        ],
    );
    let settings = Answering {
        zones: vec![Zone::new(name("t"))],
        prefixes: vec!["127.77.0.0/16".parse().expect("a prefix")],
        forwarding: true,
        unreadable: Unreadable::Forward,
        sole_resolver: true,
        ..Answering::default()
    };
    Responder::new(registry, settings)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut reply = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        match RESPONDER.respond(bytes, transport, &mut reply) {
            Verdict::Reply(_) => {
                assert_eq!(reply[..2], bytes[..2]);
                assert!(transport == Transport::Tcp || reply.len() <= 1232);
                assert!(to_text(&reply).is_some());
            }
            Verdict::Forward | Verdict::Drop => {}
        }
    }
    forward(bytes);
});

/// The first half asks, the second half answers.
fn forward(bytes: &[u8]) {
    let upstream = SocketAddr::from(([192, 0, 2, 1], 53));
    let now = Instant::now();
    let mut forwarder = Forwarder::new(Forwarding::new([upstream]), || 7);
    let (question, answer) = bytes.split_at(bytes.len() / 2);
    if question.len() < 12 {
        return;
    }
    forwarder.handle_query((), question, Transport::Udp, now);
    while let Some(sent) = forwarder.poll_transmit() {
        forwarder.handle_reply(sent.port, upstream, answer, now);
        // The same with the id and the question that were asked for.
        let mut right = sent.packet.clone();
        right[2] |= 0x80;
        right.extend_from_slice(answer.get(12..).unwrap_or_default());
        if let (Some(counts), Some(from)) = (right.get_mut(6..12), answer.get(6..12)) {
            counts.copy_from_slice(from);
        }
        forwarder.handle_reply(sent.port, upstream, &right, now);
    }
    while let Some(((), reply)) = forwarder.poll_reply() {
        assert_eq!(reply[..2], question[..2]);
    }
}
