//! `devbox exec`: a command that alone sees the names.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use devbox_engine::{
    Engine, EngineEvent, Event, Joined, PrivateHosts, Publish, Running, StatusReport, StopReason,
    system_hosts_file, without_sessions,
};
use process_scope::{ExitOutcome, Scope, ScopedCommand, Signaller};
use tokio::sync::oneshot;

use crate::args::ExecArgs;
use crate::config::Config;
use crate::ends::verdict;
use crate::failure::{Failure, code};
use crate::{dry_run, print, runtime, sys};

/// Runs it. The calling thread is the only one so far.
pub(crate) fn run(args: &ExecArgs) -> Result<ExitCode, Failure> {
    let outcome = run_inside(args).map_err(|failure| failure.with_code_of_exec())?;
    match outcome {
        Some(outcome) => process_scope::die_like(outcome),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn run_inside(args: &ExecArgs) -> Result<Option<ExitOutcome>, Failure> {
    if args.up.no_hosts {
        return Err(Failure::new(
            code::EXEC_FAILED,
            "--no-hosts makes no sense with exec: the names are what it provides",
        ));
    }
    // Under sudo the command is wanted as root, and so is everything that is done for it.
    let caller = sys::own_identity().map_err(Failure::because)?;
    let config = Config::load(&args.up.connect, caller.home.as_deref())?;
    let base_file = match &args.up.hosts_file {
        Some(file) => file.clone(),
        None => system_hosts_file().map_err(Failure::because)?,
    };
    let base = fs::read(&base_file).map_err(|error| {
        Failure::new(
            code::EXEC_FAILED,
            format!("cannot read {}: {error}", base_file.display()),
        )
    })?;
    let base = without_sessions(&base);
    let mut signals = sys::ExecSignals::before_handlers();
    runtime::run_and_start(args.up.connect.verbose, |open_files| async move {
        // From here on a signal waits for the command that it is for.
        signals.install().map_err(Failure::because)?;
        let command = Command {
            argv: &args.command,
            open_files,
        };
        if !args.up.dry_run
            && let Some(found) = running(&config, args).await?
        {
            let Joined { report, hosts, .. } = &mut found.join(base).await?;
            for (service, port, reason) in faults(report) {
                print::note(&format!("warning: {service}:{port} is not offered: {reason}"));
            }
            return command.run(hosts, report, signals).await.map(Some);
        }
        let publish = if args.up.dry_run {
            Publish::HostsFile(base_file)
        } else {
            Publish::Private { base }
        };
        let config = devbox_engine::Config {
            providers: config.providers()?,
            names: config.names.clone(),
            pools: config.pool.clone(),
            max_connections: config.max_connections,
            publish,
            // Nobody else sees its names: it displaces nobody, and nobody displaces it.
            claim: false,
            lock_file: config.lock_file(),
            state_dir: caller.state_folder(),
            ..devbox_engine::Config::default()
        };
        if args.up.dry_run {
            dry_run::run(&config, sys::is_root(), args.up.output).await?;
            return Ok(None);
        }
        own_session(config, &command, args, signals).await
    })
}

/// Runs the command in a session of its own. `None` where that ended first, and that was asked for.
async fn own_session(
    config: devbox_engine::Config,
    command: &Command<'_>,
    args: &ExecArgs,
    mut signals: sys::ExecSignals,
) -> Result<Option<ExitOutcome>, Failure> {
    let engine = devbox_engine::start(config).await?;
    let mut events = engine.events();
    // Nothing is said while all is well: the terminal is the command's.
    let status = loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(EngineEvent::Session(Event::Ready { status })) => break status,
                Some(EngineEvent::Session(Event::Lagged { status, .. })) if status.ready => break status,
                Some(EngineEvent::Session(event)) => print::tell(&event, args.up.output),
                Some(EngineEvent::Notice(notice)) => print::note(&print::notice(&notice)),
                None => return verdict(engine.wait().await?).map(|_| None),
            },
            number = signals.any() => {
                // There is no command yet that could decide what it means.
                engine.stop("a signal").await;
                engine.wait().await?;
                return Ok(Some(ExitOutcome::Signal(number)));
            }
        }
    };
    let telling = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                EngineEvent::Session(Event::Stopping { .. }) => {}
                event => tracing::info!(?event, "session"),
            }
        }
    });
    let outcome = match engine.private_hosts() {
        Some(mut hosts) => command.run(&mut hosts, &status, signals).await,
        None => Err(Failure::new(code::EXEC_FAILED, "there is no private hosts file")),
    };
    let reason = end(&engine).await?;
    if !matches!(reason, StopReason::Requested { .. }) {
        print::note(&format!(
            "warning: the session ended before the command: {reason}"
        ));
    }
    telling.abort();
    outcome.map(Some)
}

/// Ends the session of a command that has ended. Its connections end with it: nobody is left to drain them for.
async fn end(engine: &Engine) -> Result<StopReason, Failure> {
    for _ in 0..2 {
        engine.stop("the command has ended").await;
    }
    Ok(engine.wait().await?)
}

/// The session to join, if one of this user's serves the same: its addresses, no second tunnel.
async fn running(config: &Config, args: &ExecArgs) -> Result<Option<Running>, Failure> {
    // A running session has its own names and addresses.
    if args.up.connect.namespace.is_some() || !args.up.connect.pool.is_empty() {
        return Ok(None);
    }
    let mut found = devbox_engine::find(None).await.running;
    found.retain(|found| found.report.ready && serves_the_same(config, &found.report));
    if let Some(file) = &args.up.hosts_file {
        let wanted = file.canonicalize().ok();
        found.retain(|found| {
            let theirs = found.report.identity.hosts_file.as_ref();
            theirs.is_none_or(|theirs| theirs.canonicalize().ok() == wanted)
        });
    }
    if found.len() > 1 && config.names_no_provider() {
        let mut failure = Failure::new(
            code::EXEC_FAILED,
            "several sessions are running; say which to join with --env NAME:",
        );
        for found in &found {
            let environments: Vec<_> = found.report.environments().collect();
            let far_sides = found.report.providers.iter();
            let far_sides: Vec<_> = far_sides.map(|provider| provider.status.to_string()).collect();
            failure = failure.help(format!("{}  {}", environments.join(", "), far_sides.join(", ")));
        }
        return Err(failure);
    }
    Ok(found.into_iter().next())
}

/// Whether a session has the providers of this configuration, in the same order, since that settles who has a name. Where the
/// configuration has none, every session of the environment does.
fn serves_the_same(config: &Config, report: &StatusReport) -> bool {
    if config.names_no_provider() {
        return config
            .environment
            .as_ref()
            .is_none_or(|wanted| report.environments().any(|served| served == wanted.as_ref()));
    }
    let wanted = config.far_sides();
    wanted.len() == report.providers.len()
        && wanted
            .zip(&report.providers)
            .all(|((far_side, environment), theirs)| {
                far_side == theirs.status.far_side
                    && environment.is_none_or(|wanted| theirs.environment.as_deref() == Some(wanted.as_ref()))
            })
}

fn faults(report: &StatusReport) -> impl Iterator<Item = (String, u16, &str)> {
    report.services.iter().flat_map(|service| {
        service
            .faults()
            .map(|(port, reason)| (service.service.to_string(), port, reason))
    })
}

/// The command to run.
struct Command<'a> {
    argv: &'a [OsString],
    /// The soft limit of open files that this program was started with.
    open_files: Option<u64>,
}

impl Command<'_> {
    /// Runs the command with the private hosts file as it is now, keeps the file up to date, and waits for the end.
    async fn run(
        &self,
        contents: &mut PrivateHosts,
        status: &StatusReport,
        signals: sys::ExecSignals,
    ) -> Result<ExitOutcome, Failure> {
        let mut command = ScopedCommand::new(self.argv.iter().cloned()).open_files(self.open_files);
        let names = status.services.iter().flat_map(|service| &service.names);
        let names: Vec<_> = names.collect();
        // Programs read one or the other: both get what either had.
        let had: Vec<_> = ["NO_PROXY", "no_proxy"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .collect();
        let had = process_scope::no_proxy(
            had.first().map(String::as_str),
            had.get(1).into_iter().flat_map(|text| text.split(',')),
        );
        let value = process_scope::no_proxy(Some(&had), &names);
        for variable in ["NO_PROXY", "no_proxy"] {
            command = command.env(variable, &value);
        }
        let scope = Scope::new(contents.content());
        let scoped = process_scope::spawn(&scope, &command).map_err(|error| cannot_run(&error))?;
        let signaller = scoped.signaller().map_err(Failure::because)?;
        let (mut child, mut hosts) = (scoped.child, scoped.hosts);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("wait".to_owned())
            .spawn(move || drop(ended.send(process_scope::wait(&mut child))))
            .map_err(Failure::because)?;
        let passing = tokio::spawn(pass_signals(signals, signaller));
        tokio::pin!(end);
        let outcome = loop {
            tokio::select! {
                ended = &mut end => break ended.map_err(Failure::because)?.map_err(Failure::because),
                Some(bytes) = contents.changed() => {
                    if let Err(error) = hosts.update(&bytes) {
                        tracing::warn!(%error, "the command does not see the newest names");
                    }
                }
            }
        };
        passing.abort();
        outcome
    }
}

async fn pass_signals(mut signals: sys::ExecSignals, signaller: Signaller) {
    loop {
        let signal = signals.next().await;
        if let Err(error) = signaller.send(signal) {
            tracing::warn!(%error, signal, "not passed on");
        }
    }
}

/// Why the command cannot run, and the ways out.
pub(crate) fn cannot_run(error: &process_scope::Error) -> Failure {
    let told = Failure::new(error.exit_code(), error.to_string());
    match error {
        process_scope::Error::UserNamespacesForbidden { .. }
        | process_scope::Error::MountNamespaceForbidden { .. } => told
            .help("without them: `sudo devbox up` makes the names known to the whole machine,")
            .help("or `devbox up --no-hosts` reaches the services by address"),
        process_scope::Error::Unsupported { .. } => {
            told.help("`devbox up` makes the names known to the whole machine")
        }
        _ => told,
    }
}
