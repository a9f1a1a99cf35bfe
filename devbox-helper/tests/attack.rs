//! What a caller must not get, asked of the real helper over its channel: bytes that are no message, messages out of
//! turn, and everything that the policy forbids. After each the file is as before.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use devbox_helper_client::{
    BindFailure, Call, Client, Decoder, Endpoint, Error, Handshake, HelperError, HostsBlock, HostsEntry,
    OLDEST_VERSION, Reply, Request, Response, StartOptions, UserBlock, UserEdit, UserEntry, VERSION, encode,
};

const ORIGINAL: &[u8] =
    b"127.0.0.1 localhost\n# BEGIN mine\n10.0.0.1 other\n# END mine\n10.1.2.3 mine.example";

fn helper_args(file: &Path) -> Vec<String> {
    let pools = ["127.77.0.0/16", "127.0.0.0/8", "10.107.0.0/16", "fd00:77::/64"];
    let mut args = vec!["--hosts-file".to_owned(), file.to_str().unwrap().to_owned()];
    args.extend(
        pools
            .iter()
            .flat_map(|pool| ["--pool".to_owned(), (*pool).to_owned()]),
    );
    args
}

/// A caller that writes what it likes.
struct Raw {
    stream: UnixStream,
    child: Child,
    decoder: Decoder,
    last_id: u64,
}

impl Raw {
    fn start(file: &Path) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_devbox-helper"));
        let child = command
            .args(helper_args(file))
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        Self {
            stream,
            child,
            decoder: Decoder::default(),
            last_id: 0,
        }
    }

    fn greeted(file: &Path) -> Self {
        let mut raw = Self::start(file);
        raw.write(&Handshake::hello());
        assert!(matches!(
            raw.read(),
            Some(Handshake::Welcome { version: VERSION, .. })
        ));
        raw
    }

    fn write(&mut self, message: &impl serde::Serialize) {
        self.stream.write_all(&encode(message).unwrap()).unwrap();
    }

    fn call(&mut self, id: u64, request: Request) {
        self.last_id = id;
        self.write(&Call { id, request });
    }

    fn send(&mut self, request: Request) {
        self.call(self.last_id + 1, request);
    }

    fn frame(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        self.stream
            .write_all(&[&length.to_be_bytes(), body].concat())
            .unwrap();
    }

    /// The reply to the last call; `None` once the helper has ended the stream.
    fn receive(&mut self) -> Option<Reply> {
        let Response { id, reply, .. } = self.read()?;
        assert_eq!(id, Some(self.last_id), "{reply:?}");
        Some(reply)
    }

    /// The reply to something without an id.
    fn receive_for_nobody(&mut self) -> Option<Reply> {
        let Response { id, reply, .. } = self.read()?;
        assert_eq!(id, None, "{reply:?}");
        Some(reply)
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(message) = self.decoder.poll_message().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.decoder.handle_bytes(&bytes[..count]),
                // What we wrote and it did not read makes its end a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the helper says nothing: {error}"),
            }
        }
    }

    fn end(mut self) {
        drop(self.stream);
        self.child.wait().unwrap();
    }
}

fn hosts() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    (dir, file)
}

#[test]
fn first_message_must_be_a_hello() {
    let (_dir, file) = hosts();
    let calls = [
        Request::Sweep,
        Request::Release,
        Request::Bind {
            endpoint: tcp("127.77.0.2:80"),
        },
    ];
    let frames = calls.map(|request| encode(&Call { id: 1, request }).unwrap());
    let out_of_turn = [
        // A request as version 1 had them, and what only a helper says.
        encode(&Request::Sweep).unwrap(),
        encode(&Handshake::Welcome {
            version: VERSION,
            pid: 1,
        })
        .unwrap(),
        vec![0; 4],
        u32::MAX.to_be_bytes().to_vec(),
    ];
    for frame in frames.into_iter().chain(out_of_turn) {
        let mut raw = Raw::start(&file);
        raw.stream.write_all(&frame).unwrap();
        let refusal = raw.read();
        assert!(
            matches!(refusal, Some(Handshake::Error(HelperError::Malformed { .. }))),
            "{frame:?}: {refusal:?}"
        );
        assert_eq!(raw.read::<Handshake>(), None);
        raw.end();
    }
}

#[test]
fn newer_and_older_callers_learn_the_helpers_version() {
    let (_dir, file) = hosts();
    for version in [0, 1, VERSION + 1, u32::MAX] {
        let mut raw = Raw::start(&file);
        raw.write(&Handshake::Hello {
            version,
            oldest: None,
        });
        // In the form that version 1 reads.
        let mismatch = serde_json::json!({"version_mismatch": {
            "client": version, "server": VERSION, "server_oldest": OLDEST_VERSION,
        }});
        assert_eq!(raw.read(), Some(serde_json::json!({ "error": mismatch })));
        assert_eq!(raw.read::<Handshake>(), None);
        raw.end();
    }
}

#[test]
fn second_hello_is_refused() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    raw.write(&Handshake::hello());
    assert!(matches!(
        raw.receive_for_nobody(),
        Some(Reply::Error(HelperError::Malformed { .. }))
    ));
    raw.send(Request::Sweep);
    assert!(matches!(raw.receive(), Some(Reply::Swept(_))));
    raw.end();
}

/// Ids mean nothing to the helper: any is repeated, and one that is used twice gives nobody anything.
#[test]
fn ids_are_repeated_whatever_they_are() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    for id in [0, 1, 1, u64::MAX, 7, 0, 1 << 53] {
        raw.call(id, Request::Sweep);
        assert!(matches!(raw.receive(), Some(Reply::Swept(_))));
    }
    // Several at once under one id: answered one after the other, in order.
    let requests = [
        Request::SetHosts { block: good_block() },
        Request::Release,
        Request::Sweep,
    ];
    for request in requests {
        raw.call(5, request);
    }
    assert!(matches!(raw.receive(), Some(Reply::Hosts(_))));
    let released = raw.receive();
    assert!(
        matches!(&released, Some(Reply::Released(report)) if report.removed_block.as_deref() == Some("devbox-a")),
        "{released:?}"
    );
    assert!(matches!(raw.receive(), Some(Reply::Swept(report)) if report.removed.is_empty()));
    raw.end();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn frames_without_a_usable_id_are_answered_without_one() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    for body in [
        &br#"{"request":"release"}"#[..],
        br#"{"id":null,"request":"release"}"#,
        br#"{"id":-1,"request":"release"}"#,
        br#"{"id":1.5,"request":"release"}"#,
        br#"{"id":"1","request":"release"}"#,
        br#"{"id":18446744073709551616,"request":"release"}"#,
        br#"{"id":1,"id":1,"request":"release"}"#,
        br#"{"hello":{"version":2}}"#,
    ] {
        raw.frame(body);
        let reply = raw.receive_for_nobody();
        assert!(
            matches!(reply, Some(Reply::Error(HelperError::Malformed { .. }))),
            "{reply:?}"
        );
    }
    // What is not understood, but has an id, is answered under it.
    raw.last_id = 9;
    for body in [
        &br#"{"id":9,"request":"exec"}"#[..],
        br#"{"id":9}"#,
        br#"{"id":9,"request":"sweep","as":"root"}"#,
        br#"{"id":9,"request":"sweep","request":"sweep"}"#,
    ] {
        raw.frame(body);
        let reply = raw.receive();
        assert!(
            matches!(reply, Some(Reply::Error(HelperError::Malformed { .. }))),
            "{reply:?}"
        );
    }
    raw.send(Request::Sweep);
    assert!(matches!(raw.receive(), Some(Reply::Swept(_))));
    raw.end();
}

/// A descriptor with every byte of many requests: none stays open in the helper.
#[cfg(target_os = "linux")]
#[test]
fn descriptors_that_come_with_requests_are_closed() {
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    let descriptors = format!("/proc/{}/fd", raw.child.id());
    let open = || fs::read_dir(&descriptors).unwrap().count();
    let before = open();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    for count in [1, 2, 50] {
        let fds = vec![theirs.as_fd(); count];
        for id in 1..=100 {
            raw.last_id = id;
            let call = Call {
                id,
                request: Request::Sweep,
            };
            for byte in encode(&call).unwrap() {
                let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(50))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                let byte = [byte];
                let bytes = [std::io::IoSlice::new(&byte)];
                rustix::net::sendmsg(&raw.stream, &bytes, &mut control, SendFlags::empty()).unwrap();
            }
            assert!(matches!(raw.receive(), Some(Reply::Swept(_))));
        }
        assert_eq!(open(), before, "{count} descriptors a byte");
    }
    raw.end();
}

#[test]
fn frames_that_are_no_request_are_refused_and_the_next_is_served() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    for body in [
        &b""[..],
        b"{",
        b"null",
        b"[]",
        b"\"exec\"",
        br#"{"exec":{"command":"id"}}"#,
        br#"{"set_hosts":{"block":{"tag":"devbox-a","entries":[],"owner":"1.2.3"}}}"#,
        br#"{"set_hosts":{"block":{"tag":7,"entries":[]}}}"#,
        br#"{"set_hosts":{"block":{"tag":"devbox-a","entries":[{"address":"127.1","names":["a"]}]}}}"#,
        br#"{"bind":{"address":"127.77.0.2:80"}}"#,
        br#"{"bind":{"endpoint":{"address":"127.77.0.2","port":80}}}"#,
        br#"{"bind":{"endpoint":{"address":"127.77.0.2","port":65536,"protocol":"tcp"}}}"#,
        br#"{"bind":{"endpoint":{"address":"127.77.0.2","port":80,"protocol":"raw"}}}"#,
        b"\"sweep\"\"sweep\"",
        b"\xff\xfe\x00",
        &deep,
    ] {
        // On its own, and in the place of a call's request.
        raw.frame(body);
        let reply = raw.receive_for_nobody();
        assert!(
            matches!(reply, Some(Reply::Error(HelperError::Malformed { .. }))),
            "{reply:?}"
        );
        raw.frame(&[br#"{"id":3,"request":"#, body, b"}"].concat());
        let reply: Response = raw.read().unwrap();
        assert!(
            matches!(reply.reply, Reply::Error(HelperError::Malformed { .. })),
            "{reply:?}"
        );
    }
    raw.send(Request::Sweep);
    assert!(matches!(raw.receive(), Some(Reply::Swept(_))));
    raw.end();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn frame_that_is_too_long_ends_the_stream_and_undoes() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    raw.send(Request::SetHosts { block: good_block() });
    assert!(matches!(raw.receive(), Some(Reply::Hosts(_))));
    assert_ne!(fs::read(&file).unwrap(), ORIGINAL);
    raw.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(matches!(
        raw.receive_for_nobody(),
        Some(Reply::Error(HelperError::Malformed { .. }))
    ));
    assert_eq!(raw.read::<Response>(), None);
    raw.end();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn end_within_a_frame_undoes() {
    let (_dir, file) = hosts();
    let mut raw = Raw::greeted(&file);
    raw.send(Request::SetHosts { block: good_block() });
    assert!(matches!(raw.receive(), Some(Reply::Hosts(_))));
    let frame = encode(&set_hosts()).unwrap();
    raw.stream.write_all(&frame[..frame.len() / 2]).unwrap();
    raw.end();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

/// Well-formed frames and broken ones in any mixture: the helper answers, ends or waits, but the file is as before.
#[test]
fn arbitrary_bytes_leave_the_file_as_it_is() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_dir, file) = hosts();
    let good = [
        encode(&set_hosts()).unwrap(),
        encode(&Call {
            id: 2,
            request: Request::Release,
        })
        .unwrap(),
        encode(&Handshake::hello()).unwrap(),
    ];
    for _ in 0..30 {
        let mut raw = Raw::greeted(&file);
        for _ in 0..random.usize(1..8) {
            let mut bytes = random.choice(&good).unwrap().clone();
            for _ in 0..random.usize(0..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            // It may have ended the stream by now.
            if raw.stream.write_all(&bytes).is_err() {
                break;
            }
        }
        raw.stream.shutdown(std::net::Shutdown::Write).ok();
        while raw.read::<Response>().is_some() {}
        raw.end();
        assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
    }
}

fn set_hosts() -> Call {
    Call {
        id: 1,
        request: Request::SetHosts { block: good_block() },
    }
}

fn good_block() -> HostsBlock {
    one("devbox-a", "127.77.0.2", &["orders", "orders.backend"])
}

fn one(tag: &str, address: &str, names: &[&str]) -> HostsBlock {
    let names = names.iter().map(ToString::to_string).collect();
    HostsBlock {
        tag: tag.into(),
        entries: vec![HostsEntry {
            address: address.parse().unwrap(),
            names,
        }],
    }
}

fn client(file: &Path) -> Client {
    Client::start_with(&StartOptions::new(env!("CARGO_BIN_EXE_devbox-helper")).args(helper_args(file)))
        .unwrap()
}

fn is_refused<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Helper(HelperError::NotAllowed { what, why })) if !what.is_empty() && !why.is_empty())
}

#[test]
fn blocks_beyond_the_policy_are_refused() {
    let (_dir, file) = hosts();
    let mut client = client(&file);
    let long_label = format!("{}.backend", "a".repeat(64));
    let long_tag = format!("devbox-{}", "a".repeat(64));
    let ok = ["orders"];
    let mut cases = Vec::new();
    for tag in [
        "",
        "mine",
        "devbox",
        "devbox-",
        "Devbox-a",
        "xdevbox-a",
        " devbox-a",
        "devbox-a b",
        "devbox-a\n",
        "devbox-ä",
    ] {
        cases.push(one(tag, "127.77.0.2", &ok));
    }
    cases.push(one(&long_tag, "127.77.0.2", &ok));
    for address in [
        "127.0.0.1",
        "127.0.0.53",
        "0.0.0.0",
        "8.8.8.8",
        "10.108.0.1",
        "::1",
        "::",
        "fd00:78::1",
        "::ffff:127.77.0.2",
    ] {
        cases.push(one("devbox-a", address, &ok));
    }
    for name in [
        "localhost",
        "localhost.localdomain",
        "web.localhost",
        "ip6-localhost",
        "ip6-loopback",
        "broadcasthost",
        "wpad",
        "",
        "UPPER.x",
        "-a.b",
        &long_label,
        "a b",
        "a\n10.0.0.1 bank",
        "a#",
        "#a",
        "a\0",
        "a_b",
        "a..b",
        "a.",
        "1.2.3.4",
    ] {
        cases.push(one("devbox-a", "127.77.0.2", &[name]));
        cases.push(one("devbox-a", "127.77.0.2", &["orders", name]));
    }
    cases.push(one("devbox-a", "127.77.0.2", &[]));
    for block in cases {
        let result = client.set_hosts(block.clone());
        assert!(is_refused(&result), "{block:?}: {result:?}");
        assert_eq!(fs::read(&file).unwrap(), ORIGINAL, "{block:?}");
    }
    client.set_hosts(good_block()).unwrap();
    let held = fs::read(&file).unwrap();
    assert!(is_refused(&client.set_hosts(one("devbox-a", "8.8.8.8", &ok))));
    assert_eq!(
        fs::read(&file).unwrap(),
        held,
        "a refused block leaves the last one standing"
    );
}

#[test]
fn edits_by_hand_need_a_helper_for_them() {
    let (_dir, file) = hosts();
    let mut session = client(&file);
    let entry = UserEntry {
        address: "10.9.9.9".parse().unwrap(),
        zone: None,
        names: vec!["web".into()],
        comment: None,
    };
    let edits = || {
        vec![
            UserEdit::AddToBlock(UserBlock {
                tag: "mine".into(),
                entries: vec![entry.clone()],
            }),
            UserEdit::RemoveFromBlock {
                tag: "mine".into(),
                names: vec!["other".into()],
            },
        ]
    };
    assert!(is_refused(&session.edit_hosts(edits())));
    assert!(is_refused(
        &session.restore_hosts(b"10.0.0.1 all.mine\n".to_vec())
    ));
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);

    let options = StartOptions::new(env!("CARGO_BIN_EXE_devbox-helper")).args(helper_args(&file));
    let mut by_hand = Client::start_with(&options.args(["--allow-user-edits"])).unwrap();
    let report = by_hand.edit_hosts(edits()).unwrap();
    assert!(report.changed);
    assert_eq!(report.file, file);
    let bad = UserEdit::RemoveBlock { tag: "a b".into() };
    assert!(is_refused(&by_hand.edit_hosts(vec![bad])));
    assert!(by_hand.close().unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("10.9.9.9 web") && !text.contains("other"),
        "an edit by hand stays: {text}"
    );

    let options = StartOptions::new(env!("CARGO_BIN_EXE_devbox-helper")).args(helper_args(&file));
    let mut by_hand = Client::start_with(&options.args(["--allow-user-edits"])).unwrap();
    let backup = b"127.0.0.1 localhost\r\n\xE9\0no line end";
    assert!(by_hand.restore_hosts(backup.to_vec()).unwrap().changed);
    assert!(!by_hand.restore_hosts(backup.to_vec()).unwrap().changed);
    assert!(by_hand.close().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), backup, "what was put back stays");
}

#[test]
fn listeners_beyond_the_policy_are_refused() {
    let (_dir, file) = hosts();
    let mut client = client(&file);
    for address in [
        "127.0.0.1:80",
        "127.77.0.2:0",
        "0.0.0.0:80",
        "8.8.8.8:53",
        "10.107.0.2:80",
        "[::1]:80",
        "[::]:80",
        "192.168.0.1:22",
    ] {
        let result = client.bind(tcp(address));
        assert!(is_refused(&result), "{address}: {result:?}");
    }
}

#[test]
fn udp_is_bound_within_the_policy_and_refused_beyond_it() {
    let (_dir, file) = hosts();
    let mut client = client(&file);
    let address = free_address();
    let bound = once_free(|| client.bind_udp(address), is_taken).unwrap();
    assert_eq!(bound.local_addr().unwrap(), address);
    let sender = std::net::UdpSocket::bind((address.ip(), 0)).unwrap();
    sender.send_to(b"hello", address).unwrap();
    let mut buffer = [0; 8];
    bound
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    assert_eq!(
        bound.recv_from(&mut buffer).unwrap(),
        (5, sender.local_addr().unwrap())
    );
    // It is the caller's alone.
    assert!(is_taken(&client.bind_udp(address).unwrap_err()));
    for address in ["127.0.0.53:53", "0.0.0.0:53", "192.168.0.1:53"] {
        let result = client.bind_udp(address.parse().unwrap());
        assert!(is_refused(&result), "{address}: {result:?}");
    }
}

#[test]
fn bound_listener_accepts_and_its_address_is_taken() {
    let (_dir, file) = hosts();
    let mut client = client(&file);
    let address = free_address();
    let listener = once_free(|| client.bind(Endpoint::tcp(address)), is_taken).unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
    match client.bind(Endpoint::tcp(address)) {
        Err(Error::Helper(HelperError::Bind {
            endpoint: told,
            kind: BindFailure::AddrInUse,
            ..
        })) => {
            assert_eq!(told, Endpoint::tcp(address));
        }
        other => panic!("{other:?}"),
    }
    // The caller alone holds it: it outlives the helper, and once dropped the address is free.
    assert!(client.close().unwrap().success());
    let there = std::net::TcpStream::connect(address).unwrap();
    let (here, from) = listener.accept().unwrap();
    assert_eq!(there.local_addr().unwrap(), from);
    drop((here, there, listener));
    once_free(
        || TcpListener::bind(address),
        |error| error.kind() == ErrorKind::AddrInUse,
    )
    .unwrap();
}

fn is_taken(error: &Error) -> bool {
    matches!(
        error,
        Error::Helper(HelperError::Bind {
            kind: BindFailure::AddrInUse,
            ..
        })
    )
}

/// Binds an address that this process has let go: a helper that another test starts at this moment has a copy of the
/// descriptor between its fork and its exec.
fn once_free<T, E>(mut bind: impl FnMut() -> Result<T, E>, taken: impl Fn(&E) -> bool) -> Result<T, E> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match bind() {
            Err(error) if taken(&error) && Instant::now() < deadline => std::thread::yield_now(),
            result => return result,
        }
    }
}

/// This process has the helper's rights, so that both must fare alike: as root, or where low ports are free to all, the
/// port is bound; else permission is denied.
#[test]
fn low_port_is_bound_as_the_helpers_rights_allow() {
    let (_dir, file) = hosts();
    let mut client = client(&file);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let address = SocketAddr::from(([127, 77, random.u8(1..), random.u8(1..)], random.u16(1..1024)));
        let own = TcpListener::bind(address).map(drop).map_err(|error| error.kind());
        match (own, client.bind(Endpoint::tcp(address))) {
            (Ok(()), Ok(listener)) => assert_eq!(listener.local_addr().unwrap(), address),
            (
                Err(std::io::ErrorKind::PermissionDenied),
                Err(Error::Helper(HelperError::Bind {
                    kind: BindFailure::PermissionDenied,
                    ..
                })),
            ) => {}
            // Somebody's service; another port shows it.
            (Err(std::io::ErrorKind::AddrInUse), Err(_)) => continue,
            // A copy of the first descriptor lives for a moment in another test's child.
            (Ok(()), Err(error)) if is_taken(&error) => continue,
            other => panic!("{address}: {other:?}"),
        }
        return;
    }
    panic!("twenty ports, all of them taken");
}

fn tcp(address: &str) -> Endpoint {
    Endpoint::tcp(address.parse().unwrap())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.77.200.3:0").unwrap().local_addr().unwrap()
}
