//! What dnsmasq and unbound answer to the same questions over the same zone. Where they differ from us, a rule says why.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[path = "support/programs.rs"]
mod programs;
#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use domain::base::iana::Rtype;
use nameserver::{Answering, Data, Record, Registry, Responder, Zone};
use programs::{Server, find, skip};
use support::{Reply, ask, query, read};

const QUESTIONS: usize = 2_000;
const NAMES: u16 = 120;

/// One question.
type Question = (String, Rtype);

/// What two servers are compared by: times and the order of records are everyone's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    rcode: String,
    answer: BTreeSet<String>,
}

fn said(reply: &Reply) -> Said {
    let without_ttl = |record: &String| {
        let mut words: Vec<_> = record.splitn(3, ' ').collect();
        words.remove(1);
        words
            .join(" ")
            .to_ascii_lowercase()
            .replace(". ", " ")
            .trim_end_matches('.')
            .to_owned()
    };
    Said {
        rcode: reply.rcode.clone(),
        answer: reply.answer.iter().map(without_ttl).collect(),
    }
}

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 77, high, low + 1)
}

fn host(number: u16) -> String {
    format!("s{number}.n{}.devbox.test", number % 7)
}

fn has_v6(number: u16) -> bool {
    number.is_multiple_of(3)
}

fn v6(number: u16) -> IpAddr {
    IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 0, number + 1])
}

fn ours() -> Responder {
    let registry = Registry::default();
    let mut records = Vec::new();
    for number in 0..NAMES {
        let mut addresses = vec![IpAddr::from(address(number))];
        addresses.extend(has_v6(number).then(|| v6(number)));
        records.push(Record::addresses(host(number).parse().unwrap(), addresses));
    }
    let target = host(1).parse().unwrap();
    records.push(Record {
        names: vec!["_pg._tcp.devbox.test".parse().unwrap()],
        data: vec![Data::srv(0, 5, 5432, &target)],
    });
    records.push(Record {
        names: vec!["about.devbox.test".parse().unwrap()],
        data: vec![Data::txt(["version=3"]).unwrap()],
    });
    registry.publish("oracle", &records);
    let settings = Answering {
        zones: vec![Zone::new("devbox.test".parse().unwrap()).bare(false)],
        prefixes: vec!["127.77.0.0/16".parse().unwrap()],
        ..Answering::default()
    };
    Responder::new(registry, settings)
}

/// The same questions in every run.
fn questions() -> Vec<Question> {
    let mut random = fastrand::Rng::with_seed(2_026);
    let types = [
        Rtype::A,
        Rtype::A,
        Rtype::AAAA,
        Rtype::TXT,
        Rtype::MX,
        Rtype::SRV,
        Rtype::HTTPS,
        Rtype::CNAME,
    ];
    let question = |_| {
        let number = random.u16(..NAMES);
        let rtype = types[random.usize(..types.len())];
        let [_, _, high, low] = address(number).octets();
        match random.u8(..10) {
            0..4 => (host(number), rtype),
            4 => (host(number).to_ascii_uppercase(), rtype),
            5 => (format!("s{}.n{}.devbox.test", number + NAMES, number % 7), rtype),
            6 => (format!("below.{}", host(number)), rtype),
            7 => {
                let others = [
                    "devbox.test",
                    "n1.devbox.test",
                    "_pg._tcp.devbox.test",
                    "about.devbox.test",
                    "_tcp.devbox.test",
                ];
                (others[usize::from(number) % others.len()].to_owned(), rtype)
            }
            8 => (format!("{low}.{high}.77.127.in-addr.arpa"), Rtype::PTR),
            _ => {
                let others = ["example.com", "www.example.org", "test", "notdevbox.test"];
                (others[usize::from(number) % others.len()].to_owned(), rtype)
            }
        }
    };
    (0..QUESTIONS).map(question).collect()
}

/// A difference that is explained.
struct Rule {
    why: &'static str,
    holds: fn(&Question, &Said, &Said) -> bool,
}

/// Asks both, and fails for every difference that no rule explains. A rule that explains nothing fails as well. Returns what there was.
fn compare(theirs: &Server, rules: &[Rule]) -> String {
    let ours = ours();
    let mut used: BTreeMap<&str, usize> = rules.iter().map(|rule| (rule.why, 0)).collect();
    let mut unexplained = String::new();
    let mut same = 0;
    for question in questions() {
        let packet = query(&question.0, question.1);
        let mine = said(&ask(&ours, &packet));
        let other = said(&read(&theirs.ask(&packet)));
        if mine == other {
            same += 1;
            continue;
        }
        match rules.iter().find(|rule| (rule.holds)(&question, &mine, &other)) {
            Some(rule) => *used.entry(rule.why).or_default() += 1,
            None => writeln!(unexplained, "{question:?}: ours {mine:?}, theirs {other:?}").unwrap(),
        }
    }
    assert!(unexplained.is_empty(), "{unexplained}");
    assert!(
        used.values().all(|count| *count > 0),
        "a rule explains nothing: {used:?}"
    );
    format!("{same} of {QUESTIONS} the same, the others: {used:#?}")
}

#[test]
fn dnsmasq_answers_the_same() {
    let Some(program) = find("dnsmasq") else {
        return skip(
            "dnsmasq_answers_the_same",
            "dnsmasq is not installed (dnsmasq-base)",
        );
    };
    let server = Server::start(&query(&host(0), Rtype::A), |port| {
        let mut command = Command::new(&program);
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        command.args([
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--local=/devbox.test/",
        ]);
        command.args([
            "--rev-server=127.77.0.0/16",
            "--user=root",
            &format!("--port={port}"),
        ]);
        for number in 0..NAMES {
            let v6 = if has_v6(number) {
                format!(",{}", v6(number))
            } else {
                String::new()
            };
            command.arg(format!("--host-record={},{}{v6}", host(number), address(number)));
        }
        command.arg(format!("--srv-host=_pg._tcp.devbox.test,{},5432,0,5", host(1)));
        command.arg("--txt-record=about.devbox.test,version=3");
        command
    });
    println!("{}", compare(&server, &[]));
}

#[test]
fn unbound_answers_the_same() {
    let Some(program) = find("unbound") else {
        return skip("unbound_answers_the_same", "unbound is not installed");
    };
    let folder = std::env::temp_dir().join(format!("nameserver-oracle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut text = format!(
        "server:\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
         use-syslog: no\n directory: \"{}\"\n module-config: \"iterator\"\n local-zone: \".\" refuse\n \
         local-zone: \"devbox.test.\" static\n local-zone: \"77.127.in-addr.arpa.\" static\n \
         local-data: \"devbox.test. SOA devbox.test. nobody.invalid. 1 3600 1200 604800 5\"\n \
         local-data: \"_pg._tcp.devbox.test. SRV 0 5 5432 {}.\"\n local-data: 'about.devbox.test. TXT \"version=3\"'\n",
        folder.display(),
        host(1)
    );
    for number in 0..NAMES {
        writeln!(text, " local-data: \"{}. A {}\"", host(number), address(number)).unwrap();
        writeln!(text, " local-data-ptr: \"{} {}\"", address(number), host(number)).unwrap();
        if has_v6(number) {
            writeln!(text, " local-data: \"{}. AAAA {}\"", host(number), v6(number)).unwrap();
        }
    }
    let file = folder.join("unbound.conf");
    let server = Server::start(&query(&host(0), Rtype::A), |port| {
        let whole = format!("{text} interface: 127.0.0.1@{port}\nremote-control:\n control-enable: no\n");
        std::fs::write(&file, whole).unwrap();
        let mut command = Command::new(&program);
        command.arg("-d").arg("-c").arg(&file);
        command
    });
    let rules = [Rule {
        why: "unbound has a zone `test.` of its own, as resolvers should (RFC 6761 §6.2); we answer for our suffix alone",
        holds: |(name, _), ours, _| {
            let in_test = name == "test" || name == "notdevbox.test";
            in_test && ours.rcode == "REFUSED"
        },
    }];
    println!("{}", compare(&server, &rules));
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}
