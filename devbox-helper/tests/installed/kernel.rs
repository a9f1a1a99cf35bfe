//! The program itself on the real kernel, in a network namespace of its own: what it makes is there, and after its end or its death
//! and the next start everything is as before.

use std::process::{Child, Command, Stdio};

use devbox_helper_client::{InterfaceKind, NewInterface};

use crate::blocks::block;
use crate::stage::{Place, Process, eventually, strings};

/// A network namespace, which lasts as long as a program in it.
struct Network {
    holder: Child,
}

impl Network {
    /// `None`, and why, where there can be none.
    fn new() -> Option<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut()?), &mut line).ok()?;
        let network = Self { holder };
        (line == "up\n").then_some(network)
    }

    fn within(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", program]);
        command
    }

    /// Links, addresses, routes of both families.
    fn state(&self) -> String {
        let mut state = String::new();
        for question in [
            "-br link",
            "-br addr",
            "route show table all",
            "-6 route show table all",
        ] {
            let told = self.within("ip").args(question.split(' ')).output().unwrap();
            assert!(told.status.success(), "{question}");
            state += &String::from_utf8(told.stdout).unwrap();
        }
        state
    }

    fn serve(&self, place: &Place) -> Process {
        place.await_serving(self.within(env!("CARGO_BIN_EXE_devbox-helper")))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Fails only when it has ended.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn session(client: &mut devbox_helper_client::Client) {
    client.open_pool("10.107.0.0/16").unwrap();
    let interface = NewInterface {
        name: "devbox0".into(),
        kind: InterfaceKind::Tun,
        mtu: Some(1400),
    };
    client.create_interface(interface).unwrap();
    client
        .add_addresses(strings(&["10.107.9.1/24"]), Some("devbox0".into()))
        .unwrap();
    client
        .set_hosts(block("devbox-a", &[("10.107.9.1", &["orders"])]))
        .unwrap();
}

#[test]
fn what_was_made_is_undone_after_the_end_and_after_kill_9() {
    let Some(network) = Network::new() else {
        eprintln!(
            "SKIP what_was_made_is_undone_after_the_end_and_after_kill_9: no network namespace can be made here"
        );
        return;
    };
    let place = Place::new();
    let before = network.state();
    for kill in [false, true] {
        let mut server = network.serve(&place);
        let mut client = place.client();
        session(&mut client);
        let during = network.state();
        assert!(during.contains("local 10.107.0.0/16"), "{during}");
        assert!(
            during.contains("devbox0") && during.contains("10.107.9.1/24"),
            "{during}"
        );
        drop(client.open_tun("devbox0").unwrap());
        let listener = client
            .bind(devbox_helper_client::Endpoint::tcp(
                "10.107.200.200:80".parse().unwrap(),
            ))
            .unwrap();
        if kill {
            server.kill();
            assert!(network.state().contains("local 10.107.0.0/16"));
            server = network.serve(&place);
        } else {
            drop(client);
        }
        drop(listener);
        eventually(|| network.state() == before && place.hosts_text().as_bytes() == crate::stage::ORIGINAL);
        server.end();
    }
    assert_eq!(network.state(), before);
}

/// The kernel makes a route for the prefix of an interface's address, with a mark of its own.
#[test]
fn an_interface_of_ours_is_not_in_the_way_of_a_pool() {
    let Some(network) = Network::new() else {
        eprintln!(
            "SKIP an_interface_of_ours_is_not_in_the_way_of_a_pool: no network namespace can be made here"
        );
        return;
    };
    let place = Place::new();
    let before = network.state();
    let server = network.serve(&place);
    let mut first = place.client();
    let interface = NewInterface {
        name: "devbox0".into(),
        kind: InterfaceKind::Tun,
        mtu: None,
    };
    first.create_interface(interface).unwrap();
    first
        .add_addresses(strings(&["10.107.9.1/24"]), Some("devbox0".into()))
        .unwrap();
    assert!(network.state().contains("10.107.9.0/24 dev devbox0 proto kernel"));
    let mut second = place.client();
    assert_eq!(second.open_pool("10.107.0.0/16").unwrap().changed, 1);
    drop((first, second));
    eventually(|| network.state() == before);
    server.end();
}
