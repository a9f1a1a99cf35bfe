//! The kinds of far side that are built in.

use std::path::Path;
use std::sync::Arc;

use devbox_provider::Provider;
use url::{Host, Url};

use crate::config::{GatewayConfig, ProviderConfig, ProviderKind};
use crate::error::Error;
use crate::notice::{Notice, Notices};

/// The providers of a configuration, in its order.
pub(crate) async fn build(
    configs: &[ProviderConfig],
    session: &str,
    max_connections: usize,
    notices: &Notices,
) -> Result<Vec<Arc<dyn Provider>>, Error> {
    if configs.is_empty() {
        return Err(Error::NoProvider);
    }
    for (index, config) in configs.iter().enumerate() {
        if configs[..index].iter().any(|earlier| earlier.name == config.name) {
            return Err(Error::DuplicateProvider {
                name: config.name.clone(),
            });
        }
    }
    let mut providers = Vec::new();
    for config in configs {
        providers.push(match &config.kind {
            ProviderKind::Gateway(config) => {
                check(config)?;
                if config.trust.danger_accept_any_certificate {
                    notices.add(Notice::AnyCertificate {
                        far_side: config.url.to_string(),
                    });
                }
                gateway(config, session, max_connections).await?
            }
            ProviderKind::Direct { catalog } => direct(catalog).await?,
            ProviderKind::Custom(provider) => Arc::clone(provider),
        });
    }
    Ok(providers)
}

/// Checks what can be said about a gateway before anything is started.
pub(crate) fn check(gateway: &GatewayConfig) -> Result<(), Error> {
    let url = &gateway.url;
    if !matches!(url.scheme(), "ws" | "wss" | "quic") || url.host().is_none() {
        return Err(Error::GatewayUrl { url: url.clone() });
    }
    if url.scheme() == "ws" && !is_loopback(url) && !gateway.insecure {
        return Err(Error::InsecureGateway { url: url.clone() });
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

cfg_if::cfg_if! {
    if #[cfg(feature = "gateway")] {
        use devbox_gateway_client::{GatewayProvider, Token, TokenSource};

        use crate::config::TokenConfig;

        async fn gateway(
            config: &GatewayConfig,
            session: &str,
            max_connections: usize,
        ) -> Result<Arc<dyn Provider>, Error> {
            let token = match &config.token {
                TokenConfig::File(path) => {
                    // A file that is missing is reported before anything is started. It may be on a network file system.
                    let read = path.clone();
                    let read = tokio::task::spawn_blocking(move || Token::read(read)).await;
                    read.map_err(|_| Error::Crashed)??;
                    TokenSource::File(path.clone())
                }
                TokenConfig::Secret(text) => TokenSource::Fixed(Token::new(text)?),
            };
            let mut provider = GatewayProvider::new(config.url.clone(), token, session);
            provider.trust = config.trust.clone();
            provider.proxies = config.proxies.clone();
            provider.carriage = config.carriage;
            // Connections, half as many flows of datagrams, and the catalog's streams.
            let streams = max_connections.saturating_add(max_connections.div_ceil(2)).saturating_add(64);
            provider.limits.max_streams = u32::try_from(streams).unwrap_or(u32::MAX);
            provider.headers = config
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.0.clone()))
                .collect();
            Ok(Arc::new(provider))
        }

        impl From<devbox_gateway_client::Error> for Error {
            fn from(error: devbox_gateway_client::Error) -> Self {
                Self::Token(Box::new(error))
            }
        }
    } else {
        async fn gateway(_config: &GatewayConfig, _session: &str, _max_connections: usize) -> Result<Arc<dyn Provider>, Error> {
            Err(Error::NotBuiltIn { kind: "gateway" })
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(feature = "direct")] {
        async fn direct(catalog: &Path) -> Result<Arc<dyn Provider>, Error> {
            let opened = catalog_file::CatalogFile::open(catalog).await;
            Ok(Arc::new(opened.map_err(|error| Error::Catalog(Box::new(error)))?))
        }
    } else {
        async fn direct(_catalog: &Path) -> Result<Arc<dyn Provider>, Error> {
            Err(Error::NotBuiltIn { kind: "direct" })
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_bridge::dial::{Proxies, Proxy};

    use super::*;
    use crate::config::{Secret, TokenConfig};

    fn gateway(url: &str, insecure: bool) -> GatewayConfig {
        let token = TokenConfig::Secret("secret".to_owned());
        let ProviderKind::Gateway(mut gateway) =
            ProviderConfig::gateway("g", url.parse().unwrap(), token).kind
        else {
            panic!("no gateway")
        };
        gateway.insecure = insecure;
        gateway.headers = vec![("X-Key".to_owned(), Secret("secret".to_owned()))];
        gateway.proxies = Proxies::always(Proxy::parse("http://me:secret@proxy.example").unwrap());
        gateway
    }

    #[test]
    fn a_token_goes_to_another_machine_over_tls_only() {
        let allowed = |url: &str, insecure| check(&gateway(url, insecure)).is_ok();
        assert!(allowed("ws://127.0.0.1:1", false));
        assert!(allowed("ws://[::1]:1", false));
        assert!(allowed("wss://gateway.example", false));
        assert!(!allowed("ws://gateway.example", false));
        assert!(!allowed("ws://localhost.example", false));
        assert!(allowed("ws://gateway.example", true));
        assert!(
            allowed("quic://gateway.example:4433", false),
            "QUIC has TLS always"
        );
        assert!(!allowed("http://127.0.0.1:1", true));
    }

    #[tokio::test]
    async fn names_of_providers_are_unique_and_there_is_at_least_one() {
        assert!(matches!(
            build(&[], "s", 1, &Notices::new()).await,
            Err(Error::NoProvider)
        ));
        let twice = [ProviderConfig::direct("a", "x"), ProviderConfig::direct("a", "y")];
        assert!(
            matches!(build(&twice, "s", 1, &Notices::new()).await, Err(Error::DuplicateProvider { name }) if name == "a")
        );
    }

    #[test]
    fn secrets_are_never_shown() {
        assert!(!format!("{:?}", gateway("ws://127.0.0.1:1", false)).contains("secret"));
    }
}
