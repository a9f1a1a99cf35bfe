//! OpenID Connect as a kubeconfig has it (`auth-provider: {name: oidc}`): an ID token, and a refresh token with which its issuer gives the
//! next one.
//!
//! Most issuers take a refresh token once, and send another with each ID token. Both are therefore written to the kubeconfig, where kubectl
//! writes them too: whoever has it, kubectl or another session, would have to log in again otherwise.

mod issuer;
mod saved;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use kube::Client;
use kube::client::Body;
use kube::config::AuthInfo;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tower::BoxError;

pub(crate) use saved::Saved;

/// An ID token is renewed so long before its time is up: the request that it goes with takes a while, and clocks differ.
const EARLY: Duration = Duration::from_secs(10);
/// How many requests wait for a token without waiting for room.
const WAITING: usize = 16;

/// Why there is no ID token to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OidcError {
    /// The kubeconfig has not what a renewal takes.
    #[error("the ID token has expired, and the kubeconfig has no {key} to renew it with: log in again")]
    Incomplete { key: &'static str },
    /// The issuer's URL is not one that a refresh token may be sent to.
    #[error("idp-issuer-url: expected a URL that begins with https://, found `{url}`")]
    BadIssuer { url: String },
    /// The issuer has answered, with an error of RFC 6749 section 5.2 or something else.
    #[error("{issuer} does not renew the ID token ({reason}): log in again")]
    Refused { issuer: String, reason: String },
    /// The issuer has not answered.
    #[error("{issuer}, which renews the ID token, is not reachable: {reason}")]
    Unreachable { issuer: String, reason: String },
    /// The kubeconfig has no such user any more, or cannot be read.
    #[error("the ID token has expired, and the kubeconfig is of no help: {reason}")]
    Kubeconfig { reason: String },
    /// The runtime ends.
    #[error("the ID token cannot be renewed: the program is ending")]
    Ending,
}

/// The values of an `auth-provider` that is called `oidc`, as client-go names them.
#[derive(Clone, PartialEq, Eq, Default)]
struct Settings {
    issuer: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    id_token: Option<String>,
    refresh_token: Option<String>,
    /// Who vouches for the issuer, instead of whom this machine trusts: a file, and a PEM text in base64.
    authority: Option<String>,
    authority_data: Option<String>,
}

impl Settings {
    /// Those of a user; none where another kind of credential is used.
    fn of(user: &AuthInfo) -> Option<Self> {
        let provider = user.auth_provider.as_ref()?;
        (provider.name == "oidc").then(|| Self::from_values(&provider.config))
    }

    fn from_values(values: &HashMap<String, String>) -> Self {
        let value = |key: &str| values.get(key).filter(|text| !text.is_empty()).cloned();
        Self {
            issuer: value("idp-issuer-url"),
            client_id: value("client-id"),
            client_secret: value("client-secret"),
            id_token: value("id-token"),
            refresh_token: value("refresh-token"),
            authority: value("idp-certificate-authority"),
            authority_data: value("idp-certificate-authority-data"),
        }
    }

    /// The ID token, if it is good for a while from `now` on.
    fn good_at(&self, now: SystemTime) -> Option<&str> {
        let token = self.id_token.as_deref()?;
        (now + EARLY < expiry(token)?).then_some(token)
    }
}

/// The end of an ID token (RFC 7519 section 4.1.4), which only the API server needs to verify.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = token.split('.').nth(1)?.trim_end_matches('=');
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let since_1970 = Duration::try_from_secs_f64(claims.exp).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_1970)
}

type Answer = Result<HeaderValue, OidcError>;

/// A user's ID token, renewed when it is asked for. Cloning is cheap.
///
/// A task has it, and ends with the last clone: a request that is cancelled does not cancel a renewal, whose refresh token would be lost.
#[derive(Clone)]
pub(crate) struct Oidc {
    asked: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl Oidc {
    /// For this user, if they have one. Nobody is asked for anything yet.
    pub(crate) fn of(user: &AuthInfo, saved: Saved) -> Option<Self> {
        let settings = Settings::of(user)?;
        let (asked, requests) = mpsc::channel(WAITING);
        tokio::spawn(answer(Tokens::new(settings, saved), requests));
        Some(Self { asked })
    }

    /// The header `Authorization`, with a token that is good.
    ///
    /// # Errors
    /// If there is none, and the issuer gives none.
    ///
    /// # Cancel safety
    /// A renewal goes on, and the next call has its token.
    pub(crate) async fn header(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.asked.send(answer).await.map_err(|_| OidcError::Ending)?;
        answered.await.map_err(|_| OidcError::Ending)?
    }

    /// A client whose requests carry the token, and are otherwise those of `client`, which has no credential.
    pub(crate) fn client(&self, client: Client, default_namespace: &str) -> Client {
        let oidc = self.clone();
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            let (oidc, client) = (oidc.clone(), client.clone());
            async move {
                let header = oidc.header().await?;
                request.headers_mut().insert(http::header::AUTHORIZATION, header);
                Ok::<_, BoxError>(client.send(request).await?)
            }
        });
        Client::new(service, default_namespace)
    }
}

/// Answers as long as somebody can ask.
async fn answer(mut tokens: Tokens, mut requests: mpsc::Receiver<oneshot::Sender<Answer>>) {
    while let Some(request) = requests.recv().await {
        let answer = tokens.header().await;
        // Whoever asked may not wait for it any more.
        request.send(answer).ok();
    }
}

struct Tokens {
    saved: Saved,
    /// As the kubeconfig was when it was last read or written.
    there: Settings,
    /// The same, or newer where it could not be written.
    current: Settings,
}

impl Tokens {
    fn new(settings: Settings, saved: Saved) -> Self {
        Self {
            saved,
            there: settings.clone(),
            current: settings,
        }
    }

    async fn header(&mut self) -> Answer {
        if self.current.good_at(SystemTime::now()).is_none() {
            self.renew().await?;
        }
        let token = self.current.id_token.as_deref().unwrap_or_default();
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header = header.map_err(|_| OidcError::Incomplete {
            key: "usable id-token",
        })?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn renew(&mut self) -> Result<(), OidcError> {
        // Sessions of one kubeconfig renew one after the other: the next one finds what the first was given.
        let _turn = self.saved.turn().await;
        let there = self.saved.read().await?;
        if there != self.there {
            // kubectl or another session has renewed it, or its user has logged in again.
            self.there = there.clone();
            self.current = there;
            if self.current.good_at(SystemTime::now()).is_some() {
                return Ok(());
            }
        }
        let renewed = issuer::renew(&self.current).await?;
        match self.saved.write(&self.there, &renewed).await {
            Ok(()) => self.there = renewed.clone(),
            Err(reason) => tracing::warn!(
                %reason,
                "a renewed token cannot be written to the kubeconfig: kubectl and other sessions may have to log in again"
            ),
        }
        self.current = renewed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token whose claims are these.
    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_good_until_ten_seconds_before_its_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for end in [r#"{"exp": 1000}"#, r#"{"exp": 1000.0, "sub": "ada"}"#] {
            let settings = Settings {
                id_token: Some(token(end)),
                ..Settings::default()
            };
            assert!(settings.good_at(at(989)).is_some(), "{end}");
            assert_eq!(settings.good_at(at(990)), None, "{end}");
        }
    }

    #[test]
    fn what_is_no_token_is_not_good() {
        let without_end = token("{}");
        let never = token(r#"{"exp": 1e300}"#);
        let negative = token(r#"{"exp": -1}"#);
        for text in ["", "a", "a.b.c", "a.!.c", &without_end, &never, &negative] {
            assert_eq!(expiry(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_provider_called_oidc_is_one() {
        let user = |name: &str| AuthInfo {
            auth_provider: Some(kube::config::AuthProviderConfig {
                name: name.to_owned(),
                config: HashMap::from([("client-id".to_owned(), "devbox".to_owned())]),
                ..Default::default()
            }),
            ..AuthInfo::default()
        };
        assert!(Settings::of(&user("gcp")).is_none());
        assert!(Settings::of(&AuthInfo::default()).is_none());
        let settings = Settings::of(&user("oidc")).unwrap();
        assert_eq!(settings.client_id.as_deref(), Some("devbox"));
    }
}
