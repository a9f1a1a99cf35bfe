//! Many processes use one file: no update is lost, and no reader sees a partial file.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostsfile::{Block, Edit, Entry, FileOptions, HostsFile, OnConflict, Tag};

const PROCESSES: usize = 8;
const ADDS: usize = 100;
const BEFORE: &str = "127.0.0.1 localhost\n# the user's own\n10.0.0.1 printer\n";

#[test]
fn eight_processes_lose_nothing_and_readers_see_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|threads| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    let mut contents = 0_usize;
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let text = std::fs::read_to_string(&path).expect("the file is there at all times");
                        assert!(text.starts_with(BEFORE), "torn: {text:?}");
                        assert!(
                            text == BEFORE || text.ends_with("# END shared\n"),
                            "torn: {text:?}"
                        );
                        let names = text.lines().filter(|l| l.starts_with("127.77.")).count();
                        assert!(names >= last, "names were lost: {last} -> {names}");
                        last = names;
                        contents += 1;
                    }
                    contents
                })
            })
            .collect();
        let workers: Vec<_> = (0..PROCESSES)
            .map(|worker| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "adds_its_names", "--ignored"])
                    .env("HOSTSFILE_TEST_PATH", &path)
                    .env("HOSTSFILE_TEST_WORKER", worker.to_string())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let outcomes: Vec<bool> = workers
            .into_iter()
            .map(|mut w| w.wait().unwrap().success())
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(|ok| *ok), "{outcomes:?}");
        readers.into_iter().map(|r| r.join().unwrap()).sum::<usize>()
    });
    let hosts = HostsFile::open(&path).unwrap();
    let doc = hosts.read().unwrap();
    for worker in 0..PROCESSES {
        for n in 0..ADDS {
            assert_eq!(
                doc.lookup(&format!("w{worker}-n{n}.test")).len(),
                1,
                "w{worker}-n{n} is lost"
            );
        }
    }
    assert!(seen > 0);
    println!("the readers saw {seen} whole files");
    hosts
        .edit(&[Edit::RemoveBlock(Tag::new("shared").unwrap())])
        .unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
#[ignore = "run by the test of the race, in processes of its own"]
fn adds_its_names() {
    let (Some(path), Ok(worker)) = (
        std::env::var_os("HOSTSFILE_TEST_PATH"),
        std::env::var("HOSTSFILE_TEST_WORKER"),
    ) else {
        return;
    };
    // Eight writers make each other wait longer than the default allows.
    let hosts = FileOptions::new()
        .first_lock_wait(Duration::from_secs(10))
        .open(path)
        .unwrap();
    for n in 0..ADDS {
        let entry = Entry::parse(&format!("127.77.{worker}.{n}"), [format!("w{worker}-n{n}.test")]).unwrap();
        let block = Block::new(Tag::new("shared").unwrap()).with_entries([entry]);
        assert!(hosts.edit(&[Edit::AddToBlock(block)]).unwrap().changed);
    }
}

#[test]
#[cfg(unix)]
fn what_a_program_without_our_lock_appends_is_not_lost() {
    use std::io::Write as _;
    const LINES: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    let hosts = HostsFile::open(&path).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let appender = threads.spawn(|| {
            for number in 0..LINES {
                // As `echo … >> hosts` does.
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(
                    format!("10.1.{}.{} appended{number}\n", number / 250, number % 250).as_bytes(),
                )
                .unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut round = 0_u8;
        while !done.load(Ordering::Relaxed) {
            round = round.wrapping_add(1);
            let entry = Entry::new([127, 77, 0, round].into(), ["ours"]).unwrap();
            let block = Block::new(Tag::new("shared").unwrap()).with_entries([entry]);
            match hosts.edit(&[Edit::SetBlock(block)]) {
                Ok(_) | Err(hostsfile::Error::Changed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        appender.join().unwrap();
    });
    let text = std::fs::read_to_string(&path).unwrap();
    let lost: Vec<_> = (0..LINES)
        .filter(|number| !text.contains(&format!(" appended{number}\n")))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {LINES} lines are lost: {lost:?}",
        lost.len()
    );
    assert_eq!(text.matches(" appended").count(), LINES, "a line is there twice");
}

#[test]
fn eight_writers_of_own_lines_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    std::thread::scope(|threads| {
        for worker in 0..8_u8 {
            let path = &path;
            threads.spawn(move || {
                let patient = FileOptions::new().first_lock_wait(Duration::from_secs(60));
                let hosts = patient.open(path).unwrap();
                for number in 0..25_u8 {
                    let entry = Entry::new(
                        [10, 1 + worker, 0, number].into(),
                        [format!("n{worker}-{number}")],
                    );
                    let entry = entry.unwrap();
                    hosts
                        .edit_with(|document| document.adding(&entry, OnConflict::Refuse))
                        .unwrap();
                }
            });
        }
    });
    let document = HostsFile::open(&path).unwrap().read().unwrap();
    assert_eq!(document.entries().count(), 2 + 8 * 25);
    assert!(document.duplicates().is_empty());
}
