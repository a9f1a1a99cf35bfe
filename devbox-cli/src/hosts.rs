//! `devbox hosts`: edit a hosts file by hand. The system's file is edited by the helper, any other one in this process.

mod args;
mod backups;
mod shown;

use std::collections::HashSet;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use devbox_helper::to_wire;
use devbox_helper_client::{Client, HelperError, HostsReport, StartOptions};
use hostsfile::{
    Block, Cidr, Comment, Diff, Document, Edit, Entry, Error, FileOptions, HostName, HostsFile, OnConflict,
    Options, Resolver, Shell, Tag, manual_instructions,
};
use serde_json::json;

pub(crate) use self::args::HostsArgs;
use self::args::HostsCommand;
use self::args::HowToName;
use self::shown::{Shown, entries};
use crate::failure::{Failure, code};
use crate::print::{self, Table};
use crate::{helper, sys};

/// `devbox hosts`.
pub(crate) fn run(args: &HostsArgs) -> Result<ExitCode, Failure> {
    let hosts = Hosts::open(args)?;
    match &args.command {
        HostsCommand::List => hosts.list(),
        HostsCommand::Get { what } => hosts.get(what),
        HostsCommand::Add { address, names, how } => hosts.add(address, names, how),
        HostsCommand::Rm { names, own } => hosts.remove(names, *own),
        HostsCommand::Set { address, names } => hosts.set(address.as_deref(), names),
        HostsCommand::Diff { other } => hosts.diff(other.as_deref()),
        HostsCommand::Lint { resolver, all } => hosts.lint(if *all { &Resolver::ALL } else { resolver }),
        HostsCommand::Repair => hosts.repair(),
        HostsCommand::Enable => hosts.edit(&[Edit::EnableBlock(hosts.tag.clone())]),
        HostsCommand::Disable => hosts.edit(&[Edit::DisableBlock(hosts.tag.clone())]),
        HostsCommand::Backup { to } => hosts.back_up(to.as_deref()),
        HostsCommand::Restore { copy, from } => hosts.restore(copy.as_deref(), from.as_deref()),
        HostsCommand::Flush => hosts.flush(),
    }
}

struct Hosts<'a> {
    args: &'a HostsArgs,
    path: PathBuf,
    file: HostsFile,
    /// Whether the helper edits it.
    is_system: bool,
    tag: Tag,
}

impl<'a> Hosts<'a> {
    fn open(args: &'a HostsArgs) -> Result<Self, Failure> {
        let path = match &args.file {
            Some(file) => std::path::absolute(file).map_err(Failure::because)?,
            None => devbox_engine::system_hosts_file().map_err(told)?,
        };
        let real = |path: &Path| path.canonicalize().ok();
        let is_system = real(&path).is_some() && real(&path) == real(&hostsfile::system_path());
        // A file that was deleted is what a backup is for.
        let restores = matches!(args.command, HostsCommand::Restore { .. });
        let options = FileOptions::new().create_missing(restores);
        let file = options.open(&path).map_err(told)?;
        let tag = Tag::new(args.tag.as_deref().unwrap_or(DEFAULT_TAG)).map_err(told)?;
        Ok(Hosts {
            args,
            path,
            file,
            is_system,
            tag,
        })
    }

    fn read(&self) -> Result<Document, Failure> {
        self.file.read().map_err(told)
    }

    fn list(&self) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let found = entries(&document, |entry| {
            self.args.tag.is_none() || entry.block.as_deref() == Some(self.tag.as_str())
        });
        self.show(&found);
        Ok(ExitCode::SUCCESS)
    }

    fn get(&self, what: &str) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let found = if let Ok(address) = what.parse::<IpAddr>() {
            entries(&document, |entry| entry.enabled && entry.address == address)
        } else if what.contains('/') {
            let network: Cidr = what.parse().map_err(told)?;
            entries(&document, |entry| {
                entry.enabled && network.contains(entry.address)
            })
        } else {
            let lines: HashSet<usize> = document.lines_with_name(what).iter().map(|e| e.line).collect();
            entries(&document, |entry| entry.enabled && lines.contains(&entry.line))
        };
        if found.is_empty() {
            return Err(Failure::new(
                code::FAILED,
                format!("{}: nothing about {what}", self.path.display()),
            ));
        }
        self.show(&found);
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, found: &[Shown]) {
        if self.args.output.is_json() {
            found.iter().for_each(|entry| print::json(&entry.json()));
            return;
        }
        let mut table = Table::new(["LINE", "ADDRESS", "NAMES", "BLOCK", "STATE"]);
        for entry in found {
            table.row([
                entry.line.to_string(),
                entry.shown_address(),
                entry.names.join(" "),
                entry.block.clone().unwrap_or_else(|| "-".to_owned()),
                if entry.enabled { "on" } else { "off" }.to_owned(),
            ]);
        }
        if !table.is_empty() {
            print::out(&table.render());
        }
    }

    fn add(&self, address: &str, names: &[String], how: &HowToName) -> Result<ExitCode, Failure> {
        let parse = |name: &String| {
            if how.underscore {
                HostName::with_underscore(name)
            } else {
                HostName::new(name)
            }
        };
        let names = names
            .iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()
            .map_err(told)?;
        let comment = how
            .comment
            .as_deref()
            .map(Comment::new)
            .transpose()
            .map_err(told)?;
        let entry = Entry::parse(address, &names).map_err(told)?.with_comment(comment);
        warn_of_unread(&entry)?;
        if how.own {
            let rule = if how.move_names {
                OnConflict::Move
            } else {
                OnConflict::Refuse
            };
            return self.edit_with(|document| document.adding(&entry, rule));
        }
        let former = if how.also {
            Vec::new()
        } else {
            self.former(&entry)?
        };
        let block = Block::new(self.tag.clone()).with_entries([entry]);
        let done = self.edit(&[if how.also {
            Edit::AddToBlock(block)
        } else {
            Edit::PointInBlock(block)
        }])?;
        for (name, address) in former {
            print::note(&format!("{name} led to {address}; --also keeps both"));
        }
        Ok(done)
    }

    /// The addresses that an entry takes its names from.
    fn former(&self, entry: &Entry) -> Result<Vec<(String, IpAddr)>, Failure> {
        let document = self.read()?;
        let block = document.block(&self.tag).map_err(told)?;
        let mut former = Vec::new();
        for held in block.iter().flat_map(|block| &block.entries) {
            let is_other = held.address != entry.address && held.address.is_ipv4() == entry.address.is_ipv4();
            let names = entry
                .names
                .iter()
                .filter(|name| is_other && held.has(name.as_str()));
            former.extend(names.map(|name| (name.to_string(), held.address)));
        }
        Ok(former)
    }

    fn remove(&self, names: &[String], own: bool) -> Result<ExitCode, Failure> {
        if own {
            return self.edit_with(|document| Ok(document.removing_names(names)));
        }
        let parse = |name: &String| HostName::with_underscore(name);
        let names = names
            .iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()
            .map_err(told)?;
        self.edit(&[Edit::RemoveFromBlock {
            tag: self.tag.clone(),
            names,
        }])
    }

    fn set(&self, address: Option<&str>, names: &[String]) -> Result<ExitCode, Failure> {
        let entries = match address {
            Some(address) => vec![Entry::parse(address, names).map_err(told)?],
            None => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .map_err(Failure::because)?;
                read_entries(&text)?
            }
        };
        self.edit(&[Edit::SetBlock(Block::new(self.tag.clone()).with_entries(entries))])
    }

    fn diff(&self, other: Option<&Path>) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let base = match other {
            Some(other) => std::fs::read(other)
                .map_err(|e| Failure::new(code::FAILED, format!("cannot read {}: {e}", other.display())))?,
            None => {
                let tags = match &self.args.tag {
                    Some(_) => vec![self.tag.clone()],
                    None => document
                        .blocks()
                        .iter()
                        .filter_map(|block| Tag::new(block.tag).ok())
                        .collect(),
                };
                let edits: Vec<Edit> = tags.into_iter().map(Edit::RemoveBlock).collect();
                document
                    .edited(&edits, &Options::new())
                    .map_err(told)?
                    .into_bytes()
            }
        };
        self.show_diff(&Diff::between(&base, document.render()));
        Ok(ExitCode::SUCCESS)
    }

    fn show_diff(&self, diff: &Diff) {
        let diff = diff.with_label(&self.path.display().to_string());
        if !self.args.output.is_json() {
            print::out_bytes(diff.as_bytes());
            return;
        }
        let mut shown = json!({ "file": self.path, "changed": !diff.is_empty(), "diff": diff.to_string() });
        // JSON is UTF-8 (RFC 8259 §8.1), a hosts file need not be.
        if std::str::from_utf8(diff.as_bytes()).is_err() {
            shown["diff_base64"] = BASE64_STANDARD.encode(diff.as_bytes()).into();
        }
        print::json(&shown);
    }

    fn lint(&self, resolvers: &[Resolver]) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let platform = [Resolver::platform()];
        let resolvers = if resolvers.is_empty() {
            &platform
        } else {
            resolvers
        };
        let mut any = false;
        for (tag, damage, lines) in document.damage() {
            any = true;
            if self.args.output.is_json() {
                print::json(
                    &json!({ "line": lines.first(), "kind": "damaged-block", "block": tag.as_str(), "message": damage.to_string() }),
                );
            } else {
                print::out(&format!(
                    "line {}: block {tag}: {damage}\n",
                    lines.first().copied().unwrap_or(1)
                ));
            }
        }
        for diagnostic in resolvers.iter().flat_map(|resolver| document.lint(*resolver)) {
            any = true;
            if self.args.output.is_json() {
                print::json(&json!({
                    "line": diagnostic.line,
                    "resolver": diagnostic.resolver.as_str(),
                    "kind": diagnostic.kind(),
                    "message": diagnostic.finding.to_string(),
                }));
            } else {
                print::out(&format!("{diagnostic}\n"));
            }
        }
        Ok(if any {
            ExitCode::from(code::FAILED)
        } else {
            ExitCode::SUCCESS
        })
    }

    fn repair(&self) -> Result<ExitCode, Failure> {
        let edits = match &self.args.tag {
            Some(_) => vec![Edit::RepairBlock(self.tag.clone())],
            None => {
                let word = SESSION_WORD.to_owned();
                let tags = self.read()?.owners().into_keys();
                let orphans = std::iter::once(Edit::RemoveOrphans { word });
                tags.map(Edit::RepairBlock).chain(orphans).collect()
            }
        };
        self.edit(&edits)
    }

    fn flush(&self) -> Result<ExitCode, Failure> {
        if self.args.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        let flushed = hostsfile::flush().map_err(Failure::because)?;
        if self.args.output.is_json() {
            print::json(&json!({ "commands": flushed.commands }));
        } else if flushed.commands.is_empty() {
            print::out("nothing here caches names\n");
        } else {
            flushed
                .commands
                .iter()
                .for_each(|command| print::out(&format!("{command}\n")));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn edit(&self, edits: &[Edit]) -> Result<ExitCode, Failure> {
        self.edit_with(|_| Ok(edits.to_vec()))
    }

    /// Carries edits out: by the helper if the file is the system's. They are decided again if the file changes meanwhile.
    fn edit_with(&self, decide: impl Fn(&Document) -> Result<Vec<Edit>, Error>) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let edits = decide(&document).map_err(told)?;
        let plan = document.plan(&edits, &Options::new()).map_err(told)?;
        if self.args.dry_run {
            self.show_diff(&plan.diff());
            return Ok(ExitCode::SUCCESS);
        }
        let by_hand = || manual_instructions(&plan, &self.path, Shell::platform());
        if !plan.changed() {
            self.done(false, false);
            return Ok(ExitCode::SUCCESS);
        }
        if self.is_system {
            let report = self.edit_by_helper(&decide, &by_hand)?;
            self.done(report.changed, report.in_place);
        } else {
            let outcome = self.file.edit_with(&decide).map_err(|error| match error {
                Error::PermissionDenied { .. } => with_instructions(told(error), &by_hand()),
                error => told(error),
            })?;
            self.done(outcome.changed, outcome.method == hostsfile::Method::InPlace);
        }
        for conflict in plan.conflicts() {
            print::note(&format!(
                "warning: {} stands in your own line {} too, at {}, which most resolvers take",
                conflict.name, conflict.line, conflict.address
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn edit_by_helper(
        &self,
        decide: &impl Fn(&Document) -> Result<Vec<Edit>, Error>,
        by_hand: &impl Fn() -> String,
    ) -> Result<HostsReport, Failure> {
        let mut helper = self.helper()?;
        let mut attempts = 0;
        loop {
            let document = self.read()?;
            let edits = decide(&document).map_err(told)?;
            let wire = to_wire(&document, &edits).map_err(|e| helper_said(&e, &by_hand()))?;
            attempts += 1;
            match helper.edit_hosts(wire) {
                Ok(report) => return Ok(report),
                // Somebody else was faster: the edits refer to lines, and these have moved.
                Err(devbox_helper_client::Error::Helper(HelperError::LineChanged { .. }))
                    if attempts < ATTEMPTS => {}
                Err(devbox_helper_client::Error::Helper(error)) => {
                    return Err(helper_said(&error, &by_hand()));
                }
                Err(error) => return Err(Failure::because(error)),
            }
        }
    }

    /// A helper for edits by hand. It alone keeps root's rights under sudo.
    fn helper(&self) -> Result<Client, Failure> {
        let caller = sys::caller().map_err(Failure::because)?;
        let mut policy = helper::policy(&self.path, &caller)?;
        policy.allow_user_edits = true;
        policy.check().map_err(Failure::because)?;
        let program = std::env::current_exe().map_err(Failure::because)?;
        let options = StartOptions::new(program).args(helper::arguments(&policy));
        let client = Client::start_with(&options).map_err(Failure::because)?;
        sys::drop_to_caller(&caller).map_err(Failure::because)?;
        Ok(client)
    }

    fn done(&self, changed: bool, in_place: bool) {
        if self.args.output.is_json() {
            print::json(&json!({ "file": self.path, "changed": changed, "in_place": in_place }));
        } else {
            print::out(&format!(
                "{}: {}\n",
                self.path.display(),
                if changed { "changed" } else { "unchanged" }
            ));
        }
    }
}

/// Says what this system's resolver will not read of an entry.
fn warn_of_unread(entry: &Entry) -> Result<(), Failure> {
    let line = Document::parse([]).edited(&[Edit::AppendLine(entry.clone())], &Options::new());
    for found in line.map_err(told)?.lint(Resolver::platform()) {
        print::note(&format!("warning: {}", found.finding));
    }
    Ok(())
}

/// Lines of "ADDRESS NAME... [# comment]".
fn read_entries(text: &str) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (words, comment) = line
            .split_once('#')
            .map_or((line, ""), |(words, comment)| (words, comment.trim()));
        let mut words = words.split_whitespace();
        let Some(address) = words.next() else { continue };
        let entry = Entry::parse(address, words)
            .and_then(|entry| {
                if comment.is_empty() {
                    Ok(entry)
                } else {
                    Ok(entry.with_comment(Comment::new(comment)?))
                }
            })
            .map_err(|e| Failure::new(code::FAILED, format!("line {} of standard input: {e}", index + 1)))?;
        entries.push(entry);
    }
    Ok(entries)
}

/// A failure of the hosts file, with what helps where that is known.
fn told(error: Error) -> Failure {
    let code = if matches!(error, Error::Locked { .. }) {
        code::UNAVAILABLE
    } else {
        code::FAILED
    };
    let help = match &error {
        Error::DamagedBlock { tag, .. } => {
            Some(format!("devbox hosts repair --tag {tag} repairs the markers"))
        }
        Error::NameTaken { .. } => Some("--move takes the name from there".to_owned()),
        _ => None,
    };
    let failure = Failure::new(code, format!("{:#}", anyhow::Error::from(error)));
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn helper_said(error: &HelperError, by_hand: &str) -> Failure {
    let code = if matches!(error, HelperError::Locked { .. }) {
        code::UNAVAILABLE
    } else {
        code::FAILED
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        HelperError::PermissionDenied { .. } => with_instructions(failure, by_hand),
        _ => failure,
    }
}

fn with_instructions(failure: Failure, by_hand: &str) -> Failure {
    failure
        .help("Run it again with sudo, or by hand:")
        .help("")
        .verbatim(by_hand)
}

/// How often edits of single lines are decided again because others changed the file.
const ATTEMPTS: u32 = 100;

/// The block of edits by hand. Sessions have `devbox-…`.
const DEFAULT_TAG: &str = "devbox";
/// The first word of the tags of sessions' blocks.
const SESSION_WORD: &str = "devbox";
