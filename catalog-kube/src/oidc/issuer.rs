//! Asking an issuer for the next ID token (RFC 6749 section 6, OpenID Connect Core section 12).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use kube::client::Body;
use kube::config::{AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig};
use kube::config::{NamedAuthInfo, NamedCluster, NamedContext};
use kube::{Client, Config};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use service_catalog::printable;
use tunnel_bridge::dial::Proxies;
use url::{Url, form_urlencoded};

use super::{OidcError, Settings};

/// How long an issuer has for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is wrong with a refresh token that was used before, has expired or was withdrawn (RFC 6749 section 5.2).
const SPENT: &str = "invalid_grant";
/// So much of what an issuer says is shown.
const LONGEST_REASON: usize = 200;

/// OpenID Connect Discovery section 3.
#[derive(Deserialize)]
struct Metadata {
    token_endpoint: Url,
}

#[derive(Deserialize)]
struct Renewed {
    id_token: Option<String>,
    refresh_token: Option<String>,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

/// What an issuer has answered.
type Reply<T> = Result<T, Refusal>;

/// The settings with the tokens that the issuer has sent: the ID token is optional (OpenID Connect Core section 12.2).
pub(super) async fn renew(settings: &Settings) -> Result<Settings, OidcError> {
    let (Some(issuer), Some(client), Some(refresh)) =
        (&settings.issuer, &settings.client_id, &settings.refresh_token)
    else {
        let values = [
            ("idp-issuer-url", &settings.issuer),
            ("client-id", &settings.client_id),
            ("refresh-token", &settings.refresh_token),
        ];
        let missing = values.iter().find(|(_, value)| value.is_none());
        let key = missing.map_or("refresh-token", |(key, _)| *key);
        return Err(OidcError::Incomplete { key });
    };
    let asking = Asking { settings, issuer };
    let discovery = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let discovery = Url::parse(&discovery).map_err(|_| bad_url(issuer))?;
    let metadata: Metadata = asking
        .send(&discovery, None)
        .await?
        .map_err(|refusal| asking.refused(&refusal))?;

    let grant = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let secret = settings.client_secret.as_deref();
    // RFC 6749 section 2.3.1: as a header, which each issuer has to know, or among the parameters, which some insist on.
    let by_header = match secret {
        Some(secret) => Some(
            asking
                .send(
                    &metadata.token_endpoint,
                    Some(Form {
                        authorization: Some(basic(client, secret)),
                        body: form(&grant),
                    }),
                )
                .await?,
        ),
        None => None,
    };
    let answer: Reply<Renewed> = match by_header {
        Some(Ok(renewed)) => Ok(renewed),
        Some(Err(refusal)) if refusal.error == SPENT => Err(refusal),
        Some(Err(_)) | None => {
            let mut values = grant.to_vec();
            values.push(("client_id", client));
            values.extend(secret.map(|secret| ("client_secret", secret)));
            let form = Form {
                authorization: None,
                body: form(&values),
            };
            asking.send(&metadata.token_endpoint, Some(form)).await?
        }
    };
    let renewed = answer.map_err(|refusal| asking.refused(&refusal))?;
    Ok(Settings {
        id_token: renewed.id_token.or_else(|| settings.id_token.clone()),
        refresh_token: renewed.refresh_token.or_else(|| Some(refresh.clone())),
        ..settings.clone()
    })
}

/// A POST's body, and the client's credential where that is a header.
struct Form {
    authorization: Option<String>,
    body: String,
}

fn form(values: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(values)
        .finish()
}

fn basic(client: &str, secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encoded(client), encoded(secret));
    format!("Basic {}", STANDARD.encode(both))
}

fn bad_url(url: &str) -> OidcError {
    OidcError::BadUrl { url: url.to_owned() }
}

struct Asking<'a> {
    settings: &'a Settings,
    issuer: &'a str,
}

impl Asking<'_> {
    /// Gets a URL, or posts a form to it.
    async fn send<T: DeserializeOwned>(&self, url: &Url, form: Option<Form>) -> Result<Reply<T>, OidcError> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(url, form)).await;
        let (status, body) =
            asked.unwrap_or_else(|_| Err(self.unreachable(format!("no answer for {PATIENCE:?}"))))?;
        if status.is_success() {
            let parsed = serde_json::from_slice(&body).map(Ok);
            return parsed.map_err(|error| self.refused_because(&format!("{}: {error}", url.path())));
        }
        let refusal = serde_json::from_slice(&body);
        match refusal {
            // RFC 6585 section 4, and faults of its own.
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.unreachable(format!("it answers {status}")))
            }
            Ok(refusal) => Ok(Err(refusal)),
            Err(_) => Ok(Err(Refusal {
                error: format!("{} answers {status}", url.path()),
                error_description: None,
            })),
        }
    }

    async fn ask(&self, url: &Url, form: Option<Form>) -> Result<(StatusCode, Vec<u8>), OidcError> {
        let unreachable =
            |error: &dyn std::error::Error| self.unreachable(devbox_provider::with_causes(error));
        let client = self.client(url).await?;
        let request = Request::builder().uri(&url[url::Position::BeforePath..]);
        let request = request.header(ACCEPT, "application/json");
        let request = match form {
            None => request.body(Body::empty()),
            Some(Form { authorization, body }) => {
                let mut request = request.method(http::Method::POST);
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                if let Some(authorization) = authorization {
                    let mut authorization =
                        HeaderValue::try_from(authorization).map_err(|error| unreachable(&error))?;
                    authorization.set_sensitive(true);
                    request = request.header(AUTHORIZATION, authorization);
                }
                request.body(Body::from(body.into_bytes()))
            }
        };
        let request = request.map_err(|error| unreachable(&error))?;
        let response = client.send(request).await.map_err(|error| match &error {
            kube::Error::Service(source) => unreachable(source.as_ref()),
            error => unreachable(error),
        })?;
        let status = response.status();
        let body = response.into_body().collect_bytes().await;
        Ok((status, body.map_err(|error| unreachable(&error))?.to_vec()))
    }

    /// A client for this URL's host that has no credential: kube's, which knows proxies, and authorities as a kubeconfig names them.
    async fn client(&self, url: &Url) -> Result<Client, OidcError> {
        if url.scheme() != "https" {
            return Err(bad_url(url.as_str()));
        }
        let name = "issuer".to_owned();
        let cluster = Cluster {
            server: Some(url[..url::Position::BeforePath].to_owned()),
            certificate_authority: self.settings.authority.clone(),
            certificate_authority_data: self.settings.authority_data.clone(),
            ..Cluster::default()
        };
        let context = Context {
            cluster: name.clone(),
            user: Some(name.clone()),
            ..Context::default()
        };
        let kubeconfig = Kubeconfig {
            current_context: Some(name.clone()),
            clusters: vec![NamedCluster {
                name: name.clone(),
                cluster: Some(cluster),
                ..NamedCluster::default()
            }],
            contexts: vec![NamedContext {
                name: name.clone(),
                context: Some(context),
                ..NamedContext::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name,
                auth_info: Some(AuthInfo::default()),
                ..NamedAuthInfo::default()
            }],
            ..Kubeconfig::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let unusable = |error: &dyn std::error::Error| OidcError::Kubeconfig {
            reason: devbox_provider::with_causes(error),
        };
        let mut config = config.map_err(|error| unusable(&error))?;
        // A refresh token that has perhaps been used is not sent again.
        config.default_retry = false;
        // kube looks in $NO_PROXY for the proxy.
        let proxies = Proxies::from_env(|name| std::env::var(name).ok());
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default());
        if let Ok(None) = proxies.choose(true, host, port.unwrap_or(443)) {
            config.proxy_url = None;
        }
        Client::try_from(config).map_err(|error| unusable(&error))
    }

    fn unreachable(&self, reason: String) -> OidcError {
        OidcError::Unreachable {
            issuer: self.issuer.to_owned(),
            reason,
        }
    }

    fn refused(&self, refusal: &Refusal) -> OidcError {
        let said = match &refusal.error_description {
            Some(more) => format!("{}: {more}", refusal.error),
            None => refusal.error.clone(),
        };
        let said: String = printable(&said, &[]).chars().take(LONGEST_REASON).collect();
        if refusal.error == SPENT {
            self.refused_because(&format!("{said}; log in again"))
        } else {
            self.refused_because(&said)
        }
    }

    fn refused_because(&self, reason: &str) -> OidcError {
        OidcError::Refused {
            issuer: self.issuer.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_renewal_lacks_is_named() {
        let whole = Settings {
            issuer: Some("https://127.0.0.1:1".to_owned()),
            client_id: Some("devbox".to_owned()),
            refresh_token: Some("r".to_owned()),
            ..Settings::default()
        };
        let without = |change: fn(&mut Settings)| {
            let mut settings = whole.clone();
            change(&mut settings);
            settings
        };
        for (key, settings) in [
            ("idp-issuer-url", without(|settings| settings.issuer = None)),
            ("client-id", without(|settings| settings.client_id = None)),
            ("refresh-token", without(|settings| settings.refresh_token = None)),
        ] {
            let error = renew(&settings).await.err();
            assert_eq!(error, Some(OidcError::Incomplete { key }));
        }
        let discovery = "http://127.0.0.1:1/.well-known/openid-configuration";
        for (url, said) in [
            ("http://127.0.0.1:1", discovery),
            ("issuer.example", "issuer.example"),
        ] {
            let settings = Settings {
                issuer: Some(url.to_owned()),
                ..whole.clone()
            };
            let error = renew(&settings).await.err();
            assert_eq!(error, Some(OidcError::BadUrl { url: said.to_owned() }));
        }
    }

    #[test]
    fn a_clients_name_and_secret_are_encoded_before_they_are_joined() {
        // `a:b` and `c d`
        assert_eq!(
            basic("a:b", "c d"),
            format!("Basic {}", STANDARD.encode("a%3Ab:c+d"))
        );
    }
}
