//! What a client of an installed gateway wants to be served.

use std::collections::BTreeSet;
use std::str::FromStr;

use service_catalog::Label;
use url::form_urlencoded;

use crate::KubeOptions;

/// Each namespace costs the gateway two watches for the client.
const MAX_NAMESPACES: usize = 64;

/// Which services of a cluster a client wants: what a session's options say of it, without the cluster and the way in.
///
/// ```
/// use catalog_kube::gateway::Scope;
/// let scope: Scope = "namespace=orders&namespace=shop&selector=app%3Dweb".parse()?;
/// assert_eq!(scope.namespaces.len(), 2);
/// assert_eq!(scope.to_string().parse::<Scope>()?, scope);
/// # Ok::<(), catalog_kube::gateway::BadScope>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The namespaces.
    pub namespaces: BTreeSet<Label>,
    /// Only services whose labels this selects.
    pub label_selector: Option<String>,
    /// Only services whose fields this selects.
    pub field_selector: Option<String>,
    /// Only services whose name matches one of these.
    pub include: Vec<String>,
    /// No services whose name matches one of these.
    pub exclude: Vec<String>,
    /// The zone whose endpoints come first.
    pub zone: Option<String>,
}

impl Scope {
    pub(crate) fn new(namespaces: BTreeSet<Label>, options: &KubeOptions) -> Self {
        Self {
            namespaces,
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            include: options.include.clone(),
            exclude: options.exclude.clone(),
            zone: options.zone.clone(),
        }
    }

    /// The options with which a catalog of just these services is watched.
    pub(crate) fn options(&self) -> KubeOptions {
        KubeOptions {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            zone: self.zone.clone(),
            ..KubeOptions::default()
        }
    }
}

/// As a form's content (`application/x-www-form-urlencoded`), which is fit for a header.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(
            self.namespaces
                .iter()
                .map(|namespace| ("namespace", namespace.as_str())),
        );
        form.extend_pairs(self.label_selector.iter().map(|text| ("selector", text)));
        form.extend_pairs(self.field_selector.iter().map(|text| ("field-selector", text)));
        form.extend_pairs(self.include.iter().map(|text| ("include", text)));
        form.extend_pairs(self.exclude.iter().map(|text| ("exclude", text)));
        form.extend_pairs(self.zone.iter().map(|text| ("zone", text)));
        f.write_str(&form.finish())
    }
}

impl FromStr for Scope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        let mut scope = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "namespace" => {
                    let namespace = value.parse().map_err(|_| BadScope::Namespace {
                        text: value.escape_debug().to_string(),
                    })?;
                    scope.namespaces.insert(namespace);
                }
                "selector" => scope.label_selector = Some(value.into_owned()),
                "field-selector" => scope.field_selector = Some(value.into_owned()),
                "include" => scope.include.push(value.into_owned()),
                "exclude" => scope.exclude.push(value.into_owned()),
                "zone" => scope.zone = Some(value.into_owned()),
                // A key that is passed over would give the client more than it wants.
                key => {
                    return Err(BadScope::Key {
                        key: key.escape_debug().to_string(),
                    });
                }
            }
        }
        match scope.namespaces.len() {
            0 => Err(BadScope::NoNamespace),
            1..=MAX_NAMESPACES => Ok(scope),
            found => Err(BadScope::Namespaces { found }),
        }
    }
}

/// Why a text is no [`Scope`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadScope {
    /// No namespace is asked for.
    #[error("no namespace is asked for")]
    NoNamespace,
    /// A name that no namespace has.
    #[error("`{text}` is no name of a namespace")]
    Namespace {
        /// The name.
        text: String,
    },
    /// More namespaces than one client may have.
    #[error("{found} namespaces are asked for, and {MAX_NAMESPACES} are the limit")]
    Namespaces {
        /// How many.
        found: usize,
    },
    /// Something is asked for that this version does not know.
    #[error("`{key}` is not known to this version of the gateway")]
    Key {
        /// Its name.
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_visible_and_reads_back(
            namespaces in prop::collection::btree_set("[a-z][a-z0-9-]{0,8}[a-z0-9]", 1..5),
            selector in prop::option::of(".*"),
            include in prop::collection::vec(".*", 0..3),
            zone in prop::option::of("[a-z-]*"),
        ) {
            let scope = Scope {
                namespaces: namespaces.iter().map(|name| name.parse().unwrap()).collect(),
                label_selector: selector,
                include,
                zone,
                ..Scope::default()
            };
            let text = scope.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            prop_assert_eq!(text.parse::<Scope>().unwrap(), scope);
        }

        #[test]
        fn whatever_is_sent_is_an_answer_and_no_panic(text in ".*") {
            text.parse::<Scope>().ok();
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let of = |text: &str| text.parse::<Scope>().unwrap_err();
        assert_eq!(of(""), BadScope::NoNamespace);
        assert_eq!(of("selector=a"), BadScope::NoNamespace);
        assert!(matches!(
            of("namespace=../kube-system"),
            BadScope::Namespace { .. }
        ));
        assert!(matches!(of("namespace=a&verb=delete"), BadScope::Key { .. }));
        let many: Vec<_> = (0..65).map(|number| format!("namespace=n{number}")).collect();
        assert_eq!(of(&many.join("&")), BadScope::Namespaces { found: 65 });
    }
}
