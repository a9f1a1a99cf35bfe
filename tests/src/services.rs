//! Other people's services, as Debian packages them, on the scene's own address.

mod git;
mod nginx;
mod postgres;
mod redis;
mod rsync;
mod ssh;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub use git::{GitDaemon, bare_repository};
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
pub use rsync::Rsyncd;
pub use ssh::Sshd;

use crate::process::Process;
use crate::wait;

/// Waits until `process` accepts connections at `address`.
fn wait_for_port(process: &mut Process, address: SocketAddr) -> crate::Result {
    let label = process.label().to_owned();
    wait::until_ok(
        &format!("`{label}` accepts connections at {address}"),
        2 * wait::SOON,
        || {
            if let Some(exit) = process.ended()? {
                // There is no point in waiting any longer.
                anyhow::bail!("it ended with {exit}");
            }
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?)
        },
    )?;
    Ok(())
}
