//! txeh's suite: edits of plain lines.

use hostsfile::{
    Cidr, Comment, Document, Edit, Entry, Error, HostName, HostsFile, LineKind, OnConflict, Options, plan,
};

use super::support::*;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("H002", |c| {
        let doc = add(
            &c.doc(),
            "127.100.100.100",
            &["A", "T", "T", "X", "X", "E", "E", "H", "H"],
        );
        let doc = edited(&doc, &doc.removing_names(&["A"]));
        assert_eq!(doc.names_at(ip("127.100.100.100")), ["n1", "t", "x", "e", "h"]);
        assert!(HostName::new("A ").is_err());
    }),
    // A document in memory has no `save` and no `reload`, by its type.
    ("H003", |_| assert_eq!(Document::parse("x").into_bytes(), b"x")),
    ("H005", |c| {
        assert_eq!(c.doc().lookup_v4("myhost").unwrap().to_string(), "127.0.0.1");
        assert_eq!(c.doc().lookup_v6("myhost").unwrap().to_string(), "::1");
    }),
    ("H006", |c| assert_eq!(c.doc().lookup_v4("nonexistent"), None)),
    ("H007", |c| {
        assert_eq!(c.doc().lines_with_name("nifi").len(), 1);
        assert_eq!(c.doc().names_containing("nifi").len(), 3);
    }),
    ("H010", |c| {
        let doc = edited(&c.doc(), &c.doc().removing_address(ip("10.0.0.1")));
        assert_eq!(doc.names_at(ip("10.0.0.1")), Vec::<&str>::new());
        assert_eq!(doc.names_at(ip("10.0.0.2")), ["h4"]);
    }),
    ("H012", |c| {
        let doc = edited(&c.doc(), &c.doc().removing_names(&["b", "d"]));
        assert_eq!(text(&doc), "10.0.0.1 a c\n");
    }),
    ("H013", |c| {
        assert_eq!(
            text(&add(&c.doc(), "10.0.0.1", &["t0", "t1", "t2"])),
            "10.0.0.1 a t0 t1 t2\n"
        );
    }),
    ("H016", |c| {
        let doc = c.doc();
        let mut edits = doc.removing_within(&"127.0.0.0/8".parse::<Cidr>().unwrap());
        edits.extend(doc.removing_within(&"10.0.0.0/8".parse::<Cidr>().unwrap()));
        assert_eq!(text(&edited(&doc, &edits)), "192.168.1.1 h2\n");
    }),
    ("H017", |_| {
        assert!(matches!(
            "invalid-cidr".parse::<Cidr>(),
            Err(Error::InvalidCidr { .. })
        ));
    }),
    ("H018", |_| {
        assert!(matches!(
            "not-a-valid-cidr".parse::<Cidr>(),
            Err(Error::InvalidCidr { .. })
        ));
    }),
    ("H022", |c| assert_eq!(c.doc().render(), c.input)),
    ("H024", |c| assert_eq!(c.doc().render(), c.input)),
    ("H027", |c| assert_eq!(c.doc().names_at(ip("::1")), ["localhost"])),
    ("H029", |_| assert_eq!(Document::parse("x").render(), b"x")),
    ("H033", |_| {
        let directory = tempfile::tempdir().unwrap();
        let error = HostsFile::open(directory.path().join("missing/hosts")).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }));
        let create = hostsfile::FileOptions::new().create_missing(true);
        assert!(create.open(directory.path().join("missing/hosts")).is_err());
    }),
    ("H034", |c| {
        let go = |rule| add_with(&c.doc(), "127.0.0.2", &["existinghost"], "", rule, 9);
        assert!(matches!(
            go(OnConflict::Refuse),
            Err(Error::NameTaken { line: 1, .. })
        ));
        assert_eq!(
            go(OnConflict::Move).unwrap().lookup("existinghost"),
            [ip("127.0.0.2")]
        );
        assert_eq!(
            go(OnConflict::Allow).unwrap().lookup("existinghost"),
            [ip("127.0.0.1"), ip("127.0.0.2")]
        );
    }),
    ("H035", |c| {
        assert_eq!(
            text(&add(&add(&c.doc(), "::1", &["a"]), "2001:db8::1", &["b"])),
            "::1 a\n2001:db8::1 b\n"
        );
    }),
    ("H037", |_| {
        assert!(matches!(
            Entry::parse("not-an-ip", ["h"]),
            Err(Error::InvalidAddress { .. })
        ));
        assert!(matches!(
            Entry::parse("999.999.999.999", ["h"]),
            Err(Error::InvalidAddress { .. })
        ));
    }),
    ("H039", |c| {
        assert_eq!(
            text(&add(&c.doc(), "127.0.0.1", &["MyHost", "MYHOST", "myhost"])),
            "127.0.0.1 myhost\n"
        );
    }),
    ("H040", |c| {
        let doc = c.doc();
        let again = (0..3).fold(doc.clone(), |doc, _| add(&doc, "127.0.0.1", &["existinghost"]));
        assert_eq!(doc, again);
    }),
    ("H041", |_| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        assert!(matches!(HostsFile::open(&path), Err(Error::NotFound { .. })));
        let created = hostsfile::FileOptions::new()
            .create_missing(true)
            .open(&path)
            .unwrap();
        assert!(
            created
                .edit(&[Edit::AppendLine(entry("127.0.0.1", &["app"]))])
                .unwrap()
                .changed
        );
        assert_eq!(std::fs::read(&path).unwrap(), expected_line("127.0.0.1 app"));
    }),
    ("H042", |c| assert_eq!(line_count(&c.doc()), 2)),
    ("H043", |c| {
        let input = String::from_utf8(c.input.clone()).unwrap();
        let (yes, no) = input.split_once('|').unwrap();
        assert!(yes.split_whitespace().all(|a| ip(a).is_loopback()));
        assert!(
            no.split_whitespace()
                .chain(["2001:db8::1"])
                .all(|a| !ip(a).is_loopback())
        );
    }),
    ("H044", |c| {
        assert_eq!(
            per_line(&c.doc(), 3, &["a", "b", "c", "d", "e", "f", "g"]),
            [3, 3, 1]
        );
    }),
    ("H046", |c| {
        let five = add_with(
            &c.doc(),
            "10.0.0.1",
            &["a", "b", "c", "d", "e"],
            "",
            OnConflict::Refuse,
            5,
        )
        .unwrap();
        assert_eq!(line_count(&five), 1);
        let six = add_with(&five, "10.0.0.1", &["f"], "", OnConflict::Refuse, 5).unwrap();
        assert_eq!(line_count(&six), 2);
        assert!(six.render().starts_with(five.render()));
    }),
    ("H048", |c| {
        let five = ["a", "b", "c", "d", "e"];
        assert_eq!(per_line(&c.doc(), 2, &five), [2, 2, 1]);
        let doc = add_with(&c.doc(), "10.0.0.1", &five, "", OnConflict::Refuse, 2).unwrap();
        assert_eq!(doc.names_at(ip("10.0.0.1")), five);
    }),
    ("H054", |c| {
        let doc = add_with(
            &c.doc(),
            "10.0.0.1",
            &["a", "b", "c", "d", "e"],
            "",
            OnConflict::Refuse,
            3,
        )
        .unwrap();
        assert_eq!(line_count(&doc), 2);
        assert!(doc.lines().all(|l| l.bytes.starts_with(b"10.0.0.1 ")));
    }),
    ("H056", |c| {
        let doc = add_with(
            &c.doc(),
            "10.0.0.1",
            &["a", "b", "c", "d"],
            "",
            OnConflict::Refuse,
            2,
        )
        .unwrap();
        assert_eq!(
            edited(&doc, &doc.removing_names(&["c"])).names_at(ip("10.0.0.1")),
            ["a", "b", "d"]
        );
    }),
    ("H059", |c| {
        let doc = add_with(
            &c.doc(),
            "127.0.0.1",
            &["myhost"],
            "added-by-ORG",
            OnConflict::Refuse,
            9,
        )
        .unwrap();
        assert_eq!(text(&doc), "127.0.0.1 myhost # added-by-ORG\n");
    }),
    ("H060", |c| {
        let doc = add_with(&c.doc(), "127.0.0.1", &["host1"], "", OnConflict::Refuse, 9).unwrap();
        assert_eq!(
            text(&add(&doc, "127.0.0.1", &["host2"])),
            "127.0.0.1 host1 host2\n"
        );
    }),
    ("H063", |c| {
        let doc = add(&c.doc(), "127.0.0.1", &["h1"]);
        let doc = add_with(&doc, "127.0.0.1", &["h2"], "comment", OnConflict::Refuse, 9).unwrap();
        assert_eq!(
            text(&add(&doc, "127.0.0.1", &["h3"])),
            "127.0.0.1 h1 h3\n127.0.0.1 h2 # comment\n"
        );
    }),
    ("H068", |c| {
        let doc = add_with(&c.doc(), "127.0.0.1", &["myhost"], "a", OnConflict::Refuse, 9).unwrap();
        let doc = add_with(&doc, "192.168.1.1", &["myhost"], "b", OnConflict::Move, 9).unwrap();
        assert_eq!(text(&doc), "192.168.1.1 myhost # b\n");
    }),
    ("H069", |c| {
        let doc = c.doc();
        assert_eq!(
            doc.names_with_comment("dev services"),
            ["app1", "app2", "api1", "api2"]
        );
        assert_eq!(doc.names_with_comment("staging env"), ["staging"]);
        assert_eq!(doc.names_with_comment("unknown"), Vec::<&str>::new());
        assert_eq!(doc.names_with_comment(""), ["localhost"]);
    }),
    ("H071", |_| {
        assert!(matches!(Comment::new(""), Err(Error::InvalidComment { .. })));
    }),
    ("H073", |c| {
        let comment = Comment::new("  spaced comment  ").unwrap();
        assert!(edited(&c.doc(), &c.doc().removing_comment(&comment)).is_empty());
    }),
    ("H074", |_| {
        let doc = Document::parse("10.0.0.1 x # a\n10.0.0.2 y # b\n10.0.0.3 z # c\n10.0.0.4 plain\n");
        let mut edits = doc.removing_comment(&Comment::new("a").unwrap());
        edits.extend(doc.removing_comment(&Comment::new("b").unwrap()));
        assert_eq!(text(&edited(&doc, &edits)), "10.0.0.3 z # c\n10.0.0.4 plain\n");
    }),
    ("H076", |_| {
        assert!(matches!(
            Comment::new("x\r\nattacker ALL=(ALL) .."),
            Err(Error::InvalidComment { .. })
        ));
    }),
    ("H077", |_| {
        assert!(matches!(
            HostName::new("good\r\nevil"),
            Err(Error::InvalidName { .. })
        ));
    }),
    ("H078", |_| {
        for bytes in [&b"any text"[..], b"\0\xFF\r\n\n\r", b""] {
            assert_eq!(Document::parse(bytes).render(), bytes);
        }
    }),
    ("H079", |_| {
        for (bytes, lines) in [("", 0), ("a", 1), ("a\n", 1), ("a\n\nb", 3), ("\r\n\r", 2)] {
            assert_eq!(line_count(&Document::parse(bytes)), lines);
        }
    }),
    ("H080", |c| {
        let before = c.doc();
        let added = add(&before, "10.9.8.7", &["random"]);
        assert_eq!(edited(&added, &added.removing_names(&["random"])), before);
        comes_and_goes(&before);
    }),
    ("H081", |c| {
        let file = OnDisk::new(&c.input);
        for _ in 0..2 {
            let edits = c.doc().removing_names(&["absent"]);
            assert!(!file.hosts().edit(&edits).unwrap().changed);
        }
        assert_eq!(file.bytes(), c.input);
    }),
    ("H082", |c| {
        let doc = c.doc();
        let entry = doc.entries().next().unwrap();
        assert_eq!((entry.address, entry.zone), (ip("fe80::1"), Some("lo0")));
        comes_and_goes(&doc);
    }),
    ("H086", |c| {
        assert_eq!(
            c.doc().names_at(ip("127.0.0.1")),
            ["UPPERCASE", "lowercase", "MiXeD"]
        );
        assert_eq!(c.doc().lookup("mixed"), [ip("127.0.0.1")]);
    }),
    ("H087", |c| {
        // Underscores are allowed if the caller asks for it.
        let input = String::from_utf8(c.input.clone()).unwrap();
        let valid: Vec<bool> = input
            .split(" | ")
            .map(|n| HostName::with_underscore(n).is_ok())
            .collect();
        assert_eq!(valid, [false, false, false, false, true, true, true]);
        assert!(HostName::new("server_01").is_err());
    }),
    ("H088", |c| {
        let input = String::from_utf8(c.input.clone()).unwrap();
        let (yes, no) = input.split_once('|').unwrap();
        assert!(yes.split_whitespace().all(|t| t.parse::<Cidr>().is_ok()));
        assert!(
            no.split_whitespace()
                .map(|t| t.trim_matches('\''))
                .all(|t| t.parse::<Cidr>().is_err())
        );
    }),
    ("H089", |c| {
        let file = OnDisk::new(&c.input);
        let planned = file
            .hosts()
            .plan(&[Edit::AppendLine(entry("10.0.0.1", &["x"]))])
            .unwrap();
        assert_eq!(planned.new_bytes(), b"127.0.0.1 localhost\n10.0.0.1 x\n");
        assert_eq!(file.bytes(), c.input);
    }),
    ("H091", |c| {
        let file = OnDisk::new(&c.input);
        let edits = c
            .doc()
            .adding(&entry("10.0.0.3", &["cache.local"]), OnConflict::Refuse)
            .unwrap();
        file.hosts()
            .apply(&plan(&c.input, &edits, &Options::new()).unwrap())
            .unwrap();
        let again = file.hosts().read().unwrap();
        assert_eq!(again.lookup("cache.local"), [ip("10.0.0.3")]);
        assert_eq!(again.names_at(ip("10.0.0.1")).len(), 2);
        assert!(again.render().starts_with(&c.input));
        assert!(again.lines().any(|l| l.kind == LineKind::Blank));
    }),
];

/// The names on each line after adding these.
fn per_line(doc: &Document, max: usize, which: &[&str]) -> Vec<usize> {
    let doc = add_with(doc, "10.0.0.1", which, "", OnConflict::Refuse, max).unwrap();
    doc.entries().map(|e| e.names.len()).collect()
}

/// A line as it is written to a new file on this system.
fn expected_line(text: &str) -> Vec<u8> {
    format!("{text}{}", if cfg!(windows) { "\r\n" } else { "\n" }).into_bytes()
}
