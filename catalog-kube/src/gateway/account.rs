//! The token that a client shows to a gateway in the cluster.

use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::{Token, TokenIssuer};
use devbox_provider::{ConnectError, with_causes};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{AUDIENCE, HOME};
use crate::{Cluster, Error};

/// How long a token is asked to be good for. The API server may decide otherwise.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A token that was refused is not a stale one if it is this young.
const FRESH: Duration = Duration::from_secs(10);

/// The accounts of so many of a user's groups are tried.
const MAX_GROUPS: usize = 32;

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Account {
    /// Of a person. A user's own credential is never shown to a gateway, which could do with it all that the user can.
    ///
    /// Each has one of their own, so that a gateway gives nobody what only somebody else may have. It is in [`HOME`]: whoever may edit the
    /// namespace of an account may be that account, so that one in a team's namespace would give the team what its bearer may elsewhere.
    pub(crate) fn of_user(name: &str) -> Self {
        Self::stand_in("user", name)
    }

    /// Of the members of a group, with what the group may.
    pub(crate) fn of_group(name: &str) -> Self {
        Self::stand_in("group", name)
    }

    fn stand_in(kind: &str, name: &str) -> Self {
        Self {
            namespace: HOME.to_owned(),
            name: format!("devbox-{}", key(kind, name)),
        }
    }
}

/// A name for an object that belongs to somebody: readable, and different for each.
pub(crate) fn key(kind: &str, name: &str) -> String {
    let digest = Sha256::digest(name);
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let legible = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let legible: String = name.chars().take(40).map(legible).collect();
    let words: Vec<_> = legible.split('-').filter(|word| !word.is_empty()).collect();
    [&[kind], &words[..], &[&digest]]
        .concat()
        .join("-")
        .to_lowercase()
}

/// Whose tokens a user may show.
#[derive(Debug, PartialEq, Eq)]
struct Bearers {
    /// Their own account, which comes first.
    own: Account,
    /// Those of their groups, in the API server's order.
    groups: Vec<Account>,
}

impl Bearers {
    /// As the API server knows the user.
    async fn of(cluster: &Cluster) -> Result<Self, Error> {
        let reviews: Api<SelfSubjectReview> = Api::all(cluster.client().clone());
        let review = reviews
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .map_err(|error| cluster.failed(error, "create", "selfsubjectreviews", None))?;
        let user = review.status.and_then(|status| status.user_info);
        let user = user.unwrap_or_default();
        Ok(Self::known_as(
            &user.username.unwrap_or_default(),
            &user.groups.unwrap_or_default(),
        ))
    }

    /// A service account shows a token of its own.
    fn known_as(user: &str, groups: &[String]) -> Self {
        if let Some((namespace, name)) = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|account| account.split_once(':'))
        {
            return Self {
                own: Account {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                },
                groups: Vec::new(),
            };
        }
        // Everybody is in some of those.
        let groups = groups.iter().filter(|group| !group.starts_with("system:"));
        Self {
            own: Account::of_user(user),
            groups: groups
                .take(MAX_GROUPS)
                .map(|group| Account::of_group(group))
                .collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Account> {
        std::iter::once(&self.own).chain(&self.groups)
    }
}

impl std::fmt::Display for Bearers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Account { namespace, name } = &self.own;
        write!(f, "the service account {name} in {namespace}")?;
        if self.groups.is_empty() {
            return Ok(());
        }
        f.write_str(", nor of one of your groups,")
    }
}

/// Tokens of a service account for gateways (TokenRequest), which the user must be allowed to ask for. One is used until little of its time
/// is left.
pub(crate) struct AccountTokens {
    asks: Mutex<Asks>,
}

struct Asks {
    cluster: Cluster,
    held: Option<Held>,
}

struct Held {
    token: Token,
    issued_at: Instant,
    renew_at: Instant,
    expires_at: Instant,
}

impl AccountTokens {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            asks: Mutex::new(Asks { cluster, held: None }),
        }
    }

    /// Asks with this credential from here on. A token that is held stays.
    pub(crate) async fn ask(&self, cluster: Cluster) {
        self.asks.lock().await.cluster = cluster;
    }
}

impl Asks {
    /// A token of the first account that the user may have one of.
    async fn request(&self) -> Result<Held, ConnectError> {
        let bearers = Bearers::of(&self.cluster)
            .await
            .map_err(|error| self.failed(error, None))?;
        let mut refused = None;
        for account in bearers.all() {
            let asked_at = Instant::now();
            match self.request_of(account).await {
                Ok(issued) => return Held::new(issued, asked_at),
                // It is not this user's, or there is none.
                Err(error @ (Error::Forbidden(_) | Error::Api { code: 404, .. })) => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(self.failed(error, Some(&bearers))),
            }
        }
        Err(match refused {
            Some(error) => self.failed(error, Some(&bearers)),
            None => ConnectError::Setup {
                message: "the API server does not say who you are".to_owned(),
            },
        })
    }

    async fn request_of(&self, account: &Account) -> Result<TokenRequest, Error> {
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
            .await;
        issued.map_err(|error| {
            let namespace = Some(account.namespace.as_str());
            self.cluster
                .failed(error, "create", "serviceaccounts/token", namespace)
        })
    }

    fn failed(&self, error: Error, bearers: Option<&Bearers>) -> ConnectError {
        let far_side = self.cluster.name().to_owned();
        let message = with_causes(&error);
        let shown = |message: String| match bearers {
            Some(bearers) => {
                format!(
                    "no token of {bearers} for the gateway: {message}; `devbox rbac --via gateway` prints what is needed"
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

impl Held {
    fn new(issued: TokenRequest, asked_at: Instant) -> Result<Self, ConnectError> {
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
        Ok(Self {
            token,
            issued_at: asked_at,
            renew_at: asked_at + lifetime.mul_f32(0.8),
            expires_at: asked_at + lifetime,
        })
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

    /// The account may have been removed and made again, and with it went its tokens.
    async fn refused(&self) -> bool {
        let mut asks = self.asks.lock().await;
        let stale = asks.held.take_if(|held| held.issued_at.elapsed() >= FRESH);
        stale.is_some()
    }
}

impl std::fmt::Debug for AccountTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountTokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_service_account_shows_a_token_of_its_own_and_nobody_elses() {
        let groups = ["system:serviceaccounts".to_owned(), "backend".to_owned()];
        let bearers = Bearers::known_as("system:serviceaccount:orders:ada", &groups);
        let own = Account {
            namespace: "orders".to_owned(),
            name: "ada".to_owned(),
        };
        assert_eq!(bearers.all().collect::<Vec<_>>(), [&own]);
    }

    #[test]
    fn a_person_shows_a_token_of_their_own_account_or_of_a_groups() {
        let groups = ["system:authenticated", "backend", "data"].map(str::to_owned);
        let bearers = Bearers::known_as("ada@example.com", &groups);
        let all = [
            Account::of_user("ada@example.com"),
            Account::of_group("backend"),
            Account::of_group("data"),
        ];
        assert_eq!(bearers.all().collect::<Vec<_>>(), all.iter().collect::<Vec<_>>());
        assert_eq!(all[0].name, "devbox-user-ada-example-com-b5fc85e55755f9e0");
        assert!(all.iter().all(|account| account.namespace == HOME));
        let many: Vec<_> = (0..1000).map(|number| format!("g{number}")).collect();
        assert_eq!(Bearers::known_as("ada", &many).all().count(), 1 + MAX_GROUPS);
    }

    #[test]
    fn accounts_of_different_people_and_groups_have_different_names_fit_for_objects() {
        let names = [
            "ada",
            "Ada",
            "ada.",
            "a-da",
            "",
            "-",
            "ü",
            &"x".repeat(300),
            "a/b:c d",
        ];
        let accounts: BTreeSet<_> = names
            .iter()
            .flat_map(|name| [Account::of_user(name).name, Account::of_group(name).name])
            .collect();
        assert_eq!(accounts.len(), 2 * names.len());
        for name in accounts {
            // RFC 1123, as for a label: then the name of an object that names it is fit as well.
            assert!(name.len() <= 80, "{name}");
            let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(fit) && !name.contains("--"), "{name}");
        }
    }
}
