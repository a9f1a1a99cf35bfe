//! `devbox ip`: which key has which address, and what keeps it so.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use ipalloc::store::{FileStore, Persistent};
use ipalloc::{Allocator, Error, Key, LockFile, Pool, Timestamp, import};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;

use crate::args::{self, ConnectArgs, OutputArgs};
use crate::config::{Config, LOCK_FILE};
use crate::failure::{Failure, code};
use crate::print::{self, Table};
use crate::sys;

#[derive(Debug, Args)]
pub(crate) struct IpArgs {
    #[command(subcommand)]
    command: IpCommand,
    #[command(flatten)]
    output: OutputArgs,
    /// Configuration file [default: devbox.yaml in this folder or above it, then the user's]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A prefix to choose addresses from; repeat for more [default: 127.77.0.0/16]
    #[arg(long, global = true, value_name = "CIDR", value_parser = args::prefix)]
    pool: Vec<IpNet>,
}

/// A KEY is `environment/namespace/service`; where only one is meant, `service.namespace` and `service` will do.
#[derive(Debug, Subcommand)]
pub(crate) enum IpCommand {
    /// List every key with its address: live, resting, pinned, locked
    List,
    /// Show the address that a key has or would get, or the key of an address
    Get {
        /// environment/namespace/service, or an address
        #[arg(value_name = "KEY|ADDRESS")]
        what: String,
    },
    /// Give a key this address from now on, on this machine
    Pin {
        /// environment/namespace/service
        key: String,
        /// An address of the pool
        address: IpAddr,
    },
    /// Remove a pin
    Unpin {
        /// environment/namespace/service
        key: String,
    },
    /// End a lease; its address rests before another key gets it
    Release {
        /// environment/namespace/service
        key: String,
    },
    /// Show how full the pool is, and how likely two keys are to want one address
    Stats,
    /// Write the addresses of live and pinned keys to devbox.lock, for the team to commit
    Lock,
    /// Show where live addresses differ from those that follow from the keys; exits with 1 if any do
    Check,
    /// Pin the addresses that ngrokd (ip_mappings.json) or kubefwd (--fwd-conf) assigned
    Import {
        /// The mapping file
        file: PathBuf,
    },
}

/// `devbox ip`.
pub(crate) fn run(args: &IpArgs) -> Result<ExitCode, Failure> {
    // Nothing here takes a right that the user lacks, and what is written is the user's.
    let caller = sys::caller().map_err(Failure::because)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    let connect = ConnectArgs {
        config: args.config.clone(),
        pool: args.pool.clone(),
        ..ConnectArgs::default()
    };
    let config = Config::load(&connect, caller.home.as_deref())?;
    let Some(state) = caller.state_folder() else {
        return Err(
            Failure::new(code::FAILED, "there is no home folder to keep addresses in")
                .help("set XDG_STATE_HOME to a folder of yours"),
        );
    };
    let pool = Pool::new(config.pool.iter().copied()).map_err(Failure::because)?;
    let mut leases = devbox_engine::lease_store(&state, pool).map_err(told)?;
    let lock_path = lock_path(&config)?;
    // A pin that contradicts the lock file must be one that can be taken away.
    let lock = match &args.command {
        IpCommand::Unpin { .. } | IpCommand::Release { .. } => LockFile::new(),
        _ => LockFile::read(&lock_path).map_err(told)?,
    };
    leases
        .set_lock(&lock)
        .map_err(|error| contradiction(error, &lock, &lock_path))?;

    let now = Timestamp::from(SystemTime::now());
    let json = args.output.is_json();
    match &args.command {
        IpCommand::List => list(leases.allocator(), json),
        IpCommand::Get { what } => get(leases.allocator(), what, now, json),
        IpCommand::Pin { key, address } => {
            let key = found_key(leases.allocator(), key)?;
            leases.pin(&key, *address, now).map_err(told)?;
            mapping(&key, *address, "pinned", json);
            Ok(ExitCode::SUCCESS)
        }
        IpCommand::Unpin { key } => {
            let key = found_key(leases.allocator(), key)?;
            let address = leases
                .unpin(&key)
                .map_err(told)?
                .ok_or_else(|| no(&key, "is not pinned"))?;
            mapping(&key, address, "unpinned", json);
            Ok(ExitCode::SUCCESS)
        }
        IpCommand::Release { key } => {
            let key = found_key(leases.allocator(), key)?;
            let held = leases.get(&key).ok_or_else(|| no(&key, "holds no address"))?;
            leases.release(&key, now).map_err(told)?;
            mapping(&key, held, "released", json);
            Ok(ExitCode::SUCCESS)
        }
        IpCommand::Stats => stats(leases.allocator(), json),
        IpCommand::Lock => lock_live(leases.allocator(), lock, &lock_path, json),
        IpCommand::Check => check(leases.allocator(), json),
        IpCommand::Import { file } => pin_all(&mut leases, file, now, json),
    }
}

/// A key with all that is known of it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    key: &'a Key,
    address: IpAddr,
    state: Vec<&'static str>,
    /// Seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

fn rows(allocator: &Allocator) -> Vec<Row<'_>> {
    let mut rows: BTreeMap<(&Key, IpAddr), Row<'_>> = BTreeMap::new();
    let mut row = |key, address, state, since, until| {
        let row = rows.entry((key, address)).or_insert(Row {
            key,
            address,
            state: Vec::new(),
            since,
            until,
        });
        row.state.push(state);
    };
    for lease in allocator.iter() {
        row(lease.key, lease.address, "live", Some(lease.since), None);
    }
    for rest in allocator.resting() {
        row(
            rest.key,
            rest.address,
            "resting",
            Some(rest.since),
            Some(rest.until),
        );
    }
    allocator
        .pins()
        .for_each(|(key, address)| row(key, address, "pinned", None, None));
    allocator
        .locked()
        .for_each(|(key, address)| row(key, address, "locked", None, None));
    rows.into_values().collect()
}

fn list(allocator: &Allocator, json: bool) -> Result<ExitCode, Failure> {
    let rows = rows(allocator);
    if json {
        rows.iter().for_each(print::json);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["KEY", "ADDRESS", "STATE", "SINCE", "RESTS UNTIL"]);
    for row in &rows {
        table.row([
            row.key.to_string(),
            row.address.to_string(),
            row.state.join(", "),
            row.since.map(time).unwrap_or_default(),
            row.until.map(time).unwrap_or_default(),
        ]);
    }
    print::out(&if table.is_empty() {
        "no address is in use\n".to_owned()
    } else {
        table.render()
    });
    Ok(ExitCode::SUCCESS)
}

fn get(allocator: &Allocator, what: &str, now: Timestamp, json: bool) -> Result<ExitCode, Failure> {
    if let Ok(address) = what.parse::<IpAddr>() {
        let mut holders: Vec<&Key> = allocator.holders(address).collect();
        holders.sort();
        if holders.is_empty() {
            return Err(Failure::new(code::FAILED, format!("no key has {address}"))
                .help("`devbox ip list` shows what is in use"));
        }
        for key in holders {
            if json {
                print::json(&json!({ "key": key, "address": address, "state": "live" }));
            } else {
                print::out(&format!("{key}\n"));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let key = found_key(allocator, what)?;
    let (address, state) = match allocator.get(&key) {
        Some(address) => (address, "live"),
        // On a copy: asking changes nothing.
        None => (allocator.clone().lease(&key, now).map_err(told)?, "next"),
    };
    if json {
        print::json(&json!({ "key": key, "address": address, "state": state }));
    } else {
        print::out(&format!("{address}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn stats(allocator: &Allocator, json: bool) -> Result<ExitCode, Failure> {
    let stats = allocator.stats();
    if json {
        print::json(&stats);
        return Ok(ExitCode::SUCCESS);
    }
    let percent = |part: f64| format!("{:.2} %", part * 100.0);
    let lines = [
        ("pool", stats.pool.clone()),
        ("usable", stats.usable.to_string()),
        ("leased", format!("{} by {} keys", stats.leased, stats.keys)),
        ("resting", stats.resting.to_string()),
        ("pinned", stats.pinned.to_string()),
        ("locked", stats.locked.to_string()),
        (
            "fill",
            format!(
                "{}, the chance that a new key finds its first choice taken",
                percent(stats.fill)
            ),
        ),
        (
            "collision",
            format!(
                "{}, the chance that so many keys do not all fit by themselves",
                percent(stats.collision_odds)
            ),
        ),
        (
            "displaced",
            format!("{} keys are not at their first choice", stats.displaced),
        ),
    ];
    print::out(
        &lines
            .map(|(name, value)| format!("{name:<10} {value}\n"))
            .concat(),
    );
    Ok(ExitCode::SUCCESS)
}

fn lock_live(allocator: &Allocator, lock: LockFile, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let (before, mut lock) = (lock.len(), lock);
    let mut conflicts = Vec::new();
    // Lines that are there stay; a key that is live elsewhere is told, and not moved on anybody's machine.
    let live: BTreeMap<&Key, IpAddr> = allocator.iter().map(|lease| (lease.key, lease.address)).collect();
    for (key, address) in live.into_iter().chain(allocator.pins()) {
        match lock.insert(key, address) {
            Ok(()) => {}
            Err(Error::KeyLive { address: locked, .. }) => {
                conflicts.push(format!("{key} is locked to {locked} and has {address} here"));
            }
            Err(error) => conflicts.push(format!("{key} has {address} here: {error} in the lock file")),
        }
    }
    if !conflicts.is_empty() {
        let failure = Failure::new(
            code::FAILED,
            format!(
                "{} contradicts what is live, and is left as it is",
                path.display()
            ),
        );
        let failure = conflicts.iter().fold(failure, |failure, line| failure.help(line));
        return Err(failure.help("").help(
            "`devbox ip release KEY` ends a lease; the key has its locked address when it is leased again",
        ));
    }
    let is_changed = lock.write(path).map_err(told)?;
    let added = lock.len() - before;
    if json {
        print::json(&json!({ "file": path, "changed": is_changed, "added": added, "keys": lock.len() }));
    } else {
        print::out(&format!(
            "{}: {added} added, {} in all\n",
            path.display(),
            lock.len()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn check(allocator: &Allocator, json: bool) -> Result<ExitCode, Failure> {
    let differences = allocator.check().map_err(told)?;
    if json {
        differences.iter().for_each(print::json);
    } else if differences.is_empty() {
        print::out(&match allocator.iter().count() {
            0 => "no key is live\n".to_owned(),
            live => format!("live keys: {live}, each at the address that follows from its name\n"),
        });
    } else {
        let mut table = Table::new(["KEY", "LIVE", "BELONGS TO", "WHICH IS"]);
        for difference in &differences {
            let (live, assigned) = (difference.live.to_string(), difference.assigned.to_string());
            table.row([
                difference.key.to_string(),
                live,
                assigned,
                difference.reason.to_string(),
            ]);
        }
        print::out(&table.render());
    }
    Ok(ExitCode::from(if differences.is_empty() {
        0
    } else {
        code::FAILED
    }))
}

fn pin_all(
    leases: &mut Persistent<FileStore>,
    file: &Path,
    now: Timestamp,
    json: bool,
) -> Result<ExitCode, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::new(code::FAILED, format!("cannot read {}: {error}", file.display())))?;
    let mappings = import::parse(&text).map_err(|error| {
        Failure::new(code::FAILED, format!("{}: {error}", file.display()))
            .help("ngrokd's ip_mappings.json and kubefwd's forwarding configuration can be read")
    })?;
    let refused = leases.update(|allocator| {
        let tries = mappings
            .iter()
            .map(|mapping| (mapping, mapping.pin(allocator, now)));
        Ok(tries
            .filter_map(|(mapping, result)| Some((mapping, result.err()?)))
            .collect::<Vec<_>>())
    });
    let refused = refused.map_err(told)?;
    for line in &mappings {
        if !refused.iter().any(|(other, _)| *other == line) {
            mapping(&line.key, line.address, "pinned", json);
        }
    }
    if refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let failure = Failure::new(
        code::FAILED,
        format!("{} of {} could not be pinned", refused.len(), mappings.len()),
    );
    Err(refused.iter().fold(failure, |failure, (mapping, error)| {
        failure.help(format!("{}: {error}", mapping.key))
    }))
}

fn mapping(key: &Key, address: IpAddr, state: &str, json: bool) {
    if json {
        print::json(&json!({ "key": key, "address": address, "state": state }));
    } else {
        print::out(&format!("{key} {state} {address}\n"));
    }
}

/// The key that is meant: the text itself, or the one known key whose end it is, as `service.namespace` or `service`.
fn found_key(allocator: &Allocator, text: &str) -> Result<Key, Failure> {
    let key = Key::new(text).map_err(Failure::because)?;
    let known: std::collections::BTreeSet<&Key> = rows(allocator).iter().map(|row| row.key).collect();
    if text.contains('/') || known.contains(&key) {
        return Ok(key);
    }
    let end: String = text.rsplit('.').flat_map(|part| ["/", part]).collect();
    let meant: Vec<&Key> = known
        .into_iter()
        .filter(|key| key.as_str().ends_with(&end))
        .collect();
    match meant.as_slice() {
        [key] => Ok((*key).clone()),
        [] => Err(Failure::new(code::FAILED, format!("no key is called {text}"))
            .help("a key is environment/namespace/service, such as dev/backend/orders;")
            .help("`devbox ip list` shows those that are known")),
        several => {
            let failure = Failure::new(
                code::FAILED,
                format!("{text} may be one of {} keys", several.len()),
            );
            Err(several
                .iter()
                .fold(failure, |failure, key| failure.help(key.as_str())))
        }
    }
}

/// Where the lock file is, or is to be: beside the configuration of the project, else in the working folder.
fn lock_path(config: &Config) -> Result<PathBuf, Failure> {
    if let Some(path) = config.lock_file() {
        return Ok(path);
    }
    let working = std::env::current_dir().map_err(Failure::because)?;
    // The user's own configuration belongs to no project.
    let project = config
        .file
        .as_ref()
        .and_then(|file| file.parent())
        .filter(|folder| working.starts_with(folder));
    Ok(project.unwrap_or(&working).join(LOCK_FILE))
}

fn no(key: &Key, what: &str) -> Failure {
    Failure::new(code::FAILED, format!("{key} {what}")).help("`devbox ip list` shows what is known")
}

/// Why a lock file cannot be put in force.
fn contradiction(error: Error, lock: &LockFile, path: &Path) -> Failure {
    let of = |address| {
        lock.iter()
            .find(|(_, at)| *at == address)
            .map_or("?", |(key, _)| key.as_str())
    };
    let path = path.display();
    match &error {
        Error::AddressTaken { address, key } => {
            let other = of(*address);
            Failure::new(
                code::FAILED,
                format!("{path}: {address} is locked for {other}, and pinned to {key} on this machine"),
            )
            .help(format!("`devbox ip unpin {key}` removes the pin"))
        }
        Error::OutOfPool { address, pool } => {
            let key = of(*address);
            Failure::new(
                code::FAILED,
                format!("{path}: {key} has {address}, which the pool {pool} never gives out"),
            )
            .help("name the pool that the file was written for, or remove the line")
        }
        _ => told(error),
    }
}

fn told(error: Error) -> Failure {
    let help: &[&str] = match &error {
        Error::PoolExhausted { .. } => &["a larger pool is named with --pool, or as pool: in devbox.yaml"],
        Error::OutOfPool { .. } => &[
            "never given are network, broadcast and reserved addresses, and by hash those that end in .0 and .255",
        ],
        Error::LockFile { .. } => {
            &["edit the lines that are named; `devbox ip lock` adds what is missing then"]
        }
        Error::AddressTaken { .. } => {
            &["`devbox ip list` shows who has what, by a lease, a pin or a line of devbox.lock"]
        }
        Error::KeyLive { .. } => &["`devbox ip release KEY` ends a lease"],
        Error::Damaged { .. } => &[
            "leases, rests and pins were in it; the next start begins without, and names have the same addresses all the same",
        ],
        Error::OtherPool { .. } => &["name the same pool as before, or move the folder away"],
        _ => &[],
    };
    let locked = matches!(error, Error::Locked { .. });
    let message = format!("{:#}", anyhow::Error::from(error));
    let failure = Failure::new(if locked { code::UNAVAILABLE } else { code::FAILED }, message);
    help.iter().fold(failure, |failure, line| failure.help(*line))
}

fn time(at: Timestamp) -> String {
    let at = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(at.as_secs()))
        .unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn allocator(keys: &[&str]) -> Allocator {
        let mut allocator = Allocator::new(Pool::default());
        for key in keys {
            allocator.lease(&Key::new(key).unwrap(), NOW).unwrap();
        }
        allocator
    }

    #[test]
    fn a_short_name_is_the_one_key_that_ends_in_it() {
        let allocator = allocator(&["dev/backend/orders", "dev/front/web", "test/front/web"]);
        let found = |text| found_key(&allocator, text).map(|key| key.to_string());
        assert_eq!(found("orders").unwrap(), "dev/backend/orders");
        assert_eq!(found("orders.backend").unwrap(), "dev/backend/orders");
        assert_eq!(found("dev/other/new").unwrap(), "dev/other/new");
        assert!(
            found("rders")
                .unwrap_err()
                .to_string()
                .contains("no key is called rders")
        );
        let several = found("web").unwrap_err().to_string();
        assert!(
            several.contains("one of 2 keys") && several.contains("test/front/web"),
            "{several}"
        );
    }

    #[test]
    fn a_row_has_all_that_is_known_of_a_key() {
        let mut allocator = allocator(&["dev/a/live", "dev/a/gone"]);
        let key = |text| Key::new(text).unwrap();
        allocator.release(&key("dev/a/gone"), NOW);
        let live = allocator.get(&key("dev/a/live")).unwrap();
        allocator.pin(&key("dev/a/live"), live, NOW).unwrap();
        let rows = rows(&allocator);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.key.as_str(), row.state.join(", ")))
            .collect();
        assert_eq!(
            shown,
            [
                ("dev/a/gone", "resting".to_owned()),
                ("dev/a/live", "live, pinned".to_owned())
            ]
        );
        assert_eq!(
            rows.iter()
                .filter_map(|row| row.until.map(time))
                .collect::<Vec<_>>(),
            ["2023-11-17T22:13:20Z"]
        );
    }

    #[test]
    fn a_lock_file_gains_lines_and_loses_none_and_a_contradiction_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devbox.lock");
        let mut lock = LockFile::new();
        lock.insert(&Key::new("dev/a/old").unwrap(), "127.77.7.7".parse().unwrap())
            .unwrap();
        let allocator = allocator(&["dev/backend/orders"]);
        lock_live(&allocator, lock, &path, true).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = written.lines().skip(1).collect();
        assert_eq!(
            lines,
            ["dev/a/old = 127.77.7.7", "dev/backend/orders = 127.77.45.67"]
        );

        let mut other = LockFile::new();
        other
            .insert(
                &Key::new("dev/backend/orders").unwrap(),
                "127.77.7.8".parse().unwrap(),
            )
            .unwrap();
        let refused = lock_live(&allocator, other, &path, false)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("dev/backend/orders is locked to 127.77.7.8 and has 127.77.45.67 here"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
    }
}
