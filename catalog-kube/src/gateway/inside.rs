//! What a client of an installed gateway is served.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted, with_causes};
use service_catalog::{Label, Source, SourceError, Update};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::info;

use super::direct::{Direct, ExternalNames};
use super::own::{self, Refused};
use super::remembered::FRESH;
use super::review::{Allowed, NotAllowed, Reviews, User};
use super::scope::Scope;
use crate::Forbidden;
use crate::dialer::EndpointDialer;
use crate::endpoints::Endpoints;
use crate::objects::Reach;
use crate::source::{Followed, KubeSource, NoCatalog};

/// A gateway in the cluster reaches everything that pods reach. It follows an `ExternalName` only where its installation says so: whoever
/// may write a Service leads it, with what its own network reaches, to wherever they like.
fn reach(names: ExternalNames) -> Reach {
    Reach {
        addresses: true,
        names: names == ExternalNames::Followed,
        datagrams: true,
    }
}

/// How often a client's rights are asked for. With the age that an answer may have, what was taken away ends within a minute.
const ASK_AGAIN: Duration = FRESH;

/// Namespaces of the cluster around this process, as one of its users may see them: a provider for a gateway. Its catalog says which of them
/// they may not see. It ends when they may not see one any more that they are served; the next
/// connection has what they may see then.
pub struct Inside {
    reviews: Arc<Reviews>,
    user: User,
    scope: Scope,
    allowed: Allowed,
    names: ExternalNames,
}

impl Inside {
    /// What `scope` names, for a user who [may see this of it](Reviews::check).
    #[must_use]
    pub fn new(reviews: Arc<Reviews>, user: User, scope: Scope, allowed: Allowed) -> Self {
        Self {
            reviews,
            user,
            scope,
            allowed,
            names: ExternalNames::default(),
        }
    }

    /// Says whether what an `ExternalName` stands for is dialed. Default: it is not.
    #[must_use]
    pub fn external_names(self, names: ExternalNames) -> Self {
        Self { names, ..self }
    }

    fn far_side(&self) -> String {
        let names: Vec<_> = self.scope.namespaces.iter().map(Label::as_str).collect();
        names.join(", ")
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside")
            .field("user", &self.user.name)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for Inside {
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError> {
        let far_side = self.far_side();
        // A context's name is the user's own business, and the environment is called by it.
        let environment = wanted
            .environment
            .ok_or_else(|| ConnectError::UnknownEnvironment {
                far_side: far_side.clone(),
                message: "name the environment: this gateway gives it no name of its own".to_owned(),
            })?;
        let options = self.scope.options();
        let endpoints = Endpoints::new(options.zone.as_deref().map(Arc::from));
        let mut source = KubeSource::new(
            self.reviews.cluster(),
            environment,
            Followed {
                namespaces: &self.allowed.namespaces,
                teams: &self.allowed.teams,
            },
            &options,
            reach(self.names),
            endpoints.clone(),
            watch::Sender::default(),
        );
        let unavailable = |message| ConnectError::Unavailable { far_side, message };
        if let Err(error) = source.first().await {
            return Err(unavailable(match error {
                NoCatalog::Failed(error) => with_causes(&error),
                NoCatalog::Away { because } => format!("the API server does not answer: {because}"),
            }));
        }
        // Services that nobody answers for are worth nothing: the client does better elsewhere.
        let unknown = source.unknown();
        if let Some(forbidden) = unknown.values().next()
            && unknown.len() == self.allowed.namespaces.len()
        {
            return Err(unavailable(forbidden.to_string()));
        }
        source.set_forbidden(&self.allowed.lacking);
        let mut asking = JoinSet::new();
        let (reviews, user, scope) = (Arc::clone(&self.reviews), self.user.clone(), self.scope.clone());
        let allowed = self.allowed.clone();
        let (tell, teams) = watch::channel(allowed.teams.clone());
        asking.spawn(async move { until_changed(&reviews, &user, &scope, &allowed, &tell).await });
        let source = AsAllowed {
            source,
            teams,
            lacking: self.reviews.cluster().lacking().changes(),
            asking,
        };
        Ok(Connection::new(
            source,
            Arc::new(EndpointDialer::new(endpoints, Direct { names: self.names })),
        ))
    }

    fn status(&self) -> Status {
        Status::new("kubernetes", self.far_side())
    }
}

/// A source that ends when its user may see something else.
struct AsAllowed {
    source: KubeSource,
    /// The namespaces whose team's ConfigMap the user may read.
    teams: watch::Receiver<BTreeSet<Label>>,
    /// What the gateway is refused.
    lacking: watch::Receiver<Refused>,
    /// Ends with the reason. In a task of its own, so that a catalog which never rests does not keep it from being asked.
    asking: JoinSet<Changed>,
}

/// Why what a user is served is not what they are to be served.
#[derive(Debug, thiserror::Error)]
enum Changed {
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Lost(Forbidden),
}

#[async_trait]
impl Source for AsAllowed {
    async fn next(&mut self) -> Result<Update, SourceError> {
        loop {
            tokio::select! {
                update = self.source.next() => return update,
                Ok(()) = self.teams.changed() => {
                    let teams = self.teams.borrow_and_update().clone();
                    self.source.keep_teams(&teams);
                }
                Ok(()) = self.lacking.changed() => {
                    let notes = own::notes(&self.lacking.borrow_and_update());
                    self.source.set_notes(notes);
                }
                Some(ended) = self.asking.join_next() => return Err(match ended {
                    Ok(why) => SourceError::lost(why),
                    Err(crash) => SourceError::lost(crash),
                }),
            }
        }
    }
}

/// Asks again and again, until the user may not see something that they are served or that has been unknown for too long. What they may
/// see besides is not worth the end of their connections: the next link has it.
async fn until_changed(
    reviews: &Reviews,
    user: &User,
    scope: &Scope,
    served: &Allowed,
    teams: &watch::Sender<BTreeSet<Label>>,
) -> Changed {
    loop {
        sleep(ASK_AGAIN).await;
        let why = match reviews.check(user, &scope.namespaces).await {
            Ok(allowed) => {
                // What teams want can be taken away without the end of a connection.
                teams.send_if_modified(|before| {
                    let known = before.len();
                    before.retain(|namespace| allowed.teams.contains(namespace));
                    before.len() != known
                });
                let mut lacking = allowed.lacking.into_iter();
                match lacking.find(|(namespace, _)| served.namespaces.contains(namespace)) {
                    None => continue,
                    Some((_, forbidden)) => Changed::Lost(forbidden),
                }
            }
            Err(why) => why.into(),
        };
        info!(user = user.name, %why, "what a client is served is taken away");
        return why;
    }
}
