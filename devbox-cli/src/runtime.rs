//! The runtime and the log.

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Runs one future on this thread, with as many open files as may be: each connection costs one.
pub(crate) fn run<T>(verbose: u8, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    crate::sys::raise_open_files();
    run_with_limits(verbose, work)
}

/// The same with the limits as they are, for they go on to what is started. One thread serves best: reader, writer and pumps
/// of the tunnel hand over to each other without waking another.
pub(crate) fn run_with_limits<T>(
    verbose: u8,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    log(verbose);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::because)?;
    runtime.block_on(work)
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("DEVBOX_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,devbox={level},devbox_session={level},devbox_gateway={level},tunnel_bridge={level}"
        ))
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second one cannot be: this is called once.
    drop(subscriber.without_time().try_init());
}
