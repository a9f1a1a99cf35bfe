//! ssh_config(5), as far as its `Include` lines: ssh refuses an included file that neither root nor the caller owns,
//! and in a user namespace root's files look as if somebody else owned them.

/// The patterns of all `Include` lines, in order, as they are written. Conditions (`Host`, `Match`) are not looked at: ssh
/// checks the owner of an included file before it knows whether the block applies.
pub(crate) fn includes(config: &str) -> Vec<String> {
    config.lines().filter_map(include_arguments).flatten().collect()
}

fn include_arguments(line: &str) -> Option<Vec<String>> {
    let line = line.trim();
    let keyword_end = line.find(|c: char| c.is_ascii_whitespace() || c == '=' || c == '"')?;
    let (keyword, rest) = line.split_at(keyword_end);
    if !keyword.eq_ignore_ascii_case("include") {
        return None;
    }
    let rest = rest.trim_start();
    Some(words(rest.strip_prefix('=').unwrap_or(rest)))
}

/// Words between blanks; double quotes hold one together; `#` at the start of one ends the line.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// An `Include` pattern as an absolute one: relative ones are looked up in the folder `base`, and `~/` is `home` where
/// there is one (user configurations only). `None` for what ssh would not accept either.
pub(crate) fn absolute(pattern: &str, base: &str, home: Option<&str>) -> Option<String> {
    if let Some(below) = pattern.strip_prefix("~/") {
        return home.map(|home| format!("{home}/{below}"));
    }
    if pattern.starts_with('~') || pattern.is_empty() {
        return None;
    }
    Some(if pattern.starts_with('/') {
        pattern.to_owned()
    } else {
        format!("{base}/{pattern}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_lines_are_found_in_every_spelling() {
        let config = "# Include /no\nInclude /etc/ssh/ssh_config.d/*.conf\n  include=a \"b c\" # d\nHost x\n\tINCLUDE = e\nIncludes f\nInclude\n";
        assert_eq!(
            includes(config),
            ["/etc/ssh/ssh_config.d/*.conf", "a", "b c", "e"]
        );
    }

    #[test]
    fn patterns_are_made_absolute_as_ssh_does() {
        assert_eq!(absolute("/x/*", "/etc/ssh", None).as_deref(), Some("/x/*"));
        assert_eq!(absolute("x", "/etc/ssh", None).as_deref(), Some("/etc/ssh/x"));
        assert_eq!(absolute("~/x", "/h/.ssh", Some("/h")).as_deref(), Some("/h/x"));
        assert_eq!(absolute("~/x", "/etc/ssh", None), None);
        assert_eq!(absolute("~other/x", "/h/.ssh", Some("/h")), None);
    }
}
