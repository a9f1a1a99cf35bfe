//! What is answered, question by question.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use domain::base::iana::Rtype;
use nameserver::{
    Answering, Data, Outcome, Record, Registry, Responder, Sharing, Transport, Unreadable, Verdict, Zone,
};
use support::{answering, ask, ask_over, query, query_edns, registry, responder};

/// RFC 6303 §3.
const SOA: &str = "nobody.invalid. 1 3600 1200 604800 5";

fn verdict(responder: &Responder, packet: &[u8]) -> Verdict {
    responder.respond(packet, Transport::Udp, &mut Vec::new())
}

#[test]
fn a_known_name_has_one_answer_with_and_without_the_suffix() {
    for name in [
        "orders.backend.devbox.test",
        "orders.backend",
        "orders",
        "orders.devbox.test",
    ] {
        let reply = ask(&responder(), &query(name, Rtype::A));
        assert_eq!(
            (reply.rcode.as_str(), reply.aa, reply.ra),
            ("NOERROR", true, false)
        );
        assert_eq!(reply.answer, [format!("{name} 5 A 127.77.0.2")]);
        assert_eq!((reply.authority.len(), reply.edns), (0, None));
    }
}

#[test]
fn a_zone_may_keep_its_names_to_the_full_form() {
    let registry = Registry::default();
    registry.publish(
        "me",
        &[Record::addresses(
            "api.devbox.test".parse().unwrap(),
            [[10, 0, 0, 1].into()],
        )],
    );
    let zone = |bare| vec![Zone::new("devbox.test".parse().unwrap()).bare(bare)];
    let with = |bare| {
        Responder::new(
            registry.clone(),
            Answering {
                zones: zone(bare),
                ..answering()
            },
        )
    };
    assert_eq!(
        ask(&with(true), &query("api", Rtype::A)).answer,
        ["api 5 A 10.0.0.1"]
    );
    assert_eq!(ask(&with(false), &query("api", Rtype::A)).rcode, "REFUSED");
}

#[test]
fn the_case_of_the_question_is_kept_and_does_not_matter() {
    let name = "OrDeRs.BACKEND.devBOX.Test";
    let reply = ask(&responder(), &query(name, Rtype::A));
    assert_eq!(reply.name, name);
    assert_eq!(reply.answer, [format!("{name} 5 A 127.77.0.2")]);
    let sent = query(name, Rtype::A);
    assert_eq!(reply.bytes[12..sent.len()], sent[12..]);
}

#[test]
fn a_name_without_such_records_is_no_data_with_soa() {
    for rtype in [
        Rtype::AAAA,
        Rtype::TXT,
        Rtype::MX,
        Rtype::HTTPS,
        Rtype::SRV,
        Rtype::CNAME,
    ] {
        let reply = ask(&responder(), &query("orders.backend.devbox.test", rtype));
        assert_eq!(
            (reply.rcode.as_str(), reply.answer.len()),
            ("NOERROR", 0),
            "{rtype}"
        );
        assert_eq!(
            reply.authority,
            [format!("devbox.test 5 SOA devbox.test. {SOA}")],
            "{rtype}"
        );
        // Outside the zones the name is a zone of its own.
        let reply = ask(&responder(), &query("orders.backend", rtype));
        assert_eq!(
            reply.authority,
            [format!("orders.backend 5 SOA orders.backend. {SOA}")]
        );
    }
}

#[test]
fn an_unknown_name_of_the_zone_is_nxdomain_with_soa() {
    let reply = ask(&responder(), &query("nobody.devbox.test", Rtype::A));
    assert_eq!(
        (reply.rcode.as_str(), reply.answer.len(), reply.aa),
        ("NXDOMAIN", 0, true)
    );
    assert_eq!(reply.authority, [format!("devbox.test 5 SOA devbox.test. {SOA}")]);
}

#[test]
fn a_name_that_only_has_names_below_it_exists_inside_the_zone_only() {
    let reply = ask(&responder(), &query("backend.devbox.test", Rtype::A));
    assert_eq!((reply.rcode.as_str(), reply.authority.len()), ("NOERROR", 1));
    // Nobody said that all of `backend` is ours.
    assert_eq!(ask(&responder(), &query("backend", Rtype::A)).rcode, "REFUSED");
}

#[test]
fn the_apex_exists_and_has_a_soa() {
    let reply = ask(&responder(), &query("devbox.test", Rtype::SOA));
    assert_eq!(reply.answer, [format!("devbox.test 5 SOA devbox.test. {SOA}")]);
    let reply = ask(&responder(), &query("devbox.test", Rtype::A));
    assert_eq!(
        (reply.rcode.as_str(), reply.answer.len(), reply.authority.len()),
        ("NOERROR", 0, 1)
    );
}

#[test]
fn the_serial_grows_with_every_change() {
    let responder = responder();
    let before = ask(&responder, &query("devbox.test", Rtype::SOA)).answer;
    responder.registry().withdraw("dev");
    let after = ask(&responder, &query("devbox.test", Rtype::SOA)).answer;
    assert_eq!(
        before,
        ["devbox.test 5 SOA devbox.test. nobody.invalid. 1 3600 1200 604800 5"]
    );
    assert_eq!(
        after,
        ["devbox.test 5 SOA devbox.test. nobody.invalid. 2 3600 1200 604800 5"]
    );
}

#[test]
fn times_are_those_of_the_zone() {
    let zone = Zone::new("devbox.test".parse().unwrap())
        .ttl(std::time::Duration::from_secs(60))
        .negative_ttl(std::time::Duration::from_secs(7));
    let responder = Responder::new(
        registry(),
        Answering {
            zones: vec![zone],
            ..answering()
        },
    );
    let found = ask(&responder, &query("orders.devbox.test", Rtype::A));
    assert_eq!(found.answer, ["orders.devbox.test 60 A 127.77.0.2"]);
    let missing = ask(&responder, &query("x.devbox.test", Rtype::A));
    assert!(missing.authority[0].starts_with("devbox.test 7 SOA") && missing.authority[0].ends_with(" 7"));
}

#[test]
fn the_longest_zone_answers() {
    let zones = ["test", "devbox.test"].map(|apex| Zone::new(apex.parse().unwrap()));
    let responder = Responder::new(
        registry(),
        Answering {
            zones: zones.to_vec(),
            ..answering()
        },
    );
    assert!(ask(&responder, &query("x.devbox.test", Rtype::A)).authority[0].starts_with("devbox.test "));
    assert!(ask(&responder, &query("x.test", Rtype::A)).authority[0].starts_with("test "));
}

#[test]
fn both_families_services_and_texts() {
    let one = |name: &str, rtype| ask(&responder(), &query(name, rtype)).answer;
    assert_eq!(
        one("web.shop.devbox.test", Rtype::AAAA),
        ["web.shop.devbox.test 5 AAAA fd00::3"]
    );
    assert_eq!(one("web.shop", Rtype::ANY).len(), 2);
    let srv = "_pg._tcp.orders.backend";
    assert_eq!(
        one(srv, Rtype::SRV),
        [format!("{srv} 5 SRV 0 5 5432 orders.backend")]
    );
    assert_eq!(one(srv, Rtype::TXT), [format!("{srv} 5 TXT \"version=3\"")]);
    assert_eq!(ask(&responder(), &query(srv, Rtype::A)).authority.len(), 1);
}

#[test]
fn addresses_lead_back_to_canonical_names() {
    let reply = ask(&responder(), &query("2.0.77.127.in-addr.arpa", Rtype::PTR));
    assert_eq!(reply.answer, ["2.0.77.127.in-addr.arpa 5 PTR orders.backend."]);
    let v6 = format!("3.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(
        ask(&responder(), &query(&v6, Rtype::PTR)).answer,
        [format!("{v6} 5 PTR web.shop.")]
    );
    let free = ask(&responder(), &query("9.9.77.127.in-addr.arpa", Rtype::PTR));
    assert_eq!(free.rcode, "NXDOMAIN");
    assert!(free.authority[0].starts_with("77.127.in-addr.arpa 5 SOA 77.127.in-addr.arpa. "));
    assert_eq!(
        ask(&responder(), &query("77.127.in-addr.arpa", Rtype::PTR)).rcode,
        "NOERROR"
    );
    assert_eq!(
        ask(&responder(), &query("2.0.77.127.in-addr.arpa", Rtype::A))
            .authority
            .len(),
        1
    );
    assert_eq!(
        ask(&responder(), &query("1.1.1.1.in-addr.arpa", Rtype::PTR)).rcode,
        "REFUSED"
    );
}

#[test]
fn wildcards_cover_what_does_not_exist() {
    let registry = registry();
    let wild = |name: &str| Record::addresses(name.parse().unwrap(), [[10, 0, 0, 9].into()]);
    registry.publish(
        "wild",
        &[
            wild("*.apps.devbox.test"),
            wild("a.b.apps.devbox.test"),
            wild("*.cdn.example"),
        ],
    );
    let responder = Responder::new(registry, answering());
    let rcode = |name: &str| {
        let reply = ask(&responder, &query(name, Rtype::A));
        (reply.rcode, reply.answer.len())
    };
    let is = |code: &str, answers| (code.to_owned(), answers);
    assert_eq!(rcode("x.apps.devbox.test"), is("NOERROR", 1));
    assert_eq!(rcode("x.y.apps.devbox.test"), is("NOERROR", 1));
    // `b` exists because of `a.b`, so that nothing covers its other children (RFC 4592 §2.2.1).
    assert_eq!(rcode("c.b.apps.devbox.test"), is("NXDOMAIN", 0));
    assert_eq!(rcode("b.apps.devbox.test"), is("NOERROR", 0));
    assert_eq!(rcode("apps.devbox.test"), is("NOERROR", 0));
    assert_eq!(rcode("*.apps.devbox.test"), is("NOERROR", 1));
    assert_eq!(rcode("img.cdn.example"), is("NOERROR", 1));
    assert_eq!(rcode("example"), is("REFUSED", 0));
    // The owner is the name that was asked for.
    let reply = ask(&responder, &query("X.apps.devbox.test", Rtype::A));
    assert_eq!(reply.answer, ["X.apps.devbox.test 5 A 10.0.0.9"]);
}

#[test]
fn two_owners_share_an_alias_or_the_newest_has_it() {
    let registry = Registry::default();
    let api = |last| Record::addresses("api".parse().unwrap(), [[10, 0, 0, last].into()]);
    registry.publish("one", &[api(1)]);
    registry.publish("two", &[api(2)]);
    registry.publish("one", &[api(1)]);
    let answers = |sharing| {
        let responder = Responder::new(
            registry.clone(),
            Answering {
                sharing,
                ..answering()
            },
        );
        ask(&responder, &query("api.devbox.test", Rtype::A)).answer.len()
    };
    assert_eq!(answers(Sharing::All), 2);
    assert_eq!(answers(Sharing::Newest), 1);
    registry.withdraw("two");
    let responder = Responder::new(registry.clone(), answering());
    assert_eq!(
        ask(&responder, &query("api", Rtype::A)).answer,
        ["api 5 A 10.0.0.1"]
    );
    // Two owners with the same address: one record.
    registry.publish("two", &[api(1)]);
    assert_eq!(answers(Sharing::All), 1);
}

#[test]
fn browsers_are_told_to_stay_only_by_a_sole_resolver() {
    let sole = Responder::new(
        registry(),
        Answering {
            sole_resolver: true,
            forwarding: true,
            ..answering()
        },
    );
    let canary = query("use-application-dns.net", Rtype::A);
    assert_eq!(ask(&sole, &canary).rcode, "NXDOMAIN");
    let beside = Responder::new(
        registry(),
        Answering {
            forwarding: true,
            ..answering()
        },
    );
    assert_eq!(verdict(&beside, &canary), Verdict::Forward);
}

#[test]
fn what_is_not_ours_is_forwarded_or_refused() {
    let other = query("example.com", Rtype::A);
    assert_eq!(verdict(&responder(), &other), Verdict::Reply(Outcome::Refused));
    let forwarding = Responder::new(
        registry(),
        Answering {
            forwarding: true,
            ..answering()
        },
    );
    assert_eq!(verdict(&forwarding, &other), Verdict::Forward);
    let mut no_recursion = other;
    no_recursion[2] = 0;
    assert_eq!(
        verdict(&forwarding, &no_recursion),
        Verdict::Reply(Outcome::Refused)
    );
    assert!(ask(&forwarding, &query("orders", Rtype::A)).ra);
    // All types of our names are ours.
    assert_eq!(
        verdict(&forwarding, &query("orders", Rtype::MX)),
        Verdict::Reply(Outcome::NoData)
    );
}

#[test]
fn edns_is_echoed_with_our_size_and_counted() {
    let reply = ask(&responder(), &query_edns("orders", Rtype::A, 4096));
    assert_eq!((reply.edns, reply.answer.len()), (Some(1232), 1));
    let mut dnssec_ok = query_edns("orders", Rtype::A, 4096);
    let flags = dnssec_ok.len() - 4;
    dnssec_ok[flags] = 0x80;
    let reply = ask(&responder(), &dnssec_ok);
    assert_eq!(reply.bytes[reply.bytes.len() - 4], 0x80);
    let mut version = query_edns("orders", Rtype::A, 4096);
    let at = version.len() - 5;
    version[at] = 1;
    let reply = ask(&responder(), &version);
    assert_eq!(
        (reply.rcode.as_str(), reply.answer.len(), reply.edns),
        ("BADVERS", 0, Some(1232))
    );
}

#[test]
fn what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp() {
    let registry = Registry::default();
    let addresses =
        |n: u16| (0..n).map(|i| std::net::IpAddr::from([10, 1, i.to_be_bytes()[0], i.to_be_bytes()[1]]));
    registry.publish(
        "me",
        &[Record::addresses("many".parse().unwrap(), addresses(200))],
    );
    registry.publish(
        "some",
        &[Record::addresses("some".parse().unwrap(), addresses(40))],
    );
    let responder = Responder::new(registry, answering());
    let plain = ask(&responder, &query("many.devbox.test", Rtype::A));
    assert!(plain.tc && plain.answer.is_empty() && plain.bytes.len() <= 512);
    let edns = ask(&responder, &query_edns("many.devbox.test", Rtype::A, 4096));
    assert!(edns.tc && edns.bytes.len() <= 1232 && edns.edns.is_some());
    let tcp = ask_over(&responder, &query("many.devbox.test", Rtype::A), Transport::Tcp);
    assert!(!tcp.tc);
    assert_eq!(tcp.answer.len(), 200);
    // 40 records are too many for 512 bytes and fit 1232; a size below 512 means 512.
    assert!(ask(&responder, &query("some", Rtype::A)).tc);
    assert!(ask(&responder, &query_edns("some", Rtype::A, 100)).tc);
    assert_eq!(
        ask(&responder, &query_edns("some", Rtype::A, 1000)).answer.len(),
        40
    );
}

#[test]
fn what_is_no_query_is_dropped() {
    for packet in [&b""[..], b"\x12\x34\x01\x00", &[0; 11]] {
        assert_eq!(verdict(&responder(), packet), Verdict::Drop);
    }
    let mut response = query("orders", Rtype::A);
    response[2] |= 0x80;
    assert_eq!(verdict(&responder(), &response), Verdict::Drop);
}

#[test]
fn broken_packets_are_format_errors() {
    let good = query("orders", Rtype::A);
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let mut pointer = good[..12].to_vec();
    pointer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
    let mut trailing = good.clone();
    trailing.push(0);
    let mut two_opts = query_edns("orders", Rtype::A, 1232);
    two_opts[11] = 2;
    two_opts.extend_from_slice(&[0, 0, 41, 4, 0xD0, 0, 0, 0, 0, 0, 0]);
    let mut bad_option = query_edns("orders", Rtype::A, 1232);
    let len = bad_option.len();
    bad_option[len - 1] = 4;
    bad_option.extend_from_slice(&[0, 10, 0, 9]);
    let long: String = ["a"; 128].join(".");
    for (what, packet) in [
        ("no question", with(5, 0)),
        ("two questions", with(5, 2)),
        ("a label of 64 bytes", with(12, 64)),
        ("a reserved label type", with(12, 0x80)),
        ("a pointer to itself", pointer),
        ("a name of more than 255 bytes", query(&long, Rtype::A)),
        ("a question that ends early", good[..good.len() - 1].to_vec()),
        ("bytes behind the end", trailing),
        ("a record that is not there", with(11, 1)),
        ("two OPT records", two_opts),
        ("an option that is longer than OPT", bad_option),
    ] {
        let reply = ask(&responder(), &packet);
        assert_eq!(
            (reply.rcode.as_str(), reply.bytes.len()),
            ("FORMERR", 12),
            "{what}"
        );
        let passing_on = Answering {
            forwarding: true,
            unreadable: Unreadable::Forward,
            ..answering()
        };
        assert_eq!(
            verdict(&Responder::new(registry(), passing_on), &packet),
            Verdict::Forward,
            "{what}"
        );
    }
}

#[test]
fn other_operations_are_not_implemented_and_keep_their_code() {
    for opcode in [1_u8, 2, 4, 5, 15] {
        let mut packet = query("orders", Rtype::A);
        packet[2] = opcode << 3;
        let reply = ask(&responder(), &packet);
        assert_eq!(
            (reply.rcode.as_str(), reply.bytes[2]),
            ("NOTIMP", 0x80 | (opcode << 3))
        );
    }
}

#[test]
fn zones_are_not_given_away_and_other_classes_refused() {
    for rtype in [Rtype::AXFR, Rtype::IXFR] {
        assert_eq!(ask(&responder(), &query("devbox.test", rtype)).rcode, "REFUSED");
    }
    let mut chaos = query("version.bind", Rtype::TXT);
    let class = chaos.len() - 1;
    chaos[class] = 3;
    assert_eq!(ask(&responder(), &chaos).rcode, "REFUSED");
}

#[test]
fn checking_disabled_is_copied_and_authentic_data_never_set() {
    let mut packet = query("orders", Rtype::A);
    packet[3] = 0x30;
    let reply = ask(&responder(), &packet);
    assert_eq!(reply.bytes[3] & 0x30, 0x10);
}

#[test]
fn records_of_any_type_are_served() {
    let registry = Registry::default();
    // "1 . alpn=h2"
    let https = Data::raw(65, b"\x00\x01\x00\x00\x01\x00\x03\x02h2".to_vec()).unwrap();
    registry.publish(
        "me",
        &[Record {
            names: vec!["web".parse().unwrap()],
            data: vec![https],
        }],
    );
    let reply = ask(
        &Responder::new(registry, answering()),
        &query("web.devbox.test", Rtype::HTTPS),
    );
    assert_eq!(reply.answer, ["web.devbox.test 5 HTTPS 1 . alpn=h2"]);
}
