//! The server is killed at every step of a session, and at random; so are its callers. Whoever comes next leaves everything as it was
//! before.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use devbox_helper_client::{Client, Error, InterfaceKind, NewInterface, NewResolver};
use server::{Place, block, strings};

#[test]
#[ignore = "the server that other tests run as a process of its own"]
fn server() {
    server::serve();
}

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

/// Two sessions at once, which begin again and again, and a server that is killed after a random time. With `DEVBOX_KILLS` that
/// often; the printed seed repeats the times.
#[test]
fn random_kills_leave_everything_as_before() {
    let kills = std::env::var("DEVBOX_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let seed = std::env::var("DEVBOX_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("DEVBOX_KILLS={kills} DEVBOX_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let mut whole = 0;
    for kill in 0..kills {
        let mut server = place.start();
        let lives = Duration::from_micros(random.u64(0..20_000));
        // Either the server is killed, or the callers are gone first and it recovers by itself.
        let callers_first = random.u8(..4) == 0;
        whole += std::thread::scope(|scope| {
            let end = Instant::now() + lives;
            let sessions = [1, 2].map(|number| {
                let place = &place;
                scope.spawn(move || {
                    let mut whole = 0;
                    while !callers_first || Instant::now() < end {
                        let Ok(mut client) = Client::connect(place.path("socket")) else {
                            break;
                        };
                        if session(&mut client, number).is_err() {
                            break;
                        }
                        whole += 1;
                    }
                    whole
                })
            });
            if !callers_first {
                std::thread::sleep(lives);
                server.kill();
            }
            sessions
                .into_iter()
                .map(|session| session.join().unwrap())
                .sum::<usize>()
        });
        if callers_first {
            place.await_untouched();
            server.kill();
        }
        let next = place.start();
        place.assert_untouched(&format!("kill {kill} of seed {seed}"));
        drop(next);
    }
    eprintln!("{kills} kills, {whole} whole sessions");
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
