//! Hosts files with everything that resolvers read differently.

use std::collections::BTreeSet;

use fastrand::Rng;

const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "127.0.0.1",
    "127.0.1.1",
    "169.254.0.1",
    "0.0.0.0",
    "::1",
    "::1",
    "::",
    "2001:db8::1",
    "2001:db8::2",
    "2002::1",
    "fc00::1",
    "fe80::1",
];

const ODD_ADDRESSES: &[&str] = &[
    "10.1",
    "127.1",
    "10",
    "010.0.0.1",
    "08.0.0.1",
    "0x7f.0.0.1",
    "0X7F.1",
    "0x",
    "0x.1",
    "0x+5",
    "+1.2",
    "1.-2",
    "10.0.0.256",
    "10.256.1",
    "10.0.65536",
    "10.0.65535",
    "256.1",
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "1.2.3.4.5",
    "1.2.3.4.",
    "1..2",
    ".1",
    "1.2.3.",
    "10.0.0.01",
    "037777777777",
    "0xffffffff",
    "0x100000000",
    "fe80::1%lo",
    "fe80::1%1",
    "fe80::1%",
    "2001:db8::1%lo",
    "2001:db8::1%2",
    "2001:db8::1%99999999999",
    "ff02::1%lo",
    "ff12::1%lo",
    "10.0.0.1%lo",
    "::1%1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:a00:2",
    "::10.0.0.1",
    "0:0:0:0:0:0:0:1",
    "::01.2.3.4",
    "::ffff:10.0.0.256",
    "1:2:3:4:5:6:7::",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7:8:9",
    ":::",
    ":1",
    "1:",
    "12345::",
    "2001:DB8::A",
    "1::2::3",
    "nonsense",
    "localhost",
    "-",
    "[::1]",
    "10.0.0.1,10.0.0.2",
    "10.0.0.1/8",
];

const NAMES: &[&str] = &["a", "b", "foo", "h", "h.example", "localhost", "web-1"];

const ODD_NAMES: &[&str] = &[
    "Foo",
    "FOO",
    "h.",
    "h.example.",
    "a..b",
    ".",
    "-dash",
    "under_score",
    "a,b",
    "http://foo",
    "a:b",
    ":",
    "::2",
    "::1",
    "10.0.0.2",
    "10.0.0.256",
    "1.2.3.4.5",
    "1",
    "0x10",
    "10.1",
    "fe80::1%lo",
    "fe80::1%nope",
    "a%b",
    "caf\u{e9}",
    "\u{10d}",
    "x.1",
    "deadbeef",
    "a@b",
    "*",
    "\u{7f}",
];

pub(crate) fn file(rng: &mut Rng) -> Vec<u8> {
    let mut file = Vec::new();
    if rng.u8(..25) == 0 {
        file.extend(b"\xEF\xBB\xBF");
    }
    if rng.u8(..60) == 0 {
        let name = one(rng, NAMES);
        for n in 0..rng.usize(40..60) {
            let address = if rng.u8(..3) == 0 {
                format!("2001:db8::{n:x}")
            } else {
                format!("10.1.0.{n}")
            };
            file.extend(format!("{address} {name}\n").into_bytes());
        }
    }
    let crlf = rng.u8(..6) == 0;
    let count = rng.usize(..9);
    for at in 0..count {
        let mut line = line(rng);
        if rng.u8(..25) == 0 {
            line.insert(rng.usize(..=line.len()), 0);
        }
        file.extend(line);
        if at + 1 < count || rng.u8(..6) != 0 {
            file.extend_from_slice(if crlf || rng.u8(..20) == 0 { b"\r\n" } else { b"\n" });
        }
    }
    file
}

fn line(rng: &mut Rng) -> Vec<u8> {
    let mut line = Vec::new();
    if rng.u8(..10) == 0 {
        line.extend(blank(rng));
    }
    match rng.u8(..24) {
        0 => return line,
        1 => line.extend(b"# "),
        2 => return (0..rng.usize(..20)).map(|_| rng.u8(11..)).collect(),
        _ => {}
    }
    let addresses = if rng.u8(..4) == 0 {
        ODD_ADDRESSES
    } else {
        ADDRESSES
    };
    line.extend(one(rng, addresses).as_bytes());
    let names = match rng.u8(..20) {
        0 => 0,
        1 => rng.usize(10..45),
        _ => rng.usize(1..4),
    };
    for _ in 0..names {
        line.extend(blank(rng));
        line.extend(name(rng));
    }
    if rng.u8(..10) == 0 {
        // Ends near the length at which musl cuts a line.
        let parts = if rng.u8(..4) == 0 { 2 } else { 1 };
        let wanted = parts * 511 - 8 + rng.usize(..12);
        while line.len() < wanted {
            let left = wanted - line.len();
            line.push(b' ');
            match rng.u8(..3) {
                0 => line.extend(vec![b' '; (left - 1).min(30)]),
                1 => line.extend(vec![b'p'; (left - 1).min(40)]),
                _ => line.extend(one(rng, ADDRESSES).bytes().take(left - 1)),
            }
        }
        for _ in 0..rng.usize(..3) {
            line.extend(blank(rng));
            line.extend(name(rng));
        }
    }
    match rng.u8(..12) {
        0 => line.extend(b" # a comment"),
        1 => line.extend(b"#10.0.0.9 foo"),
        2 => line.extend(blank(rng)),
        _ => {}
    }
    line
}

fn name(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..40) {
        0 => vec![b'x'; rng.usize(250..260)],
        1 => b"caf\xE9".to_vec(),
        2..9 => one(rng, ODD_NAMES).as_bytes().to_vec(),
        _ => one(rng, NAMES).as_bytes().to_vec(),
    }
}

fn blank(rng: &mut Rng) -> &'static [u8] {
    match rng.u8(..12) {
        0 => b"\t",
        1 => b"  \t",
        2 => b"\x0b",
        3 => b"\x0c ",
        4 => b"\r",
        _ => b" ",
    }
}

fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Each word of a file, as it is and in lower case, and one that is not in it.
pub(crate) fn words(file: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut words = BTreeSet::from([b"not-there".to_vec()]);
    for word in file.split(|b| b.is_ascii_whitespace() || matches!(b, 0x0b | b'#' | 0)) {
        if !word.is_empty() {
            words.insert(word.to_vec());
            words.insert(word.to_ascii_lowercase());
        }
    }
    words
}
