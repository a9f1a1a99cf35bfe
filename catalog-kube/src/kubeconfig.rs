//! What the kubeconfig says, fixed once: a session must not move to another cluster because its user does.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{Kubeconfig, KubeconfigError};
use service_catalog::Label;

use crate::{ClusterOptions, Error, KubeOptions};

/// What a cluster is called that has no context: the one that this process runs in.
pub(crate) const IN_CLUSTER: &str = "in-cluster";
/// The namespace of a context that names none.
const DEFAULT_NAMESPACE: &str = "default";

impl KubeOptions {
    /// The same options with everything that follows from the kubeconfig written down: the context, the namespaces and the
    /// environment. What the user changes there afterwards changes nothing for whoever has them. Reads files, and asks nobody.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`], [`Error::NoCluster`], [`Error::UnknownContext`], [`Error::NoContext`].
    pub fn settled(&self) -> Result<Self, Error> {
        let mut settled = self.clone();
        let namespace = match read(&self.cluster)? {
            Some(kubeconfig) => {
                let context = context(&kubeconfig, self.cluster.context.as_deref())?;
                let named = kubeconfig.contexts.iter().find(|named| named.name == context);
                settled.cluster.context = Some(context);
                named.and_then(|named| named.context.as_ref()?.namespace.clone())
            }
            // Its own files say where it is.
            None => Config::incluster().ok().map(|config| config.default_namespace),
        };
        if settled.namespaces.is_empty() {
            let namespace = namespace.filter(|namespace| !namespace.is_empty());
            settled
                .namespaces
                .push(namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()));
        }
        let context = settled.cluster.context.as_deref().unwrap_or(IN_CLUSTER);
        settled.environment = settled.environment.or_else(|| environment_of(context));
        Ok(settled)
    }

    /// What is wanted of which cluster, in words: `orders, shop in minikube (only web*)`. Equal for options that lead to the same
    /// services, if they are [settled](Self::settled).
    #[must_use]
    pub fn far_side(&self) -> String {
        let mut chosen = Vec::new();
        chosen.extend(self.label_selector.clone());
        chosen.extend(self.field_selector.clone());
        if !self.include.is_empty() {
            chosen.push(format!("only {}", self.include.join(", ")));
        }
        if !self.exclude.is_empty() {
            chosen.push(format!("not {}", self.exclude.join(", ")));
        }
        let chosen = if chosen.is_empty() {
            String::new()
        } else {
            format!(" ({})", chosen.join("; "))
        };
        let context = self.cluster.context.as_deref().unwrap_or(IN_CLUSTER);
        match self.namespaces.join(", ") {
            none if none.is_empty() => format!("{context}{chosen}"),
            namespaces => format!("{namespaces} in {context}{chosen}"),
        }
    }
}

/// What the environment of a context is called unless it is said: the context's name, with a hyphen for what no label may have.
/// `None` if nothing of it is left.
///
/// ```
/// use catalog_kube::environment_of;
/// assert_eq!(environment_of("minikube").unwrap().as_str(), "minikube");
/// assert_eq!(environment_of("admin@Staging_2").unwrap().as_str(), "admin-staging-2");
/// ```
#[must_use]
pub fn environment_of(context: &str) -> Option<Label> {
    const LONGEST: usize = 63;
    let mut text = String::with_capacity(context.len());
    for character in context.chars() {
        if character.is_ascii_alphanumeric() {
            text.push(character.to_ascii_lowercase());
        } else if !text.ends_with('-') {
            text.push('-');
        }
    }
    // The names that cloud providers make say at their end which cluster it is.
    let from = text.len().saturating_sub(LONGEST);
    text.get(from..)?.trim_matches('-').parse().ok()
}

/// The kubeconfig, merged from all its files; `None` where there is none, and this process runs in a cluster.
///
/// # Errors
/// [`Error::Kubeconfig`], [`Error::NoCluster`].
pub(crate) fn read(options: &ClusterOptions) -> Result<Option<Kubeconfig>, Error> {
    let mut merged: Option<Kubeconfig> = None;
    for (file, read) in files(options)? {
        merged = Some(match merged {
            Some(earlier) => earlier.merge(read).map_err(|source| unusable(&file, source))?,
            None => read,
        });
    }
    let found = merged.filter(|found| options.kubeconfig.is_some() || !found.contexts.is_empty());
    let in_cluster = options.context.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if found.is_none() && !in_cluster {
        return Err(Error::NoCluster {
            looked_at: looked_at(options),
        });
    }
    Ok(found)
}

/// The files of the kubeconfig that are there, in the order in which they are merged.
///
/// # Errors
/// [`Error::Kubeconfig`].
pub(crate) fn files(options: &ClusterOptions) -> Result<Vec<(PathBuf, Kubeconfig)>, Error> {
    let mut files = Vec::new();
    for file in looked_at(options) {
        match Kubeconfig::read_from(&file) {
            Ok(read) => files.push((file, read)),
            // As kubectl has it: not every file of the list needs to be there.
            Err(KubeconfigError::ReadConfig(error, _))
                if error.kind() == io::ErrorKind::NotFound && options.kubeconfig.is_none() => {}
            Err(source) => return Err(unusable(&file, source)),
        }
    }
    Ok(files)
}

fn unusable(path: &Path, source: KubeconfigError) -> Error {
    Error::Kubeconfig {
        path: Some(path.to_owned()),
        source: Box::new(source),
    }
}

/// Where the kubeconfig is looked for.
fn looked_at(options: &ClusterOptions) -> Vec<PathBuf> {
    match &options.kubeconfig {
        Some(file) => vec![file.clone()],
        None => usual_files(),
    }
}

/// What the user of a context is called.
pub(crate) fn user_of(kubeconfig: &Kubeconfig, context: &str) -> Option<String> {
    let named = kubeconfig.contexts.iter().find(|named| named.name == context)?;
    named.context.as_ref()?.user.clone()
}

/// The files of `$KUBECONFIG`, otherwise the user's own one.
fn usual_files() -> Vec<PathBuf> {
    let list = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let named: Vec<_> = std::env::split_paths(&list)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    if named.is_empty() {
        let home = std::env::home_dir();
        return home
            .map(|home| home.join(".kube").join("config"))
            .into_iter()
            .collect();
    }
    named
}

/// The context that is meant: the one that was asked for, otherwise the current one.
pub(crate) fn context(kubeconfig: &Kubeconfig, asked_for: Option<&str>) -> Result<String, Error> {
    let known: BTreeSet<&str> = kubeconfig
        .contexts
        .iter()
        .map(|named| named.name.as_str())
        .collect();
    let all = || known.iter().map(|&name| name.to_owned()).collect();
    let current = kubeconfig
        .current_context
        .as_deref()
        .filter(|name| !name.is_empty());
    let Some(context) = asked_for.or(current) else {
        return Err(Error::NoContext { known: all() });
    };
    if !known.contains(context) {
        return Err(Error::UnknownContext {
            context: context.to_owned(),
            similar: similar(context, known.iter().copied()),
            known: all(),
        });
    }
    Ok(context.to_owned())
}

/// The one of `known` that `name` is most likely a slip for, if any is near.
pub(crate) fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let distance = |other: &str| strsim::osa_distance(name, other);
    let nearest = known.into_iter().min_by_key(|other| distance(other))?;
    (2 * distance(nearest) <= name.len()).then(|| nearest.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: staging
clusters:
  - {name: here, cluster: {server: \"https://127.0.0.1:6443\"}}
users:
  - {name: ada, user: {token: secret}}
contexts:
  - {name: staging, context: {cluster: here, user: ada, namespace: orders}}
  - {name: Production_EU, context: {cluster: here, user: ada}}
";

    fn options(text: &str) -> (tempfile::TempDir, KubeOptions) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        fs::write(&path, text).unwrap();
        let options = KubeOptions {
            cluster: ClusterOptions {
                kubeconfig: Some(path),
                ..ClusterOptions::default()
            },
            ..KubeOptions::default()
        };
        (folder, options)
    }

    #[test]
    fn what_was_left_open_follows_from_the_kubeconfig() {
        let (_folder, options) = options(KUBECONFIG);
        let settled = options.settled().unwrap();
        assert_eq!(settled.cluster.context.as_deref(), Some("staging"));
        assert_eq!(settled.namespaces, ["orders"]);
        assert_eq!(settled.environment.as_ref().unwrap().as_str(), "staging");
        assert_eq!(settled.far_side(), "orders in staging");
        assert_eq!(settled.settled().unwrap(), settled);
    }

    #[test]
    fn what_was_said_stays() {
        let (_folder, mut options) = options(KUBECONFIG);
        options.cluster.context = Some("Production_EU".to_owned());
        let settled = options.settled().unwrap();
        assert_eq!(settled.environment.as_ref().unwrap().as_str(), "production-eu");
        assert_eq!(settled.namespaces, ["default"]);
        options.environment = Some("live".parse().unwrap());
        options.namespaces = vec!["web".to_owned(), "shop".to_owned()];
        options.include = vec!["api*".to_owned()];
        options.label_selector = Some("tier=front".to_owned());
        let settled = options.settled().unwrap();
        assert_eq!(settled.environment.as_ref().unwrap().as_str(), "live");
        assert_eq!(
            settled.far_side(),
            "web, shop in Production_EU (tier=front; only api*)"
        );
    }

    #[test]
    fn a_context_that_is_not_there_is_named_with_the_nearest() {
        let (_folder, mut options) = options(KUBECONFIG);
        options.cluster.context = Some("stagign".to_owned());
        let error = options.settled().unwrap_err();
        assert!(
            matches!(&error, Error::UnknownContext { similar: Some(similar), known, .. }
                if similar == "staging" && known.len() == 2),
            "{error:?}"
        );
        options.cluster.context = Some("somewhere-else".to_owned());
        let error = options.settled().unwrap_err();
        assert!(
            matches!(&error, Error::UnknownContext { similar: None, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn no_context_may_be_the_current_one() {
        let (_folder, options) = options(&KUBECONFIG.replace("current-context: staging\n", ""));
        let error = options.settled().unwrap_err();
        assert!(
            matches!(&error, Error::NoContext { known } if known.len() == 2),
            "{error:?}"
        );
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_be_a_kubeconfig() {
        let (folder, mut options) = options("contexts: 7\n");
        let error = options.settled().unwrap_err();
        assert!(matches!(error, Error::Kubeconfig { .. }), "{error:?}");
        options.cluster.kubeconfig = Some(folder.path().join("missing"));
        let error = options.settled().unwrap_err().to_string();
        assert!(
            error.ends_with("missing: No such file or directory (os error 2)"),
            "{error}"
        );
    }

    #[test]
    fn names_of_contexts_become_labels() {
        let label = |context: &str| environment_of(context).map(|label| label.to_string());
        assert_eq!(label("kind-dev").as_deref(), Some("kind-dev"));
        let arn = "arn:aws:eks:eu-central-1:123456789012:cluster/the-cluster-that-everybody-calls-staging";
        let told = label(arn).unwrap();
        assert!(told.len() <= 63 && told.ends_with("-calls-staging"), "{told}");
        assert_eq!(label("__"), None);
        assert_eq!(label("Ünïcode").as_deref(), Some("n-code"));
    }
}
