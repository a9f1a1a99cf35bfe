//! The server is killed at every step of a session, and at random; so are its callers. Whoever comes next leaves everything as it was
//! before.

use devbox_helper_client::{Client, Error, InterfaceKind, NewInterface, NewResolver};

use crate::blocks::block;
use crate::stage::{Place, eventually, strings};

/// A session with everything, up to where its server is killed. `true` if it came to its end.
fn session(client: &mut Client, number: u8) -> Result<(), Error> {
    let interface = format!("devbox{number}");
    let tag = format!("devbox-{number}");
    let address = format!("10.107.{number}.1");
    client.set_hosts(block(&tag, &[(&address, &["orders", &format!("orders.{tag}")])]))?;
    client.open_pool("10.107.0.0/16")?;
    client.create_interface(NewInterface {
        name: interface.clone(),
        kind: InterfaceKind::Dummy,
        mtu: None,
    })?;
    let addresses: Vec<String> = (1..4).map(|last| format!("10.107.{number}.{last}/24")).collect();
    client.add_addresses(addresses.clone(), Some(interface.clone()))?;
    client.set_resolver(NewResolver {
        interface: interface.clone(),
        suffixes: strings(&[&format!("shop{number}.internal")]),
        servers: vec![format!("{address}:53").parse().unwrap()],
    })?;
    client.remove_addresses(addresses[2..].to_vec(), Some(interface))?;
    client.take_hosts(block(&tag, &[(&address, &["orders", "web"])]))?;
    client.release().map(drop)
}

#[test]
fn killed_at_every_step_of_a_session_the_next_server_leaves_everything_as_before() {
    let place = Place::new();
    let mut steps = 0;
    loop {
        let server = place.start_with(&[("SERVER_DIES_AT", &steps.to_string())]);
        let mut client = place.client();
        let outcome = session(&mut client, 1);
        drop(server);
        // The next one is ready only once it has undone what this one left.
        let next = place.start();
        place.assert_untouched(&format!("killed at step {steps}"));
        drop(next);
        if outcome.is_ok() {
            break;
        }
        steps += 1;
    }
    // find, write, apply and undo of five changes, at least: the test cannot pass by doing nothing.
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn killed_while_it_recovers_the_next_one_goes_on() {
    let place = Place::new();
    let mut steps = 0;
    loop {
        let mut server = place.start();
        let mut client = place.client();
        client
            .create_interface(NewInterface {
                name: "devbox1".into(),
                kind: InterfaceKind::Dummy,
                mtu: None,
            })
            .unwrap();
        client
            .add_addresses(
                strings(&["10.107.1.1/24", "10.107.1.2/24"]),
                Some("devbox1".into()),
            )
            .unwrap();
        server.kill();
        let mut dying = place.spawn(&[("SERVER_DIES_AT", &steps.to_string())]);
        let recovered = loop {
            if dying.child.try_wait().unwrap().is_some() {
                break false;
            }
            if Client::connect(place.path("socket")).is_ok() {
                break true;
            }
            std::thread::yield_now();
        };
        dying.kill();
        let next = place.start();
        place.assert_untouched(&format!("killed at step {steps} of the recovery"));
        drop(next);
        if recovered {
            break;
        }
        steps += 1;
    }
    assert!(steps > 3, "only {steps} steps");
}

/// The body of the test `sessions`: a caller with one session after the other, as often as the server lets it.
pub(crate) fn sessions() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return; // run by hand, with no test at the other end
    };
    let number = std::env::var(NUMBER).unwrap().parse().unwrap();
    #[cfg(target_os = "linux")]
    crate::victim::offer();
    let mut connected = None;
    eventually(|| {
        connected = Client::connect(&socket).ok();
        connected.is_some()
    });
    let mut client = connected.unwrap();
    while session(&mut client, number).is_ok() {}
    // Without the harness's last words.
    std::process::exit(0);
}

const SOCKET: &str = "SESSIONS_SOCKET";
const NUMBER: &str = "SESSIONS_NUMBER";

/// Callers and servers that are killed when their threads have begun or ended a number of system calls.
#[cfg(target_os = "linux")]
mod at_system_calls {
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::stage::{Process, alone};
    use crate::victim::{OFFERS, killed_at};

    fn caller(place: &Place, number: u8) -> Command {
        let mut command = alone("sessions");
        command
            .env(SOCKET, place.path("socket"))
            .env(NUMBER, number.to_string());
        command
    }

    fn running(place: &Place, number: u8) -> Process {
        Process {
            child: caller(place, number).spawn().unwrap(),
        }
    }

    /// How many system calls a server begins and ends until one session has come to its end.
    fn calls_of_a_session() -> usize {
        let place = &Place::new();
        thread::scope(|scope| {
            let (started, pid) = std::sync::mpsc::channel();
            let server = scope.spawn(move || {
                killed_at(usize::MAX, || {
                    let server = place.command(&[OFFERS]).spawn().unwrap();
                    started.send(rustix::process::Pid::from_child(&server)).unwrap();
                    server
                })
            });
            let pid = pid.recv().unwrap();
            let mut client = None;
            eventually(|| {
                client = Client::connect(place.path("socket")).ok();
                client.is_some()
            });
            session(&mut client.unwrap(), 1).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            server.join().unwrap()
        })
    }

    /// Kills a server that has two callers. `true` if it had left something.
    fn kill_a_server(place: &Place, calls: usize) -> bool {
        let mut callers = [1, 2].map(|number| running(place, number));
        thread::scope(|scope| {
            let server = || place.command(&[OFFERS]).spawn().unwrap();
            scope.spawn(move || killed_at(calls, server)).join().unwrap();
        });
        for caller in &mut callers {
            caller.kill();
        }
        let left = !place.is_untouched();
        let next = place.start();
        place.assert_untouched(&format!("the server was killed at call {calls}"));
        drop(next);
        left
    }

    /// Kills one caller of two. What it had is undone while the other one goes on, and the rest when that is killed as well.
    fn kill_a_caller(place: &Place, calls: usize) {
        let server = place.start();
        let mut other = running(place, 2);
        thread::scope(|scope| {
            let victim = || caller(place, 1).env(OFFERS.0, OFFERS.1).spawn().unwrap();
            scope.spawn(move || killed_at(calls, victim)).join().unwrap();
        });
        eventually(|| {
            let names = !place.hosts_text().contains("devbox-1");
            names && !place.network().iter().any(|change| change.contains("devbox1"))
        });
        other.kill();
        place.await_untouched();
        drop(server);
        // Nothing is left in the journal either.
        let next = place.start();
        place.assert_untouched(&format!("a caller was killed at call {calls}"));
        drop(next);
    }

    #[expect(
        clippy::print_stderr,
        reason = "what repeats the kills, and what they came to"
    )]
    fn random_kills(kills: usize) {
        let seed =
            std::env::var("DEVBOX_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        eprintln!("DEVBOX_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let calls = calls_of_a_session();
        let (mut servers, mut left) = (0, 0);
        for _ in 0..kills {
            // A machine that is only remembered remembers each change for ever.
            let place = Place::new();
            // The start, and a session or two of both callers.
            let at = random.usize(..calls * 3 / 2);
            if random.bool() {
                servers += 1;
                left += usize::from(kill_a_server(&place, at));
            } else {
                kill_a_caller(&place, at / 2);
            }
        }
        eprintln!(
            "{kills} kills: {servers} of a server, of which {left} left something; {calls} calls a session"
        );
        assert!(left > 0 || servers < 10, "no server was killed in a session");
    }

    #[test]
    fn random_kills_leave_everything_as_before() {
        random_kills(20);
    }

    #[test]
    #[ignore = "takes minutes: cargo test -p devbox-helper --test installed -- --ignored campaign"]
    fn campaign_of_random_kills() {
        random_kills(1000);
    }

    #[test]
    #[ignore = "takes minutes: cargo test -p devbox-helper --test installed -- --ignored campaign"]
    fn campaign_of_kills_at_every_system_call() {
        let calls = calls_of_a_session();
        let left = (0..calls).filter(|at| kill_a_server(&Place::new(), *at)).count();
        eprintln!("killed at {calls} calls, {left} of which left something");
        assert!(left > 100, "only {left} of {calls}");
    }

    #[test]
    fn callers_killed_at_every_few_system_calls_leave_nothing() {
        let place = Place::new();
        for at in (0..200).step_by(9) {
            kill_a_caller(&place, at);
        }
    }
}

#[test]
fn connection_that_closes_without_a_word_is_undone_at_once() {
    let place = Place::new();
    let _server = place.start();
    for _ in 0..10 {
        let mut client = place.client();
        client
            .set_hosts(block("devbox-a", &[("127.77.0.2", &["orders"])]))
            .unwrap();
        client.open_pool("10.107.0.0/16").unwrap();
        drop(client);
        place.await_untouched();
    }
}
