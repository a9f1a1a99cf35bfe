//! `devbox exec`: a command that alone sees the names.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use devbox_helper_client::HostsEntry;
use devbox_session::control::{Asking, Request};
use devbox_session::{Event, Session, StatusReport, StopReason};
use process_scope::{ExitOutcome, Scope, ScopedCommand, Signaller};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::addresses::Addresses;
use crate::args::ExecArgs;
use crate::config::Config;
use crate::failure::{Failure, code};
use crate::host::PrivateHost;
use crate::status::{self, Found};
use crate::{dry_run, print, private_hosts, runtime, session, sys};

/// Runs it. The calling thread is the only one yet.
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
            "--no-hosts makes no sense with exec: the names are what it gives",
        ));
    }
    // Under sudo the command is wanted as root, and so is everything that is done for it.
    let caller = sys::own_identity().map_err(Failure::because)?;
    let config = Config::load(&args.up.connect, caller.home.as_deref())?;
    let base_file = match &args.up.hosts_file {
        Some(file) => file.clone(),
        None => private_hosts::system_file()?,
    };
    let base = fs::read(&base_file).map_err(|error| {
        Failure::new(
            code::EXEC_FAILED,
            format!("cannot read {}: {error}", base_file.display()),
        )
    })?;
    let base = private_hosts::without_sessions(&base);
    let mut signals = sys::ExecSignals::before_handlers();
    runtime::run_with_limits(args.up.connect.verbose, async {
        // From here on a signal waits for the command that it is for.
        signals.install().map_err(Failure::because)?;
        if !args.up.dry_run
            && let Some(found) = running(&config, args).await?
        {
            return joined(&found, base, args, signals).await.map(Some);
        }
        let id = session::new_id(&config)?;
        let provider = session::provider(&config, &id)?;
        let identity = session::identity(id, provider.gateway.to_string(), None, None);
        let settings = session::settings(&config, identity, true)?;
        let addresses = Addresses::open(&config, session::state_folder(&caller))?;
        if args.up.dry_run {
            dry_run::run(
                settings,
                addresses.allocator,
                crate::provider::boxed(provider, config.environment.clone()),
                Some(&base_file),
                sys::is_root(),
                args.up.output,
            )
            .await?;
            return Ok(None);
        }
        let (content, contents) = watch::channel(base.clone());
        let (allocator, mut record) = addresses.split();
        let host = PrivateHost { base, content };
        let (session, handle) = Session::new(
            settings,
            allocator,
            crate::provider::boxed(provider, config.environment.clone()),
            Box::new(host),
        );
        let mut events = handle.events();
        let mut session = tokio::spawn(session.run());
        // Nothing is said while all is well: the terminal is the command's.
        let status = loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Ok(event @ Event::Ready { .. }) => {
                        record.event(&event);
                        if let Event::Ready { status } = event {
                            break status;
                        }
                    }
                    Ok(event) => print::tell(&event, args.up.output),
                    Err(_) => {}
                },
                number = signals.any() => {
                    // There is no command yet that could decide what it means.
                    handle.stop(StopReason::Requested { by: "a signal".to_owned() }).await;
                    session.await.map_err(Failure::because)?;
                    return Ok(Some(ExitOutcome::Signal(number)));
                }
                ended = &mut session => {
                    let reason = ended.map_err(Failure::because)?;
                    return session::verdict(reason).map(|_| None);
                }
            }
        };
        let telling = tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                record.event(&event);
                if !matches!(event, Event::Stopping { .. }) {
                    tracing::info!(event = ?event, "session");
                }
            }
        });
        let outcome = command(&args.command, contents, &status, signals).await;
        handle
            .stop(StopReason::Requested {
                by: "the command has ended".to_owned(),
            })
            .await;
        // Its connections end with it: nobody is left to drain them for.
        handle
            .stop(StopReason::Requested {
                by: "the command has ended".to_owned(),
            })
            .await;
        let reason = session.await.map_err(Failure::because)?;
        if !matches!(reason, StopReason::Requested { .. }) {
            print::note(&format!(
                "warning: the session ended before the command: {reason}"
            ));
        }
        telling.abort();
        outcome.map(Some)
    })
}

/// The session to join, if one of this user's serves the same: its addresses, no second tunnel.
async fn running(config: &Config, args: &ExecArgs) -> Result<Option<Found>, Failure> {
    // A session that runs has its own names and addresses.
    if args.up.connect.namespace.is_some() || !args.up.connect.pool.is_empty() {
        return Ok(None);
    }
    let mut found = status::find(config.environment.as_ref()).await;
    found.retain(|found| found.report.ready);
    if let Some(gateway) = &config.gateway {
        found.retain(|found| found.report.identity.gateway == gateway.as_str());
    }
    if let Some(file) = &args.up.hosts_file {
        let wanted = file.canonicalize().ok();
        found.retain(|found| {
            found
                .report
                .identity
                .hosts_file
                .as_ref()
                .is_none_or(|theirs| theirs.canonicalize().ok() == wanted)
        });
    }
    if found.len() > 1 && config.gateway.is_none() {
        let mut failure = Failure::new(
            code::EXEC_FAILED,
            "several sessions are running; say which to join with --env NAME:",
        );
        for found in &found {
            let environment = found.report.environment.as_deref().unwrap_or("-");
            failure = failure.help(format!("{environment}  {}", found.report.identity.gateway));
        }
        return Err(failure);
    }
    Ok(found.into_iter().next())
}

/// Runs the command beside a session that is there.
async fn joined(
    found: &Found,
    base: Vec<u8>,
    args: &ExecArgs,
    signals: sys::ExecSignals,
) -> Result<ExitOutcome, Failure> {
    let render = move |report: &StatusReport| {
        private_hosts::render(&base, &entries(report))
            .map(|rendered| rendered.bytes)
            .map_err(Failure::from)
    };
    let stream = sys::connect_control(&found.socket)
        .await
        .map_err(Failure::because)?;
    let mut asking = Asking::ask(stream, &Request::Watch)
        .await
        .map_err(Failure::because)?;
    let first = asking
        .report()
        .await
        .map_err(Failure::because)?
        .unwrap_or_else(|| found.report.clone());
    let (content, contents) = watch::channel(render(&first)?);
    for (service, port, reason) in faults(&first) {
        print::note(&format!("warning: {service}:{port} is not offered: {reason}"));
    }
    let following: JoinHandle<()> = tokio::spawn(async move {
        while let Ok(Some(report)) = asking.report().await {
            match render(&report) {
                Ok(bytes) => drop(content.send_replace(bytes)),
                Err(failure) => tracing::warn!(%failure, "the names stay as they are"),
            }
        }
        tracing::info!("the session that was joined has ended");
        // The names stay: what a program has looked up may not change its meaning under it.
        content.closed().await;
    });
    let outcome = command(&args.command, contents, &first, signals).await;
    following.abort();
    outcome
}

fn faults(report: &StatusReport) -> impl Iterator<Item = (String, u16, &str)> {
    report.services.iter().flat_map(|service| {
        service
            .faults()
            .map(|(port, reason)| (service.service.to_string(), port, reason))
    })
}

/// The hosts entries of a session, from its report.
pub(crate) fn entries(report: &StatusReport) -> Vec<HostsEntry> {
    let services = report.services.iter().filter(|service| !service.names.is_empty());
    services
        .filter_map(|service| {
            Some(HostsEntry {
                address: service.address?,
                names: service.names.clone(),
            })
        })
        .collect()
}

/// Runs the command with the private hosts file as it is now, keeps the file up to date, and waits for the end.
async fn command(
    argv: &[OsString],
    mut contents: watch::Receiver<Vec<u8>>,
    status: &StatusReport,
    signals: sys::ExecSignals,
) -> Result<ExitOutcome, Failure> {
    let mut command = ScopedCommand::new(argv.iter().cloned());
    let names: Vec<_> = status
        .services
        .iter()
        .flat_map(|service| &service.names)
        .collect();
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
    let scope = Scope::new(contents.borrow_and_update().clone());
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
            Ok(()) = contents.changed() => {
                let bytes = contents.borrow_and_update().clone();
                if let Err(error) = hosts.update(&bytes) {
                    tracing::warn!(%error, "the command does not see the newest names");
                }
            }
        }
    };
    passing.abort();
    outcome
}

async fn pass_signals(mut signals: sys::ExecSignals, signaller: Signaller) {
    loop {
        let signal = signals.next().await;
        if let Err(error) = signaller.send(signal) {
            tracing::warn!(%error, signal, "not passed on");
        }
    }
}

/// Why the command does not run, and the ways out.
pub(crate) fn cannot_run(error: &process_scope::Error) -> Failure {
    let told = Failure::new(error.exit_code(), error.to_string());
    match error {
        process_scope::Error::UserNamespacesForbidden { .. }
        | process_scope::Error::MountNamespaceForbidden { .. } => told
            .help("without them: `sudo devbox up` gives the names to the whole machine,")
            .help("or `devbox up --no-hosts` reaches the services by address"),
        process_scope::Error::Unsupported { .. } => {
            told.help("`devbox up` gives the names to the whole machine")
        }
        _ => told,
    }
}
