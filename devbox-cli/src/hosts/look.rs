//! `devbox hosts list`, `get`, `tags`, `diff` and `lint`: what is in a file.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hostsfile::{Cidr, Diff, Edit, LintOptions, Options, Resolver, Tag};
use serde_json::json;

use super::Hosts;
use super::args::Multi;
use super::shown::{Shown, entries};
use crate::failure::{Failure, code};
use crate::print::{self, Table};

/// glibc's settings.
const HOST_CONF: &str = "/etc/host.conf";

/// The column that is left out where no entry has a comment.
const COMMENT: &str = "COMMENT";

impl Hosts<'_> {
    pub(super) fn list(&self) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let found = entries(&document, |entry| {
            self.args.tag.is_none() || entry.block.as_deref() == Some(self.tag.as_str())
        });
        self.show(&found);
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn get(&self, what: &str) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let found = if let Ok(address) = what.parse::<IpAddr>() {
            entries(&document, |entry| entry.enabled && entry.address == address)
        } else if what.contains('/') {
            let network: Cidr = what.parse().map_err(|error| self.told(error))?;
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
        let mut table = Table::new(["LINE", "ADDRESS", "NAMES", "BLOCK", "STATE", COMMENT]);
        for entry in found {
            table.row([
                entry.line.to_string(),
                entry.shown_address(),
                entry.names.join(" "),
                entry.block.clone().unwrap_or_else(|| "-".to_owned()),
                if entry.enabled { "on" } else { "off" }.to_owned(),
                entry.comment.clone(),
            ]);
        }
        if found.iter().all(|entry| entry.comment.is_empty()) {
            table = table.without(COMMENT);
        }
        if !table.is_empty() {
            print::out(&table.render());
        }
    }

    /// The blocks, whole or damaged.
    pub(super) fn tags(&self) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let mut table = Table::new(["BLOCK", "LINES", "NAMES", "STATE", "OWNER"]);
        for block in document.blocks() {
            let state = if block.enabled { "on" } else { "off" };
            let owner = block.owner.as_ref().map(ToString::to_string);
            let lines = [block.lines.start, block.lines.end - 1];
            if self.args.output.is_json() {
                print::json(&json!({
                    "block": block.tag, "lines": lines, "names": block.names().len(), "state": state, "owner": owner,
                }));
            }
            table.row([
                block.tag.to_owned(),
                format!("{}-{}", lines[0], lines[1]),
                block.names().len().to_string(),
                state.to_owned(),
                owner.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        for (tag, damage, lines) in document.damage() {
            let shown = lines.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            if self.args.output.is_json() {
                print::json(&json!({
                    "block": tag.as_str(), "lines": lines, "names": null, "state": "damaged", "owner": null,
                    "message": damage.to_string(),
                }));
            }
            table.row([
                tag.to_string(),
                shown,
                "-".to_owned(),
                format!("damaged: {damage}"),
                "-".to_owned(),
            ]);
        }
        if !self.args.output.is_json() && !table.is_empty() {
            print::out(&table.render());
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn diff(&self, other: Option<&Path>) -> Result<ExitCode, Failure> {
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
                    .map_err(|error| self.told(error))?
                    .into_bytes()
            }
        };
        self.show_diff(&Diff::between(&base, document.render()));
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn show_diff(&self, diff: &Diff) {
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

    pub(super) fn lint(&self, resolvers: &[Resolver], multi: Option<Multi>) -> Result<ExitCode, Failure> {
        let document = self.read()?;
        let options = lint_options(multi)?;
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
        let found = resolvers
            .iter()
            .flat_map(|resolver| document.lint_with(*resolver, &options));
        for diagnostic in found {
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
}

/// How this system's glibc is set up. Where there is none, a file is checked for another system, which is set up as most are.
fn lint_options(multi: Option<Multi>) -> Result<LintOptions, Failure> {
    if let Some(multi) = multi {
        return Ok(LintOptions::new().multi(multi == Multi::On));
    }
    match std::fs::read(HOST_CONF) {
        Ok(text) => Ok(LintOptions::from_host_conf(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound && Resolver::platform() == Resolver::Glibc => {
            Ok(LintOptions::from_host_conf(b""))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(LintOptions::new()),
        Err(error) => Err(
            Failure::new(code::FAILED, format!("cannot read {HOST_CONF}: {error}"))
                .help("--multi on or --multi off says what is in it"),
        ),
    }
}
