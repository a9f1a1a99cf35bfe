//! Peers that follow a script, as processes of their own: a test runs its own program again with one of these as the
//! only test. They hold none of the helper's rules.

#![expect(clippy::unwrap_used, reason = "a peer that panics fails its test")]

use std::net::TcpListener;

use devbox_helper_client::{Channel, HelperError, ReleaseReport, Reply, Request, StartOptions, SweepReport};

/// How to start the script of that name.
pub(crate) fn script(name: &str) -> StartOptions {
    StartOptions::new(std::env::current_exe().unwrap()).args(["--exact", name, "--ignored", "--nocapture"])
}

/// Welcomes, then answers each verb in its own way until the stream ends.
pub(crate) fn obliging(version: u32) {
    let Ok(channel) = Channel::inherited() else {
        return; // run by hand, with no test at the other end
    };
    let (mut sender, mut receiver) = channel.split();
    let mut asked = 0;
    while let Some(request) = receiver.receive::<Request>().unwrap() {
        asked += 1;
        let reply = match request {
            Request::Hello { .. } => Reply::Welcome {
                version,
                pid: std::process::id(),
            },
            // The count tells whose answer it is.
            Request::Sweep => Reply::Swept(SweepReport {
                file: format!("/{asked}").into(),
                removed: Vec::new(),
            }),
            Request::Bind { endpoint } => {
                let listener = TcpListener::bind(endpoint.socket_addr()).unwrap();
                sender.send_with_listener(&Reply::Bound, &listener).unwrap();
                continue;
            }
            Request::SetHosts { block } => Reply::Error(HelperError::NotAllowed {
                what: block.tag,
                why: "as asked".into(),
            }),
            Request::Release => Reply::Released(ReleaseReport { removed_block: None }),
            Request::EditHosts { .. } => Reply::Bound, // without a listener
            _ => std::process::exit(7),
        };
        sender.send(&reply).unwrap();
    }
    // Who waits for this process by the end of its stream sees this line first.
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
    while receiver.receive::<Request>().unwrap().is_some() {}
}
