//! Peers that follow a script, as processes of their own: a test runs its own program again with one of these as the
//! only test. They hold none of the helper's rules.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a peer that panics fails its test"
)]
#![cfg_attr(
    test,
    expect(dead_code, reason = "each test program uses some of the scripts")
)]

use std::net::TcpListener;

use devbox_helper_client::{
    Call, Channel, Handshake, HelperError, NetworkUndone, Receiver, ReleaseReport, Reply, Request, Response,
    Sender, StartOptions, SweepReport,
};
use rustix::process::{Pid, Signal};

/// How to start the script of that name.
pub(crate) fn script(name: &str) -> StartOptions {
    StartOptions::new(std::env::current_exe().unwrap()).args(["--exact", name, "--ignored", "--nocapture"])
}

/// Welcomes the caller. `None` when a person runs the script by hand, with no test at the other end.
fn welcomed(version: u32) -> Option<(Sender, Receiver)> {
    let (mut sender, mut receiver) = Channel::inherited().ok()?.split();
    let hello: Option<Handshake> = receiver.receive().unwrap();
    assert!(matches!(hello, Some(Handshake::Hello { .. })), "{hello:?}");
    let pid = std::process::id();
    sender.send(&Handshake::Welcome { version, pid }).unwrap();
    Some((sender, receiver))
}

fn plain(id: u64, reply: Reply) -> Response {
    Response {
        id: Some(id),
        listener: false,
        reply,
    }
}

fn swept(count: u64) -> Reply {
    Reply::Swept(SweepReport {
        stray_lines: 0,
        left: Vec::new(),
        network: NetworkUndone::default(),
        file: format!("/{count}").into(),
        removed: Vec::new(),
    })
}

/// Sends the listener that a call asks for.
fn pass(sender: &mut Sender, call: &Call) {
    let Request::Bind { endpoint } = &call.request else {
        panic!("{call:?}");
    };
    let listener = TcpListener::bind(endpoint.socket_addr()).unwrap();
    let response = Response {
        listener: true,
        ..plain(call.id, Reply::Bound)
    };
    sender.send_with_listener(&response, &listener).unwrap();
}

/// Welcomes, then answers each verb in its own way until the stream ends.
pub(crate) fn obliging(version: u32) {
    let Some((mut sender, mut receiver)) = welcomed(version) else {
        return;
    };
    let mut asked = 0;
    while let Some(call) = receiver.receive::<Call>().unwrap() {
        asked += 1;
        let reply = match &call.request {
            // The count tells whose answer it is.
            Request::Sweep => swept(asked),
            Request::Bind { .. } => {
                pass(&mut sender, &call);
                continue;
            }
            Request::SetHosts { block } => Reply::Error(HelperError::NotAllowed {
                what: block.tag.clone(),
                why: "as asked".into(),
            }),
            Request::Release => Reply::Released(ReleaseReport { removed_block: None }),
            Request::EditHosts { .. } => Reply::Bound, // without a listener
            _ => std::process::exit(7),
        };
        sender.send(&plain(call.id, reply)).unwrap();
    }
    // Whoever waits for this process by the end of its stream sees this first.
    if let Some(file) = std::env::var_os("SCRIPT_LEAVES") {
        std::fs::write(file, "ended by the end of the stream").unwrap();
    }
}

/// Reads everything, says nothing.
pub(crate) fn silent() {
    let Ok(channel) = Channel::inherited() else {
        return; // run by hand, with no test at the other end
    };
    let (_sender, mut receiver) = channel.split();
    while receiver.receive::<serde_json::Value>().unwrap().is_some() {}
}

/// Refuses the caller as a helper of version 1 did.
pub(crate) fn older() {
    let Ok(channel) = Channel::inherited() else {
        return; // run by hand, with no test at the other end
    };
    let (mut sender, mut receiver) = channel.split();
    let hello: serde_json::Value = receiver.receive().unwrap().unwrap();
    let client = &hello["hello"]["version"];
    assert!(client.is_u64(), "{hello}");
    let refusal = serde_json::json!({"error": {"version_mismatch": {"client": client, "server": 1}}});
    sender.send(&refusal).unwrap();
}

/// Takes the calls in pairs of a `bind` and something else, and answers each pair in this order.
pub(crate) fn in_pairs(listener_first: bool) {
    let Some((mut sender, mut receiver)) = welcomed(devbox_helper_client::VERSION) else {
        return;
    };
    while let Some(one) = receiver.receive::<Call>().unwrap() {
        let other = receiver.receive::<Call>().unwrap().unwrap();
        let (bind, sweep) = if matches!(one.request, Request::Bind { .. }) {
            (one, other)
        } else {
            (other, one)
        };
        if listener_first {
            pass(&mut sender, &bind);
        }
        sender.send(&plain(sweep.id, swept(sweep.id))).unwrap();
        if !listener_first {
            pass(&mut sender, &bind);
        }
    }
}

/// Answers a call only when the next one is there.
pub(crate) fn one_behind() {
    let Some((mut sender, mut receiver)) = welcomed(devbox_helper_client::VERSION) else {
        return;
    };
    let mut held: Option<Call> = None;
    while let Some(call) = receiver.receive::<Call>().unwrap() {
        let Some(late) = held.take() else {
            held = Some(call);
            continue;
        };
        for call in [late, call] {
            match &call.request {
                Request::Bind { .. } => pass(&mut sender, &call),
                _ => sender.send(&plain(call.id, swept(call.id))).unwrap(),
            }
        }
    }
}

/// Takes the calls in pairs of `bind`, announces a listener for both and sends it for the second only.
pub(crate) fn forgetful() {
    let Some((mut sender, mut receiver)) = welcomed(devbox_helper_client::VERSION) else {
        return;
    };
    while let Some(one) = receiver.receive::<Call>().unwrap() {
        let other = receiver.receive::<Call>().unwrap().unwrap();
        let announced = Response {
            listener: true,
            ..plain(one.id, Reply::Bound)
        };
        sender.send(&announced).unwrap();
        pass(&mut sender, &other);
    }
}

/// Answers a call that nobody made.
pub(crate) fn confused() {
    let Some((mut sender, mut receiver)) = welcomed(devbox_helper_client::VERSION) else {
        return;
    };
    while let Some(call) = receiver.receive::<Call>().unwrap() {
        sender.send(&plain(call.id + 1000, swept(0))).unwrap();
    }
}

/// A process that is stopped until this is dropped.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        rustix::process::kill_process(self.0, Signal::CONT).ok();
    }
}
