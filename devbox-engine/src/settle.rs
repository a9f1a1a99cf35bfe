//! What a configuration leaves to the user's kubeconfig, fixed before a session starts: it must not follow the user to another cluster.

use cfg_if::cfg_if;

use crate::config::Config;
use crate::error::Error;

cfg_if! {
    if #[cfg(feature = "kube")] {
        use crate::config::ProviderKind;

        /// Settles the clusters of a configuration, and the names that follow from them. Doing it twice changes nothing.
        ///
        /// Their namespaces and environments count as named by the user: it is their kubeconfig that names them, and no far side.
        pub(crate) fn settle(config: &mut Config) -> Result<(), Error> {
            let names = &mut config.names;
            for provider in &mut config.providers {
                let ProviderKind::Kubernetes(options) = &mut provider.kind else {
                    continue;
                };
                if provider.environment.is_some() {
                    options.environment.clone_from(&provider.environment);
                }
                *options = options.settled()?;
                provider.environment.clone_from(&options.environment);
                names.named_environments.extend(options.environment.clone());
                // What is no label is no name of a namespace: the cluster will say that it has none.
                let mut namespaces = options.namespaces.iter().filter_map(|name| name.parse().ok());
                let first = namespaces.next();
                names.named_namespaces.extend(first.iter().cloned().chain(namespaces));
                names.active = names.active.take().or(first);
            }
            Ok(())
        }

        impl From<catalog_kube::Error> for Error {
            fn from(error: catalog_kube::Error) -> Self {
                Self::Kubernetes(Box::new(error))
            }
        }
    } else {
        #[expect(clippy::unnecessary_wraps, reason = "it fails where there are clusters")]
        pub(crate) fn settle(_config: &mut Config) -> Result<(), Error> {
            Ok(())
        }
    }
}

#[cfg(all(test, feature = "kube"))]
mod tests {
    use std::fs;
    use std::path::Path;

    use catalog_kube::{ClusterOptions, KubeOptions};

    use super::*;
    use crate::config::ProviderConfig;

    const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: dev
clusters: [{name: here, cluster: {server: \"https://127.0.0.1:6443\"}}]
users: [{name: ada, user: {token: secret}}]
contexts:
  - {name: dev, context: {cluster: here, user: ada, namespace: orders}}
  - {name: staging, context: {cluster: here, user: ada}}
";

    fn cluster(kubeconfig: &Path, context: Option<&str>, namespaces: &[&str]) -> ProviderConfig {
        let options = KubeOptions {
            cluster: ClusterOptions {
                kubeconfig: Some(kubeconfig.to_owned()),
                context: context.map(str::to_owned),
            },
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            ..KubeOptions::default()
        };
        ProviderConfig::kubernetes(context.unwrap_or("cluster"), options)
    }

    #[test]
    fn a_session_keeps_to_the_cluster_that_was_current_when_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, KUBECONFIG).unwrap();
        let mut config = Config::new([
            cluster(&file, None, &[]),
            cluster(&file, Some("staging"), &["shop", "web"]),
        ]);
        settle(&mut config).unwrap();
        let environments: Vec<_> = config
            .providers
            .iter()
            .map(|provider| provider.environment.as_ref().unwrap().as_str())
            .collect();
        assert_eq!(environments, ["dev", "staging"]);
        assert_eq!(config.names.active.as_ref().unwrap().as_str(), "orders");
        assert_eq!(config.names.named_namespaces.len(), 3);
        assert_eq!(config.names.named_environments.len(), 2);
        // `kubectl config use-context staging`
        fs::write(
            &file,
            KUBECONFIG.replace("current-context: dev", "current-context: staging"),
        )
        .unwrap();
        let before = format!("{config:?}");
        settle(&mut config).unwrap();
        assert_eq!(format!("{config:?}"), before);
    }

    #[test]
    fn what_was_said_counts_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, KUBECONFIG).unwrap();
        let mut config = Config::new([cluster(&file, None, &["shop"])]);
        config.providers[0].environment = Some("mine".parse().unwrap());
        config.names.active = Some("web".parse().unwrap());
        settle(&mut config).unwrap();
        let ProviderKind::Kubernetes(options) = &config.providers[0].kind else {
            panic!("no cluster")
        };
        assert_eq!(options.environment.as_ref().unwrap().as_str(), "mine");
        assert_eq!(config.names.active.as_ref().unwrap().as_str(), "web");
    }
}
