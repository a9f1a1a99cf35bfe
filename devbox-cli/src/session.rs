//! What `up`, `exec` and `demo` share: putting a session together and seeing it through.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devbox_gateway_client::{GatewayProvider, Token, TokenSource};
use devbox_helper::Policy;
use devbox_helper_client::{AsyncClient, Client, HelperError, StartOptions};
use devbox_session::{
    ConnectFailure, Event, Handle, Identity, NamesPolicy, Provider, Session, Settings, StopReason,
};
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::addresses::Addresses;
use crate::args::Output;
use crate::config::Config;
use crate::failure::{Failure, code};
use crate::host::MachineHost;
use crate::sys::{Caller, ControlListener, Signals};
use crate::{manual, print};

/// The hidden first argument with which the program is its own helper.
pub(crate) const HELPER_ARGUMENT: &str = "__helper";

/// For how long connections may go on when a session ends.
const DRAIN: Duration = Duration::from_secs(3);
/// Tries of the first connect, about two seconds with the pauses between them.
const FIRST_TRIES: u32 = 4;
/// The shortest and the longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// For how long one connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the helper: this program again, with the rights that it has now. To be called before any thread exists.
pub(crate) fn start_helper(
    hosts_file: &Path,
    pools: &[IpNet],
    caller: &Caller,
    verbose: bool,
) -> Result<AsyncClient, Failure> {
    let mut policy = Policy::new(hosts_file).map_err(Failure::because)?;
    policy.pools = pools.to_vec();
    if crate::sys::is_root() && caller.uid != 0 {
        policy.caller = Some(devbox_helper::Caller {
            uid: caller.uid,
            gid: caller.gid,
            groups: caller.groups.clone(),
        });
    }
    policy.check().map_err(Failure::because)?;
    let program = std::env::current_exe().map_err(Failure::because)?;
    let arguments = std::iter::once(HELPER_ARGUMENT.into()).chain(policy.to_args());
    let options = StartOptions::new(program).args(arguments).verbose(verbose);
    let client = Client::start_with(&options).map_err(Failure::because)?;
    AsyncClient::new(client).map_err(Failure::because)
}

/// A new session's id: the environment it asks for, if it does, and 32 random bits.
pub(crate) fn new_id(config: &Config) -> Result<String, Failure> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| Failure::new(code::FAILED, error.to_string()))?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // A tag of the hosts file takes 64 bytes, `devbox-` included.
    let environment: String = config
        .environment
        .as_ref()
        .map_or("session", |label| label.as_ref())
        .chars()
        .take(40)
        .collect();
    Ok(format!("{environment}-{random}"))
}

/// Who a session is.
pub(crate) fn identity(
    session: String,
    gateway: String,
    hosts_file: Option<PathBuf>,
    helper_pid: Option<u32>,
) -> Identity {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Identity {
        session,
        pid: std::process::id(),
        helper_pid,
        hosts_file,
        gateway,
        started_at: since.as_secs(),
    }
}

/// The session's settings.
pub(crate) fn settings(config: &Config, identity: Identity, write_hosts: bool) -> Result<Settings, Failure> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| Failure::new(code::FAILED, error.to_string()))?;
    Ok(Settings {
        identity,
        environment: config.environment.clone(),
        names: NamesPolicy {
            active: config.active.clone(),
            named_namespaces: config.named_namespaces.clone(),
            named_environments: config.named_environments.clone(),
        },
        write_hosts,
        first_tries: FIRST_TRIES,
        backoff: BACKOFF,
        drain: DRAIN,
        seed: u64::from_le_bytes(seed),
    })
}

/// The road to the gateway that the configuration names.
pub(crate) fn provider(config: &Config, session: &str) -> Result<GatewayProvider, Failure> {
    let (gateway, token_file) = config.gateway()?;
    // A file that is not there is told before anything is started.
    Token::read(&token_file).map_err(|error| {
        Failure::because(error).help("the file holds the gateway's token and nothing else")
    })?;
    let mut provider = GatewayProvider::new(gateway, TokenSource::File(token_file), session);
    provider.tls_ca.clone_from(&config.tls_ca);
    provider.connect_timeout = CONNECT_TIMEOUT;
    Ok(provider)
}

/// A session of the machine, from its first connect to the last thing undone.
pub(crate) struct Run {
    pub(crate) settings: Settings,
    pub(crate) addresses: Addresses,
    pub(crate) provider: Box<dyn Provider>,
    pub(crate) helper: Option<AsyncClient>,
    pub(crate) helper_is_root: bool,
    pub(crate) output: Output,
}

impl Run {
    /// Runs until the session has ended; says why it did. `on_event` sees each event after it was told and may end
    /// the session by the handle.
    pub(crate) async fn until_end(
        self,
        mut on_event: impl FnMut(&Event, &Handle),
    ) -> Result<StopReason, Failure> {
        let who = &self.settings.identity;
        let (control_sender, mut control) = mpsc::channel(1);
        if let (Some(helper), Some(_)) = (&self.helper, &who.hosts_file) {
            // First of all: what a killed session left goes even where this one does not get further.
            sweep(helper).await;
        }
        let host = MachineHost {
            helper: self.helper,
            helper_is_root: self.helper_is_root,
            hosts_file: who.hosts_file.clone(),
            tag: format!("devbox-{}", who.session),
            introduction: format!(
                "session {} (pid {}), since {}",
                who.session,
                who.pid,
                print::time(who.started_at)
            ),
            control: control_sender,
        };
        let mut signals = Signals::new().map_err(Failure::because)?;
        let (allocator, mut record) = self.addresses.split();
        let (session, handle) = Session::new(self.settings, allocator, self.provider, Box::new(host));
        let mut events = handle.events();
        let mut session = tokio::spawn(session.run());
        let mut serving = JoinSet::new();
        let reason = loop {
            tokio::select! {
                biased;
                event = events.recv() => if let Ok(event) = event {
                    record.event(&event);
                    print::tell(&event, self.output);
                    on_event(&event, &handle);
                },
                signal = signals.next() => {
                    handle.stop(StopReason::Requested { by: signal.to_owned() }).await;
                }
                Some(claimed) = control.recv() => match claimed {
                    Ok(listener) => { serving.spawn(serve_control(listener, handle.clone())); }
                    Err(error) => print::note(&format!(
                        "warning: no control socket, so `status` and `down` will not find this session: {error}"
                    )),
                },
                ended = &mut session => break ended.map_err(Failure::because)?,
            }
        };
        while let Ok(event) = events.try_recv() {
            print::tell(&event, self.output);
        }
        Ok(reason)
    }
}

/// Takes out what dead sessions left.
async fn sweep(helper: &AsyncClient) {
    match helper.sweep().await {
        Ok(report) => {
            for block in report.removed {
                print::note(&format!("note: took out what session {} had left", block.tag));
            }
        }
        // Whether the file can be written is told when the block is.
        Err(error) => {
            tracing::debug!(error = %format!("{:#}", anyhow::Error::new(error)), "nothing was swept");
        }
    }
}

/// Answers `status` and `down` until the session has ended.
async fn serve_control(listener: ControlListener, handle: Handle) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let handle = handle.clone();
                    connections.spawn(async move {
                        if let Err(error) = devbox_session::control::serve(stream, &handle).await {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What a session's end means for the command.
pub(crate) fn verdict(reason: StopReason) -> Result<ExitCode, Failure> {
    match reason {
        StopReason::Requested { .. } => Ok(ExitCode::SUCCESS),
        StopReason::Displaced { by } => Err(Failure::new(
            code::DISPLACED,
            format!("displaced by {by}, of the same environment and hosts file"),
        )),
        StopReason::Refused(failure) => Err(refused(&failure)),
        StopReason::Unreachable { last, tries, waited } => Err(Failure::new(
            code::UNAVAILABLE,
            format!("{last} (tried {tries} times in {:.1} s)", waited.as_secs_f64()),
        )
        .help("is the gateway running, and is this its address?")),
        StopReason::Hosts { error, entries } => {
            let failure = match &error {
                HelperError::Locked { file, waited } => Failure::new(
                    code::UNAVAILABLE,
                    format!(
                        "{} stays locked by another program (tried 4 times in {:.1} s)",
                        file.display(),
                        waited.as_secs_f64()
                    ),
                )
                .help("try again when it is done, or leave the file alone with --no-hosts"),
                error => manual::ways_out(Failure::new(code::FAILED, error.to_string()), error, &entries),
            };
            Err(failure)
        }
        StopReason::HelperLost { hosts_file } => {
            let failure = Failure::new(code::FAILED, "the helper process ended, so this session ends too");
            Err(match hosts_file {
                Some(file) => failure.help(format!(
                    "its block is still in the hosts file; this takes it out, with the same rights: \
                     devbox cleanup --hosts-file {}",
                    file.display()
                )),
                None => failure,
            })
        }
        reason => Err(Failure::new(code::FAILED, format!("{reason:?}"))),
    }
}

fn refused(failure: &ConnectFailure) -> Failure {
    let told = Failure::new(code::FAILED, failure.to_string());
    match failure {
        ConnectFailure::TokenRefused { .. } => told.help(
            "another one is named with --token-file FILE, or token_file: in devbox.yaml",
        ),
        ConnectFailure::Certificate { .. } => told
            .help("a certificate of your own authority is accepted with --tls-ca FILE (PEM)")
            .help("a self-signed one must be no authority: openssl req -x509 -addext basicConstraints=critical,CA:FALSE …"),
        ConnectFailure::UnknownEnvironment { .. } => {
            told.help("choose another with --env NAME, or leave it out to take the one that is served")
        }
        _ => told,
    }
}

/// Where what outlives a session is kept for this user.
pub(crate) fn state_folder(caller: &Caller) -> Option<PathBuf> {
    let own = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    // Under sudo the variable is root's, if it is there at all.
    let own = own.filter(|_| std::env::var_os("SUDO_UID").is_none());
    let folder = own.or_else(|| caller.home.as_ref().map(|home| home.join(".local/state")))?;
    Some(folder.join("devbox"))
}
