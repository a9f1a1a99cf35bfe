//! The token that a client shows to a gateway in the cluster.

use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::{Token, TokenIssuer};
use devbox_provider::{ConnectError, with_causes};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::AUDIENCE;
use crate::{Cluster, Error};

/// The service account whose token a user shows who is none: that of the session's first namespace. A user's own credential is never
/// shown to a gateway, which could do with it all that the user can.
pub(crate) const FOR_USERS: &str = "devbox-user";

/// How long a token is asked to be good for. The API server may decide otherwise.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Account {
    /// The user's own one where they are a service account, otherwise the one for users in `namespace`.
    async fn of(cluster: &Cluster, namespace: &str) -> Result<Self, Error> {
        let reviews: Api<SelfSubjectReview> = Api::all(cluster.client().clone());
        let review = reviews
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .map_err(|error| cluster.failed(error, "create", "selfsubjectreviews", None))?;
        let user = review.status.and_then(|status| status.user_info?.username);
        Ok(own(user.as_deref().unwrap_or_default()).unwrap_or_else(|| Self {
            namespace: namespace.to_owned(),
            name: FOR_USERS.to_owned(),
        }))
    }
}

/// The service account that is a user of this name.
fn own(user: &str) -> Option<Account> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(Account {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Tokens of a service account for gateways (TokenRequest), which the user must be allowed to ask for. One is used until little of its time
/// is left.
pub(crate) struct AccountTokens {
    asks: Mutex<Asks>,
}

struct Asks {
    cluster: Cluster,
    /// Where the account for users is.
    namespace: String,
    held: Option<Held>,
}

struct Held {
    token: Token,
    renew_at: Instant,
    expires_at: Instant,
}

impl AccountTokens {
    pub(crate) fn new(cluster: Cluster, namespace: String) -> Self {
        Self {
            asks: Mutex::new(Asks {
                cluster,
                namespace,
                held: None,
            }),
        }
    }

    /// Asks with this credential from here on. A token that is held stays.
    pub(crate) async fn ask(&self, cluster: Cluster) {
        self.asks.lock().await.cluster = cluster;
    }
}

impl Asks {
    async fn request(&self) -> Result<Held, ConnectError> {
        let asked_at = Instant::now();
        let account = Account::of(&self.cluster, &self.namespace)
            .await
            .map_err(|error| self.failed(error, None))?;
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.cluster.client().clone(), &account.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![AUDIENCE.to_owned()],
                expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let issued = accounts
            .create_token_request(&account.name, &PostParams::default(), &request)
            .await
            .map_err(|error| {
                let namespace = Some(account.namespace.as_str());
                let error = self
                    .cluster
                    .failed(error, "create", "serviceaccounts/token", namespace);
                self.failed(error, Some(&account))
            })?;
        // By how long it lasts, and not until when: clocks differ.
        let seconds = issued
            .spec
            .expiration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let lifetime = seconds.map_or(LIFETIME, Duration::from_secs);
        let text = issued.status.map(|status| status.token).unwrap_or_default();
        let token = Token::new(&text).map_err(|error| ConnectError::Setup {
            message: with_causes(&error),
        })?;
        Ok(Held {
            token,
            renew_at: asked_at + lifetime.mul_f32(0.8),
            expires_at: asked_at + lifetime,
        })
    }

    fn failed(&self, error: Error, account: Option<&Account>) -> ConnectError {
        let far_side = self.cluster.name().to_owned();
        let message = with_causes(&error);
        let shown = |message: String| match account {
            Some(Account { namespace, name }) => {
                format!(
                    "no token of the service account {name} in {namespace} for the gateway: {message}; `devbox rbac --via gateway` prints what is needed"
                )
            }
            None => message,
        };
        match error {
            Error::Unauthorized { cluster, message } => ConnectError::CredentialRefused {
                far_side: cluster,
                file: None,
                message,
            },
            Error::Unreachable { .. } | Error::Silent { .. } => ConnectError::Unreachable {
                far_side,
                reason: message,
            },
            Error::Api { code, .. } if code == 429 || code >= 500 => ConnectError::Unavailable {
                far_side,
                message: shown(message),
            },
            _ => ConnectError::Setup {
                message: shown(message),
            },
        }
    }
}

#[async_trait]
impl TokenIssuer for AccountTokens {
    async fn token(&self) -> Result<Token, ConnectError> {
        // Held while it is asked for: one request for all that wait.
        let mut asks = self.asks.lock().await;
        let now = Instant::now();
        if let Some(held) = asks.held.as_ref().filter(|held| now < held.renew_at) {
            return Ok(held.token.clone());
        }
        match (asks.request().await, &asks.held) {
            (Ok(fresh), _) => Ok(asks.held.insert(fresh).token.clone()),
            // The API server may be away.
            (Err(error), Some(held)) if now < held.expires_at => {
                tracing::debug!(%error, "the token for the gateway is not renewed yet");
                Ok(held.token.clone())
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl std::fmt::Debug for AccountTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountTokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_shows_a_token_of_its_own() {
        let account = own("system:serviceaccount:orders:ada").unwrap();
        assert_eq!((&*account.namespace, &*account.name), ("orders", "ada"));
        assert_eq!(own("ada@example.com"), None);
        assert_eq!(own("system:node:one"), None);
    }
}
