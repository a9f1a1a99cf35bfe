use std::net::IpAddr;
use std::sync::Arc;

use devbox_engine::Engine;
use service_catalog::Label;

use crate::cancel::{Cancellation, unless_cancelled};
use crate::config::{SessionConfig, parse, parse_config};
use crate::error::{DevboxError, StopReason};
use crate::runtime::{on_runtime, runtime};
use crate::status::Status;
use crate::stream::{EventListener, EventStream, Subscription};

/// A running session. It is stopped when the last reference to it is dropped, on any thread.
#[derive(Debug, uniffi::Object)]
pub struct Session(Engine);

#[uniffi::export]
impl Session {
    /// Starts a session. It runs beside the app until it is stopped, its last reference is dropped, or it cannot go on.
    ///
    /// A far side that cannot be reached is no error of this call: the session ends then, and `wait` says why.
    #[uniffi::constructor(default(cancellation = None))]
    pub async fn start(
        config: SessionConfig,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Arc<Self>, DevboxError> {
        let started = on_runtime(async move {
            let (mut config, helper) = config.into_engine()?;
            if let Some(source) = helper {
                let started = tokio::task::spawn_blocking(move || source.helper()).await;
                config.helper = Some(started.map_err(|_| DevboxError::Crashed)??);
            }
            Ok(Arc::new(Self(devbox_engine::start(config).await?)))
        });
        unless_cancelled(cancellation, started).await
    }

    /// As `start`, with the configuration in YAML.
    #[uniffi::constructor(default(cancellation = None))]
    pub async fn start_yaml(
        yaml: String,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Arc<Self>, DevboxError> {
        Self::start(parse_config(&yaml)?, cancellation).await
    }

    /// The session's id, unique among all machines.
    #[must_use]
    pub fn id(&self) -> String {
        self.0.identity().session.clone()
    }

    /// The addresses of a name; none where it is not known. Case and a final dot do not matter.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Vec<String> {
        let addresses = self.0.registry().resolve(name);
        addresses.iter().map(IpAddr::to_string).collect()
    }

    /// Where the session's DNS server answers, if it has one.
    #[must_use]
    pub fn dns_address(&self) -> Option<String> {
        self.0.dns_address().map(|address| address.to_string())
    }

    /// Waits until every service of the first catalogs can be connected to (or is reported as degraded) and every name is
    /// published. `Stopped` if the session ends first.
    #[uniffi::method(default(cancellation = None))]
    pub async fn ready(&self, cancellation: Option<Arc<Cancellation>>) -> Result<Status, DevboxError> {
        let engine = self.0.clone();
        let ready = on_runtime(async move { Ok(engine.ready().await?.into()) });
        unless_cancelled(cancellation, ready).await
    }

    /// The session as it is; none once it has ended. Answered by the session itself, within milliseconds.
    pub async fn status(&self) -> Result<Option<Status>, DevboxError> {
        let engine = self.0.clone();
        on_runtime(async move { Ok(engine.status().await.map(Into::into)) }).await
    }

    /// Asks the session to end in good order; `by` says who does. `wait` tells when it has.
    pub async fn stop(&self, by: String) -> Result<(), DevboxError> {
        let engine = self.0.clone();
        on_runtime(async move {
            engine.stop(&by).await;
            Ok(())
        })
        .await
    }

    /// Asks the session to end at once: neither open connections nor parts of the machine that do not answer are waited for.
    pub async fn abort(&self, by: String) -> Result<(), DevboxError> {
        let engine = self.0.clone();
        on_runtime(async move {
            engine.stop(&by).await;
            engine.stop(&by).await;
            Ok(())
        })
        .await
    }

    /// Waits until the session has ended and everything is undone; says why it ended.
    #[uniffi::method(default(cancellation = None))]
    pub async fn wait(&self, cancellation: Option<Arc<Cancellation>>) -> Result<StopReason, DevboxError> {
        let engine = self.0.clone();
        let ended = on_runtime(async move { Ok(engine.wait().await?.into()) });
        unless_cancelled(cancellation, ended).await
    }

    /// Has a provider serve another environment: the names and addresses of the old one go, those of the new one come.
    pub async fn switch_environment(&self, provider: String, environment: String) -> Result<(), DevboxError> {
        let environment: Label = parse("environment", &environment)?;
        let engine = self.0.clone();
        on_runtime(async move { Ok(engine.switch_environment(&provider, environment).await?) }).await
    }

    /// What happens to the session, to be read one by one. The first reader gets everything from the start, a later one from
    /// here on. A reader that falls behind gets `Lagged` with the state in place of what it missed.
    #[must_use]
    pub fn events(&self) -> Arc<EventStream> {
        Arc::new(EventStream::new(self.0.events()))
    }

    /// What happens to the session, told to a listener until the subscription is closed or dropped. Calls come one after another,
    /// on threads of their own: a listener may block and may call the session. One that is slow gets `Lagged`, as readers of
    /// `events` do; one that throws is logged and gets the next event.
    pub fn subscribe(&self, listener: Arc<dyn EventListener>) -> Result<Arc<Subscription>, DevboxError> {
        Ok(Subscription::start(runtime()?, self.0.events(), listener))
    }
}
