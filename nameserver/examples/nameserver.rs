//! Answers for names of its own and forwards the rest:
//!
//! `cargo run --example nameserver -- 127.0.0.1:5300 devbox.test 9.9.9.9:53 api=127.77.0.2 web=127.77.0.3`
#![expect(clippy::print_stdout, reason = "a program that talks to a person")]

use std::net::SocketAddr;

use nameserver::{Answering, Forwarding, Listening, Record, Registry, Responder, Server, Zone};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().ok_or(format!("expected {what}"));
    let listen: SocketAddr = next("ADDRESS:PORT to listen on")?.parse()?;
    let zone = Zone::new(next("the zone")?.parse()?);
    let upstream: SocketAddr = next("ADDRESS:PORT to forward to")?.parse()?;
    let mut records = Vec::new();
    while let Ok(argument) = next("") {
        let (name, address) = argument.split_once('=').ok_or("expected NAME=ADDRESS")?;
        records.push(Record::addresses(name.parse()?, [address.parse()?]));
    }

    let registry = Registry::default();
    registry.publish("example", &records);
    let settings = Answering {
        zones: vec![zone],
        forwarding: true,
        ..Answering::default()
    };
    let listening = Listening {
        forwarding: Some(Forwarding::new([upstream])),
        ..Listening::on([listen])
    };
    let server = Server::start(Responder::new(registry, settings), listening).await?;
    println!("answering on {}", server.addresses()[0]);
    // Until its standard input ends: a script that starts it needs no signal.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    print!("{}", server.metrics());
    server.stop().await;
    Ok(())
}
