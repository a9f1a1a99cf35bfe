use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kube::client::middleware::{AuthLayer, ExtraHeadersLayer};
use kube::client::{Body, ConfigExt as _};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::{BoxError, Layer as _, ServiceExt as _};
use tunnel_bridge::dial::{Carriage, Proxies, Proxy};
use tunnel_bridge::tls::Prepared;
use tunnel_bridge::ws::ConnectOptions;
use url::Url;

use crate::gateway::own::Lacking;
use crate::oidc::{Oidc, OidcError, Saved};
use crate::{Error, Forbidden, Who, kubeconfig};

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The kubeconfig. Default: the files of `$KUBECONFIG`, otherwise `~/.kube/config`, otherwise the cluster that this process
    /// runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
}

/// A cluster, as one of its users: requests to its API server carry that user's credential. Cloning is cheap.
///
/// ```no_run
/// use catalog_kube::{Cluster, ClusterOptions};
///
/// # async fn example() -> Result<(), catalog_kube::Error> {
/// let cluster = Cluster::open(&ClusterOptions::default()).await?;
/// println!("{} at {}", cluster.name(), cluster.server());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster {
    name: Arc<str>,
    config: Arc<Config>,
    client: Client,
    tls: Prepared,
    /// Made once: it remembers the token that a plug-in gave until that expires.
    auth: Arc<Option<AuthLayer>>,
    /// Instead of it where the kubeconfig has OpenID Connect's tokens.
    oidc: Option<Oidc>,
    extra: ExtraHeadersLayer,
    who: Who,
    /// What it was refused as a gateway.
    lacking: Lacking,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the settings. Nothing is sent to the cluster, but a credential plug-in of the kubeconfig may run and ask elsewhere.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`], [`Error::NoCluster`], [`Error::NoContext`], [`Error::UnknownContext`]; [`Error::Unauthorized`] where the
    /// credential cannot be had.
    pub async fn open(options: &ClusterOptions) -> Result<Self, Error> {
        let chosen = KubeConfigOptions {
            context: options.context.clone(),
            ..KubeConfigOptions::default()
        };
        let unusable = |source| Error::Kubeconfig {
            path: options.kubeconfig.clone(),
            source: Box::new(source),
        };
        let (name, mut config) = match kubeconfig::read(options)? {
            Some(kubeconfig) => {
                let context = kubeconfig::context(&kubeconfig, options.context.as_deref())?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &chosen).await;
                (context, config.map_err(unusable)?)
            }
            None => {
                let config = Config::incluster().map_err(|_| Error::NoCluster {
                    looked_at: Vec::new(),
                })?;
                (kubeconfig::IN_CLUSTER.to_owned(), config)
            }
        };
        let oidc = Oidc::take(&mut config.auth_info, Saved::new(options, &name));
        Self::with_config(name, config, oidc)
    }

    fn with_config(name: String, mut config: Config, oidc: Option<Oidc>) -> Result<Self, Error> {
        let no_credential = |error: kube::Error| Error::Unauthorized {
            cluster: name.clone(),
            message: devbox_provider::with_causes(&error),
        };
        // A watch is silent for as long as nothing changes.
        config.read_timeout = None;
        let tls = Prepared::new(
            config.rustls_client_config().map_err(no_credential)?,
            config.tls_server_name.clone(),
        );
        let auth = config.auth_layer().map_err(no_credential)?;
        let extra = config.extra_headers_layer().map_err(no_credential)?;
        let mut client = Client::try_from(config.clone()).map_err(no_credential)?;
        if let Some(oidc) = &oidc {
            client = oidc.client(client, &config.default_namespace);
        }
        Ok(Self {
            oidc,
            auth: Arc::new(auth),
            extra,
            who: Who::You,
            lacking: Lacking::default(),
            name: name.into(),
            config: Arc::new(config),
            client,
            tls,
        })
    }

    /// What the user calls it: the context's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API server's URL.
    #[must_use]
    pub fn server(&self) -> String {
        self.config.cluster_url.to_string()
    }

    /// What a user is told is away where it does not answer.
    pub(crate) fn api_server(&self) -> String {
        format!("the API server of {}", self.name)
    }

    /// The namespace that the context names; `default` where it names none.
    #[must_use]
    pub fn default_namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// As a gateway in it, which users' messages do not call "you".
    #[must_use]
    pub(crate) fn acting_as_gateway(self) -> Self {
        Self {
            who: Who::Gateway,
            ..self
        }
    }

    /// What it is refused as a gateway.
    pub(crate) fn lacking(&self) -> &Lacking {
        &self.lacking
    }

    /// The client that sends requests as the user.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A request to switch `path_and_query` to another protocol, with the user's credential as it is at this moment.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] where the credential cannot be had.
    pub(crate) async fn switch(
        &self,
        path_and_query: &str,
        subprotocol: &str,
    ) -> Result<ConnectOptions, Error> {
        let no_credential = |message: String| Error::Unauthorized {
            cluster: self.name.to_string(),
            message,
        };
        let server = self.server();
        let joined = format!("{}{path_and_query}", server.trim_end_matches('/'));
        let mut url: Url = joined
            .parse()
            .map_err(|error| no_credential(format!("{server}: {error}")))?;
        let scheme = if url.scheme() == "http" { "ws" } else { "wss" };
        if url.set_scheme(scheme).is_err() {
            return Err(no_credential(format!("{server} is no URL of an API server")));
        }
        let mut options = ConnectOptions::new(url, subprotocol);
        options.tls = Some(self.tls.clone());
        options.proxies = self.proxies().map_err(no_credential)?;
        options.carriage = Carriage::WebSocket;
        for (name, value) in self
            .credential()
            .await
            .map_err(|error| self.no_credential(error))?
            .iter()
        {
            let value = value.to_str().map_err(|error| no_credential(error.to_string()))?;
            options = options.secret_header(name.as_str(), value);
        }
        Ok(options)
    }

    fn proxies(&self) -> Result<Proxies, String> {
        match &self.config.proxy_url {
            None => Ok(Proxies::none()),
            Some(proxy) => Proxy::parse(&proxy.to_string())
                .map(Proxies::always)
                .map_err(|error| error.to_string()),
        }
    }

    /// The headers that say who the user is, as kube's own layers add them to a request.
    fn credential(&self) -> BoxFuture<'static, Result<http::HeaderMap, BoxError>> {
        let decorated = tower::service_fn(|request: http::Request<Body>| {
            let mut echo = http::Response::new(());
            *echo.headers_mut() = request.into_parts().0.headers;
            std::future::ready(Ok::<_, BoxError>(echo))
        });
        let extra = self.extra.layer(decorated);
        let mut request = http::Request::new(Body::empty());
        // Boxed here, where no lifetime is left open: the compiler cannot tell otherwise that it is `Send`.
        let asked = match (self.oidc.clone(), &*self.auth) {
            (Some(oidc), _) => async move {
                let header = oidc.header().await?;
                request.headers_mut().insert(http::header::AUTHORIZATION, header);
                extra.oneshot(request).await
            }
            .boxed(),
            (None, Some(auth)) => auth.layer(extra).oneshot(request).boxed(),
            (None, None) => extra.oneshot(request).boxed(),
        };
        asked.map(|echo| Ok(echo?.into_parts().0.headers)).boxed()
    }

    /// What it means that the credential cannot be had.
    fn no_credential(&self, error: BoxError) -> Error {
        let cluster = self.name.to_string();
        match error.downcast_ref() {
            Some(oidc) if OidcError::passes(oidc) => Error::Unreachable {
                cluster,
                source: Box::new(kube::Error::Service(error)),
            },
            _ => Error::Unauthorized {
                cluster,
                message: devbox_provider::with_causes(error.as_ref()),
            },
        }
    }

    /// What an error of the client means. `verb`, `resource` and `namespace` are what was asked for.
    pub(crate) fn failed(
        &self,
        error: kube::Error,
        verb: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> Error {
        let cluster = self.name.to_string();
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                let forbidden = Forbidden {
                    who: self.who,
                    verb: verb.to_owned(),
                    resource: resource.to_owned(),
                    namespace: namespace.map(str::to_owned),
                };
                if self.who == Who::Gateway {
                    self.lacking.handle_refused(&forbidden, Instant::now());
                }
                forbidden.into()
            }
            kube::Error::Api(status) if status.code == 401 => Error::Unauthorized {
                cluster,
                message: status.message.clone(),
            },
            kube::Error::Api(status) => Error::Api {
                cluster,
                code: status.code,
                message: status.message.clone(),
            },
            error @ kube::Error::Auth(_) => Error::Unauthorized {
                cluster,
                message: devbox_provider::with_causes(&error),
            },
            kube::Error::Service(error) if error.is::<OidcError>() => self.no_credential(error),
            error => Error::Unreachable {
                cluster,
                source: Box::new(error),
            },
        }
    }
}
