//! A client's side of a message: makes queries, and reads replies with another library's eyes.

use domain::base::Message;
use domain::base::iana::Rtype;
use domain::rdata::AllRecordData;
use nameserver::{Answering, Data, Record, Registry, Responder, Transport, Verdict, Zone};

/// Queries have this id unless a test says otherwise.
pub(crate) const ID: u16 = 0x1234;

/// A query for one name with RD.
pub(crate) fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&rtype.to_int().to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

/// The same with an OPT record.
pub(crate) fn query_edns(name: &str, rtype: Rtype, udp_len: u16) -> Vec<u8> {
    let mut packet = query(name, rtype);
    packet[11] += 1;
    let [high, low] = udp_len.to_be_bytes();
    packet.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    packet
}

/// A reply as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: String,
    pub(crate) aa: bool,
    pub(crate) tc: bool,
    pub(crate) ra: bool,
    /// The question's name as it came back.
    pub(crate) name: String,
    /// `OWNER TTL TYPE DATA`
    pub(crate) answer: Vec<String>,
    pub(crate) authority: Vec<String>,
    /// The advertised size of OPT.
    pub(crate) edns: Option<u16>,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a reply; every count must be that of the records that are there, up to the last byte.
pub(crate) fn read(bytes: &[u8]) -> Reply {
    let message = Message::from_octets(bytes.to_vec()).unwrap();
    let header = message.header();
    assert!(header.qr());
    let mut questions = message.question();
    let name = questions
        .next()
        .map(|question| question.unwrap().qname().to_string());
    let (_, answer, authority, mut additional) = message.sections().unwrap();
    let texts = |section: domain::base::message::RecordSection<'_, Vec<u8>>| {
        section
            .map(|record| {
                let record = record.unwrap();
                let data = record.to_any_record::<AllRecordData<_, _>>().unwrap();
                let ttl = record.ttl().as_secs();
                format!("{} {ttl} {} {}", record.owner(), record.rtype(), data.data())
            })
            .collect()
    };
    let mut edns = None;
    for record in additional.by_ref() {
        let record = record.unwrap();
        // Others add addresses here (RFC 2782); we add nothing.
        if record.rtype() == Rtype::OPT {
            edns = Some(record.class().to_int());
        }
    }
    assert_eq!(additional.pos(), bytes.len(), "bytes behind the last record");
    Reply {
        rcode: message.opt_rcode().to_string(),
        aa: header.aa(),
        tc: header.tc(),
        ra: header.ra(),
        name: name.unwrap_or_default(),
        answer: texts(answer),
        authority: texts(authority),
        edns,
        bytes: bytes.to_vec(),
    }
}

/// Two services and their aliases in the zone `devbox.test`.
pub(crate) fn registry() -> Registry {
    let registry = Registry::default();
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let orders = "orders.backend".parse().unwrap();
    registry.publish(
        "dev",
        &[
            Record {
                names: names(&["orders.backend", "orders"]),
                data: vec![Data::from(std::net::IpAddr::from([127, 77, 0, 2]))],
            },
            Record {
                names: names(&["web.shop"]),
                data: vec![
                    Data::from(std::net::IpAddr::from([127, 77, 0, 3])),
                    Data::from("fd00::3".parse::<std::net::IpAddr>().unwrap()),
                ],
            },
            Record {
                names: names(&["_pg._tcp.orders.backend"]),
                data: vec![Data::srv(0, 5, 5432, &orders), Data::txt(["version=3"]).unwrap()],
            },
        ],
    );
    registry
}

pub(crate) fn answering() -> Answering {
    Answering {
        zones: vec![Zone::new("devbox.test".parse().unwrap())],
        prefixes: vec!["127.77.0.0/16".parse().unwrap()],
        ..Answering::default()
    }
}

pub(crate) fn responder() -> Responder {
    Responder::new(registry(), answering())
}

/// The reply to a packet over UDP.
pub(crate) fn ask(responder: &Responder, packet: &[u8]) -> Reply {
    ask_over(responder, packet, Transport::Udp)
}

pub(crate) fn ask_over(responder: &Responder, packet: &[u8], transport: Transport) -> Reply {
    let mut bytes = Vec::new();
    let verdict = responder.respond(packet, transport, &mut bytes);
    assert!(matches!(verdict, Verdict::Reply(_)), "{verdict:?}");
    assert_eq!(bytes[..2], packet[..2], "another id");
    read(&bytes)
}
