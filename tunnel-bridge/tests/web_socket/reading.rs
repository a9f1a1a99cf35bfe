//! What arrives. The cases follow those of the Autobahn test suite and of tungstenite's own tests.

use std::path::Path;

use proptest::prelude::*;
use tunnel_bridge::Role;

use crate::oracle::{self, End, ours};

/// A frame as a client sends it (masked) and as a server does.
fn frame(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let masked = if role == Role::Server { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ 0..=125), _) => bytes.push(masked | len),
        (_, Ok(len)) => {
            bytes.push(masked | 126);
            bytes.extend(len.to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    if role == Role::Server {
        bytes.extend(KEY);
        bytes.extend(
            payload
                .iter()
                .zip(KEY.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    } else {
        bytes.extend(payload);
    }
    bytes
}

/// Frames (first byte and payload) to one of our sides, and what comes of them: bytes, Pongs, the code that is closed
/// with, and how it ends.
struct Case {
    name: &'static str,
    frames: Vec<(u8, Vec<u8>)>,
    bytes: &'static [u8],
    pongs: &'static [&'static [u8]],
    closes_with: Option<u16>,
    end: Result<&'static str, Option<&'static str>>,
}

/// Ends with a Close of that reason.
const fn closed(reason: &'static str) -> Result<&'static str, Option<&'static str>> {
    Ok(reason)
}

/// Ends as broken, with these words.
const fn broken(why: &'static str) -> Result<&'static str, Option<&'static str>> {
    Err(Some(why))
}

/// Ends where the bytes do.
const CUT: Result<&'static str, Option<&'static str>> = Err(None);

fn close(code: u16, reason: &[u8]) -> (u8, Vec<u8>) {
    (0x88, [&code.to_be_bytes(), reason].concat())
}

#[expect(clippy::too_many_lines, reason = "one straight list")]
fn cases() -> Vec<Case> {
    let case = |name, frames, bytes, pongs, closes_with, end| Case {
        name,
        frames,
        bytes,
        pongs,
        closes_with,
        end,
    };
    let frames = |frames: &[(u8, &[u8])]| {
        frames
            .iter()
            .map(|(first, payload)| (*first, payload.to_vec()))
            .collect::<Vec<_>>()
    };
    let mut cases = vec![
        case("nothing", frames(&[]), b"", &[], None, CUT),
        case("an empty message", frames(&[(0x82, b"")]), b"", &[], None, CUT),
        case(
            "messages are one stream",
            frames(&[(0x82, b"ab"), (0x82, b"c")]),
            b"abc",
            &[],
            None,
            CUT,
        ),
        case(
            "binary is no text",
            frames(&[(0x82, b"\xfe\xff\x80")]),
            b"\xfe\xff\x80",
            &[],
            None,
            CUT,
        ),
        case(
            "texts mean nothing",
            frames(&[(0x81, b"x"), (0x82, b"y"), (0x81, b"\xff")]),
            b"y",
            &[],
            None,
            CUT,
        ),
        case(
            "fragments of a text mean nothing",
            frames(&[(0x01, b"x"), (0x00, b"y"), (0x80, b"z"), (0x82, b"!")]),
            b"!",
            &[],
            None,
            CUT,
        ),
        case(
            "fragments, empty ones too",
            frames(&[
                (0x02, b""),
                (0x00, b"ab"),
                (0x00, b""),
                (0x80, b"c"),
                (0x82, b"d"),
            ]),
            b"abcd",
            &[],
            None,
            CUT,
        ),
        case(
            "control frames inside fragments",
            frames(&[
                (0x02, b"a"),
                (0x89, b"1"),
                (0x00, b"b"),
                (0x8A, b"?"),
                (0x89, b"2"),
                (0x80, b"c"),
            ]),
            b"abc",
            &[b"1", b"2"],
            None,
            CUT,
        ),
        case("an empty Ping", frames(&[(0x89, b"")]), b"", &[b""], None, CUT),
        case(
            "a Ping of 125 bytes",
            frames(&[(0x89, &[7; 125])]),
            b"",
            &[&[7; 125]],
            None,
            CUT,
        ),
        case(
            "a Pong that nobody asked for",
            frames(&[(0x8A, b"x"), (0x82, b"y")]),
            b"y",
            &[],
            None,
            CUT,
        ),
        case(
            "a Ping of 126 bytes",
            frames(&[(0x82, b"a"), (0x89, &[7; 126])]),
            b"a",
            &[],
            Some(1002),
            broken("longer than 125 bytes"),
        ),
        case(
            "a Pong of 126 bytes",
            frames(&[(0x8A, &[7; 126])]),
            b"",
            &[],
            Some(1002),
            broken("longer than 125 bytes"),
        ),
        case(
            "a Ping in fragments",
            frames(&[(0x09, b"x")]),
            b"",
            &[],
            Some(1002),
            broken("in fragments"),
        ),
        case(
            "a Close in fragments",
            frames(&[(0x08, b"")]),
            b"",
            &[],
            Some(1002),
            broken("in fragments"),
        ),
        case(
            "a continuation of nothing",
            frames(&[(0x80, b"x")]),
            b"",
            &[],
            Some(1002),
            broken("goes on that has not begun"),
        ),
        case(
            "a continuation of what has ended",
            frames(&[(0x02, b"a"), (0x80, b"b"), (0x00, b"c")]),
            b"ab",
            &[],
            Some(1002),
            broken("goes on that has not begun"),
        ),
        case(
            "a message inside another one",
            frames(&[(0x02, b"a"), (0x82, b"b")]),
            b"a",
            &[],
            Some(1002),
            broken("inside another one"),
        ),
        case(
            "a text inside a message",
            frames(&[(0x02, b"a"), (0x01, b"b")]),
            b"a",
            &[],
            Some(1002),
            broken("inside another one"),
        ),
        case(
            "a Close without a code",
            frames(&[(0x82, b"a"), (0x88, b"")]),
            b"a",
            &[],
            None,
            closed(""),
        ),
        case(
            "nothing behind a Close counts",
            frames(&[(0x88, b"\x03\xe8bye"), (0x82, b"a"), (0x89, b"b"), (0xFF, b"")]),
            b"",
            &[],
            Some(1000),
            closed("bye"),
        ),
        case(
            "a Close of one byte",
            frames(&[(0x88, b"x")]),
            b"",
            &[],
            Some(1002),
            broken("one byte"),
        ),
        case(
            "a Close inside fragments",
            frames(&[(0x02, b"a"), (0x88, b"\x03\xe9"), (0x80, b"b")]),
            b"a",
            &[],
            Some(1001),
            closed(""),
        ),
        case(
            "the longest reason",
            vec![close(1000, &[b'r'; 123])],
            b"",
            &[],
            Some(1000),
            closed(
                "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr",
            ),
        ),
        case(
            "a reason that is too long",
            vec![close(1000, &[b'r'; 124])],
            b"",
            &[],
            Some(1002),
            broken("longer than 125 bytes"),
        ),
        case(
            "a reason that is no text",
            vec![close(1000, b"\xce\xba\xff")],
            b"",
            &[],
            Some(1007),
            broken("not UTF-8"),
        ),
    ];
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999,
    ] {
        cases.push(case(
            "a code",
            vec![close(code, b"why")],
            b"",
            &[],
            Some(code),
            closed("why"),
        ));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        let end = broken("which none may have");
        cases.push(case(
            "a code that none may have",
            vec![close(code, b"")],
            b"",
            &[],
            Some(1002),
            end,
        ));
    }
    for first in [0xC2, 0xA2, 0x92, 0xF2, 0xC9, 0x98] {
        let end = broken("reserved bits");
        cases.push(case(
            "reserved bits",
            vec![(first, Vec::new())],
            b"",
            &[],
            Some(1002),
            end,
        ));
    }
    for first in (0x83..=0x87).chain(0x8B..=0x8F) {
        let end = broken("unknown opcode");
        cases.push(case(
            "an opcode that is none",
            vec![(first, Vec::new())],
            b"",
            &[],
            Some(1002),
            end,
        ));
    }
    cases
}

#[test]
fn every_case_of_the_table_ends_as_the_rfc_says_however_it_is_cut() {
    for role in [Role::Client, Role::Server] {
        for case in cases() {
            let input: Vec<u8> = case
                .frames
                .iter()
                .flat_map(|(first, payload)| frame(role, *first, payload))
                .collect();
            for (behind, cuts) in [
                (0, vec![]),
                (0, vec![1]),
                (3, vec![2, 0, 5]),
                (usize::MAX, vec![]),
            ] {
                let outcome = ours(role, &input, behind, &cuts);
                let shown = format!("{}, {role:?}, {cuts:?}: {outcome:?}", case.name);
                assert_eq!(outcome.bytes, case.bytes, "{shown}");
                assert_eq!(outcome.pongs, case.pongs, "{shown}");
                let code = outcome.close.map(|close| match close[..] {
                    [] => None,
                    [high, low] => Some(u16::from_be_bytes([high, low])),
                    _ => panic!("{shown}"),
                });
                match (case.end, &outcome.end) {
                    (Ok(reason), End::Closed(said)) => {
                        assert_eq!(said, reason, "{shown}");
                        assert_eq!(code, Some(case.closes_with), "{shown}");
                    }
                    (Err(Some(why)), End::Broken(said)) => {
                        assert!(said.contains(why), "{shown}");
                        assert_eq!(code, Some(case.closes_with), "{shown}");
                    }
                    (Err(None), End::Cut) => assert_eq!(code, None, "{shown}"),
                    _ => panic!("{shown}"),
                }
            }
        }
    }
}

fn is_broken(role: Role, input: &[u8], words: &str) {
    for cuts in [vec![], vec![1]] {
        match ours(role, input, 0, &cuts).end {
            End::Broken(why) => assert!(why.contains(words), "{why}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn a_client_masks_and_a_server_does_not() {
    is_broken(Role::Server, &frame(Role::Client, 0x82, b"x"), "not masked");
    is_broken(Role::Client, &frame(Role::Server, 0x82, b"x"), "is masked");
    // By the head alone.
    is_broken(Role::Server, &[0x89, 0], "not masked");
    is_broken(Role::Client, &[0x89, 0x80], "is masked");
}

#[test]
fn a_key_of_zeros_is_a_key() {
    let input = [&[0x82, 0x83, 0, 0, 0, 0][..], b"abc"].concat();
    assert_eq!(ours(Role::Server, &input, 0, &[]).bytes, b"abc");
}

#[test]
fn a_length_is_written_in_as_few_bytes_as_will_hold_it() {
    let words = "not written as RFC 6455 says";
    is_broken(Role::Client, &[0x82, 126, 0, 125], words);
    is_broken(Role::Client, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], words);
    is_broken(Role::Client, &[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], words);
    let least = [
        &[0x82, 126, 0, 126][..],
        &[1; 126],
        &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0],
        &[2; 65_536],
    ]
    .concat();
    assert_eq!(ours(Role::Client, &least, 0, &[]).bytes.len(), 126 + 65_536);
}

#[test]
fn a_message_has_at_most_4_mib_in_however_many_fragments() {
    const MOST: usize = 4 * 1024 * 1024;
    let words = "longer than 4 MiB";
    for role in [Role::Client, Role::Server] {
        let most = frame(role, 0x82, &vec![7; MOST]);
        assert_eq!(ours(role, &most, 0, &[]).bytes.len(), MOST);
        // By the head alone: nothing is waited for.
        is_broken(role, &frame(role, 0x82, &vec![7; MOST + 1])[..14], words);
        let halves = [
            frame(role, 0x02, &vec![7; MOST / 2]),
            frame(role, 0x80, &vec![7; MOST / 2]),
        ]
        .concat();
        assert_eq!(ours(role, &halves, 0, &[]).bytes.len(), MOST);
        let more = [frame(role, 0x01, &vec![7; MOST]), frame(role, 0x80, b"x")].concat();
        let outcome = ours(role, &more, 0, &[]);
        assert_eq!(outcome.close, Some(1009_u16.to_be_bytes().to_vec()));
        assert!(matches!(outcome.end, End::Broken(_)), "{:?}", outcome.end);
    }
}

#[test]
fn what_the_fuzzer_found_and_began_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web_socket/corpus");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        oracle::check(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files > 0);
}

/// Frames of a conversation, most of them in order.
fn conversation(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => Just(0x82_u8),
        3 => Just(0x02),
        3 => Just(0x00),
        3 => Just(0x80),
        2 => Just(0x81),
        2 => Just(0x89),
        1 => Just(0x8A),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..140),
        1 => prop::collection::vec(any::<u8>(), 60_000..70_000),
        1 => prop::collection::vec(Just(0x03), 0..3),
    ];
    prop::collection::vec((first, payload), 0..12).prop_map(move |frames| {
        frames
            .iter()
            .flat_map(|(first, payload)| frame(role, *first, payload))
            .collect()
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

proptest! {
    #[test]
    fn any_cutting_comes_to_the_same(
        (role, input) in role().prop_flat_map(|role| (Just(role), conversation(role))),
        behind in 0..300usize,
        cuts in prop::collection::vec(prop_oneof![0..20usize, 0..100_000usize], 1..8),
    ) {
        let whole = ours(role, &input, 0, &[]);
        prop_assert_eq!(ours(role, &input, behind, &cuts), whole);
    }

    #[test]
    fn conversations_are_read_as_tungstenite_reads_them(
        (role, input) in role().prop_flat_map(|role| (Just(role), conversation(role))),
        behind in 0..300usize,
        cuts in prop::collection::vec(0..2000usize, 0..8),
    ) {
        oracle::compare(role, &input, behind, &cuts);
    }

    #[test]
    fn any_bytes_are_read_as_tungstenite_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        oracle::check(&bytes);
    }
}
