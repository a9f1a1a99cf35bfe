//! `devbox exec`: a command that alone sees the names.
//!
//! Two processes: the front is the one that the caller waits for, and ends as soon as the command has. The back has the session,
//! or holds the session of another `exec`, until the last process of the command's tree has ended.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use devbox_engine::{
    Engine, EngineEvent, Event, Joined, PrivateHosts, Publish, Running, Share, StatusReport, StopReason,
    system_hosts_file, without_sessions,
};
use process_scope::{Back, ExitOutcome, Scope, ScopedCommand, Side};
use tokio::sync::oneshot;

use crate::args::ExecArgs;
use crate::config::Config;
use crate::ends::verdict;
use crate::failure::{Failure, code};
use crate::{dry_run, print, runtime, sys};

/// Runs it. The calling thread is the only one so far.
pub(crate) fn run(args: &ExecArgs) -> Result<ExitCode, Failure> {
    let outcome = if args.up.dry_run {
        plan(args).map(|()| ExitOutcome::Code(0))
    } else {
        match process_scope::split() {
            Ok(Side::Front(front)) => front.wait().map_err(Failure::because),
            Ok(Side::Back(back)) => in_back(args, back),
            Err(error) => Err(cannot_run(&error)),
        }
    };
    match outcome {
        Ok(outcome) => process_scope::die_like(outcome),
        Err(failure) => Err(failure.with_code_of_exec()),
    }
}

/// What both a run and its plan need.
struct Wanted {
    caller: sys::Caller,
    config: Config,
    base_file: PathBuf,
    share: bool,
}

impl Wanted {
    fn of(args: &ExecArgs) -> Result<Self, Failure> {
        if args.up.no_hosts {
            return Err(Failure::new(
                code::EXEC_FAILED,
                "--no-hosts makes no sense with exec: the names are what it provides",
            ));
        }
        if args.up.take_names {
            return Err(Failure::new(
                code::EXEC_FAILED,
                "--take-names makes no sense with exec: its command has the names in any case",
            ));
        }
        // Under sudo the command is wanted as root, and so is everything that is done for it.
        let caller = sys::own_identity().map_err(Failure::because)?;
        let config = Config::load(&args.up.connect, caller.home.as_deref())?;
        let base_file = match &args.up.hosts_file {
            Some(file) => file.clone(),
            None => system_hosts_file().map_err(Failure::because)?,
        };
        Ok(Self {
            caller,
            config,
            base_file,
            share: args.up.share,
        })
    }

    fn base(&self) -> Result<Vec<u8>, Failure> {
        let base = fs::read(&self.base_file).map_err(|error| {
            Failure::new(
                code::EXEC_FAILED,
                format!("cannot read {}: {error}", self.base_file.display()),
            )
        })?;
        Ok(without_sessions(&base))
    }

    fn session(&self, publish: Publish) -> Result<devbox_engine::Config, Failure> {
        Ok(devbox_engine::Config {
            providers: self.config.providers()?,
            names: self.config.names.clone(),
            pools: self.config.pool.clone(),
            max_connections: self.config.max_connections,
            share: self.config.share || self.share,
            services: self.config.services.clone(),
            publish,
            // Nobody else sees its names: it displaces nobody, and nobody displaces it.
            claim: false,
            lock_file: self.config.lock_file(),
            state_dir: self.caller.state_folder(),
            ..devbox_engine::Config::default()
        })
    }
}

/// Says what would be done.
fn plan(args: &ExecArgs) -> Result<(), Failure> {
    let wanted = Wanted::of(args)?;
    runtime::run(args.up.connect.verbose, async {
        let config = wanted.session(Publish::HostsFile(wanted.base_file.clone()))?;
        dry_run::run(&config, sys::is_root(), args.up.output.form()).await?;
        Ok(())
    })
}

fn in_back(args: &ExecArgs, back: Back) -> Result<ExitOutcome, Failure> {
    let wanted = Wanted::of(args)?;
    let base = wanted.base()?;
    let signals = sys::ExecSignals::before_handlers();
    runtime::run_and_start(args.up.connect.verbose, |open_files| async move {
        let mut run = Run {
            args,
            open_files,
            signals: signals.install().map_err(Failure::because)?,
            front: Front::new(back)?,
        };
        if let Some(found) = running(&wanted.config, args).await? {
            return run.joined(found.join(base).await?).await;
        }
        let config = wanted.session(Publish::Private { base })?;
        let share = tokio::select! {
            share = devbox_engine::share(&config) => share,
            outcome = run.cancelled() => return Ok(outcome),
        };
        match share {
            Share::Joined(joined) => run.joined(*joined).await,
            Share::Start(place) => {
                let engine = tokio::select! {
                    started = devbox_engine::start_shared(config, place) => started?,
                    outcome = run.cancelled() => return Ok(outcome),
                };
                run.own_session(&engine).await
            }
        }
    })
}

/// The process that the caller waits for, as the back sees it.
struct Front {
    back: Back,
    end: oneshot::Receiver<()>,
    /// When its end was heard: whoever waits may stop waiting and begin again.
    ended_at: Option<tokio::time::Instant>,
    released: bool,
    /// It has ended: a signal that comes from here on was sent to this process, and not passed on.
    gone: bool,
}

impl Front {
    fn new(back: Back) -> Result<Self, Failure> {
        let watch = back.watch().map_err(Failure::because)?;
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("front".to_owned())
            .spawn(move || {
                watch.wait();
                ended.send(())
            })
            .map_err(Failure::because)?;
        Ok(Self {
            back,
            end,
            ended_at: None,
            released: false,
            gone: false,
        })
    }

    /// Resolves, once, when somebody has killed it.
    async fn killed(&mut self) {
        if self.released {
            std::future::pending::<()>().await;
        }
        self.ended().await;
        self.released = true;
    }

    /// Resolves, once, when it has ended and nothing that it passed on is still on its way.
    async fn ended(&mut self) {
        if self.gone {
            std::future::pending::<()>().await;
        }
        let at = match self.ended_at {
            Some(at) => at,
            None => {
                // Its thread says so before it ends.
                drop((&mut self.end).await);
                *self.ended_at.insert(tokio::time::Instant::now())
            }
        };
        tokio::time::sleep_until(at + ON_THEIR_WAY).await;
        self.gone = true;
    }

    /// Lets it end. What is said from here on has nowhere to go.
    fn release(&mut self, outcome: ExitOutcome) {
        if !std::mem::replace(&mut self.released, true)
            && let Err(error) = self.back.release(outcome)
        {
            tracing::debug!(%error, "the caller is gone");
        }
    }
}

/// One run of a command.
struct Run<'a> {
    args: &'a ExecArgs,
    /// The soft limit of open files that this program was started with.
    open_files: Option<u64>,
    signals: sys::ExecSignals,
    front: Front,
}

impl Run<'_> {
    /// Resolves when there is nobody left to run a command for, and none runs yet.
    async fn cancelled(&mut self) -> ExitOutcome {
        tokio::select! {
            // There is no command yet that could decide what it means.
            number = self.signals.end() => ExitOutcome::Signal(number),
            () = self.front.killed() => ExitOutcome::Signal(KILLED),
        }
    }

    /// Runs the command with the names of a session that somebody else keeps.
    async fn joined(&mut self, mut joined: Joined) -> Result<ExitOutcome, Failure> {
        let Joined { report, hosts, .. } = &mut joined;
        for (service, port, reason) in faults(report) {
            print::note(&format!("warning: {service}:{port} is not offered: {reason}"));
        }
        self.command(hosts, report).await
    }

    /// Runs the command in a session of its own, and keeps that for as long as others hold it.
    async fn own_session(&mut self, engine: &Engine) -> Result<ExitOutcome, Failure> {
        let mut events = engine.events();
        // Nothing is said while all is well: the terminal is the command's.
        let status = loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(EngineEvent::Session(Event::Ready { status })) => break status,
                    Some(EngineEvent::Session(Event::Lagged { status, .. })) if status.ready => break status,
                    Some(EngineEvent::Session(event)) => print::tell_aside(&event, self.args.up.output.form()),
                    Some(EngineEvent::Notice(notice)) => print::note(&print::notice(&notice)),
                    None => {
                        verdict(engine.wait().await?)?;
                        return Ok(ExitOutcome::Code(0));
                    }
                },
                outcome = self.cancelled() => {
                    end(engine).await?;
                    return Ok(outcome);
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
        let ran = match engine.private_hosts() {
            Some(mut hosts) => self.command(&mut hosts, &status).await,
            None => Err(Failure::new(code::EXEC_FAILED, "there is no private hosts file")),
        };
        // Others may hold the session: the caller hears of a failure without waiting for them.
        let outcome = ran.unwrap_or_else(|failure| {
            let failure = failure.with_code_of_exec();
            failure.report();
            ExitOutcome::Code(failure.code().into())
        });
        self.leave(engine, outcome).await;
        let reason = end(engine).await?;
        if !matches!(reason, StopReason::Requested { .. }) {
            print::note(&format!(
                "warning: the session ended before the command: {reason}"
            ));
        }
        telling.abort();
        Ok(outcome)
    }

    /// Waits for those who hold the session, without the caller.
    async fn leave(&mut self, engine: &Engine, outcome: ExitOutcome) {
        let left = engine.leave();
        tokio::pin!(left);
        loop {
            tokio::select! {
                biased;
                () = &mut left => return,
                // The command has had what the front passed on.
                _ = self.signals.end() => if self.front.gone { return },
                () = engine.held(), if !self.front.released => self.front.release(outcome),
                () = self.front.ended() => {}
            }
        }
    }

    /// Runs the command with the private hosts file as it is now, keeps the file up to date, and waits for the end of all that
    /// the command has started.
    async fn command(
        &mut self,
        contents: &mut PrivateHosts,
        status: &StatusReport,
    ) -> Result<ExitOutcome, Failure> {
        if !self.args.allow_none {
            expect_some(status)?;
        }
        let mut command = ScopedCommand::new(self.args.command.iter().cloned())
            .open_files(self.open_files)
            .group(self.front.back.job());
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
        let wait_for_all = !self.args.no_wait;
        if wait_for_all {
            self.front.back.adopt_orphans().map_err(Failure::because)?;
        }
        let scope = Scope::new(contents.content());
        let scoped = process_scope::spawn(&scope, &command).map_err(|error| cannot_run(&error))?;
        self.front.back.command_runs().map_err(Failure::because)?;
        let signaller = scoped.signaller().map_err(Failure::because)?;
        let mut tree = scoped.tree(&self.front.back).map_err(Failure::because)?;
        let mut hosts = scoped.hosts;
        let (ended, mut end) = oneshot::channel();
        let (rest_ended, mut rest) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("wait".to_owned())
            .spawn(move || {
                let outcome = tree.wait();
                let over = outcome.is_err() || !wait_for_all || tree.is_over();
                drop(ended.send((outcome, over)));
                if !over {
                    tree.wait_for_rest();
                }
                drop(rest_ended);
            })
            .map_err(Failure::because)?;
        let mut update = |bytes: Vec<u8>| {
            if let Err(error) = hosts.update(&bytes) {
                tracing::warn!(%error, "the command does not see the newest names");
            }
        };
        let mut killed = false;
        let (outcome, over) = loop {
            let signal = tokio::select! {
                ended = &mut end => break ended.map_err(Failure::because)?,
                Some(bytes) = contents.changed() => {
                    update(bytes);
                    continue;
                }
                signal = self.signals.next() => signal,
                () = self.front.killed() => {
                    killed = true;
                    KILLED
                }
            };
            if let Err(error) = signaller.send(signal) {
                tracing::warn!(%error, signal, "not passed on");
            }
        };
        let outcome = outcome.map_err(Failure::because)?;
        if over || killed {
            return Ok(outcome);
        }
        self.front.release(outcome);
        loop {
            tokio::select! {
                biased;
                _ = &mut rest => return Ok(outcome),
                // The command has had what the front passed on.
                _ = self.signals.end() => if self.front.gone { return Ok(outcome) },
                Some(bytes) = contents.changed() => update(bytes),
                () = self.front.ended() => {}
            }
        }
    }
}

/// How long a signal may take from a process that has ended to this one.
const ON_THEIR_WAY: Duration = Duration::from_millis(50);

/// SIGKILL, which reaches the front alone: the command goes with it.
const KILLED: i32 = 9;

/// Ends the session of a command that has ended. Its connections end with it: nobody is left to drain them for.
async fn end(engine: &Engine) -> Result<StopReason, Failure> {
    for _ in 0..2 {
        engine.stop("the command has ended").await;
    }
    Ok(engine.wait().await?)
}

/// Fails where the command could reach no service by name.
fn expect_some(status: &StatusReport) -> Result<(), Failure> {
    if status.services.iter().any(|service| !service.names.is_empty()) {
        return Ok(());
    }
    let environments: Vec<_> = status.environments().collect();
    let environments = environments.join(", ");
    let what = match status.services.len() {
        0 => format!("there are no services in {environments}"),
        1 => format!("the one service in {environments} cannot be reached by name"),
        count => format!("none of the {count} services in {environments} can be reached by name"),
    };
    let mut failure = Failure::new(code::EXEC_FAILED, what);
    for (service, port, reason) in faults(status).take(SHOWN) {
        failure = failure.help(format!("{service}:{port}: {reason}"));
    }
    Err(failure.help("--allow-none runs the command all the same"))
}

/// Faults that are shown as examples of many.
const SHOWN: usize = 3;

/// The session to join, if one of this user's serves the same: its addresses, no second tunnel.
async fn running(config: &Config, args: &ExecArgs) -> Result<Option<Running>, Failure> {
    let connect = &args.up.connect;
    // A running session has its own names, addresses and ways. The namespaces of clusters are part of what is looked for.
    let own_names = !connect.namespace.is_empty() && !config.names_clusters_only();
    if own_names || !connect.pool.is_empty() || connect.kube.via.is_some() {
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
