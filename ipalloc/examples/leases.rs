//! Leases an address to each key that is named, keeps it in a folder, and shows it:
//! `cargo run -p ipalloc --example leases -- FOLDER dev/backend/orders dev/backend/postgres`.

use std::error::Error;
use std::io::Write as _;
use std::time::SystemTime;

use ipalloc::store::{FileStore, Persistent};
use ipalloc::{Key, Pool, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("a folder is missing")?;
    let mut leases = Persistent::open(FileStore::new(folder), Pool::default())?;
    let now = Timestamp::from(SystemTime::now());
    let mut out = std::io::stdout().lock();
    for argument in arguments {
        let key = Key::new(&argument)?;
        writeln!(out, "{key} = {}", leases.lease(&key, now)?)?;
    }
    let stats = leases.allocator().stats();
    writeln!(out, "{} of {} addresses in use", stats.leased, stats.usable)?;
    Ok(())
}
