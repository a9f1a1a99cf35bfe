//! The kinds of far side that are built in.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use devbox_provider::Provider;
use tunnel_bridge::dial::Carriage;
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
            #[cfg(feature = "kube")]
            ProviderKind::Kubernetes(options) => {
                if let catalog_kube::WayIn::Url(url) = &options.via
                    && options.gateway_trust.danger_accept_any_certificate
                {
                    notices.add(Notice::AnyCertificate {
                        far_side: url.to_string(),
                    });
                }
                kubernetes(&config.name, options, session, notices).await?
            }
            ProviderKind::Custom(provider) => Arc::clone(provider),
        });
    }
    Ok(providers)
}

/// Checks what can be said about a gateway before anything is started.
pub(crate) fn check(gateway: &GatewayConfig) -> Result<(), Error> {
    let url = &gateway.url;
    let Some(host) = url.host_str() else {
        return Err(Error::GatewayUrl { url: url.clone() });
    };
    // As dialing has it: without brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match url.scheme() {
        "ws" if gateway.insecure => Ok(()),
        "ws" => {
            // A variable that names no proxy is told once a connection needs it, and nothing is sent then.
            let proxy = gateway.proxies.choose(false, host, url.port().unwrap_or(80));
            let proxy = proxy.ok().flatten().map(ToString::to_string);
            // Such a proxy reads all that it passes on, also where it would pass it to this machine again.
            let elsewhere = proxy.filter(|proxy| !proxy.parse().is_ok_and(|proxy| is_loopback(&proxy)));
            if elsewhere.is_some() || !is_loopback(url) {
                return Err(Error::InsecureGateway {
                    url: url.clone(),
                    proxy: elsewhere,
                });
            }
            Ok(())
        }
        "wss" => Ok(()),
        "quic" => {
            let not_over_quic = |setting| Error::NotOverQuic {
                url: url.clone(),
                setting,
            };
            // What the environment says is for every program, and of those only for what speaks TCP.
            let proxy = gateway.proxies.choose(true, host, url.port().unwrap_or(443));
            if matches!(proxy, Ok(Some(proxy)) if proxy.named_by().is_none()) {
                return Err(not_over_quic("proxy"));
            }
            if gateway.carriage != Carriage::Auto {
                return Err(not_over_quic("carrier"));
            }
            Ok(())
        }
        _ => Err(Error::GatewayUrl { url: url.clone() }),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // Addresses in URLs of SOCKS proxies are not parsed as such.
        Some(Host::Domain(name)) => {
            let address = name.parse::<Ipv4Addr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
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

cfg_if::cfg_if! {
    if #[cfg(feature = "kube")] {
        use std::time::Duration;

        use catalog_kube::{Cluster, KubeOptions, KubeProvider, access};

        /// How long a session waits to be told what the user lacks. Whatever that is, it shows later as well.
        const ACCESS_PATIENCE: Duration = Duration::from_secs(2);

        async fn kubernetes(
            name: &str,
            options: &KubeOptions,
            session: &str,
            notices: &Notices,
        ) -> Result<Arc<dyn Provider>, Error> {
            let cluster = Cluster::open(&options.cluster).await?;
            let asked = tokio::time::timeout(ACCESS_PATIENCE, access::check(&cluster, options)).await;
            match asked {
                Ok(Ok(access)) if access.is_complete() => {}
                Ok(Ok(access)) => notices.add(Notice::Lacking {
                    provider: name.to_owned(),
                    what: access.to_string(),
                }),
                Ok(Err(error @ catalog_kube::Error::UnknownNamespaces { .. })) => return Err(error.into()),
                // A cluster that does not answer is told by the session, which tries again.
                Ok(Err(error)) => tracing::debug!(%error, "what the user may do is not known"),
                Err(_) => tracing::debug!("what the user may do is not known in time"),
            }
            Ok(Arc::new(KubeProvider::new(options.clone(), session).over(cluster)))
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
        gateway
    }

    fn through(proxy: &str) -> Proxies {
        Proxies::always(Proxy::parse(proxy).unwrap())
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

    #[test]
    fn a_token_goes_to_no_proxy_on_another_machine_in_clear() {
        let allowed = |url: &str, insecure, proxies: Proxies| {
            let mut gateway = gateway(url, insecure);
            gateway.proxies = proxies;
            check(&gateway)
        };
        for near in [
            "http://127.0.0.1:3128",
            "socks5://127.0.0.2:1080",
            "socks5h://[::1]",
            "localhost:1",
        ] {
            allowed("ws://127.0.0.1:1", false, through(near)).unwrap();
        }
        for far in [
            "http://me:secret@proxy.example:3128",
            "https://proxy.example",
            "socks5h://192.0.2.1",
            "http://[2001:db8::1]",
        ] {
            for url in ["ws://127.0.0.1:1", "ws://[::1]:1", "ws://localhost:1"] {
                let error = allowed(url, false, through(far)).unwrap_err();
                assert!(
                    matches!(error, Error::InsecureGateway { proxy: Some(_), .. }),
                    "{error:?}"
                );
                assert!(!error.to_string().contains("secret"), "{error}");
                allowed(url, true, through(far)).unwrap();
            }
            allowed("wss://gateway.example", false, through(far)).unwrap();
        }
        // What the environment names is not for this machine.
        let environment =
            Proxies::from_env(|name| (name == "all_proxy").then(|| "http://proxy.example".to_owned()));
        allowed("ws://127.0.0.1:1", false, environment).unwrap();
    }

    #[test]
    fn quic_says_which_settings_it_cannot_obey() {
        let checked = |proxies: Proxies, carriage| {
            let mut gateway = gateway("quic://gateway.example", false);
            gateway.proxies = proxies;
            gateway.carriage = carriage;
            check(&gateway)
        };
        let setting_of = |checked| match checked {
            Err(Error::NotOverQuic { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        let environment =
            Proxies::from_env(|name| (name == "all_proxy").then(|| "http://proxy.example".to_owned()));
        checked(environment, Carriage::Auto).unwrap();
        assert_eq!(
            setting_of(checked(through("http://127.0.0.1:1"), Carriage::Auto)),
            "proxy"
        );
        for carriage in [Carriage::Raw, Carriage::WebSocket] {
            assert_eq!(setting_of(checked(Proxies::none(), carriage)), "carrier");
        }
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
        let mut gateway = gateway("ws://127.0.0.1:1", false);
        gateway.proxies = through("http://me:secret@proxy.example");
        assert!(!format!("{gateway:?}").contains("secret"));
    }
}
