//! A tunnel to one target, over each carrier that the library has. `benches/tunnel.conf` measures it beside others.
//!
//! ```sh
//! cargo build --release -p tunnel-bridge --example tunnel
//! target/release/examples/tunnel server --listen 127.0.0.1:9001 --to 127.0.0.1:5432
//! target/release/examples/tunnel client --listen 127.0.0.1:5433 --server ws://127.0.0.1:9001
//! ```

mod arguments;
mod carriers;
mod certificates;
mod client;
mod server;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use tunnel_bridge::Target;
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::listener::{Listener, ListenerOptions, bind};

use arguments::{Command, Wrong};

/// What went wrong, for a person.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(Wrong::Help) => {
            return match std::io::stdout().write_all(arguments::HELP.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(Wrong::Usage(why)) => {
            say(&format!("{why}\nTry 'tunnel --help'."));
            return ExitCode::from(2);
        }
    };
    // One thread: a link and its streams hand over to each other at every read.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(command) => ended,
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| format!("cannot wait for Ctrl-C: {error}")),
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Server(options) => server::run(options).await,
        Command::Client(options) => client::run(options).await,
        Command::Direct { listen, to } => {
            let target = Target::new(&to).map_err(|error| format!("--to {to}: {error}"))?;
            let socket = bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
            let dialer = Arc::new(TcpDialer::default());
            let listener =
                Listener::spawn(socket, target, dialer, ListenerOptions::default(), Arc::default())
                    .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
            say(&format!("{} goes to {to}", listener.local_addr()));
            std::future::pending().await
        }
    }
}

/// A line for whoever started this. Where nobody reads it, it is lost.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "tunnel: {line}"));
}
