use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use devbox_helper_client::{
    AsyncClient, Client, Endpoint, Error as ClientError, HelperError, HostsBlock, HostsReport, Keeper,
    ReleaseReport, StartOptions, SweepReport,
};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::error::Error;
use crate::installed::Installed;
use crate::notice::{Notice, Notices};
use crate::resolver_rule::{Rule, RulePlace};
use crate::succession::Succession;
use crate::sys;

/// How long a new helper tries to write the block of one that was killed, and how long it is awaited.
pub(crate) const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// How the helper is started: the one process that changes the machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HelperConfig {
    /// A program that becomes a helper with these arguments: `devbox-helper`, or the running program itself where its `main`
    /// calls `devbox_helper::enter`.
    pub program: PathBuf,
    /// Its arguments: what `devbox_helper::Policy::to_args` gives, behind whatever the program wants first.
    pub args: Vec<OsString>,
    /// Whether its standard error is this process's own. Default: `false`.
    pub verbose: bool,
    /// Whether the helper edits the hosts file with rights that this process does not have. If not, a session that could
    /// not write the file anyway displaces nobody. Default: `false`.
    pub privileged: bool,
    /// How a session gets another helper in place of one that was killed. Default: it does not, and ends.
    pub restart: Restart,
    /// Prefixes whose addresses are not this machine's own yet: the helper makes them so, as its policy must allow (`network`).
    /// Default: none.
    pub open_pools: Vec<IpNet>,
}

/// How a session gets another helper in place of one that was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// Not at all: the session ends.
    #[default]
    Never,
    /// This process starts it, with the rights that it has then.
    Here,
    /// A keeper starts it, which keeps the rights that this process has when it starts the first one. The arguments are those of a
    /// policy with `keep`.
    ByKeeper,
}

impl HelperConfig {
    /// A quiet helper with this process's rights.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            verbose: false,
            privileged: false,
            restart: Restart::Never,
            open_pools: Vec::new(),
        }
    }
}

/// A running helper; clones are handles to the same one.
///
/// It undoes what it did for this process, and ends, when the last handle is dropped or this process ends in any way.
#[derive(Debug, Clone)]
pub struct Helper {
    shared: Arc<Shared>,
    pub(crate) privileged: bool,
}

#[derive(Debug)]
struct Shared {
    current: watch::Sender<Current>,
    /// Where another one comes from.
    source: Source,
    /// The block that the helper confirmed last: what another one takes over.
    held: Mutex<Option<HostsBlock>>,
    /// What is claimed besides: another helper is asked for it again. `None` where addresses need no claim.
    network: Option<Mutex<Network>>,
    /// By which the system asks the session's DNS server, if it does.
    rule: Mutex<Option<Rule>>,
    /// Why no helper serves at present, while one is waited for.
    awaited: Mutex<Option<String>>,
}

/// What a session holds of this machine's network.
#[derive(Debug, Clone, Default)]
struct Network {
    pools: Vec<IpNet>,
    addresses: BTreeSet<IpAddr>,
}

impl Network {
    fn claim(&self, client: &mut Client) -> Result<(), ClientError> {
        for pool in self.pools.iter().filter(|pool| !pool.addr().is_loopback()) {
            let report = client.open_pool(pool.to_string())?;
            tracing::debug!(%pool, changed = report.changed, notes = ?report.notes, "pool opened");
        }
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            client.add_addresses(addresses, None)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Source {
    Nowhere,
    Here(StartOptions),
    /// The installed helper, which is started anew by the system.
    Installed(Installed),
    /// Locked while it starts one only.
    Keeper(Arc<Mutex<Keeper>>),
}

impl Source {
    fn another(&self) -> Result<Option<Client>, ClientError> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Here(options) => Client::start_with(options).map(Some),
            Self::Installed(installed) => installed.another().map(Some),
            Self::Keeper(keeper) => {
                let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
                keeper.another().map(Some)
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Current {
    client: AsyncClient,
    /// Whether it has ended and none takes its place.
    gone: bool,
}

impl Helper {
    /// Starts a helper with the rights that this process has now, and waits for its welcome.
    ///
    /// Call it before any thread or runtime exists, and give up root afterwards: nothing but the helper should keep it.
    ///
    /// # Errors
    /// [`Error::Helper`].
    pub fn start(config: &HelperConfig) -> Result<Self, Error> {
        let options = StartOptions::new(&config.program)
            .args(config.args.iter().cloned())
            .verbose(config.verbose);
        let (client, source) = match config.restart {
            Restart::Never => (Client::start_with(&options)?, Source::Nowhere),
            Restart::Here => (Client::start_with(&options)?, Source::Here(options)),
            Restart::ByKeeper => {
                let mut keeper = Keeper::start(&options)?;
                (keeper.another()?, Source::Keeper(Arc::new(Mutex::new(keeper))))
            }
        };
        let network = (!config.open_pools.is_empty()).then(|| Network {
            pools: config.open_pools.clone(),
            addresses: BTreeSet::new(),
        });
        Self::of(client, source, network, config.privileged)
    }

    /// Connects to the installed helper, which changes the machine for several users and sessions. What it does for this one is
    /// undone when this process ends in any way.
    ///
    /// With `claim_file`, a file of the user's own, it is kept for 5 s where this process is killed, and whoever connects with the
    /// same file meanwhile takes it over: a session that is started again has its names all the while.
    ///
    /// # Errors
    /// [`Error::Helper`], with `Connect` where none is installed, or with the reason why it does not serve this user.
    pub fn installed(socket: &Path, pools: &[IpNet], claim_file: Option<&Path>) -> Result<Self, Error> {
        let network = Network {
            pools: pools.to_vec(),
            addresses: BTreeSet::new(),
        };
        let installed = Installed {
            socket: socket.to_owned(),
            claim_file: claim_file.map(Path::to_owned),
        };
        let client = installed.first()?;
        Self::of(client, Source::Installed(installed), Some(network), true)
    }

    fn of(
        mut client: Client,
        source: Source,
        network: Option<Network>,
        privileged: bool,
    ) -> Result<Self, Error> {
        if let Some(network) = &network {
            network.claim(&mut client)?;
        }
        let client = AsyncClient::new(client)?;
        let (current, _) = watch::channel(Current { client, gone: false });
        Ok(Self {
            shared: Arc::new(Shared {
                current,
                source,
                held: Mutex::default(),
                network: network.map(Mutex::new),
                rule: Mutex::default(),
                awaited: Mutex::default(),
            }),
            privileged,
        })
    }

    /// Its process. Another one after it was killed and started again.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.current.borrow().client.pid()
    }

    /// Removes what sessions left that were killed together with their helper: their blocks in the helper's hosts file, lines of
    /// theirs that lost their markers, and their control sockets.
    ///
    /// # Errors
    /// [`Error::Helper`] if the hosts file could not be cleaned up. Control sockets that stay do no harm.
    ///
    /// # Cancel safety
    /// Not safe: what was begun is done, whether or not somebody waits for the result.
    pub async fn clean_up(&self) -> Result<SweepReport, Error> {
        sys::remove_dead_control_sockets().await;
        Ok(self.ask(|client| async move { client.clean_up().await }).await?)
    }

    pub(crate) async fn set_hosts(&self, block: HostsBlock) -> Result<HostsReport, ClientError> {
        let report = self
            .ask(|client| {
                let block = block.clone();
                async move { client.set_hosts(block).await }
            })
            .await?;
        self.hold(Some(block));
        Ok(report)
    }

    /// As [`set_hosts`](Self::set_hosts), and takes names from other sessions. A helper that replaces a killed one takes none.
    pub(crate) async fn take_hosts(&self, block: HostsBlock) -> Result<HostsReport, ClientError> {
        let report = self
            .ask(|client| {
                let block = block.clone();
                async move { client.take_hosts(block).await }
            })
            .await?;
        self.hold(Some(block));
        Ok(report)
    }

    pub(crate) async fn clear_hosts(&self) -> Result<HostsReport, ClientError> {
        let report = self
            .ask(|client| async move { client.clear_hosts().await })
            .await?;
        self.hold(None);
        Ok(report)
    }

    pub(crate) async fn sweep(&self) -> Result<SweepReport, ClientError> {
        self.ask(|client| async move { client.sweep().await }).await
    }

    pub(crate) async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, ClientError> {
        self.ask(|client| async move { client.bind(endpoint).await })
            .await
    }

    pub(crate) async fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, ClientError> {
        self.ask(|client| async move { client.bind_udp(address).await })
            .await
    }

    /// Has an address be this session's, where that has to be asked for: no other user's session gets it.
    pub(crate) async fn claim_address(&self, address: IpAddr) -> Result<(), ClientError> {
        let Some(network) = &self.shared.network else {
            return Ok(());
        };
        let is_new = |network: &Mutex<Network>| {
            let network = network.lock().unwrap_or_else(PoisonError::into_inner);
            !network.addresses.contains(&address)
        };
        if is_new(network) {
            let addresses = vec![address.to_string()];
            self.ask(|client| {
                let addresses = addresses.clone();
                async move { client.add_addresses(addresses, None).await }
            })
            .await?;
            let mut network = network.lock().unwrap_or_else(PoisonError::into_inner);
            network.addresses.insert(address);
        }
        Ok(())
    }

    /// Makes the place of a rule by which the system asks the session's DNS server.
    pub(crate) async fn prepare_rule(
        &self,
        session: &str,
        pools: &[IpNet],
    ) -> Result<RulePlace, ClientError> {
        self.ask(|client| async move { RulePlace::make(&client, session, pools).await })
            .await
    }

    /// Sets the rule: names under `suffix` are asked of this server.
    pub(crate) async fn set_rule(
        &self,
        place: RulePlace,
        suffix: &nameserver::Name,
        pools: &[IpNet],
        server: SocketAddr,
    ) -> Result<(), ClientError> {
        let rule = self
            .ask(|client| {
                let place = place.clone();
                async move { place.set(&client, suffix, pools, server).await }
            })
            .await?;
        *self.rule() = Some(rule);
        Ok(())
    }

    fn rule(&self) -> std::sync::MutexGuard<'_, Option<Rule>> {
        self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn release(&self) -> Result<ReleaseReport, ClientError> {
        let report = self.ask(|client| async move { client.release().await }).await?;
        self.hold(None);
        *self.rule() = None;
        if let Some(network) = &self.shared.network {
            let mut network = network.lock().unwrap_or_else(PoisonError::into_inner);
            *network = Network::default();
        }
        Ok(report)
    }

    /// Waits until the helper is gone for good. One that was killed is replaced meanwhile if that may be done, and a notice says so.
    ///
    /// # Cancel safety
    /// Safe: another helper that was being started ends again.
    pub(crate) async fn lost(&self, notices: &Notices) {
        let mut succession = match self.shared.source {
            Source::Installed(_) => Succession::installed(Instant::now()),
            Source::Nowhere | Source::Here(_) | Source::Keeper(_) => Succession::own(),
        };
        loop {
            let client = self.shared.current.borrow().client.clone();
            let status = client.closed().await;
            let replaced = self.replaced(status, &mut succession, notices).await;
            self.await_nothing();
            let Some(client) = replaced else {
                self.shared.current.send_modify(|current| current.gone = true);
                return;
            };
            self.shared.current.send_replace(Current { client, gone: false });
            notices.add(Notice::HelperRestarted { pid: self.pid() });
        }
    }

    /// The helper that takes the place of the one that ended with `status`, unless that may not be. One that is killed as well,
    /// while it takes the block over, is replaced in turn.
    async fn replaced(
        &self,
        mut status: Option<ExitStatus>,
        succession: &mut Succession,
        notices: &Notices,
    ) -> Option<AsyncClient> {
        // One that has ended by itself has undone its work, as somebody asked it to, and there is nothing to tell.
        while !status.is_some_and(|status| status.success()) {
            let pause = match succession.handle_end(Instant::now()) {
                Ok(pause) => pause,
                Err(given_up) => {
                    let reason = self.awaited().unwrap_or_else(|| given_up.to_string());
                    notices.add(Notice::HelperGivenUp { reason });
                    return None;
                }
            };
            tokio::time::sleep(pause).await;
            let error = match self.start_another().await {
                Ok(Ok(client)) => {
                    succession.handle_served(Instant::now());
                    return client;
                }
                Ok(Err(error)) => match self.may_come_again(&error) {
                    Some(ended) => {
                        status = ended;
                        self.await_another(&error, notices);
                        continue;
                    }
                    None => devbox_provider::with_causes(&error),
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!(%error, "no other helper could be started");
            notices.add(Notice::HelperGivenUp { reason: error });
            return None;
        }
        None
    }

    /// Whether another try may give a helper after this error, and how the last one ended: it was ended from outside, rather than by a
    /// failure that the next one would meet as well, or the system has not started it again yet.
    fn may_come_again(&self, error: &ClientError) -> Option<Option<ExitStatus>> {
        let installed = matches!(self.shared.source, Source::Installed(_));
        match error {
            ClientError::Ended { status } | ClientError::NoWelcome { status, .. } => {
                let by_signal = status.is_some_and(|status| status.code().is_none());
                (installed || by_signal).then_some(*status)
            }
            ClientError::Connect { .. } | ClientError::Channel(_) | ClientError::TimedOut { .. } => {
                installed.then_some(None)
            }
            _ => None,
        }
    }

    /// Why no helper serves at present, while one is waited for.
    pub(crate) fn awaited(&self) -> Option<String> {
        self.shared
            .awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn await_another(&self, error: &ClientError, notices: &Notices) {
        if !matches!(self.shared.source, Source::Installed(_)) {
            // The next one is started at once.
            return;
        }
        let reason = devbox_provider::with_causes(error);
        let mut awaited = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if awaited.is_none() {
            notices.add(Notice::HelperAwaited {
                reason: reason.clone(),
            });
        }
        *awaited = Some(reason);
    }

    fn await_nothing(&self) {
        *self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Starts a helper that makes the block of the one before it its own, in one write. Nobody is told of it before that, so
    /// that no request comes in between.
    async fn start_another(&self) -> Result<Result<Option<AsyncClient>, ClientError>, JoinError> {
        let source = self.shared.source.clone();
        let held = self.held().clone();
        let rule = self.rule().clone();
        let network = self.shared.network.as_ref();
        let network = network.map(|network| network.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let started = tokio::task::spawn_blocking(move || {
            let Some(mut client) = source.another()? else {
                return Ok(None);
            };
            if let Some(network) = network {
                network.claim(&mut client)?;
            }
            if let Some(block) = held {
                take_over(&mut client, &block)?;
            }
            if let Some(rule) = rule
                && let Err(error) = rule.renew(&mut client)
            {
                // The names are answered as before, to whoever asks.
                let error = devbox_provider::with_causes(&error);
                tracing::warn!(%error, "this system no longer asks the session's DNS server");
            }
            AsyncClient::new(client).map(Some)
        });
        started.await
    }

    /// Asks the helper, and the one that takes its place where it is killed before it has replied: every request may be carried
    /// out twice. That there is another one is the business of whoever waits in [`Helper::lost`].
    async fn ask<T, F>(&self, request: impl Fn(AsyncClient) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut current = self.shared.current.subscribe();
        loop {
            let Current { client, gone } = current.borrow_and_update().clone();
            let result = request(client).await;
            let ended = matches!(result, Err(ClientError::Ended { .. }));
            if !ended
                || gone
                || matches!(self.shared.source, Source::Nowhere)
                || current.changed().await.is_err()
            {
                return result;
            }
        }
    }

    fn hold(&self, block: Option<HostsBlock>) {
        *self.held() = block;
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<HostsBlock>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the block of a helper that was killed the new one's own. Where that cannot be done, the block goes if it can: the session
/// ends, and nobody else would remove it.
fn take_over(client: &mut Client, block: &HostsBlock) -> Result<(), ClientError> {
    let taken = patiently(TAKE_OVER_PATIENCE, || client.set_hosts(block.clone()));
    let gone = matches!(taken, Err(ClientError::Ended { .. }));
    if taken.is_err()
        && !gone
        && let Err(error) = client.sweep()
    {
        let error = devbox_provider::with_causes(&error);
        tracing::warn!(%error, "the block of the helper that was killed could not be removed");
    }
    taken.map(drop)
}

/// Tries again while the reason for a failure may pass, as when another program holds the file's lock.
fn patiently<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(20);
    loop {
        match attempt() {
            Err(ClientError::Helper(HelperError::Locked { .. } | HelperError::Hosts { .. }))
                if Instant::now() < deadline =>
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(500));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked() -> ClientError {
        ClientError::Helper(HelperError::Locked {
            file: "/etc/hosts".into(),
            waited: Duration::ZERO,
        })
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let mut attempts = 0;
        let done = patiently(Duration::from_secs(60), || {
            attempts += 1;
            if attempts < 3 { Err(locked()) } else { Ok(attempts) }
        });
        assert_eq!(done.unwrap(), 3);
        assert!(patiently(Duration::ZERO, || Err::<(), _>(locked())).is_err());
    }

    #[test]
    fn what_does_not_pass_is_tried_once() {
        let mut attempts = 0;
        let refused = patiently(Duration::from_secs(60), || {
            attempts += 1;
            Err::<(), _>(ClientError::Helper(HelperError::NotFound {
                file: "/etc/hosts".into(),
            }))
        });
        assert!(refused.is_err());
        assert_eq!(attempts, 1);
    }
}
