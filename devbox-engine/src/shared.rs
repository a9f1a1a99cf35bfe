//! One session for several commands of a user: whoever comes first runs it, and the others hold it for as long as they need it.
//!
//! A connection to the session's socket is what holds it. One task accepts connections and decides about the end, so that each
//! of them is either counted or hung up on before it was told of the session; whoever is hung up on starts over.

use std::path::Path;
use std::time::Duration;

use devbox_session::control::{AskError, Asking};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};
use tunnel_bridge::Trust;

use crate::config::{Config, ProviderKind, Publish, TokenConfig};
use crate::error::Error;
use crate::running::Joined;
use crate::settle::settle;
use crate::sys::{self, ControlListener, ControlStream, Taken};

/// How long a session may take to let somebody in. It answers before it is ready.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session that is ending is waited for.
const LEAVING: Duration = Duration::from_secs(20);
/// The pause before a session that hung up is asked again: it is about to close its socket.
const PAUSE: Duration = Duration::from_millis(5);

/// How a command comes to its session; see [`share`].
#[derive(Debug)]
pub enum Share {
    /// Another command runs it, and keeps it for as long as this value lives.
    Joined(Box<Joined>),
    /// It is for this program to start, with [`start_shared`](crate::start_shared). The place is `None` where the session cannot be
    /// shared.
    Start(Option<Place>),
}

/// The place of the one session that commands with the same configuration share.
#[derive(Debug)]
pub struct Place(pub(crate) ControlListener);

/// Joins the session of this user that has exactly this configuration, once it is ready, or takes its place. Of several that ask at
/// once, one takes the place and the others join it.
///
/// Sessions with [`Config::claim`] are not among them: they have places of their own. A session that ends before it is ready is
/// not tried twice: its failure is most likely everybody's, and each of those that waited for it finds out by itself.
///
/// # Cancel safety
/// Safe: nothing is held.
pub async fn share(config: &Config) -> Share {
    let mut config = config.clone();
    // A mistake in it is told by whoever starts it.
    let Some((name, base)) = settle(&mut config).ok().and_then(|()| name(&config)) else {
        return Share::Start(None);
    };
    let deadline = Instant::now() + LEAVING;
    while Instant::now() < deadline {
        let stream = match ControlListener::take(&name).await {
            Ok(Taken::Ours(listener)) => return Share::Start(Some(Place(listener))),
            Ok(Taken::Theirs(stream)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the session is not shared");
                break;
            }
        };
        match hold(stream, base).await {
            Ok(joined) => return Share::Joined(Box::new(joined)),
            Err(Lost::Left) => tokio::time::sleep(PAUSE).await,
            Err(Lost::Failed(reason)) => {
                tracing::debug!(reason, "the session of another command is of no use");
                break;
            }
        }
    }
    Share::Start(None)
}

/// Why a session could not be held.
enum Lost {
    /// It was ending, or is.
    Left,
    /// It never was ready, or cannot be talked to.
    Failed(String),
}

async fn hold(stream: ControlStream, base: &[u8]) -> Result<Joined, Lost> {
    let connecting = async {
        let mut asking = Asking::connect(stream).await?;
        asking.watch().await?;
        let first = asking.next_report().await?;
        Ok((asking, first))
    };
    let (mut asking, mut report) = match timeout(PATIENCE, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error @ AskError::Version { .. })) => return Err(Lost::Failed(error.to_string())),
        // It hung up.
        Ok(Err(_)) => return Err(Lost::Left),
        Err(_) => return Err(Lost::Failed("it does not answer".to_owned())),
    };
    if report.stopping {
        // Asking again and again would only slow its end down.
        drop(timeout(LEAVING, asking.ended()).await);
        return Err(Lost::Left);
    }
    while !report.ready {
        report = match asking.next_report().await {
            Ok(report) if !report.stopping => report,
            _ => return Err(Lost::Failed("it ended before it was ready".to_owned())),
        };
    }
    Joined::new(asking, report, base.to_vec()).map_err(|error: Error| Lost::Failed(error.to_string()))
}

/// The name of the socket, which has all in it that two sessions must have in common to be one, and the base of the private hosts
/// file. `None` for sessions that are not shared.
fn name(config: &Config) -> Option<(String, &[u8])> {
    let Publish::Private { base } = &config.publish else {
        return None;
    };
    let mut parts: Vec<Vec<u8>> = vec![
        env!("CARGO_PKG_VERSION").into(),
        sys::network().into_os_string().into_encoded_bytes(),
        base.clone(),
        format!("{:?} {:?} {}", config.names, config.pools, config.max_connections).into_bytes(),
        format!("{} {:?}", config.share, config.services).into_bytes(),
        whole(config.lock_file.as_deref())?,
        whole(config.state_dir.as_deref())?,
    ];
    for provider in &config.providers {
        parts.push(format!("{} {:?}", provider.name, provider.environment).into_bytes());
        match &provider.kind {
            ProviderKind::Gateway(gateway) => {
                parts.push(match &gateway.token {
                    TokenConfig::File(file) => whole(Some(file))?,
                    TokenConfig::Secret(secret) => secret.clone().into_bytes(),
                });
                let Trust {
                    ca,
                    extra_ca,
                    pins,
                    identity,
                    danger_accept_any_certificate,
                    ..
                } = &gateway.trust;
                parts.push(whole(ca.as_deref())?);
                parts.push(whole(extra_ca.as_deref())?);
                let identity = identity.as_ref();
                parts.push(whole(identity.map(|identity| &*identity.certificate))?);
                parts.push(whole(identity.map(|identity| &*identity.key))?);
                parts.push(format!("{pins:?} {danger_accept_any_certificate}").into_bytes());
                // With the credentials of a proxy and the values of headers, which nothing prints.
                parts.push(gateway.proxies.identity());
                for (name, value) in &gateway.headers {
                    parts.push(format!("{name}: {}", value.0).into_bytes());
                }
                parts.push(
                    format!("{} {} {:?}", gateway.url, gateway.insecure, gateway.carriage).into_bytes(),
                );
            }
            ProviderKind::Direct { catalog } => parts.push(whole(Some(catalog))?),
            #[cfg(feature = "kube")]
            ProviderKind::Kubernetes(options) => {
                let mut options = options.clone();
                parts.push(whole(options.cluster.kubeconfig.take().as_deref())?);
                // Which file a context is from counts as well.
                parts.push(
                    std::env::var_os("KUBECONFIG")
                        .unwrap_or_default()
                        .into_encoded_bytes(),
                );
                parts.push(format!("{options:?}").into_bytes());
            }
            // What is behind it is not known.
            ProviderKind::Custom(_) => return None,
        }
    }
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let short = digest.finalize();
    Some((
        short.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        base,
    ))
}

/// The same for everybody, whatever their working directory.
fn whole(path: Option<&Path>) -> Option<Vec<u8>> {
    let Some(path) = path else {
        return Some(Vec::new());
    };
    let path = std::path::absolute(path).ok()?;
    Some(path.into_os_string().into_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProviderConfig;

    fn config(catalog: &str, base: &str) -> Config {
        Config {
            publish: Publish::Private { base: base.into() },
            ..Config::new([ProviderConfig::direct("local", catalog)])
        }
    }

    #[test]
    fn only_sessions_of_one_configuration_have_one_name() {
        let (one, _) = name(&config("catalog.yaml", "")).unwrap();
        assert_eq!(one, name(&config("catalog.yaml", "")).unwrap().0);
        let mut others = [
            config("other.yaml", ""),
            config("catalog.yaml", "127.0.0.1 localhost\n"),
            Config {
                pools: vec!["127.78.0.0/16".parse().unwrap()],
                ..config("catalog.yaml", "")
            },
            config("catalog.yaml", ""),
            config("catalog.yaml", ""),
        ];
        others[3].names.active = Some("backend".parse().unwrap());
        others[4].providers[0].environment = Some("dev".parse().unwrap());
        for other in others {
            assert_ne!(one, name(&other).unwrap().0, "{other:?}");
        }
        let published = Config {
            publish: Publish::Registry,
            ..config("catalog.yaml", "")
        };
        assert!(name(&published).is_none());
    }
}
