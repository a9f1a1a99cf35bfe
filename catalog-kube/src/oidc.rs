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
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use kube::Client;
use kube::client::Body;
use kube::config::AuthInfo;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tower::BoxError;

pub(crate) use saved::Saved;

/// An ID token is renewed this long before it expires: the request that carries it takes a while, and clocks differ.
const EARLY: Duration = Duration::from_secs(10);
/// How long after a failed renewal the next one is tried.
const PAUSE: Duration = Duration::from_secs(2);
/// How long another program may take to write down the tokens that it was given for a refresh token.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);
/// How many requests may be waiting for a token; further ones wait for room.
const WAITING: usize = 1024;
/// Some issuers' tokens are padded, or have bits to spare.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why there is no ID token to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OidcError {
    /// The kubeconfig lacks what a renewal takes.
    #[error("the ID token has expired, and the kubeconfig has no {key} to renew it with: log in again")]
    Incomplete { key: &'static str },
    /// A refresh token may not be sent there.
    #[error("an issuer has to be reached over https://, not at `{url}`")]
    BadUrl { url: String },
    /// The issuer has answered, but not with a token.
    #[error("{issuer} does not renew the ID token: {reason}")]
    Refused { issuer: String, reason: String },
    /// The issuer has not answered.
    #[error("{issuer}, which renews the ID token, is not reachable: {reason}")]
    Unreachable { issuer: String, reason: String },
    /// The kubeconfig does not name such a user any more, cannot be read, or names an authority that cannot be.
    #[error("the ID token has expired, and the kubeconfig has no way to renew it: {reason}")]
    Kubeconfig { reason: String },
    /// The runtime ends.
    #[error("the ID token cannot be renewed: the program is ending")]
    Ending,
}

impl OidcError {
    /// Whether asking again later may help, with the kubeconfig as it is.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, OidcError::Unreachable { .. } | OidcError::Ending)
    }
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

    /// Whether the ID token is good for so long.
    fn is_good_for(&self, span: Duration, now: SystemTime) -> bool {
        let expiry = self.id_token.as_deref().and_then(expiry);
        expiry.is_some_and(|expiry| now + span < expiry)
    }

    fn is_good(&self) -> bool {
        self.is_good_for(EARLY, SystemTime::now())
    }
}

/// The end of an ID token (RFC 7519 section 4.1.4), which only the API server needs to verify.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = BASE64.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
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
    /// For this user, if they have one: no other credential of theirs counts, and none is left. Nobody is asked for anything yet.
    pub(crate) fn take(user: &mut AuthInfo, saved: Saved) -> Option<Self> {
        let settings = Settings::of(user)?;
        *user = AuthInfo {
            auth_provider: None,
            exec: None,
            password: None,
            token: None,
            token_file: None,
            username: None,
            ..std::mem::take(user)
        };
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
    /// When the last renewal failed, and why.
    failed: Option<(Instant, OidcError)>,
}

impl Tokens {
    fn new(settings: Settings, saved: Saved) -> Self {
        Self {
            saved,
            there: settings.clone(),
            current: settings,
            failed: None,
        }
    }

    async fn header(&mut self) -> Answer {
        if !self.current.is_good() {
            if let Some((at, error)) = &self.failed
                && at.elapsed() < PAUSE
            {
                return Err(error.clone());
            }
            let renewed = self.renew().await;
            self.failed = renewed.clone().err().map(|error| (Instant::now(), error));
            renewed?;
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
        if self.adopt().await? && self.current.is_good() {
            return Ok(());
        }
        let renewed = match issuer::renew(&self.current).await {
            Ok(renewed) => renewed,
            Err(error @ OidcError::Refused { .. }) => return self.was_renewed_by_others(error).await,
            Err(error) => return Err(error),
        };
        match self.saved.write(&self.there, &renewed).await {
            Ok(()) => self.there = self.saved.read().await?,
            Err(reason) => tracing::warn!(
                %reason,
                "a renewed token cannot be written to the kubeconfig: kubectl and other sessions may have to log in again"
            ),
        }
        self.current = renewed;
        if self.current.is_good_for(Duration::ZERO, SystemTime::now()) {
            return Ok(());
        }
        // Written down all the same: the refresh token before is spent.
        Err(OidcError::Refused {
            issuer: self.current.issuer.clone().unwrap_or_default(),
            reason: "it has sent no ID token that is good; was `openid` among the scopes when you logged in?"
                .into(),
        })
    }

    /// Goes on with what the kubeconfig says, if that has changed: kubectl or another session has renewed it, or its user has logged in again.
    async fn adopt(&mut self) -> Result<bool, OidcError> {
        let there = self.saved.read().await?;
        let changed = there != self.there;
        if changed {
            self.there = there.clone();
            self.current = there;
        }
        Ok(changed)
    }

    /// Somebody who does not take turns, such as kubectl, may have been given the tokens that were refused here.
    async fn was_renewed_by_others(&mut self, refused: OidcError) -> Result<(), OidcError> {
        for pause in [Duration::ZERO, WRITTEN_WITHIN] {
            tokio::time::sleep(pause).await;
            if self.adopt().await? && self.current.is_good() {
                return Ok(());
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterOptions;

    /// A token whose claims are these.
    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64.encode(claims))
    }

    #[test]
    fn a_token_is_good_until_ten_seconds_before_its_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for end in [r#"{"exp": 1000}"#, r#"{"exp": 1000.0, "sub": "ada"}"#] {
            let settings = Settings {
                id_token: Some(token(end)),
                ..Settings::default()
            };
            assert!(settings.is_good_for(EARLY, at(989)), "{end}");
            assert!(!settings.is_good_for(EARLY, at(990)), "{end}");
            assert!(settings.is_good_for(Duration::ZERO, at(999)), "{end}");
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

    fn kubeconfig(tokens: &str) -> String {
        format!(
            "clusters: [{{name: here, cluster: {{server: 'https://127.0.0.1:1'}}}}]\n\
             contexts: [{{name: here, context: {{cluster: here, user: ada}}}}]\n\
             users: [{{name: ada, user: {{auth-provider: {{name: oidc, config: {{{tokens}}}}}}}}}]\n"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_a_new_login_is_found_two_seconds_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, kubeconfig("id-token: a.b.c")).unwrap();
        let options = ClusterOptions {
            kubeconfig: Some(file.clone()),
            ..ClusterOptions::default()
        };
        let mut tokens = Tokens::new(Settings::default(), Saved::new(&options, "here"));
        let incomplete = OidcError::Incomplete {
            key: "idp-issuer-url",
        };
        assert_eq!(tokens.header().await, Err(incomplete.clone()));

        let good = token(r#"{"exp": 99999999999}"#);
        std::fs::write(&file, kubeconfig(&format!("id-token: {good}"))).unwrap();
        assert_eq!(tokens.header().await, Err(incomplete));
        tokio::time::advance(PAUSE).await;
        let header = tokens.header().await.unwrap();
        assert_eq!(header, format!("Bearer {good}"));
        assert!(header.is_sensitive());

        std::fs::remove_file(&file).unwrap();
        tokens.current = Settings::default();
        let gone = tokens.header().await;
        assert!(matches!(gone, Err(OidcError::Kubeconfig { .. })), "{gone:?}");
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
