//! `NO_PROXY`: the names that a program must reach directly.

/// The value of `NO_PROXY` that has `names` besides what was there (`existing`), each once, whatever its case.
///
/// Names under `.internal` and the like mean nothing to a proxy elsewhere. Programs read `NO_PROXY`, `no_proxy` or
/// both: set both, each from its own former value. A value that already excepts everything (`*`) stays as it is.
///
/// ```
/// use process_scope::no_proxy;
///
/// assert_eq!(no_proxy(Some("localhost,.corp"), ["orders", "orders.backend"]), "localhost,.corp,orders,orders.backend");
/// assert_eq!(no_proxy(None, ["orders"]), "orders");
/// assert_eq!(no_proxy(Some("*"), ["orders"]), "*");
/// ```
pub fn no_proxy<N: AsRef<str>>(existing: Option<&str>, names: impl IntoIterator<Item = N>) -> String {
    let existing = existing.unwrap_or("").trim().trim_end_matches(',');
    // curl takes blanks between the entries too.
    let mut seen: Vec<String> = existing
        .split([',', ' ', '\t'])
        .filter(|entry| !entry.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let mut value = existing.to_owned();
    // A lone `*` is all programs' "everything"; within a list most take it for a name.
    if value == "*" {
        return value;
    }
    for name in names {
        let name = name.as_ref();
        if name.is_empty() || seen.iter().any(|entry| entry.eq_ignore_ascii_case(name)) {
            continue;
        }
        if !value.is_empty() {
            value.push(',');
        }
        value.push_str(name);
        seen.push(name.to_ascii_lowercase());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::no_proxy;

    #[test]
    fn names_that_are_there_already_are_not_repeated() {
        assert_eq!(
            no_proxy(Some("Orders, a"), ["orders", "b", "B", "a"]),
            "Orders, a,b"
        );
    }

    #[test]
    fn no_empty_entries_are_made() {
        assert_eq!(no_proxy(Some(""), ["a", "", "b"]), "a,b");
        assert_eq!(no_proxy(Some("x,"), ["a"]), "x,a");
        assert_eq!(no_proxy(Some(" \t"), [""; 0]), "");
    }

    #[test]
    fn applying_it_twice_changes_nothing_more() {
        let once = no_proxy(Some("a.b"), ["c", "d.e"]);
        assert_eq!(no_proxy(Some(&once), ["c", "d.e"]), once);
    }
}
