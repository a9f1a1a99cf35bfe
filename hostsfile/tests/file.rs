//! Writes real files: what is kept, what is refused, and what is left beside them.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[cfg(unix)]
#[path = "file/unix.rs"]
mod unix;

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
fn a_file_that_keeps_changing_is_given_up_unharmed() {
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
fn the_functions_own_error_is_returned() {
    #[derive(Debug)]
    enum Mine {
        Taken,
        #[expect(dead_code, reason = "only its variant matters")]
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
fn a_held_lock_is_its_own_error_after_bounded_retries() {
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
fn a_lock_directory_is_created_and_removed() {
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
fn sweep_removes_only_the_blocks_of_dead_owners() {
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
fn a_backup_is_made_only_before_the_first_change() {
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
fn files_of_one_name_share_a_folder_of_backups_without_mixing() {
    let dir = tempfile::tempdir().unwrap();
    let backups = tempfile::tempdir().unwrap();
    let rules = BackupRules::in_directory(backups.path());
    let file = |folder: &str, content: &str| {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
        let path = dir.path().join(folder).join("hosts");
        std::fs::write(&path, content).unwrap();
        HostsFile::open(path).unwrap()
    };
    let (one, other) = (file("a", "10.0.0.1 a\n"), file("b", "10.0.0.2 b\n"));
    let of_one = one.back_up(&rules).unwrap().path;
    let of_other = other.back_up(&rules).unwrap().path;
    assert_eq!(one.backups(&rules).unwrap(), std::slice::from_ref(&of_one));
    assert_eq!(other.backups(&rules).unwrap(), std::slice::from_ref(&of_other));
    let refused = one.restore(&of_other).unwrap_err();
    assert!(matches!(refused, Error::BackupOfAnother { .. }), "{refused}");
    assert_eq!(one.read().unwrap().render(), b"10.0.0.1 a\n");
    // What somebody else placed there is no backup, however late its date.
    for name in ["hosts.99999999", "hosts.20261399", "hosts.99991231"] {
        std::fs::write(backups.path().join(name), "6.6.6.6 bank\n").unwrap();
    }
    assert_eq!(one.backups(&rules).unwrap(), std::slice::from_ref(&of_one));
    // A deleted file is created anew.
    std::fs::remove_file(one.path()).unwrap();
    let anew = FileOptions::new().create_missing(true).open(one.path()).unwrap();
    assert!(anew.restore(&of_one).unwrap().changed);
    assert_eq!(one.read().unwrap().render(), b"10.0.0.1 a\n");
}

#[test]
fn backups_that_are_rotated_out_take_their_records_along() {
    let dir = tempfile::tempdir().unwrap();
    let backups = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let rules = BackupRules::in_directory(backups.path()).keep(2);
    let hosts = HostsFile::open(&path).unwrap();
    for number in 0..5 {
        std::fs::write(&path, format!("10.0.0.{number} a\n")).unwrap();
        hosts.back_up(&rules).unwrap();
    }
    assert_eq!(hosts.backups(&rules).unwrap().len(), 2);
    assert_eq!(
        files_in(backups.path()).len(),
        4,
        "two backups, each with its record"
    );
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
fn pointing_a_name_elsewhere_leaves_its_other_family_and_other_names_alone() {
    let tag = || Tag::new("a").unwrap();
    let block = |address: &str, names: &[&str]| {
        Block::new(tag()).with_entries([Entry::parse(address, names.iter().copied()).unwrap()])
    };
    let before = b"10.0.0.9 x\n# BEGIN a\n10.0.0.1 x y\n2001:db8::1 x\n# END a\n";
    let point = |address: &str, names: &[&str]| {
        let edits = [Edit::PointInBlock(block(address, names))];
        String::from_utf8(plan(before, &edits, &Options::new()).unwrap().new_bytes()).unwrap()
    };
    assert_eq!(
        point("10.0.0.2", &["x"]),
        "10.0.0.9 x\n# BEGIN a\n10.0.0.1 y\n2001:db8::1 x\n10.0.0.2 x\n# END a\n"
    );
    assert_eq!(
        point("2001:db8::2", &["x"]),
        "10.0.0.9 x\n# BEGIN a\n10.0.0.1 x y\n2001:db8::2 x\n# END a\n"
    );
    assert_eq!(point("10.0.0.1", &["x"]).as_bytes(), before);
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
    // Damage in one block does not affect the others.
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
            // The edit waits as long as it is held.
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
