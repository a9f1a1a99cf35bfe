//! Which services are provided at all.

use service_catalog::ServiceId;

/// The names to include and to exclude, with `*` for any characters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globs {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Globs {
    pub(crate) fn new(include: Vec<String>, exclude: Vec<String>) -> Self {
        Self { include, exclude }
    }

    /// Whether the service is provided.
    pub(crate) fn take(&self, id: &ServiceId) -> bool {
        let any = |globs: &[String]| globs.iter().any(|glob| matches(glob, id.name.as_str()));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// Whether `glob` covers all of `text`. Takes time proportional to the product of their lengths at most.
fn matches(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else {
        return glob == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = text.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (glob, text) in [
            ("*", ""),
            ("*", "web"),
            ("web", "web"),
            ("w*", "web"),
            ("*b", "web"),
            ("w*b", "web"),
        ] {
            assert!(matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [
            ("", "web"),
            ("we", "web"),
            ("b*", "web"),
            ("*w", "web"),
            ("web*web", "web"),
            ("a*b*a", "aba-b"),
        ] {
            assert!(!matches(glob, text), "{glob} {text}");
        }
        assert!(matches("a*b*a", "a-b-b-a") && matches("*-api-*", "orders-api-v2"));
    }

    #[test]
    fn what_is_excluded_is_not_included() {
        let globs = Globs::new(vec!["orders-*".into(), "web".into()], vec!["*-test".into()]);
        let take = |name: &str| globs.take(&format!("{name}.x").parse().unwrap());
        assert!(take("web") && take("orders-api"));
        assert!(!take("orders-api-test") && !take("db"));
        assert!(Globs::default().take(&"db.x".parse().unwrap()));
    }
}
