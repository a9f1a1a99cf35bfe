//! Reads a catalog and its changes in their wire form from standard input and tells them, a line each. Without
//! input it shows what it makes itself: `cargo run -p service-catalog --example updates`.

use std::io::{IsTerminal as _, Read as _};

use service_catalog::{Catalog, Health, Port, Service, Update, wire};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut input)?;
    }
    if input.is_empty() {
        input = sample()?;
    }

    let mut known = Catalog::empty("unknown".parse()?);
    let mut decoder = wire::Decoder::new();
    for piece in input.chunks(1000) {
        decoder.handle_bytes(piece);
        while let Some(update) = decoder.poll_update()? {
            known.apply(&update);
            tell(&update, &known);
        }
    }
    Ok(decoder.handle_end()?)
}

#[expect(clippy::print_stdout, reason = "an example shows something")]
fn tell(update: &Update, known: &Catalog) {
    match update {
        Update::Health(health) => println!("health: {health:?}"),
        Update::Snapshot(_) | Update::Changed { .. } => {
            let targets: Vec<_> = known.targets().map(|target| target.to_string()).collect();
            println!("{}: {}", known.environment, targets.join(" "));
        }
    }
}

fn sample() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let orders = Service::new("orders.backend".parse()?, vec![Port::tcp(5432.try_into()?)])?;
    let web = Service::new("web.shop".parse()?, vec![Port::tcp(8080.try_into()?)])?;
    let mut encoder = wire::Encoder::new();
    let mut bytes = encoder.encode(&Update::Snapshot(Catalog::new("dev".parse()?, [orders])?))?;
    bytes.extend(encoder.encode(&Update::Changed {
        upserted: vec![web],
        removed: vec![],
    })?);
    bytes.extend(encoder.encode(&Update::Health(Health::stale("catalog.yaml:7:3: unknown field")))?);
    Ok(bytes)
}
