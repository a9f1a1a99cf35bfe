use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::TokenSource;
use devbox_provider::{ConnectError, Connection, Provider, Status, Via, Wanted, with_causes};
use service_catalog::Label;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use url::Url;

use crate::dialer::EndpointDialer;
use crate::endpoints::Endpoints;
use crate::forward::Forward;
use crate::gateway::{AccountTokens, Client, In, Lookout, NotUsed, Scope};
use crate::objects::Reach;
use crate::pod::{self, Feed, NotUp, PodOptions};
use crate::road::Road;
use crate::source::{Followed, KubeSource, NoCatalog};
use crate::{Cluster, Error, KubeOptions, WayIn, environment_of};

/// How long the API server may take for the first catalog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Namespaces of a cluster as a provider: their services are watched with the user's rights, and each connection goes to an endpoint
/// that is ready when it is made.
///
/// Several clusters are several providers.
///
/// ```no_run
/// use catalog_kube::{KubeOptions, KubeProvider};
/// use devbox_provider::{Provider as _, Wanted};
/// use service_catalog::Update;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = KubeOptions::default();
/// options.namespaces = vec!["orders".to_owned()];
/// let cluster = KubeProvider::new(options, "laptop-1");
/// let mut connection = cluster.connect(Wanted::default()).await?;
/// if let Update::Snapshot(catalog) = connection.source.next().await? {
///     println!("{} has {} services", catalog.environment, catalog.services.len());
/// }
/// # Ok(())
/// # }
/// ```
pub struct KubeProvider {
    options: KubeOptions,
    session: String,
    /// The cluster, where it was opened before the first connect.
    opened: Mutex<Option<Cluster>>,
    shown: watch::Sender<Shown>,
    /// The tokens for a gateway that is installed, from the first connect to one on.
    tokens: Mutex<Option<Arc<AccountTokens>>>,
    /// What the user's rights do not allow, and what is done instead.
    degraded: watch::Sender<Vec<String>>,
    /// Where the session goes over port-forwards until a gateway can be used: the environment, and the gateway that let it in.
    moving: Mutex<Option<(Label, oneshot::Receiver<In>)>>,
}

/// What the connects have found out, for the status.
#[derive(Debug, Clone, Default)]
struct Shown {
    cluster: Option<String>,
    namespaces: Vec<String>,
    via: Option<Via>,
    /// What another way in would give.
    more: Option<&'static str>,
    over: Option<String>,
    waits_for: Option<String>,
}

impl fmt::Debug for KubeProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeProvider")
            .field("options", &self.options)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl KubeProvider {
    /// Namespaces of a cluster. `session` names whoever uses them: its connections share a gateway pod, where there is one.
    #[must_use]
    pub fn new(options: KubeOptions, session: impl Into<String>) -> Self {
        let shown = Shown {
            cluster: options.cluster.context.clone(),
            namespaces: options.namespaces.clone(),
            ..Shown::default()
        };
        Self {
            options,
            session: session.into(),
            opened: Mutex::default(),
            tokens: Mutex::default(),
            shown: watch::Sender::new(shown),
            degraded: watch::Sender::default(),
            moving: Mutex::default(),
        }
    }

    /// Makes the first connect over a cluster that is open already, so that its credential is not asked for twice.
    #[must_use]
    pub fn over(self, cluster: Cluster) -> Self {
        Self {
            opened: Mutex::new(Some(cluster)),
            ..self
        }
    }

    async fn cluster(&self) -> Result<Cluster, Error> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        match opened {
            Some(cluster) => Ok(cluster),
            // What the kubeconfig says of the credential may have changed.
            None => Cluster::open(&self.options.cluster).await,
        }
    }

    async fn open(&self, wanted: &Wanted, reach: Reach) -> Result<Opened, ConnectError> {
        let opened = timeout(CONNECT_TIMEOUT, self.open_in_any_time(wanted, reach)).await;
        let waited_for = self.shown.borrow().waits_for.clone();
        self.shown.send_modify(|shown| shown.waits_for = None);
        opened.unwrap_or_else(|_| {
            Err(ConnectError::TimedOut {
                far_side: self.far_side(),
                after: CONNECT_TIMEOUT,
                waited_for,
            })
        })
    }

    async fn open_in_any_time(&self, wanted: &Wanted, reach: Reach) -> Result<Opened, ConnectError> {
        let cluster = self.cluster().await.map_err(connect_error)?;
        let namespaces = self.namespaces(&cluster)?;
        self.shown.send_modify(|shown| {
            shown.cluster = Some(cluster.name().to_owned());
            shown.namespaces = namespaces.iter().map(ToString::to_string).collect();
            shown.waits_for = Some(format!("services, from {}", cluster.server()));
        });
        let environment = self.environment(&cluster, wanted)?;
        let endpoints = Endpoints::new(self.options.zone.as_deref().map(Arc::from));
        let mut source = KubeSource::new(
            &cluster,
            environment.clone(),
            Followed {
                namespaces: &namespaces,
                teams: &namespaces,
            },
            &self.options,
            reach,
            endpoints.clone(),
            self.degraded.clone(),
        );
        source.first().await.map_err(|error| match error {
            NoCatalog::Failed(error) => connect_error(error),
            NoCatalog::Away { because } => ConnectError::Unreachable {
                far_side: cluster.name().to_owned(),
                reason: because,
            },
        })?;
        Ok(Opened {
            cluster,
            environment,
            source,
            endpoints,
        })
    }

    /// The services through port-forwards. `more` is what another way would give.
    fn forwarded(&self, mut opened: Opened, because: String, more: &'static str) -> Connection {
        opened.source.set_reach(FORWARD_REACH);
        self.show(FORWARDED.to_owned(), because, None, Some(more));
        let dialer = EndpointDialer::new(opened.endpoints, Forward::new(opened.cluster));
        Connection::new(opened.source, Arc::new(dialer))
    }

    /// The services through a gateway pod, or through port-forwards where there can be none.
    async fn through_a_pod(&self, opened: Opened, wanted: &Wanted) -> Result<Connection, ConnectError> {
        // Where the user works is where they may create something.
        let options = PodOptions {
            namespace: self.first_namespace(&opened.cluster),
            image: self.options.gateway_image.clone(),
            session: self.session.clone(),
            environment: opened.environment.clone(),
        };
        let endpoints = opened.endpoints.clone();
        let feed = Feed::new(
            move |version| endpoints.changes_since(version),
            opened.endpoints.changes(),
        );
        let forward: Arc<dyn Road> = Arc::new(Forward::new(opened.cluster.clone()));
        let tell = |what: String| self.shown.send_modify(|shown| shown.waits_for = Some(what));
        let up = pod::connect(&opened.cluster, &options, &feed, &forward, wanted, &tell).await;
        self.shown.send_modify(|shown| shown.waits_for = None);
        let up = match up {
            Ok(up) => up,
            Err(NotUp::Failed(error)) => return Err(error),
            Err(error @ (NotUp::StepDown { .. } | NotUp::Gone)) => {
                // Whoever asked for a pod, and does not look at the status, is told as well.
                tracing::warn!(because = %error, "there is no gateway pod: connections go over port-forwards");
                return Ok(self.forwarded(opened, error.to_string(), MORE_WITHOUT_POD));
            }
        };
        let over = Some(up.over.clone());
        self.show(up.way.clone(), ASKED_FOR.to_owned(), over, Some(MORE_THAN_POD));
        let source = up.tie(opened.source);
        let link = up.link.clone();
        let dialer = EndpointDialer::new(opened.endpoints, up.road);
        Ok(Connection::new(source, Arc::new(dialer))
            .over(up.link)
            .on_close(move || async move { link.shutdown().await }))
    }

    async fn through_url(&self, url: &Url, wanted: &Wanted) -> Result<Connection, ConnectError> {
        let cluster = self.cluster().await.map_err(connect_error)?;
        let client = self.gateway_client(&cluster).await?;
        let wanted = self.of_this_environment(&cluster, wanted)?;
        let entered = client.to_url(url, &wanted).await?;
        Ok(self.entered(entered, ASKED_FOR))
    }

    async fn through_installed(&self, wanted: &Wanted) -> Result<Connection, ConnectError> {
        let cluster = self.cluster().await.map_err(connect_error)?;
        let client = self.gateway_client(&cluster).await?;
        let replicas = client.replicas().await;
        let replicas = replicas.map_err(|error| error.into_connect_error(&cluster))?;
        let wanted = self.of_this_environment(&cluster, wanted)?;
        let entered = client.to_replicas(replicas, &wanted).await?;
        Ok(self.entered(entered, ASKED_FOR))
    }

    /// An installed gateway where there is one that lets the session in, otherwise port-forwards until there is one.
    async fn by_what_there_is(&self, wanted: &Wanted) -> Result<Connection, ConnectError> {
        if let Some(entered) = self.moved(wanted) {
            return Ok(self.entered(entered, INSTALLED));
        }
        let cluster = self.cluster().await.map_err(connect_error)?;
        let client = self.gateway_client(&cluster).await?;
        let wanted = self.of_this_environment(&cluster, wanted)?;
        let not_used = match client.enter(&wanted).await {
            Ok(entered) => return Ok(self.entered(entered, INSTALLED)),
            Err(NotUsed::TurnedAway(error @ ConnectError::Superseded { .. })) => return Err(error),
            Err(not_used) => not_used,
        };
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
        let opened = self.open(&wanted, FORWARD_REACH).await?;
        let (moving, moved) = oneshot::channel();
        *self.moving.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((opened.environment.clone(), moved));
        let forwarded = self.forwarded(opened, not_used.to_string(), MORE_THAN_FORWARD);
        let shown = self.shown.clone();
        let tell = move |not_used: &NotUsed| {
            let via = Via {
                way: FORWARDED.to_owned(),
                because: not_used.to_string(),
            };
            shown.send_modify(|shown| shown.via = Some(via));
        };
        let source = Lookout::new(forwarded.source, client, wanted, not_used, tell, moving);
        Ok(Connection::new(source, forwarded.dialer))
    }

    /// The gateway that let the session in while it went over port-forwards.
    fn moved(&self, wanted: &Wanted) -> Option<In> {
        let moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (environment, mut moved) = moving?;
        let is_wanted = |other: &Label| *other == environment;
        let entered = moved.try_recv().ok()?;
        wanted
            .environment
            .as_ref()
            .is_none_or(is_wanted)
            .then_some(entered)
    }

    async fn gateway_client(&self, cluster: &Cluster) -> Result<Client, ConnectError> {
        let tokens = match &self.options.gateway_token_file {
            Some(file) => TokenSource::File(file.clone()),
            None => TokenSource::Issued(self.account_tokens(cluster).await),
        };
        Ok(Client {
            cluster: cluster.clone(),
            session: self.session.clone(),
            scope: Scope::new(self.namespaces(cluster)?, &self.options),
            tokens,
            trust: self.options.gateway_trust.clone(),
        })
    }

    async fn account_tokens(&self, cluster: &Cluster) -> Arc<AccountTokens> {
        let tokens = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let first = || Arc::new(AccountTokens::new(cluster.clone()));
            Arc::clone(tokens.get_or_insert_with(first))
        };
        tokens.ask(cluster.clone()).await;
        tokens
    }

    /// Where the user works.
    fn first_namespace(&self, cluster: &Cluster) -> String {
        let first = self.options.namespaces.first().cloned();
        first.unwrap_or_else(|| cluster.default_namespace().to_owned())
    }

    /// A gateway calls the environment what the user calls it.
    fn of_this_environment(&self, cluster: &Cluster, wanted: &Wanted) -> Result<Wanted, ConnectError> {
        Ok(Wanted {
            generation: wanted.generation,
            environment: Some(self.environment(cluster, wanted)?),
        })
    }

    fn entered(&self, entered: In, because: &str) -> Connection {
        self.show(entered.way, because.to_owned(), entered.over, None);
        // They are about watches of one's own.
        self.degraded.send_replace(Vec::new());
        entered.connection
    }

    fn show(&self, way: String, because: String, over: Option<String>, more: Option<&'static str>) {
        self.shown.send_modify(|shown| {
            shown.via = Some(Via { way, because });
            shown.more = more;
            shown.over = over;
        });
    }

    fn namespaces(&self, cluster: &Cluster) -> Result<BTreeSet<Label>, ConnectError> {
        let context = || vec![cluster.default_namespace().to_owned()];
        let names = Some(self.options.namespaces.clone()).filter(|names| !names.is_empty());
        let parsed = names.unwrap_or_else(context).into_iter().map(|name| name.parse());
        parsed
            .collect::<Result<_, service_catalog::Error>>()
            .map_err(|error| ConnectError::Setup {
                message: format!("the namespaces: {error}"),
            })
    }

    /// What the environment is called, which must be the one that is wanted.
    fn environment(&self, cluster: &Cluster, wanted: &Wanted) -> Result<Label, ConnectError> {
        let named = self.options.environment.clone();
        let environment = named.or_else(|| environment_of(cluster.name()));
        let environment = environment.ok_or_else(|| ConnectError::Setup {
            message: format!(
                "nothing of the context's name `{}` can name an environment: set one",
                cluster.name()
            ),
        })?;
        match &wanted.environment {
            Some(wanted) if *wanted != environment => Err(ConnectError::UnknownEnvironment {
                far_side: cluster.name().to_owned(),
                message: format!("the environment is `{environment}`, not `{wanted}`"),
            }),
            _ => Ok(environment),
        }
    }

    fn far_side(&self) -> String {
        let shown = self.shown.borrow();
        let mut options = self.options.clone();
        options.cluster.context = shown.cluster.clone().or(options.cluster.context);
        if options.namespaces.is_empty() {
            options.namespaces.clone_from(&shown.namespaces);
        }
        options.far_side()
    }
}

/// A cluster whose services are known.
struct Opened {
    cluster: Cluster,
    environment: Label,
    source: KubeSource,
    endpoints: Endpoints,
}

/// What a port-forward reaches: TCP of pods.
const FORWARD_REACH: Reach = Reach {
    addresses: false,
    names: false,
    datagrams: false,
};

/// What a gateway pod reaches.
const POD_REACH: Reach = Reach {
    addresses: true,
    names: true,
    datagrams: true,
};

const ASKED_FOR: &str = "it was asked for";

const INSTALLED: &str = "it is installed";

const FORWARDED: &str = "port-forward";
/// What the ways further up give, as the status says it.
const MORE_THAN_FORWARD: &str =
    "`--via pod` and an installed gateway also carry UDP and reach what is no pod, and are faster";
const MORE_WITHOUT_POD: &str =
    "an installed gateway also carries UDP and reaches what is no pod, and is faster";
const MORE_THAN_POD: &str = "an installed gateway needs no right to create anything, and at a URL it goes on while the API server is away";

#[async_trait]
impl Provider for KubeProvider {
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError> {
        match &self.options.via {
            WayIn::Auto => self.by_what_there_is(&wanted).await,
            WayIn::Forward => {
                let opened = self.open(&wanted, FORWARD_REACH).await?;
                Ok(self.forwarded(opened, ASKED_FOR.to_owned(), MORE_THAN_FORWARD))
            }
            WayIn::Pod => {
                let opened = self.open(&wanted, POD_REACH).await?;
                self.through_a_pod(opened, &wanted).await
            }
            WayIn::Gateway => self.through_installed(&wanted).await,
            WayIn::Url(url) => self.through_url(url, &wanted).await,
        }
    }

    fn status(&self) -> Status {
        let shown = self.shown.borrow().clone();
        let mut status = Status::new("kubernetes", self.far_side())
            .waiting_for(shown.waits_for)
            .over(shown.over);
        if let Some(via) = shown.via {
            let degraded = self.degraded.borrow().clone();
            status = status
                .via(via.way, via.because)
                .remarks(degraded)
                .remarks(shown.more.map(str::to_owned));
        }
        status
    }
}

fn connect_error(error: Error) -> ConnectError {
    let message = with_causes(&error);
    match error {
        Error::Unauthorized { cluster, message } => ConnectError::CredentialRefused {
            far_side: cluster,
            file: None,
            message,
        },
        Error::Api {
            cluster,
            code,
            message,
        } if code == 429 || code >= 500 => ConnectError::Unavailable {
            far_side: cluster,
            message,
        },
        Error::Unreachable { cluster, source } if is_about_tls(&source) => ConnectError::Certificate {
            far_side: cluster,
            message: with_causes(&source),
        },
        Error::Unreachable { cluster, source } => ConnectError::Unreachable {
            far_side: cluster,
            reason: with_causes(&source),
        },
        Error::Silent { cluster, after } => ConnectError::TimedOut {
            far_side: cluster,
            after,
            waited_for: None,
        },
        // What the kubeconfig says or the user may do: another try does not change it.
        _ => ConnectError::Setup { message },
    }
}

/// Whether what was received is not what TLS accepts, as TLS reports it through a socket.
fn is_about_tls(error: &kube::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::InvalidData
        {
            return true;
        }
        cause = error.source();
    }
    false
}
