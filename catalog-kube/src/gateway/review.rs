//! Who somebody is, and what they may: the API server says it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use devbox_gateway_client::Token;
use devbox_provider::with_causes;
use futures_util::future::try_join_all;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use service_catalog::Label;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::remembered::{FRESH, Remembered, WITHOUT_NEWS};
use crate::objects::CONFIG_MAP;
use crate::{Cluster, Error, Forbidden, Who};

/// What somebody must be allowed to do in a namespace to be served it: see its services, and connect to its pods.
pub(crate) const WANTED: [(&str, &str, Option<&str>); 2] = [
    ("list", "services", None),
    ("create", "pods", Some("portforward")),
];

/// What they must be allowed to do besides to be told what the namespace's team wants for its services.
pub(crate) const TEAM: (&str, &str, &str) = ("get", "configmaps", CONFIG_MAP);

/// Questions to the API server at a time. Whoever shows tokens without end must not keep it from its work.
const AT_ONCE: usize = 16;

/// Answers that are remembered.
const MAX_USERS: usize = 4096;
const MAX_RIGHTS: usize = 16_384;

/// The user for whom rights of static tokens are asked, followed by the token's name.
pub(crate) const STATIC: &str = "devbox:";

/// Somebody, as the API server knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct User {
    /// Their name.
    pub name: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whom a static token stands for: the user `devbox:NAME`, to whom roles can be bound as to any other. One without a name is
    /// `devbox:token`.
    #[must_use]
    pub fn of_static_token(name: Option<&str>) -> Self {
        Self {
            name: format!("{STATIC}{}", name.unwrap_or("token")),
            uid: None,
            groups: Vec::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Whom a review names, if the token is good for `audience`. An API server that knows no audiences for a kind of token names none:
    /// then the token is one for the API server itself, and nobody should have shown it here.
    fn reviewed(status: TokenReviewStatus, audience: &str) -> Result<Self, String> {
        if status.authenticated != Some(true) {
            return Err(match status.error {
                Some(error) => format!("the API server does not take it: {error}"),
                None => format!("the API server does not take it for the audience `{audience}`"),
            });
        }
        if !status
            .audiences
            .unwrap_or_default()
            .iter()
            .any(|of| of == audience)
        {
            return Err(format!("it is not for the audience `{audience}`"));
        }
        let user = status.user.unwrap_or_default();
        let name = user
            .username
            .filter(|name| !name.is_empty())
            .ok_or("the API server names nobody")?;
        // The name of a static token's user is nobody else's.
        if name.starts_with(STATIC) {
            return Err(format!(
                "names that begin with `{STATIC}` are those of static tokens"
            ));
        }
        Ok(Self {
            name,
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    }
}

/// Why somebody is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAuthenticated {
    /// The token is not good here.
    #[error("{because}")]
    Refused {
        /// Why, in one line.
        because: String,
    },
    /// The API server does not say.
    #[error("the token cannot be reviewed")]
    Unanswered(#[source] Error),
}

/// Why somebody is not served what they want.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAllowed {
    /// They may not do this themselves.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The API server does not say.
    #[error("what the user may do is not known")]
    Unanswered(#[source] Error),
}

/// Which namespaces somebody is served, of those that they want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowed {
    /// Those that they are.
    pub namespaces: BTreeSet<Label>,
    /// The others, each with what they may not do there themselves.
    pub lacking: BTreeMap<Label, Forbidden>,
    /// Those of the first whose team's ConfigMap they may read.
    pub teams: BTreeSet<Label>,
}

/// What somebody may in a namespace.
#[derive(Debug, Clone)]
struct May {
    /// What they may not do of what they must be allowed to be served it.
    lacking: Option<Forbidden>,
    team: bool,
}

/// Asks the API server about others, as a program in the cluster that may create TokenReviews and SubjectAccessReviews.
///
/// Its answers hold for 30 s, and for five minutes while it cannot be asked.
pub struct Reviews {
    cluster: Cluster,
    audience: String,
    at_once: Semaphore,
    /// By the token's digest. Locked for a look or a change, never across an await.
    users: Mutex<Remembered<[u8; 32], Result<User, String>>>,
    rights: Mutex<Remembered<(User, Label), May>>,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews")
            .field("cluster", &self.cluster)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl Reviews {
    /// Reviews of tokens for `audience`, by default [`AUDIENCE`](super::AUDIENCE).
    #[must_use]
    pub fn new(cluster: Cluster, audience: impl Into<String>) -> Self {
        Self {
            cluster: cluster.acting_as_gateway(),
            audience: audience.into(),
            at_once: Semaphore::new(AT_ONCE),
            users: Mutex::new(Remembered::new(MAX_USERS)),
            rights: Mutex::new(Remembered::new(MAX_RIGHTS)),
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`NotAuthenticated`].
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn authenticate(&self, token: &Token) -> Result<User, NotAuthenticated> {
        let digest = Sha256::digest(token.expose()).into();
        let known = |age| lock(&self.users).answer(&digest, age, Instant::now());
        let refused = |because| NotAuthenticated::Refused { because };
        if let Some(answer) = known(FRESH) {
            return answer.map_err(refused);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.expose().to_owned()),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let answer = match self.create(&review, "tokenreviews").await {
            Ok(review) => User::reviewed(review.status.unwrap_or_default(), &self.audience),
            Err(error) => {
                let known = known(WITHOUT_NEWS).ok_or(NotAuthenticated::Unanswered(error))?;
                return known.map_err(refused);
            }
        };
        lock(&self.users).handle_answer(digest, answer.clone(), Instant::now());
        answer.map_err(refused)
    }

    /// Of which of these namespaces a user may see the services and connect to the pods: `list services` and `create pods/portforward`.
    ///
    /// # Errors
    /// [`NotAllowed`]: of none, with the first thing that they may not do; or the API server does not say.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn check(&self, user: &User, namespaces: &BTreeSet<Label>) -> Result<Allowed, NotAllowed> {
        let checks = namespaces.iter().map(async |namespace| {
            let may = self.may(user, namespace).await?;
            Ok::<_, NotAllowed>((namespace.clone(), may))
        });
        let mut allowed = Allowed::default();
        for (namespace, May { lacking, team }) in try_join_all(checks).await? {
            match lacking {
                None => {
                    if team {
                        allowed.teams.insert(namespace.clone());
                    }
                    allowed.namespaces.insert(namespace);
                }
                Some(forbidden) => {
                    allowed.lacking.insert(namespace, forbidden);
                }
            }
        }
        match allowed.lacking.values().next() {
            Some(forbidden) if allowed.namespaces.is_empty() => Err(forbidden.clone().into()),
            _ => Ok(allowed),
        }
    }

    async fn may(&self, user: &User, namespace: &Label) -> Result<May, NotAllowed> {
        let question = (user.clone(), namespace.clone());
        let known = |age| lock(&self.rights).answer(&question, age, Instant::now());
        if let Some(answer) = known(FRESH) {
            return Ok(answer);
        }
        let [sees, connects] = WANTED.map(|right| self.lacks(user, namespace, right, None));
        let (verb, resource, name) = TEAM;
        let reads = self.lacks(user, namespace, (verb, resource, None), Some(name));
        match futures_util::try_join!(sees, connects, reads) {
            Ok((sees, connects, reads)) => {
                let answer = May {
                    lacking: sees.or(connects),
                    team: reads.is_none(),
                };
                lock(&self.rights).handle_answer(question, answer.clone(), Instant::now());
                Ok(answer)
            }
            Err(error) => known(WITHOUT_NEWS).ok_or(NotAllowed::Unanswered(error)),
        }
    }

    /// What a user may not do, if they may not do this.
    async fn lacks(
        &self,
        user: &User,
        namespace: &Label,
        (verb, resource, subresource): (&str, &str, Option<&str>),
        name: Option<&str>,
    ) -> Result<Option<Forbidden>, Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.to_string()),
                    verb: Some(verb.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = self.create(&review, "subjectaccessreviews").await?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        let resource = match subresource {
            Some(subresource) => format!("{resource}/{subresource}"),
            None => resource.to_owned(),
        };
        Ok((!allowed).then(|| Forbidden {
            who: Who::You,
            verb: verb.to_owned(),
            resource,
            namespace: Some(namespace.to_string()),
        }))
    }

    async fn create<T>(&self, review: &T, resource: &str) -> Result<T, Error>
    where
        T: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        // Never closed.
        let _turn = self.at_once.acquire().await;
        let reviews = Api::<T>::all(self.cluster.client().clone());
        match reviews.create(&PostParams::default(), review).await {
            Ok(reviewed) => {
                self.cluster.lacking().handle_done("create", resource, None);
                Ok(reviewed)
            }
            Err(error) => {
                let error = self.cluster.failed(error, "create", resource, None);
                tracing::debug!(error = %with_causes(&error), "the API server is asked in vain");
                Err(error)
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics half-way through a change.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reviewed(status: serde_json::Value) -> Result<User, String> {
        User::reviewed(serde_json::from_value(status).unwrap(), "devbox-gateway")
    }

    #[test]
    fn a_user_is_whom_the_api_server_authenticates_for_this_audience() {
        let user = json!({"username": "system:serviceaccount:orders:ada", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}});
        let of = |authenticated: bool, audiences: &[&str]| {
            reviewed(json!({"authenticated": authenticated, "audiences": audiences, "user": user}))
        };
        let ada = of(true, &["devbox-gateway"]).unwrap();
        assert_eq!(ada.name, "system:serviceaccount:orders:ada");
        assert_eq!(ada.groups, ["g"]);
        assert_eq!(ada.extra["k"], ["v"]);
        for (authenticated, audiences) in [
            (false, &["devbox-gateway"][..]),
            (true, &[]),
            (true, &["https://kubernetes.default.svc"]),
        ] {
            of(authenticated, audiences).unwrap_err();
        }
        let error = reviewed(json!({"authenticated": false, "error": "token expired"})).unwrap_err();
        assert!(error.contains("token expired"), "{error}");
    }

    #[test]
    fn nobody_passes_for_a_static_token() {
        let of = |name: &str| {
            let user = json!({"username": name});
            reviewed(json!({"authenticated": true, "audiences": ["devbox-gateway"], "user": user}))
        };
        of("").unwrap_err();
        of("devbox:ci").unwrap_err();
        assert_eq!(User::of_static_token(Some("ci")).name, "devbox:ci");
        assert_eq!(User::of_static_token(None).name, "devbox:token");
    }
}
