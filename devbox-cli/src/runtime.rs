//! The runtime and the log.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;
use crate::output::{self, Clock, LogWriter};
use crate::sys;

/// How often freed memory is given back. It takes a millisecond or two where there is much of it.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

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
    let builder = match threads.map(NonZeroUsize::get) {
        Some(1) => Builder::new_current_thread(),
        Some(threads) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
        None => Builder::new_multi_thread(),
    };
    run_on(builder, verbose, |_| work)
}

fn run_on<T, F>(mut builder: Builder, verbose: u8, work: impl FnOnce(Option<u64>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    log(verbose);
    sys::keep_memory();
    // Each connection costs a descriptor.
    let open_files = devbox_engine::raise_open_files().unwrap_or_else(|error| {
        tracing::debug!(%error, "the limit of open files stays as it is");
        None
    });
    let runtime = builder.enable_all().build().map_err(Failure::because)?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work(open_files) => done,
            never = give_memory_back() => match never {},
        }
    });
    // A disk or a resolver that hangs must not keep the command from ending.
    runtime.shutdown_background();
    done
}

/// What a burst of connections took is not kept for as long as a session lives.
async fn give_memory_back() -> Infallible {
    loop {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        sys::give_memory_back();
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
            "catalog_kube",
            "devbox",
            "devbox_engine",
            "devbox_gateway",
            "devbox_gateway_client",
            "devbox_session",
            "nameserver",
            "tunnel_bridge",
        ];
        let directives: String = crates.iter().map(|name| format!(",{name}={level}")).collect();
        // The Kubernetes client takes each connection that fails for an error: what it means for the session is said by that.
        EnvFilter::new(format!("warn,kube_client=off{directives}"))
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Clock)
        .with_writer(LogWriter)
        .with_ansi(!output::is_plain());
    // It fails only where there is one already, and this is called once.
    drop(subscriber.try_init());
}
