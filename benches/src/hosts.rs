//! Edits of large hosts files, compared with two published crates and the floor: read, scan for line ends, append, rename.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use hostsfile::{Block, Document, Edit, Entry, HostName, HostsFile, Method, Options, Tag, plan};
use innernet_hostsfile::HostsBuilder;

use crate::measure::peak_memory_of;
use crate::{Bench, FLOOR, OURS, Report, Unit};

/// `cargo xtask bench hosts`
pub(crate) const BENCH: Bench = Bench {
    name: "hosts",
    about: "hosts files of 100,000 and 1,000,000 lines: edits, lookups, memory",
    run,
};

/// innernet's crate, which has the same name as ours.
const INNERNET: &str = "hostsfile 2.0.0";
const HOSTFILE: &str = "hostfile 1.1.1";
const RATIO: Unit = Unit {
    name: "x file",
    more_is_better: false,
};
const RUNS: usize = 25;

fn run(report: &mut Report) -> Result<()> {
    let dir = memory_directory()?;
    report.note(format!(
        "files are in {}; the best of {RUNS} runs or more, subjects in turn",
        dir.path().display()
    ));
    // The largest first, since memory that an earlier part has freed would hide a peak.
    memory(report, dir.path())?;
    let large = edits(report, dir.path(), 1_000_000)?;
    let small = edits(report, dir.path(), 100_000)?;
    report.figure(
        "1,000,000 lines: cost of a line against 100,000",
        OURS,
        large.ours / small.ours / 10.0,
        Unit::COUNT,
    );
    report.figure(
        "1,000,000 lines: cost of a line against 100,000",
        FLOOR,
        large.floor / small.floor / 10.0,
        Unit::COUNT,
    );
    batch(report, dir.path())?;
    unchanged(report, dir.path())?;
    parse(report, dir.path())?;
    commands(report, dir.path())
}

/// A directory in memory if there is one, so that the disk is not measured.
fn memory_directory() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("devbox-bench")
        .tempdir_in(base)
        .context("a directory for the files")
}

fn write_file(dir: &Path, lines: usize) -> Result<(PathBuf, usize)> {
    let path = dir.join("hosts");
    let mut text = String::from("127.0.0.1 localhost\n");
    for n in 0..lines {
        text.push_str(&format!(
            "{} host-{n}.example.test\n",
            Ipv4Addr::from_bits(0x0A00_0000 + u32::try_from(n)?)
        ));
    }
    fs::write(&path, &text)?;
    Ok((path, text.len()))
}

fn entries(count: usize) -> Result<Vec<Entry>> {
    (0..count)
        .map(|n| {
            let address = IpAddr::V4(Ipv4Addr::from_bits(0x7F4D_0000 + u32::try_from(n)?));
            Ok(Entry::new(
                address,
                [HostName::new(&format!("service-{n}.backend.svc"))?],
            )?)
        })
        .collect()
}

fn block(entries: Vec<Entry>) -> Result<Edit> {
    Ok(Edit::SetBlock(
        Block::new(Tag::new("devbox")?).with_entries(entries),
    ))
}

struct Best {
    ours: f64,
    floor: f64,
}

/// Read, plan 50 new entries, write. The file is restored before each run, which is not measured.
fn edits(report: &mut Report, dir: &Path, lines: usize) -> Result<Best> {
    let (path, _) = write_file(dir, lines)?;
    let before = fs::read(&path)?;
    let entries = entries(50)?;
    let edit = [block(entries.clone())?];
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // Short runs need more repetitions to hit a quiet moment of the machine.
    let runs = if lines < 1_000_000 { 4 * RUNS } else { RUNS };
    for round in 0..=runs {
        for (subject, times) in times.iter_mut().enumerate() {
            fs::write(&path, &before)?;
            let start = std::time::Instant::now();
            match subject {
                0 => ensure!(HostsFile::open(&path)?.edit(&edit)?.method == Method::Renamed),
                1 => floor(&path, &entries)?,
                _ => ensure!(innernet(&entries).write_to(&path)?),
            }
            // The first round is a warm-up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let row = format!("{} lines: read, add 50, write", grouped(lines));
    let [ours, floor, peer] = times.map(|t| best(&t));
    report.figure(&row, OURS, ours, Unit::MILLISECONDS);
    report.figure(&row, FLOOR, floor, Unit::MILLISECONDS);
    report.figure(&row, INNERNET, peer, Unit::MILLISECONDS);
    Ok(Best { ours, floor })
}

/// The least that any tool must do to add lines without ever showing half a file.
fn floor(path: &Path, entries: &[Entry]) -> Result<()> {
    let mut bytes = fs::read(path)?;
    black_box(memchr::memchr_iter(b'\n', &bytes).count());
    for entry in entries {
        writeln!(bytes, "{entry}")?;
    }
    let temp = path.with_extension("new");
    File::create(&temp)?.write_all(&bytes)?;
    fs::rename(&temp, path)?;
    Ok(())
}

fn innernet(entries: &[Entry]) -> HostsBuilder {
    let mut builder = HostsBuilder::new("devbox");
    for entry in entries {
        builder.add_hostnames(
            entry.address,
            entry.names.iter().map(HostName::as_str).collect::<Vec<_>>(),
        );
    }
    builder
}

/// A list of names, such as ad blockers use, in one write.
fn batch(report: &mut Report, dir: &Path) -> Result<()> {
    const ROW: &str = "100,000 names in one write";
    let path = dir.join("hosts");
    let entries = entries(100_000)?;
    let edit = [block(entries.clone())?];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=RUNS {
        for (subject, times) in times.iter_mut().enumerate() {
            fs::write(&path, "127.0.0.1 localhost\n")?;
            let start = std::time::Instant::now();
            match subject {
                0 => ensure!(HostsFile::open(&path)?.edit(&edit)?.changed),
                _ => ensure!(innernet(&entries).write_to(&path)?),
            }
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [ours, peer] = times.map(|t| best(&t));
    report.figure(ROW, OURS, ours, Unit::MILLISECONDS);
    report.figure(ROW, INNERNET, peer, Unit::MILLISECONDS);
    Ok(())
}

/// The same edit again: what it costs, and that the file is not touched.
fn unchanged(report: &mut Report, dir: &Path) -> Result<()> {
    let (path, _) = write_file(dir, 100_000)?;
    let edit = [block(entries(50)?)?];
    let hosts = HostsFile::open(&path)?;
    hosts.edit(&edit)?;
    let innernet = innernet(&entries(50)?);
    let modified = fs::metadata(&path)?.modified()?;
    let mut writes = 0.0;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = std::time::Instant::now();
        writes += f64::from(u8::from(hosts.edit(&edit)?.changed));
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    writes += f64::from(u8::from(fs::metadata(&path)?.modified()? != modified));
    report.figure(
        "100,000 lines: the same edit again",
        OURS,
        best(&times),
        Unit::MILLISECONDS,
    );
    report.figure(
        "100,000 lines: writes of the same edit again",
        OURS,
        writes,
        Unit::COUNT,
    );
    innernet.write_to(&path)?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = std::time::Instant::now();
        black_box(innernet.write_to(&path)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report.figure(
        "100,000 lines: the same edit again",
        INNERNET,
        best(&times),
        Unit::MILLISECONDS,
    );
    Ok(())
}

/// Reading entries, without any edit.
fn parse(report: &mut Report, dir: &Path) -> Result<()> {
    const READ: &str = "100,000 lines: all entries read";
    const FIND: &str = "100,000 lines: first lookup of a name";
    const PLAN: &str = "100,000 lines: plan of 50 entries, nothing written";
    let (path, _) = write_file(dir, 100_000)?;
    let bytes = fs::read(&path)?;
    let edit = [block(entries(50)?)?];
    let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=RUNS {
        for (subject, times) in times.iter_mut().enumerate() {
            let start = std::time::Instant::now();
            match subject {
                0 => ensure!(
                    Document::parse(fs::read(&path)?)
                        .entries()
                        .map(|e| e.names.len())
                        .sum::<usize>()
                        == 100_001
                ),
                1 => {
                    let parsed = hostfile::parse_file(&path).map_err(anyhow::Error::msg)?;
                    ensure!(parsed.iter().map(|e| e.names.len()).sum::<usize>() == 100_001);
                }
                2 => ensure!(
                    Document::parse(bytes.as_slice())
                        .lookup("host-99999.example.test")
                        .len()
                        == 1
                ),
                _ => ensure!(plan(&bytes, &edit, &Options::new())?.changed()),
            }
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [read, peer, find, plan] = times.map(|t| best(&t));
    report.figure(READ, OURS, read, Unit::MILLISECONDS);
    report.figure(READ, HOSTFILE, peer, Unit::MILLISECONDS);
    report.figure(FIND, OURS, find, Unit::MILLISECONDS);
    report.figure(PLAN, OURS, plan, Unit::MILLISECONDS);
    Ok(())
}

/// The command, as a user types it, on files that are far too large.
fn commands(report: &mut Report, dir: &Path) -> Result<()> {
    let Some(program) = std::env::var_os("DEVBOX_BIN") else {
        report.note("DEVBOX_BIN is not set: the command is not measured; use `cargo xtask bench hosts`");
        return Ok(());
    };
    let rows: [(&str, usize, &[&str]); 2] = [
        (
            "1,000,000 lines: `devbox hosts add`",
            1_000_000,
            &["add", "127.77.1.1", "a.test"],
        ),
        (
            "200,000 lines: `devbox hosts get NAME`",
            200_000,
            &["get", "host-199999.example.test"],
        ),
    ];
    for (row, lines, words) in rows {
        let (path, _) = write_file(dir, lines)?;
        let before = fs::read(&path)?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            fs::write(&path, &before)?;
            let mut command = Command::new(&program);
            command
                .args(["hosts", "--file"])
                .arg(&path)
                .args(words)
                .stdout(Stdio::null());
            let start = std::time::Instant::now();
            ensure!(command.status()?.success(), "{row}");
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        report.figure(row, OURS, best(&times), Unit::MILLISECONDS);
    }
    Ok(())
}

/// The most memory that an edit of a large file takes, in lengths of the file.
fn memory(report: &mut Report, dir: &Path) -> Result<()> {
    const ROW: &str = "1,000,000 lines: peak memory of an edit";
    let (path, bytes) = write_file(dir, 1_000_000)?;
    let edit = [block(entries(50)?)?];
    let (outcome, ours) = peak_memory_of(|| HostsFile::open(&path).and_then(|hosts| hosts.edit(&edit)));
    ensure!(outcome?.changed);
    write_file(dir, 1_000_000)?;
    let (outcome, peer) = peak_memory_of(|| entries(50).map(|e| innernet(&e).write_to(&path)));
    ensure!(outcome??);
    for (subject, peak) in [(OURS, ours), (INNERNET, peer)] {
        match peak {
            Some(kib) => report.figure(ROW, subject, kib as f64 * 1024.0 / bytes as f64, RATIO),
            None => report.note("peak memory cannot be read on this system"),
        }
    }
    Ok(())
}

/// The fastest run, since what others do on the machine meanwhile should not be measured.
fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

fn grouped(lines: usize) -> String {
    if lines >= 1_000_000 {
        format!("{},000,000", lines / 1_000_000)
    } else {
        format!("{},000", lines / 1000)
    }
}
