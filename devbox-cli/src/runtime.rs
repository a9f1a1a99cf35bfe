//! The runtime and the log.

use std::io::{self, Stderr, Write};
use std::num::NonZeroUsize;

use service_catalog::is_format;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Runs one future on this thread: a session's reader, writer and pumps hand over to each other without waking another.
pub(crate) fn run<T>(verbose: u8, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    run_on(Builder::new_current_thread(), verbose, |_| work)
}

/// The same for work that starts programs, which are told the limit of open files that this one was started with.
pub(crate) fn run_and_start<T, F>(verbose: u8, work: impl FnOnce(Option<u64>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    run_on(Builder::new_current_thread(), verbose, work)
}

/// The same on several threads: one for each core unless it is said.
pub(crate) fn run_on_threads<T>(
    threads: Option<NonZeroUsize>,
    verbose: u8,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    run_on(builder, verbose, |_| work)
}

fn run_on<T, F>(mut builder: Builder, verbose: u8, work: impl FnOnce(Option<u64>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    log(verbose);
    // Each connection costs a descriptor.
    let open_files = devbox_engine::raise_open_files().unwrap_or_else(|error| {
        tracing::debug!(%error, "the limit of open files stays as it is");
        None
    });
    let runtime = builder.enable_all().build().map_err(Failure::because)?;
    let done = runtime.block_on(work(open_files));
    // A disk or a resolver that hangs must not keep the command from ending.
    runtime.shutdown_background();
    done
}

/// Standard error, for the log: escape codes of its fields are replaced by who writes it, which leaves what turns or hides text.
struct Plain(Stderr);

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let shown = |c| {
            if is_format(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        let text: String = text.chars().map(shown).collect();
        self.0.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("DEVBOX_LOG").unwrap_or_else(|_| {
        let crates = [
            "catalog_file",
            "devbox",
            "devbox_engine",
            "devbox_gateway",
            "devbox_gateway_client",
            "devbox_session",
            "tunnel_bridge",
        ];
        let directives: String = crates.iter().map(|name| format!(",{name}={level}")).collect();
        EnvFilter::new(format!("warn{directives}"))
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Plain(std::io::stderr()))
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // It fails only where there is one already, and this is called once.
    drop(subscriber.without_time().try_init());
}
