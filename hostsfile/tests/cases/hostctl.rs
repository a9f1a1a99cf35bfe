//! hostctl's and stagecraft's suites: profiles, which are blocks here, and managed lines.

use hostsfile::{BackupRules, Document, Edit, Entry, Error, LineKind, Options, Tag, plan};

use super::support::*;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("H093", |c| {
        assert!(c.doc().blocks().is_empty());
        assert!(c.doc().lines().all(|l| matches!(l.kind, LineKind::Comment(_))));
    }),
    ("H094", |c| {
        let doc = in_block(&c.input);
        assert_eq!(
            doc.block(&tag("p")).unwrap().unwrap().names(),
            ["some.loc", "first.loc"]
        );
    }),
    ("H095", |c| {
        let doc = in_block(&c.input);
        assert_eq!(doc.block(&tag("p")).unwrap().unwrap().names(), ["a", "b"]);
    }),
    ("H096", |c| {
        let doc = c.doc();
        let entry = doc.entries().next().unwrap();
        assert_eq!(
            (entry.names, entry.comment),
            (vec!["third.loc"], &b"test comment"[..])
        );
    }),
    ("H097", |c| {
        let doc = in_block(&c.input);
        let block = doc.block(&tag("p")).unwrap().unwrap();
        assert!(!block.enabled);
        assert_eq!(block.disabled[0].names, ["second.loc"]);
    }),
    ("H098", |_| {
        assert_eq!(Document::parse("\n").entries().count(), 0);
        assert_eq!(Document::parse("3333 asdfasdfa\n").entries().count(), 0);
    }),
    ("H101", |_| {
        let doc = edited(
            &Document::parse(""),
            &[
                Edit::AddToBlock(block("p", &[("1.1.1.1", &["a", "b"])])),
                Edit::AddToBlock(block("p", &[("1.1.1.1", &["b", "c"])])),
            ],
        );
        assert_eq!(doc.block(&tag("p")).unwrap().unwrap().names(), ["a", "b", "c"]);
    }),
    ("H102", |_| {
        assert!(matches!(
            Entry::parse("13333t", ["some.loc"]),
            Err(Error::InvalidAddress { .. })
        ));
    }),
    ("H103", |_| {
        let doc = edited(
            &profiles(),
            &[Edit::AddToBlock(block("profile2", &[("3.3.3.4", &["some.loc"])]))],
        );
        let added = PROFILES.replace("# END profile2", "# 3.3.3.4 some.loc\n# END profile2");
        assert_eq!(text(&doc), added);
    }),
    ("H105", |_| {
        let doc = edited(&profiles(), &[remove("profile2", &["second.loc"])]);
        assert_eq!(
            doc.block(&tag("profile2")).unwrap().unwrap().names(),
            ["first.loc"]
        );
    }),
    ("H106", |_| {
        let doc = edited(&profiles(), &[remove("profile2", &["first.loc", "second.loc"])]);
        assert!(doc.block(&tag("profile2")).unwrap().is_none());
        assert!(!text(&doc).contains("profile2"));
    }),
    ("H107", |_| {
        let doc = edited(
            &profiles(),
            &[Edit::AddToBlock(block(
                "profile1",
                &[("127.0.0.1", &["added.loc"])],
            ))],
        );
        let block = doc.block(&tag("profile1")).unwrap().unwrap();
        assert_eq!(block.names(), ["first.loc", "second.loc", "added.loc"]);
        assert!(block.enabled);
    }),
    ("H108", |_| {
        assert!(matches!(Tag::new("default"), Err(Error::InvalidTag { .. })));
        assert!(matches!(Tag::new("a b"), Err(Error::InvalidTag { .. })));
    }),
    ("H109", |_| {
        let doc = edited(
            &profiles(),
            &[Edit::SetBlock(block(
                "profile1",
                &[("4.4.4.4", &["replaced.loc"])],
            ))],
        );
        assert_eq!(
            doc.block(&tag("profile1")).unwrap().unwrap().names(),
            ["replaced.loc"]
        );
        assert_eq!(
            doc.block(&tag("profile2")).unwrap().unwrap().names(),
            ["first.loc", "second.loc"]
        );
    }),
    ("H110", |_| {
        let doc = edited(
            &profiles(),
            &[Edit::SetBlock(block(
                "awesome",
                &[("4.4.4.4", &["replaced.loc"])],
            ))],
        );
        assert_eq!(
            doc.block(&tag("awesome")).unwrap().unwrap().names(),
            ["replaced.loc"]
        );
    }),
    ("H112", |_| {
        let states = |doc: &Document| doc.blocks().iter().map(|b| b.enabled).collect::<Vec<_>>();
        let on = edited(&profiles(), &[Edit::EnableBlock(tag("profile2"))]);
        assert_eq!(states(&on), [true, true]);
        let only = edited(
            &profiles(),
            &[
                Edit::DisableBlock(tag("profile1")),
                Edit::EnableBlock(tag("profile2")),
            ],
        );
        assert_eq!(states(&only), [false, true]);
        let off = edited(
            &only,
            &[
                Edit::DisableBlock(tag("profile1")),
                Edit::DisableBlock(tag("profile2")),
            ],
        );
        assert_eq!(states(&off), [false, false]);
        assert!(off.lookup("first.loc").is_empty());
        assert!(matches!(
            plan(b"", &[Edit::EnableBlock(tag("absent"))], &Options::new()),
            Err(Error::NoSuchBlock { .. })
        ));
    }),
    ("H115", |c| {
        let file = OnDisk::new(&c.input);
        let rules = BackupRules::in_directory(file.directory.path());
        let first = file.hosts().back_up(&rules).unwrap();
        assert!(first.created);
        let name = first.path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            name.len() == "hosts.YYYYMMDD".len() && name.starts_with("hosts.2"),
            "{name}"
        );
        assert_eq!(std::fs::read(&first.path).unwrap(), c.input);
        std::fs::write(&file.path, "127.0.0.1 changed\n").unwrap();
        let second = file.hosts().back_up(&rules).unwrap();
        assert_ne!(first.path, second.path);
        assert_eq!(std::fs::read(&first.path).unwrap(), c.input);
    }),
    ("H116", |c| {
        let file = OnDisk::new(b"127.0.0.1 other\n");
        let copy = file.directory.path().join("copy");
        std::fs::write(&copy, &c.input).unwrap();
        assert!(file.hosts().restore(&copy).unwrap().changed);
        assert_eq!(file.bytes(), c.input);
    }),
    ("H117", |_| {
        let twice: Vec<Edit> = (0..2)
            .map(|_| Edit::AddToBlock(block("profile1", &[("3.3.3.3", &["x"])])))
            .collect();
        assert_eq!(edited(&profiles(), &twice).lines_with_name("x").len(), 1);
    }),
    ("H118", |c| comes_and_goes(&c.doc())),
    ("H120", |_| {
        let entries =
            (0..100_000).map(|n| Entry::new(ip("0.0.0.0"), [format!("n{n}.blocked.test")]).unwrap());
        let block = hostsfile::Block::new(tag("list")).with_entries(entries);
        let began = std::time::Instant::now();
        let doc = edited(
            &Document::parse("127.0.0.1 localhost\n"),
            &[Edit::SetBlock(block)],
        );
        let took = began.elapsed();
        assert_eq!(doc.names_at(ip("0.0.0.0")).len(), 100_000);
        assert!(
            took.as_secs_f64() < if cfg!(debug_assertions) { 10.0 } else { 1.0 },
            "{took:?}"
        );
    }),
    ("H123", |_| {
        let long = format!(
            "10.0.0.1 one\n10.0.0.2 {}\n10.0.0.3 three\n",
            "x".repeat(70 * 1024)
        );
        comes_and_goes(&Document::parse(long));
    }),
    ("H124", |c| comes_and_goes(&c.doc())),
    ("H125", |c| comes_and_goes(&c.doc())),
    ("H131", |c| {
        // Here the names of managed lines are sorted; the original case keeps the caller's order.
        let doc = managed(&c.doc(), &["app.localdev.test", "api.localdev.test"]);
        let line = "127.0.0.1    api.localdev.test app.localdev.test    # Stagecraft managed";
        assert_eq!(doc.lines().next().unwrap().text(), line.as_bytes());
    }),
    ("H132", |c| {
        let once = managed(&c.doc(), &["app", "api"]);
        assert_eq!(managed(&once, &["app", "api"]), once);
        assert_eq!(once.entries().count(), 1);
    }),
    ("H133", |_| {
        let doc = Document::parse(
            "127.0.0.1 app # Stagecraft managed\n127.0.0.1 example.com\n127.0.0.1 api # Stagecraft managed\n",
        );
        assert_eq!(
            text(&edited(&doc, &[Edit::RemoveManaged(marker(MARKER))])),
            "127.0.0.1 example.com\n"
        );
    }),
    ("H134", |c| {
        let doc = managed(&c.doc(), &["app"]);
        assert_eq!(
            text(&doc),
            "127.0.0.1    localhost\n127.0.0.1    app    # Stagecraft managed\n"
        );
    }),
    ("H135", |c| {
        assert_eq!(
            text(&edited(&c.doc(), &[Edit::RemoveManaged(marker(MARKER))])),
            "127.0.0.1 example.com\n"
        );
    }),
    ("H139", |c| comes_and_goes(&c.doc())),
    ("H140", |c| comes_and_goes(&c.doc())),
    ("H141", |c| {
        let doc = c.doc();
        let entry = doc.entries().next().unwrap();
        assert_eq!((entry.names, entry.comment), (vec!["foo"], &b"bar"[..]));
    }),
];

fn in_block(lines: &[u8]) -> Document {
    Document::parse(
        [
            b"# BEGIN p\n",
            lines.strip_suffix(b"\n").unwrap_or(lines),
            b"\n# END p\n",
        ]
        .concat(),
    )
}

/// The input of hostctl's cases, with our markers in place of its own.
const PROFILES: &str = "127.0.0.1 localhost
# BEGIN profile1
127.0.0.1 first.loc
127.0.0.1 second.loc
# END profile1
# BEGIN profile2
# 127.0.0.1 first.loc
# 127.0.0.1 second.loc
# END profile2
";

fn profiles() -> Document {
    Document::parse(PROFILES)
}

fn remove(name: &str, which: &[&str]) -> Edit {
    Edit::RemoveFromBlock {
        tag: tag(name),
        names: names(which),
    }
}

const MARKER: &str = "Stagecraft managed";

fn managed(doc: &Document, which: &[&str]) -> Document {
    edited(
        doc,
        &[Edit::SetManaged {
            marker: marker(MARKER),
            entries: vec![entry("127.0.0.1", which)],
        }],
    )
}
