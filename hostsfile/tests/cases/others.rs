//! kubefwd, innernet, kftray, lapdev, ngrokd, and the parsers of hickory-dns, firezone, hostfile and parse-hosts.

use hostsfile::{
    BackupRules, Cidr, Document, Edit, Error, HostName, HostsFile, LineKind, Method, Oddity, Owner, Resolver,
};

use super::support::*;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("H146", |c| {
        let file = OnDisk::new(&c.input);
        let backups = tempfile::tempdir().unwrap();
        let rules = BackupRules::in_directory(backups.path()).keep(2);
        let first = file.hosts().back_up(&rules).unwrap();
        for n in 0..4 {
            std::fs::write(&file.path, format!("127.0.0.1 n{n}\n")).unwrap();
            file.hosts().back_up(&rules).unwrap();
        }
        assert_eq!(std::fs::read(&first.path).unwrap(), c.input);
        assert_eq!(file.hosts().backups(&rules).unwrap().len(), 2);
    }),
    ("H147", |_| {
        let file = OnDisk::new(b"x\n");
        let hosts = file.hosts();
        std::fs::remove_file(&file.path).unwrap();
        assert!(
            hosts
                .back_up(&BackupRules::in_directory(file.directory.path()))
                .is_err()
        );
    }),
    ("H152", |c| {
        let stale: Cidr = "127.1.0.0/16".parse().unwrap();
        assert_eq!(
            c.doc()
                .within(&stale)
                .iter()
                .map(|e| e.names.len())
                .sum::<usize>(),
            3
        );
    }),
    // Nothing is ever removed because of its address: a sweep asks about the owners of blocks, and these lines have none.
    ("H154", |c| {
        let file = OnDisk::new(&c.input);
        assert!(file.hosts().sweep(|_| false).unwrap().removed.is_empty());
        assert_eq!(file.bytes(), c.input);
    }),
    ("H155", |c| {
        let file = OnDisk::new(&c.input);
        let stale =
            block("stale", &[("127.1.27.1", &["stale.test"])]).with_owner(Owner::new("1.2.3").unwrap());
        file.hosts().edit(&[Edit::SetBlock(stale)]).unwrap();
        assert_eq!(file.hosts().sweep(|_| true).unwrap().removed, []);
        assert_eq!(file.hosts().sweep(|_| false).unwrap().removed.len(), 1);
        assert_eq!(file.bytes(), c.input);
    }),
    ("H156", |c| {
        let file = OnDisk::new(&c.input);
        std::thread::scope(|threads| {
            for _ in 0..50 {
                threads.spawn(|| {
                    patient(&file)
                        .edit(&[Edit::SetBlock(block("svc", &[("127.1.1.1", &["svc.test"])]))])
                        .unwrap()
                });
            }
        });
        let doc = file.hosts().read().unwrap();
        assert_eq!(
            (doc.blocks().len(), doc.lines_with_name("svc.test").len()),
            (1, 1)
        );
    }),
    ("H158", |_| {
        let start = b"127.0.0.1 localhost\n";
        let file = OnDisk::new(start);
        let name = |n: usize| format!("svc{n}");
        for n in 0..20 {
            file.hosts()
                .edit(&[Edit::SetBlock(block(&name(n), &[("127.1.1.1", &["x.test"])]))])
                .unwrap();
        }
        std::thread::scope(|threads| {
            for n in 0..20 {
                let file = &file;
                threads.spawn(move || patient(file).edit(&[Edit::RemoveBlock(tag(&name(n)))]).unwrap());
            }
        });
        assert_eq!(file.bytes(), start);
        assert_eq!(file.files(), ["hosts"]);
    }),
    ("H159", |c| {
        let input = String::from_utf8(c.input.clone()).unwrap();
        let labels: Vec<String> = input
            .split(' ')
            .filter_map(HostName::sanitize_label)
            .map(|n| n.to_string())
            .collect();
        assert_eq!(
            labels,
            [
                "host-with-dots",
                "host-with-underscores",
                "host-with-special-chars",
                "x",
                "x"
            ]
        );
        assert!(HostName::new("host_with_underscores").is_err());
    }),
    ("H160", |_| {
        let file = OnDisk::new(b"127.0.0.1 localhost\n");
        set_read_only(&file, true);
        let error = file
            .hosts()
            .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
            .unwrap_err();
        set_read_only(&file, false);
        let Error::ReadOnlyFile { clear, .. } = error else {
            panic!("{error}")
        };
        assert!(clear.contains("chmod") || clear.contains("attrib"), "{clear}");
        assert_eq!(file.bytes(), b"127.0.0.1 localhost\n");
    }),
    ("H161", |_| {
        let file = OnDisk::new(b"127.0.0.1 localhost\n");
        let hosts = file.hosts();
        std::fs::remove_file(&file.path).unwrap();
        assert!(matches!(
            hosts.edit(&[Edit::RemoveBlock(tag("b"))]),
            Err(Error::NotFound { .. })
        ));
    }),
    // The tests next to the code that writes check what is left after a kill at each step.
    ("H163", |_| {
        let file = OnDisk::new(b"127.0.0.1 localhost\n");
        let method = file
            .hosts()
            .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
            .unwrap()
            .method;
        assert_eq!(method, Method::Renamed);
    }),
    ("H164", |c| comes_and_goes(&c.doc())),
    ("H165", |_| {
        let twelve: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
        let twelve: Vec<&str> = twelve.iter().map(String::as_str).collect();
        let doc = edited(
            &Document::parse(""),
            &[Edit::SetBlock(block("b", &[("10.0.0.1", &twelve)]))],
        );
        assert!(doc.entries().all(|e| e.names.len() <= 9));
        assert_eq!(doc.names_at(ip("10.0.0.1")), twelve);
        let long = Document::parse(format!("10.0.0.1 {}\n", twelve.join(" ")));
        assert!(
            long.lint(Resolver::Windows)
                .iter()
                .any(|d| d.kind() == "many-names" && d.line == Some(1))
        );
    }),
    ("H166", |_| {
        let file = OnDisk::new(b"127.0.0.1 localhost\n");
        let hosts: HostsFile = file.hosts();
        hosts
            .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
            .unwrap();
        hosts.edit(&[Edit::RemoveBlock(tag("b"))]).unwrap();
        assert_eq!(file.bytes(), b"127.0.0.1 localhost\n");
    }),
    // The file beside the target is gone after each change; the tests of what a kill leaves behind show that it is in the same
    // directory.
    ("H167", |_| nothing_left_beside()),
    ("H171", |_| nothing_left_beside()),
    ("H169", |c| section_twice(&c.doc(), "foo")),
    ("H172", |c| {
        assert!(c.input.contains(&0xE9));
        comes_and_goes(&c.doc());
    }),
    ("H174", |c| {
        let file = OnDisk::new(&c.input);
        assert!(
            !file
                .hosts()
                .edit(&[Edit::SetBlock(block("none", &[]))])
                .unwrap()
                .changed
        );
        assert!(
            !file
                .hosts()
                .edit(&[Edit::RemoveBlock(tag("none"))])
                .unwrap()
                .changed
        );
        assert_eq!(file.bytes(), c.input);
    }),
    ("H175", |c| {
        let set = |name| Edit::SetBlock(block(name, &[("10.0.0.1", &["x"])]));
        let mut doc = c.doc();
        for _ in 0..3 {
            for edit in [
                set("t1"),
                set("t2"),
                Edit::RemoveBlock(tag("t1")),
                Edit::RemoveBlock(tag("t2")),
            ] {
                doc = edited(&doc, &[edit]);
            }
        }
        assert_eq!(doc, c.doc());
    }),
    ("H176", |c| {
        let doc = edited(&c.doc(), &[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))]);
        assert!(doc.lines().all(|l| l.bytes.ends_with(b"\r\n")));
        comes_and_goes(&c.doc());
    }),
    ("H177", |_| {
        let one = "# BEGIN t\n10.0.0.1 a\n# END t\n";
        let doc = Document::parse(format!("{one}127.0.0.1 localhost\n{}", one.replace('a', "b")));
        let set = Edit::SetBlock(block("t", &[("10.0.0.2", &["c"])]));
        let error = doc.plan(&[set], &hostsfile::Options::new()).unwrap_err();
        assert!(
            matches!(error, Error::DamagedBlock { ref lines, .. } if *lines == [1, 3, 5, 7]),
            "{error}"
        );
        let mended = edited(&doc, &[Edit::RepairBlock(tag("t"))]);
        assert_eq!(
            text(&mended),
            "# BEGIN t\n10.0.0.1 a b\n# END t\n127.0.0.1 localhost\n"
        );
    }),
    ("H179", |_| keeps_mode_and_owner()),
    // Here the caller asks for it; the tests of file systems use a real bind mount.
    ("H180", |c| {
        let file = OnDisk::new(&c.input);
        let hosts = hostsfile::FileOptions::new()
            .in_place(true)
            .open(&file.path)
            .unwrap();
        let outcome = hosts
            .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
            .unwrap();
        assert_eq!(outcome.method, Method::InPlace);
        assert_eq!(file.files(), ["hosts"]);
        hosts.edit(&[Edit::RemoveBlock(tag("b"))]).unwrap();
        assert_eq!(file.bytes(), c.input);
    }),
    ("H184", |c| section_twice(&c.doc(), "test")),
    ("H186", |_| {
        let start = Document::parse(
            "##\n# Host Database\n##\n127.0.0.1\tlocalhost\n255.255.255.255\tbroadcasthost\n::1             localhost\n",
        );
        let name = |n| format!("forward{n}");
        let mut doc = start.clone();
        for n in 0..19 {
            doc = edited(&doc, &[Edit::SetBlock(block(&name(n), &[("127.0.0.2", &["x"])]))]);
        }
        for n in 0..19 {
            doc = edited(&doc, &[Edit::RemoveBlock(tag(&name(n)))]);
        }
        assert_eq!(doc, start);
    }),
    ("H187", |c| {
        let doc = edited(&c.doc(), &[Edit::RemoveManaged(marker("lapdev-devbox"))]);
        assert_eq!(text(&doc), "127.0.0.1 localhost\n127.0.0.2 other\n");
    }),
    ("H189", |c| comes_and_goes(&c.doc())),
    ("H190", |_| {
        let set = Edit::SetBlock(block(
            "b",
            &[("10.0.0.1", &["x"]), ("10.0.0.2", &["y"]), ("10.0.0.3", &["z"])],
        ));
        let once = edited(&Document::parse(""), std::slice::from_ref(&set));
        assert!(!once.plan(&[set], &hostsfile::Options::new()).unwrap().changed());
    }),
    ("H191", |c| {
        let doc = c.doc();
        // The address with a zone is kept; lookups return it too, after the others.
        assert_eq!(
            doc.lookup("localhost"),
            [ip("127.0.0.1"), ip("::1"), ip("fe80::1")]
        );
        assert_eq!(doc.names_at(ip("10.0.1.111")), ["a.example.com", "b.example.com"]);
        assert_eq!(doc.names_at(ip("10.1.0.104")), Vec::<&str>::new());
    }),
    ("H192", |c| {
        assert_eq!(c.doc().lookup("localhost"), [ip("127.0.0.1")]);
        comes_and_goes(&c.doc());
    }),
    ("H193", |c| {
        let lines = c.input.strip_prefix(b"Docker file: ").unwrap();
        assert_eq!(
            Document::parse(lines).lookup("portal"),
            [ip("203.0.113.10"), ip("203:0:113::10")]
        );
    }),
    ("H194", |c| {
        assert_eq!(c.doc().lookup("portal"), [ip("203.0.113.10")]);
    }),
    ("H195", |c| {
        let doc = c.doc();
        assert_eq!(
            doc.names_at(ip("bad:dad::ded")),
            ["multiple", "hostnames", "for", "address"]
        );
        assert_eq!(
            (doc.lookup("name"), doc.lookup("x")),
            (vec![ip("1.1.1.2")], vec![ip("1.1.1.3")])
        );
    }),
    ("H196", |c| {
        assert_eq!(
            c.doc().line(1).unwrap().kind,
            LineKind::Opaque(Oddity::NotAnAddress)
        );
        assert!(c.doc().lint(Resolver::Glibc).iter().any(|d| d.line == Some(1)));
        comes_and_goes(&c.doc());
    }),
    ("H198", |c| {
        let doc = c.doc();
        let entry = doc.entries().next().unwrap();
        assert_eq!((entry.names.len(), entry.comment), (3, &b"localhosts"[..]));
    }),
    ("H199", |c| {
        let input = String::from_utf8(c.input.clone()).unwrap();
        let doc = Document::parse(input.split('|').map(str::trim).collect::<Vec<_>>().join("\n"));
        let kinds: Vec<_> = doc.lines().map(|l| l.kind).collect();
        assert!(matches!(
            kinds.as_slice(),
            [
                LineKind::Opaque(Oddity::NotAnAddress),
                LineKind::Entry(_),
                LineKind::Entry(_),
                LineKind::Opaque(Oddity::NoName),
            ]
        ));
        // Resolvers read the second and the third, and programs take these names as the addresses that they are.
        let found: Vec<_> = doc
            .lint(Resolver::Glibc)
            .iter()
            .map(|d| (d.line, d.kind()))
            .collect();
        assert_eq!(
            found,
            [
                (Some(1), "not-read"),
                (Some(2), "address-as-name"),
                (Some(3), "address-as-name"),
                (Some(3), "loopback-both"),
                (Some(4), "not-read"),
            ]
        );
        assert_eq!(doc.lookup("localhost"), [ip("::1")]);
    }),
];

fn section_twice(before: &Document, name: &str) {
    let set = [Edit::SetBlock(block(name, &[("1.1.1.1", &["whatever"])]))];
    let file = OnDisk::new(before.render());
    assert!(file.hosts().edit(&set).unwrap().changed);
    assert!(!file.hosts().edit(&set).unwrap().changed);
    let after = String::from_utf8(file.bytes()).unwrap();
    assert!(after.starts_with("preexisting\ncontent\n"));
    assert!(after.contains(&format!("# BEGIN {name}")) && after.contains("1.1.1.1 whatever"));
    file.hosts().edit(&[Edit::RemoveBlock(tag(name))]).unwrap();
    assert_eq!(file.bytes(), before.render());
}

fn nothing_left_beside() {
    let file = OnDisk::new(b"127.0.0.1 localhost\n");
    file.hosts()
        .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
        .unwrap();
    assert_eq!(file.files(), ["hosts"]);
}

fn patient(file: &OnDisk) -> HostsFile {
    hostsfile::FileOptions::new()
        .first_lock_wait(std::time::Duration::from_secs(5))
        .open(&file.path)
        .unwrap()
}

fn set_read_only(file: &OnDisk, read_only: bool) {
    let mut permissions = std::fs::metadata(&file.path).unwrap().permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, if read_only { 0o444 } else { 0o644 });
    #[cfg(not(unix))]
    permissions.set_readonly(read_only);
    std::fs::set_permissions(&file.path, permissions).unwrap();
}

#[cfg(unix)]
fn keeps_mode_and_owner() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let file = OnDisk::new(b"127.0.0.1 localhost\n");
    std::fs::set_permissions(&file.path, PermissionsExt::from_mode(0o640)).unwrap();
    // Giving a file away needs root; without it, the owner is the caller before and after.
    let _given_if_root = chown(&file.path, Some(1234), Some(1234));
    let look = || {
        std::fs::metadata(&file.path)
            .map(|m| (m.mode(), m.uid(), m.gid()))
            .unwrap()
    };
    let before = look();
    let outcome = file
        .hosts()
        .edit(&[Edit::SetBlock(block("b", &[("10.0.0.1", &["x"])]))])
        .unwrap();
    assert_eq!((outcome.method, look()), (Method::Renamed, before));
}

#[cfg(not(unix))]
fn keeps_mode_and_owner() {}
