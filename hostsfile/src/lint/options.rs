//! How the resolver is set up, as far as it changes what is read of the file.

/// Settings of the system whose resolver reads the file.
///
/// The default is `multi on`, which is what distributions put into `/etc/host.conf` (Debian, for one). glibc itself takes a missing
/// `/etc/host.conf` as `multi off`: [`from_host_conf`](Self::from_host_conf) reads the setting.
///
/// ```
/// use hostsfile::{Document, LintOptions, Resolver};
/// let doc = Document::parse("10.0.0.1 db\n10.0.0.2 db\n");
/// assert!(doc.lint(Resolver::Glibc).is_empty());
/// let off = LintOptions::from_host_conf(b"multi off\n");
/// assert_eq!(doc.lint_with(Resolver::Glibc, &off)[0].kind(), "shadowed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintOptions {
    multi: bool,
}

impl LintOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        LintOptions { multi: true }
    }

    /// Whether glibc gives the addresses of all lines with a name (`multi on`) or ends at the first one.
    #[must_use]
    pub fn multi(mut self, on: bool) -> Self {
        self.multi = on;
        self
    }

    /// The settings in the text of an `/etc/host.conf`, read as glibc does. An empty text, which also stands for a missing file, is
    /// `multi off`.
    #[must_use]
    pub fn from_host_conf(text: &[u8]) -> Self {
        let mut multi = false;
        for line in text.split(|b| *b == b'\n') {
            let line = line.trim_ascii_start();
            let end = line
                .iter()
                .position(|b| b.is_ascii_whitespace() || matches!(b, b'#' | b','))
                .unwrap_or(line.len());
            let (keyword, value) = line.split_at(end);
            if keyword.eq_ignore_ascii_case(b"multi") {
                let value = value.trim_ascii_start().to_ascii_lowercase();
                // glibc looks at the beginning of the word only, and keeps what it had where it knows neither.
                multi = value.starts_with(b"on") || (multi && !value.starts_with(b"off"));
            }
        }
        LintOptions { multi }
    }

    pub(crate) fn is_multi(&self) -> bool {
        self.multi
    }
}

impl Default for LintOptions {
    fn default() -> Self {
        LintOptions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_conf_is_read_as_glibc_does() {
        let multi = |text: &str| LintOptions::from_host_conf(text.as_bytes()).is_multi();
        for text in [
            "multi on",
            "multi on\n",
            "# a comment\n\tMULTI  ON # yes\n",
            "order hosts,bind\nmulti off\nmulti on\n",
            "multi on\nmulti maybe\n",
            "multi on\r\n",
        ] {
            assert!(multi(text), "{text}");
        }
        for text in [
            "",
            "multi off\n",
            "# multi on\n",
            "multi on\nmulti off\n",
            "multiple on\n",
            "multi\n",
        ] {
            assert!(!multi(text), "{text}");
        }
    }
}
