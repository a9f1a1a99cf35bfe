//! Prints what changes in this machine's network, until it is interrupted or for as many seconds as its argument says.
#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use std::time::{Duration, Instant};

use netif::watch::Watch;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map(|text| text.parse()).transpose()?;
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut watch = Watch::new()?;
    println!("watching");
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(());
        }
        if let Some(change) = watch.wait(left)? {
            println!("changed: {change}");
        }
    }
}
