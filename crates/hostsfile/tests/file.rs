//! Writing real files: what is kept, what is refused, what is left beside.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::path::Path;
use std::time::{Duration, SystemTime};

use hostsfile::{
    BackupRules, Block, Edit, Entry, Error, FileOptions, HostsFile, Method, Options, Owner, Tag, UserNames,
    plan,
};

const BEFORE: &[u8] = b"127.0.0.1 localhost\n";

fn set(tag: &str, name: &str) -> Edit {
    let entry = Entry::new("127.77.0.1".parse().unwrap(), [name]).unwrap();
    Edit::SetBlock(Block::new(Tag::new(tag).unwrap()).with_entries([entry]))
}

fn remove(tag: &str) -> Edit {
    Edit::RemoveBlock(Tag::new(tag).unwrap())
}

fn hosts_in(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    path
}

fn files_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_edit_replaces_the_file_and_its_undo_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    let outcome = hosts.edit(&[set("a", "x.test")]).unwrap();
    assert!(outcome.changed);
    assert_eq!(outcome.method, Method::Renamed);
    assert!(outcome.diff().unwrap().to_string().contains("+127.77.0.1 x.test"));
    assert_eq!(hosts.edit(&[remove("a")]).unwrap().method, Method::Renamed);
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    hosts.edit(&[set("a", "x.test")]).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    drop(file);
    let outcome = hosts.edit(&[set("a", "x.test"), remove("absent")]).unwrap();
    assert_eq!((outcome.changed, outcome.method), (false, Method::Unchanged));
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn a_plan_is_applied_only_to_what_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    let stale = plan(BEFORE, &[set("a", "x.test")], &Options::new()).unwrap();
    std::fs::write(&path, b"127.0.0.1 other\n").unwrap();
    assert!(matches!(hosts.apply(&stale), Err(Error::Changed { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 other\n");
    std::fs::write(&path, BEFORE).unwrap();
    assert!(hosts.apply(&stale).unwrap().changed);
    assert_eq!(std::fs::read(&path).unwrap(), stale.new_bytes());
}

#[test]
fn a_change_by_others_between_reading_and_writing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    let mut calls = 0;
    let outcome = hosts.edit_with::<Error>(|_| {
        calls += 1;
        if calls < 4 {
            std::fs::write(&path, format!("127.0.0.1 localhost\n10.0.0.{calls} foreign\n")).unwrap();
        }
        Ok(vec![set("a", "x.test")])
    });
    assert!(outcome.unwrap().changed);
    assert!(calls >= 4);
    let doc = hosts.read().unwrap();
    assert_eq!(
        doc.lookup("foreign"),
        ["10.0.0.3".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(doc.lookup("x.test").len(), 1);
}

#[test]
fn a_file_that_never_rests_is_given_up_unharmed() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    let mut calls = 0;
    let outcome = hosts.edit_with::<Error>(|_| {
        calls += 1;
        std::fs::write(&path, format!("10.0.0.1 foreign{calls}\n")).unwrap();
        Ok(vec![set("a", "x.test")])
    });
    assert!(matches!(outcome, Err(Error::Changed { .. })));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        format!("10.0.0.1 foreign{calls}\n").into_bytes()
    );
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn the_functions_own_error_comes_through() {
    #[derive(Debug)]
    enum Mine {
        Taken,
        #[expect(dead_code, reason = "only its kind is looked at")]
        Hosts(Error),
    }
    impl From<Error> for Mine {
        fn from(e: Error) -> Self {
            Mine::Hosts(e)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let hosts = HostsFile::open(hosts_in(dir.path())).unwrap();
    assert!(matches!(hosts.edit_with(|_| Err(Mine::Taken)), Err(Mine::Taken)));
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn a_lock_that_somebody_holds_is_an_error_of_its_own_after_bounded_retries() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = FileOptions::new()
        .first_lock_wait(Duration::from_millis(10))
        .open(&path)
        .unwrap();
    let held = hosts.lock().unwrap();
    assert!(hosts.lock_path().unwrap().exists());
    match hosts.edit(&[set("a", "x.test")]) {
        Err(Error::Locked { path, waited }) => {
            assert_eq!(path, hosts.lock_path().unwrap());
            assert!(waited >= Duration::from_millis(150), "{waited:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    drop(held);
    assert!(hosts.edit(&[set("a", "x.test")]).unwrap().changed);
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn a_lock_directory_is_made_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let lock_directory = dir.path().join("locks");
    let hosts = FileOptions::new()
        .lock_directory(&lock_directory)
        .open(&path)
        .unwrap();
    let held = hosts.lock().unwrap();
    assert!(lock_directory.is_dir());
    drop(held);
    assert!(hosts.edit(&[set("a", "x.test")]).unwrap().changed);
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn writing_in_place_on_request_works_for_longer_and_shorter_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = FileOptions::new().in_place(true).open(&path).unwrap();
    for edit in [
        set("a", "x.test"),
        set("b", "a-much-longer-name.test"),
        set("a", "yy.test"),
        remove("a"),
    ] {
        let expected = plan(
            &std::fs::read(&path).unwrap(),
            std::slice::from_ref(&edit),
            &Options::new(),
        )
        .unwrap()
        .new_bytes();
        assert_eq!(hosts.edit(&[edit]).unwrap().method, Method::InPlace);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
    hosts.edit(&[remove("b")]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    assert_eq!(files_in(dir.path()), ["hosts"]);
}

#[test]
fn sweep_removes_blocks_of_dead_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    let owned = |tag: &str, owner: Option<&str>| {
        let entry = Entry::new("127.77.0.1".parse().unwrap(), ["x.test"]).unwrap();
        let owner = owner.map(|o| Owner::new(o).unwrap());
        Edit::SetBlock(
            Block::new(Tag::new(tag).unwrap())
                .with_owner(owner)
                .with_entries([entry]),
        )
    };
    hosts
        .edit(&[
            owned("dead", Some("1.2.abc")),
            owned("alive", Some("3.4.abc")),
            owned("nobody", None),
        ])
        .unwrap();
    let swept = hosts.sweep(|owner| owner.as_str().starts_with("3.")).unwrap();
    assert_eq!(
        swept.removed,
        [(Tag::new("dead").unwrap(), Owner::new("1.2.abc").unwrap())]
    );
    let doc = hosts.read().unwrap();
    assert_eq!(
        doc.blocks().iter().map(|b| b.tag).collect::<Vec<_>>(),
        ["alive", "nobody"]
    );
    hosts.edit(&[remove("alive"), remove("nobody")]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
}

#[test]
fn a_backup_is_made_before_the_first_change_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let backups = tempfile::tempdir().unwrap();
    let rules = BackupRules::in_directory(backups.path());
    let hosts = FileOptions::new().backup(rules.clone()).open(&path).unwrap();
    assert!(!hosts.edit(&[remove("a")]).unwrap().changed);
    assert!(hosts.backups(&rules).unwrap().is_empty());
    hosts.edit(&[set("a", "x.test")]).unwrap();
    hosts.edit(&[set("a", "y.test")]).unwrap();
    let made = hosts.backups(&rules).unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(std::fs::read(&made[0]).unwrap(), BEFORE);
    assert!(hosts.restore(&made[0]).unwrap().changed);
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
}

#[test]
fn names_of_the_user_are_reported_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    let content = "127.0.0.1 localhost\n10.9.9.9 Orders # mine\n";
    std::fs::write(&path, content).unwrap();
    let block = Block::new(Tag::new("a").unwrap()).with_entries([Entry::new(
        "127.77.0.1".parse().unwrap(),
        ["orders", "orders.backend"],
    )
    .unwrap()]);
    let hosts = HostsFile::open(&path).unwrap();
    let outcome = hosts.edit(&[Edit::SetBlock(block.clone())]).unwrap();
    let conflict = &outcome.conflicts()[0];
    assert_eq!(
        (conflict.name.as_str(), conflict.line, conflict.left_out),
        ("orders", 2, false)
    );
    assert!(
        outcome
            .diagnostics()
            .iter()
            .any(|d| d.kind() == "shadowed" && d.line == Some(2))
    );
    hosts.edit(&[remove("a")]).unwrap();

    let hosts = FileOptions::new()
        .plan_options(Options::new().user_names(UserNames::LeaveOut))
        .open(&path)
        .unwrap();
    let outcome = hosts.edit(&[Edit::SetBlock(block)]).unwrap();
    let conflict = &outcome.conflicts()[0];
    assert_eq!(
        (conflict.name.as_str(), conflict.line, conflict.left_out),
        ("orders", 2, true)
    );
    let doc = hosts.read().unwrap();
    assert_eq!(
        doc.lookup("orders"),
        ["10.9.9.9".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(doc.lookup("orders.backend").len(), 1);
    assert!(doc.render().starts_with(content.as_bytes()));
}

#[test]
fn a_missing_file_is_created_only_on_request_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new-hosts");
    assert!(matches!(HostsFile::open(&path), Err(Error::NotFound { .. })));
    let hosts = FileOptions::new().create_missing(true).open(&path).unwrap();
    assert!(
        !hosts
            .edit(&[remove("a")])
            .unwrap()
            .diff()
            .unwrap()
            .to_string()
            .contains('+')
    );
    assert!(hosts.edit(&[set("a", "x.test")]).unwrap().changed);
    assert_eq!(hosts.read().unwrap().lookup("x.test").len(), 1);
    assert_eq!(files_in(dir.path()), ["new-hosts"]);
}

#[test]
fn utf_16_and_damage_are_refused_with_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, b"\xFF\xFE1\x002\x00").unwrap();
    assert!(matches!(
        HostsFile::open(&path).unwrap().edit(&[set("a", "x.test")]),
        Err(Error::Utf16)
    ));
    let damaged = b"# BEGIN a\n10.0.0.1 user.test\n";
    std::fs::write(&path, damaged).unwrap();
    match HostsFile::open(&path).unwrap().edit(&[remove("a")]) {
        Err(Error::DamagedBlock { tag, lines, .. }) => assert_eq!((tag.as_str(), lines), ("a", vec![1])),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    // Damage of one block is no matter for the others.
    assert!(
        HostsFile::open(&path)
            .unwrap()
            .edit(&[set("b", "x.test"), remove("b"), set("b", "y.test")])
            .unwrap()
            .changed
    );
}

#[test]
fn a_read_only_file_is_changed_on_request_and_stays_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let mut read_only = std::fs::metadata(&path).unwrap().permissions();
    read_only.set_readonly(true);
    std::fs::set_permissions(&path, read_only).unwrap();
    assert!(matches!(
        HostsFile::open(&path).unwrap().edit(&[set("a", "x.test")]),
        Err(Error::ReadOnlyFile { .. })
    ));
    let hosts = FileOptions::new().override_read_only(true).open(&path).unwrap();
    assert!(hosts.edit(&[set("a", "x.test")]).unwrap().changed);
    assert!(std::fs::metadata(&path).unwrap().permissions().readonly());
    let hosts = FileOptions::new()
        .override_read_only(true)
        .in_place(true)
        .open(&path)
        .unwrap();
    assert!(hosts.edit(&[remove("a")]).unwrap().changed);
    assert!(std::fs::metadata(&path).unwrap().permissions().readonly());
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use hostsfile::Document;

    use super::*;

    #[test]
    fn mode_owner_and_extended_attributes_are_kept() {
        use rustix::fs::{XattrFlags, getxattr, setxattr};
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            chown(&path, Some(1234), Some(2345)).unwrap();
        }
        let has_xattr = setxattr(&path, "user.devbox", b"kept", XattrFlags::empty()).is_ok();
        // A POSIX ACL: owner rw, user 4321 r, group r, mask r, others nothing.
        let acl: &[u8] = &[
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xE1, 0x10, 0, 0, 4, 0, 4, 0, 255, 255,
            255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
        ];
        let has_acl = setxattr(&path, "system.posix_acl_access", acl, XattrFlags::empty()).is_ok();
        let look = || {
            let m = std::fs::metadata(&path).unwrap();
            let value = |name: &str| {
                let mut buffer = [0_u8; 256];
                getxattr(&path, name, &mut buffer[..])
                    .ok()
                    .map(|n| buffer[..n].to_vec())
            };
            (
                m.mode(),
                m.uid(),
                m.gid(),
                value("user.devbox"),
                value("system.posix_acl_access"),
            )
        };
        let (before, inode) = (look(), std::fs::metadata(&path).unwrap().ino());
        let hosts = HostsFile::open(&path).unwrap();
        assert_eq!(hosts.edit(&[set("a", "x.test")]).unwrap().method, Method::Renamed);
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(look(), before);
        assert_eq!(before.3.is_some(), has_xattr);
        assert_eq!(before.4.is_some(), has_acl);
    }

    #[test]
    fn a_narrow_umask_does_not_narrow_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                "umask 077; exec \"$0\" --exact unix::edits_as_asked --ignored",
            ])
            .arg(std::env::current_exe().unwrap())
            .env("HOSTSFILE_TEST_PATH", &path)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(
            HostsFile::open(&path)
                .unwrap()
                .read()
                .unwrap()
                .lookup("x.test")
                .len(),
            1
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    #[ignore = "run by the test of the umask, in a process of its own"]
    fn edits_as_asked() {
        let Some(path) = std::env::var_os("HOSTSFILE_TEST_PATH") else {
            return;
        };
        HostsFile::open(path)
            .unwrap()
            .edit(&[set("a", "x.test")])
            .unwrap();
    }

    #[test]
    fn a_symbolic_link_stays_one_and_its_target_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("store");
        std::fs::create_dir(&real).unwrap();
        let path = hosts_in(&real);
        let link = dir.path().join("hosts");
        symlink("store/hosts", &link).unwrap();
        let hosts = HostsFile::open(&link).unwrap();
        assert_eq!(hosts.edit(&[set("a", "x.test")]).unwrap().method, Method::Renamed);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&path).unwrap().contains("x.test"));
        assert_eq!(files_in(&real), ["hosts"]);
        assert_eq!(files_in(dir.path()), ["hosts", "store"]);
    }

    #[test]
    fn links_in_a_circle_and_directories_are_errors_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        symlink(&b, &a).unwrap();
        symlink(&a, &b).unwrap();
        assert!(matches!(HostsFile::open(&a), Err(Error::SymlinkLoop { .. })));
        assert!(matches!(HostsFile::open(dir.path()), Err(Error::NotAFile { .. })));
        let dangling = dir.path().join("dangling");
        symlink("made", &dangling).unwrap();
        let hosts = FileOptions::new().create_missing(true).open(&dangling).unwrap();
        hosts.edit(&[set("a", "x.test")]).unwrap();
        assert!(dir.path().join("made").is_file());
    }

    #[test]
    fn writing_in_place_keeps_the_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        let inode = std::fs::metadata(&path).unwrap().ino();
        let hosts = FileOptions::new().in_place(true).open(&path).unwrap();
        hosts.edit(&[set("a", "x.test")]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_lock_directory_that_others_can_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        let open_to_all = dir.path().join("locks");
        std::fs::create_dir(&open_to_all).unwrap();
        std::fs::set_permissions(&open_to_all, std::fs::Permissions::from_mode(0o777)).unwrap();
        let hosts = FileOptions::new()
            .lock_directory(&open_to_all)
            .open(&path)
            .unwrap();
        assert!(matches!(
            hosts.edit(&[set("a", "x.test")]),
            Err(Error::UnsafeLockDirectory { .. })
        ));
        symlink(dir.path(), dir.path().join("link")).unwrap();
        let hosts = FileOptions::new()
            .lock_directory(dir.path().join("link"))
            .open(&path)
            .unwrap();
        assert!(matches!(
            hosts.edit(&[set("a", "x.test")]),
            Err(Error::UnsafeLockDirectory { .. })
        ));
    }

    #[test]
    fn leftovers_of_killed_writers_go_and_files_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        for name in [
            ".hosts.hostsfile-0123456789abcdef.tmp",
            ".hosts.hostsfile-lock",
            ".hosts.hostsfile-notes.tmp",
            "hosts.tmp",
        ] {
            std::fs::write(dir.path().join(name), "left").unwrap();
        }
        HostsFile::open(&path).unwrap().sweep(|_| true).unwrap();
        assert_eq!(
            files_in(dir.path()),
            [".hosts.hostsfile-notes.tmp", "hosts", "hosts.tmp"]
        );
    }

    #[test]
    fn the_manual_instructions_do_what_the_plan_says() {
        use hostsfile::{Shell, manual_instructions};
        let cases: [(&[u8], Vec<Edit>); 5] = [
            (BEFORE, vec![set("a", "x.test")]),
            (
                b"127.0.0.1 localhost\n# BEGIN a\n10.0.0.1 x\n# END a\n10.0.0.2 'it''s' 50%\\n\n",
                vec![remove("a")],
            ),
            (
                b"127.0.0.1 caf\xE9\r\n# BEGIN a\r\n10.0.0.1 x\r\n# END a\r\nlast\r\n",
                vec![set("a", "y.test"), set("b", "z.test")],
            ),
            (b"no final line end", vec![set("a", "x.test")]),
            (b"x\n# BEGIN a eol=0\n10.0.0.1 x\n# END a\n", vec![remove("a")]),
        ];
        for (before, edits) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ho'sts");
            std::fs::write(&path, before).unwrap();
            let planned = plan(before, &edits, &Options::new()).unwrap();
            let script = manual_instructions(&planned, &path, Shell::Posix).replace("sudo ", "");
            let status = std::process::Command::new("sh")
                .arg("-ec")
                .arg(&script)
                .status()
                .unwrap();
            assert!(status.success(), "{script}");
            let after = std::fs::read(&path).unwrap();
            assert_eq!(
                String::from_utf8_lossy(&after),
                String::from_utf8_lossy(&planned.new_bytes()),
                "{script}"
            );
        }
    }

    #[test]
    fn patch_accepts_the_diff() {
        let before: Vec<u8> = (0..40)
            .flat_map(|n| format!("10.0.0.{n} n{n}\n").into_bytes())
            .collect();
        let doc = Document::parse(before.clone());
        let edits = vec![
            Edit::RemoveLine(doc.line(3).unwrap().reference()),
            Edit::AddNames {
                line: doc.line(20).unwrap().reference(),
                names: vec!["more".parse().unwrap()],
            },
            set("a", "x.test"),
        ];
        let planned = doc.plan(&edits, &Options::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, &before).unwrap();
        let child = std::process::Command::new("patch")
            .arg("-s")
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED patch_accepts_the_diff: no patch(1)
",
            )
            .unwrap();
            return;
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), planned.diff().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(&path).unwrap(), planned.new_bytes());
    }
}

#[cfg(windows)]
mod windows {
    use std::os::windows::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_file_that_another_program_opens_for_a_moment_is_written_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = hosts_in(dir.path());
        let hosts = HostsFile::open(&path).unwrap();
        let held = std::fs::File::options()
            .read(true)
            .share_mode(0)
            .open(&path)
            .unwrap();
        std::thread::scope(|threads| {
            let edit = threads.spawn(|| hosts.edit(&[set("a", "x.test")]));
            // As long as it is held, the edit waits.
            std::thread::sleep(Duration::from_millis(300));
            assert!(!edit.is_finished());
            drop(held);
            assert!(edit.join().unwrap().unwrap().changed);
        });
        assert_eq!(files_in(dir.path()), ["hosts"]);
    }

    #[test]
    fn the_systems_file_is_where_the_registry_says() {
        let path = hostsfile::system_path().to_string_lossy().to_lowercase();
        assert!(path.ends_with("\\drivers\\etc\\hosts"), "{path}");
        assert!(!path.contains('%'), "{path}");
    }
}
