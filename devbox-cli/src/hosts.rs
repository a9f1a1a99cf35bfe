//! `devbox hosts`: edit a hosts file by hand. The system's file is edited by the helper, any other one in this process.

mod args;
mod backups;
mod entries;
mod import;
mod look;
mod shown;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use devbox_helper::to_wire;
use devbox_helper_client::{Client, HelperError, HostsReport, StartOptions};
use hostsfile::{
    Document, Edit, Error, FileOptions, HostsFile, Layout, Options, Resolver, Shell, Tag, manual_instructions,
};
use serde_json::json;

pub(crate) use self::args::HostsArgs;
use self::args::HostsCommand;
use crate::failure::{Failure, code, quoted};
use crate::{helper, print, sys};

/// `devbox hosts`.
pub(crate) fn run(args: &HostsArgs) -> Result<ExitCode, Failure> {
    let hosts = Hosts::open(args)?;
    match &args.command {
        HostsCommand::List => hosts.list(),
        HostsCommand::Get { what } => hosts.get(what),
        HostsCommand::Add { address, names, how } => hosts.add(address, names, how),
        HostsCommand::Rm { all: true, .. } => hosts.edit(&[Edit::RemoveBlock(hosts.tag.clone())]),
        HostsCommand::Rm {
            what, comment, own, ..
        } => hosts.remove(what, comment.as_deref(), *own),
        HostsCommand::Comment { what, text, own } => hosts.comment(what, text.as_deref(), *own),
        HostsCommand::Set { address, names } => hosts.set(address.as_deref(), names),
        HostsCommand::Import { other, from } => hosts.import(other.as_deref(), *from),
        HostsCommand::Tags => hosts.tags(),
        HostsCommand::Diff { other } => hosts.diff(other.as_deref()),
        HostsCommand::Lint { resolver, all, multi } => {
            hosts.lint(if *all { &Resolver::ALL } else { resolver }, *multi)
        }
        HostsCommand::Repair => hosts.repair(),
        HostsCommand::Enable => hosts.edit(&[Edit::EnableBlock(hosts.tag.clone())]),
        HostsCommand::Disable => hosts.edit(&[Edit::DisableBlock(hosts.tag.clone())]),
        HostsCommand::Toggle => hosts.toggle(),
        HostsCommand::Backup { to } => hosts.back_up(to.as_deref()),
        HostsCommand::Restore { copy, from } => hosts.restore(copy.as_deref(), from.as_deref()),
        HostsCommand::Flush => hosts.flush(),
    }
}

struct Hosts<'a> {
    args: &'a HostsArgs,
    path: PathBuf,
    file: HostsFile,
    /// How edits are planned.
    options: Options,
    /// Whether the helper edits it.
    is_system: bool,
    tag: Tag,
}

impl<'a> Hosts<'a> {
    fn open(args: &'a HostsArgs) -> Result<Self, Failure> {
        let path = match &args.file {
            Some(file) => std::path::absolute(file).map_err(Failure::because)?,
            None => devbox_engine::system_hosts_file().map_err(failed)?,
        };
        let real = |path: &Path| path.canonicalize().ok();
        let is_system = real(&path).is_some() && real(&path) == real(&hostsfile::system_path());
        let how = &args.writing;
        if is_system && (how.create || how.in_place || how.force || how.one_per_line) {
            let why =
                "--create, --in-place, --force and --one-per-line are for other files than the system's";
            return Err(Failure::new(code::FAILED, why));
        }
        let mut options = Options::new();
        if how.one_per_line {
            options = options.layout(Layout::names_per_line(1));
        }
        // A file that was deleted is what a backup is for.
        let restores = matches!(args.command, HostsCommand::Restore { .. });
        let writes = matches!(
            args.command,
            HostsCommand::Add { .. } | HostsCommand::Set { .. } | HostsCommand::Import { .. }
        );
        let file = FileOptions::new()
            .create_missing(restores || how.create)
            .in_place(how.in_place)
            .override_read_only(how.force)
            .plan_options(options.clone())
            .open(&path)
            .map_err(|error| match error {
                Error::NotFound { .. } if writes => failed(error).help("--create makes it"),
                error => failed(error),
            })?;
        let tag = Tag::new(args.tag.as_deref().unwrap_or(DEFAULT_TAG)).map_err(failed)?;
        Ok(Hosts {
            args,
            path,
            file,
            options,
            is_system,
            tag,
        })
    }

    fn read(&self) -> Result<Document, Failure> {
        self.file.read().map_err(|error| self.told(error))
    }

    /// Without a tag it repairs what is proved ours: `BEGIN` and `END` are words that anybody may write into a comment.
    fn repair(&self) -> Result<ExitCode, Failure> {
        if self.args.tag.is_some() {
            return self.edit(&[Edit::RepairBlock(self.tag.clone())]);
        }
        self.edit_warning(
            |document| {
                let word = SESSION_WORD.to_owned();
                let ours = document.owners().into_keys().filter(|tag| is_ours(document, tag));
                let orphans = std::iter::once(Edit::RemoveOrphans { word });
                Ok(ours.map(Edit::RepairBlock).chain(orphans).collect())
            },
            |document| {
                let others = document.damage().into_iter();
                let others = others.filter(|(tag, ..)| !is_ours(document, tag));
                Ok(others
                    .map(|(tag, damage, _)| {
                        format!("block {tag}: {damage}; nothing proves that it is devbox's (--tag {tag} repairs it)")
                    })
                    .collect())
            },
        )
    }

    fn toggle(&self) -> Result<ExitCode, Failure> {
        self.edit_with(|document| {
            let block = document.block(&self.tag)?;
            let tag = self.tag.clone();
            Ok(vec![if block.is_some_and(|block| block.enabled) {
                Edit::DisableBlock(tag)
            } else {
                Edit::EnableBlock(tag)
            }])
        })
    }

    fn flush(&self) -> Result<ExitCode, Failure> {
        let commands = if self.args.dry_run {
            Vec::new()
        } else {
            hostsfile::flush().map_err(Failure::because)?.commands
        };
        if self.args.output.is_json() {
            print::json(&json!({ "commands": commands }));
        } else if commands.is_empty() && !self.args.dry_run {
            print::out("nothing here caches names\n");
        } else {
            commands
                .iter()
                .for_each(|command| print::out(&format!("{command}\n")));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn edit(&self, edits: &[Edit]) -> Result<ExitCode, Failure> {
        self.edit_with(|_| Ok(edits.to_vec()))
    }

    fn edit_with(&self, decide: impl Fn(&Document) -> Result<Vec<Edit>, Error>) -> Result<ExitCode, Failure> {
        self.edit_warning(decide, |_| Ok(Vec::new()))
    }

    /// Carries edits out: by the helper if the file is the system's. They are decided again if the file changes meanwhile.
    /// `warn` sees the file as it was before.
    fn edit_warning(
        &self,
        decide: impl Fn(&Document) -> Result<Vec<Edit>, Error>,
        warn: impl FnOnce(&Document) -> Result<Vec<String>, Error>,
    ) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let told = |error| self.told(error);
        let edits = decide(&document).map_err(told)?;
        let plan = document.plan(&edits, &self.options).map_err(told)?;
        if self.args.dry_run {
            self.show_diff(&plan.diff());
            return Ok(ExitCode::SUCCESS);
        }
        let by_hand = || manual_instructions(&plan, &self.path, Shell::platform());
        let (changed, in_place) = if !plan.changed() {
            (false, false)
        } else if self.is_system {
            let report = self.edit_by_helper(&decide, &by_hand)?;
            (report.changed, report.in_place)
        } else {
            let outcome = self.file.edit_with(&decide).map_err(|error| match error {
                Error::PermissionDenied { .. } => with_instructions(self.told(error), &by_hand()),
                error => self.told(error),
            })?;
            (outcome.changed, outcome.method == hostsfile::Method::InPlace)
        };
        let mut warnings = warn(&document).map_err(told)?;
        if plan.changed() {
            let conflicts = plan.conflicts().iter();
            warnings.extend(conflicts.map(|conflict| {
                format!(
                    "{} is also on your own line {}, with the address {}, which most resolvers take",
                    conflict.name, conflict.line, conflict.address
                )
            }));
        }
        self.done(changed, in_place, &warnings);
        if changed && self.args.writing.flush {
            hostsfile::flush().map_err(Failure::because)?;
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
            let edits = decide(&document).map_err(|error| self.told(error))?;
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

    fn done(&self, changed: bool, in_place: bool, warnings: &[String]) {
        if self.args.output.is_json() {
            print::json(&json!({
                "file": self.path, "changed": changed, "in_place": in_place, "warnings": warnings,
            }));
            return;
        }
        let what = if changed { "changed" } else { "unchanged" };
        print::out(&format!("{}: {what}\n", self.path.display()));
        for warning in warnings {
            print::note(&format!("warning: {warning}"));
        }
    }

    /// A failure, with the file's path where the error does not name it.
    fn told(&self, error: Error) -> Failure {
        let about_content = matches!(
            error,
            Error::DamagedBlock { .. }
                | Error::NoSuchBlock { .. }
                | Error::LineChanged { .. }
                | Error::NotAnEntry { .. }
                | Error::Overlap { .. }
                | Error::NameTaken { .. }
                | Error::Utf16
        );
        let help = match &error {
            Error::DamagedBlock { tag, .. } => {
                let file = self.args.file.as_ref();
                let file = file.map_or_else(String::new, |file| format!("--file {} ", quoted(file)));
                Some(format!(
                    "devbox hosts {file}repair --tag {tag} repairs the markers"
                ))
            }
            Error::NameTaken { .. } => Some("--move takes the name from there".to_owned()),
            Error::NoSuchBlock { .. } => Some("devbox hosts tags lists the blocks".to_owned()),
            Error::ReadOnlyFile { .. } if !self.is_system => {
                Some("--force changes it all the same".to_owned())
            }
            _ => None,
        };
        let failure = failed(error);
        let failure = if about_content {
            failure.about(&self.path)
        } else {
            failure
        };
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// Whether a block's name, its owner or the seal of one of its lines proves it ours.
fn is_ours(document: &Document, tag: &Tag) -> bool {
    let first_word = tag.as_str().split('-').next();
    let is_sealed = || {
        let strays = document.strays();
        strays
            .iter()
            .any(|stray| stray.intact && stray.mark == tag.mark())
    };
    let is_owned = || {
        let owners = document.owners().remove(tag).unwrap_or_default();
        owners.iter().any(Option::is_some)
    };
    first_word == Some(SESSION_WORD) || is_sealed() || is_owned()
}

/// A failure of the hosts file.
fn failed(error: Error) -> Failure {
    let code = if matches!(error, Error::Locked { .. }) {
        code::UNAVAILABLE
    } else {
        code::FAILED
    };
    let help = match &error {
        Error::InvalidName { name, .. } if hostsfile::HostName::with_underscore(name).is_ok() => {
            Some("--underscore allows underscores")
        }
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
pub(crate) const DEFAULT_TAG: &str = "devbox";
/// The first word of the tags of sessions' blocks.
const SESSION_WORD: &str = "devbox";
