//! The two laws, for arbitrary bytes.

use hostsfile::{
    Block, Document, Edit, Entry, Error, Marker, Options, Resolver, Shell, Tag, manual_instructions, plan,
};

/// Panics if a law does not hold for these bytes.
pub(crate) fn check(bytes: &[u8]) {
    let document = Document::parse(bytes);
    assert_eq!(document.render(), bytes);
    let lines: Vec<u8> = document.lines().flat_map(|line| line.bytes.to_vec()).collect();
    assert!(bytes.ends_with(&lines) && bytes.len() - lines.len() <= 3);
    for resolver in Resolver::ALL {
        for diagnostic in document.lint(resolver) {
            assert!(!diagnostic.to_string().is_empty());
        }
    }
    let entries = || {
        let entry =
            |address, names: &[&str]| Entry::parse(address, names.iter().copied()).expect("these are valid");
        [
            entry("127.77.0.1", &["a.test", "b.test"]),
            entry("fd00::1", &["a.test"]),
        ]
    };
    let tag = || Tag::new("fuzz-tag").expect("a valid tag");
    let marker = || Marker::new("fuzz marker").expect("a valid marker");
    let block = || Block::new(tag()).with_entries(entries());
    let managed = Edit::SetManaged {
        marker: marker(),
        entries: entries().to_vec(),
    };
    for (add, remove) in [
        (Edit::SetBlock(block()), Edit::RemoveBlock(tag())),
        (Edit::SetBlock(block().sealed()), Edit::RemoveBlock(tag())),
        (managed, Edit::RemoveManaged(marker())),
    ] {
        // If there already is such a block or line, removing it does not restore these bytes.
        let before = match plan(bytes, std::slice::from_ref(&remove), &Options::new()) {
            Ok(plan) => plan.new_bytes(),
            Err(Error::Utf16 | Error::DamagedBlock { .. }) => continue,
            Err(e) => panic!("{e}"),
        };
        // Removing it once is enough, unless that made another one out of what was around it.
        let Ok(again) = plan(&before, std::slice::from_ref(&remove), &Options::new()) else {
            continue;
        };
        if again.changed() {
            continue;
        }
        let added =
            plan(&before, std::slice::from_ref(&add), &Options::new()).expect("nothing stands in the way");
        let bytes = added.new_bytes();
        assert!(
            !plan(&bytes, std::slice::from_ref(&add), &Options::new())
                .expect("it is there")
                .changed()
        );
        assert_eq!(
            plan(&bytes, &[remove], &Options::new())
                .expect("it is there")
                .new_bytes(),
            before
        );
        for shell in [Shell::Posix, Shell::PowerShell] {
            assert!(!manual_instructions(&added, "/etc/hosts".as_ref(), shell).is_empty());
        }
    }
}
