//! nsswitch.conf(5): the `hosts` line, and `files` as the first source on it.

/// The `nsswitch.conf` that asks the hosts file first, or `None` where `conf` does so already.
///
/// On every `hosts` line whose first source is not `files`, `files` is put in front; where there is no such line, one
/// is added at the end (`hosts: files dns`), since the C library's own default asks DNS first. Every other byte stays.
///
/// systemd advises `resolve` before `files`; its resolver answers from the *system's* hosts file, and with
/// `resolve [!UNAVAIL=return] files` a private one is never read.
///
/// ```
/// use process_scope::render_nsswitch;
///
/// let arch = b"passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n";
/// let ours = b"passwd: files\nhosts: files mymachines resolve [!UNAVAIL=return] files dns\n";
/// assert_eq!(render_nsswitch(arch).as_deref(), Some(&ours[..]));
/// assert_eq!(render_nsswitch(ours), None);
/// ```
pub fn render_nsswitch(conf: &[u8]) -> Option<Vec<u8>> {
    let mut rendered = Vec::with_capacity(conf.len() + 16);
    let mut found = false;
    for line in conf.split_inclusive(|&byte| byte == b'\n') {
        let Some(at) = sources_of_hosts(line) else {
            rendered.extend_from_slice(line);
            continue;
        };
        found = true;
        let (head, sources) = line.split_at(at);
        rendered.extend_from_slice(head);
        if first_source(sources) != b"files" {
            if !head.ends_with(b" ") && !head.ends_with(b"\t") {
                rendered.push(b' ');
            }
            rendered.extend_from_slice(b"files");
            if !sources.is_empty() && !sources.starts_with(b"\n") {
                rendered.push(b' ');
            }
        }
        rendered.extend_from_slice(sources);
    }
    if !found {
        if !rendered.is_empty() && !rendered.ends_with(b"\n") {
            rendered.push(b'\n');
        }
        rendered.extend_from_slice(b"hosts: files dns\n");
    }
    (rendered != conf).then_some(rendered)
}

/// Where the sources begin, if this is a `hosts` line. The name is matched with its case, as glibc does; blanks
/// may stand before it and around the colon.
fn sources_of_hosts(line: &[u8]) -> Option<usize> {
    let blanks = |from: usize| {
        line[from..]
            .iter()
            .take_while(|&&byte| byte != b'\n' && is_blank(byte))
            .count()
    };
    let name = blanks(0);
    let after_name = name + b"hosts".len();
    if !line[name..].starts_with(b"hosts") {
        return None;
    }
    let colon = after_name + blanks(after_name);
    if line.get(colon) != Some(&b':') {
        return None;
    }
    Some(colon + 1 + blanks(colon + 1))
}

/// The first word of the sources, without an action in brackets that may follow it.
fn first_source(sources: &[u8]) -> &[u8] {
    let end = sources
        .iter()
        .position(|&byte| is_blank(byte) || matches!(byte, b'[' | b'#'));
    &sources[..end.unwrap_or(sources.len())]
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::render_nsswitch;

    fn rendered(conf: &str) -> Option<String> {
        render_nsswitch(conf.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_line_that_begins_with_files_is_left_alone() {
        for conf in [
            "hosts: files dns\n",
            "hosts:files",
            "  hosts :\tfiles mdns4_minimal [NOTFOUND=return] dns\r\n",
            "hosts: files[NOTFOUND=continue] dns\n",
            "hosts: files\n",
        ] {
            assert_eq!(rendered(conf), None, "{conf:?}");
        }
    }

    #[test]
    fn files_is_put_in_front_of_what_is_there() {
        for (conf, expected) in [
            ("hosts: dns\n", "hosts: files dns\n"),
            ("hosts:dns", "hosts: files dns"),
            (
                "hosts:\t resolve [!UNAVAIL=return] files # why\nx: y\n",
                "hosts:\t files resolve [!UNAVAIL=return] files # why\nx: y\n",
            ),
            ("hosts: filesystem\n", "hosts: files filesystem\n"),
            ("hosts:\n", "hosts: files\n"),
            ("hosts:", "hosts: files"),
            ("hosts:  # none\r\n", "hosts:  files # none\r\n"),
            ("hosts: dns\nhosts: db\n", "hosts: files dns\nhosts: files db\n"),
        ] {
            assert_eq!(rendered(conf).as_deref(), Some(expected), "{conf:?}");
        }
    }

    #[test]
    fn a_missing_line_is_added_since_the_default_asks_dns_first() {
        for (conf, expected) in [
            ("", "hosts: files dns\n"),
            ("passwd: files", "passwd: files\nhosts: files dns\n"),
            ("#hosts: files\n", "#hosts: files\nhosts: files dns\n"),
            (
                "hostsx: files\nHOSTS: files\n",
                "hostsx: files\nHOSTS: files\nhosts: files dns\n",
            ),
        ] {
            assert_eq!(rendered(conf).as_deref(), Some(expected), "{conf:?}");
        }
    }

    proptest! {
        #[test]
        fn rendering_what_was_rendered_changes_nothing(conf in "(([ \\t]*hosts[ \\t]*:|passwd:|#)?[ a-z#\\[\\]\\t]{0,12}\\r?\\n?){0,6}") {
            if let Some(once) = render_nsswitch(conf.as_bytes()) {
                prop_assert_eq!(render_nsswitch(&once), None);
            }
        }

        #[test]
        fn nothing_of_the_file_is_lost(conf in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(once) = render_nsswitch(&conf) {
                let mut rest = once.iter();
                prop_assert!(conf.iter().all(|byte| rest.any(|other| other == byte)));
            }
        }
    }
}
