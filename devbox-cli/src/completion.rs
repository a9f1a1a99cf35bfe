//! What a shell offers when TAB is pressed: commands and flags, and of `devbox hosts` the names and tags in the file itself.
//!
//! The scripts of `devbox completions` run this program with [`VARIABLE`] set and the words typed so far behind `--`. Whatever is
//! wrong, such as a file that cannot be read, offers nothing: a message would end up in the line that is being typed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use hostsfile::{Document, HostName};

use crate::args::Cli;
use crate::failure::{Failure, code};
use crate::hosts::DEFAULT_TAG;
use crate::print;

/// Holds the shell's name when one asks.
const VARIABLE: &str = "DEVBOX_COMPLETE";

const PROGRAM: &str = "devbox";

/// zsh runs a script that it finds by its `fpath` on the first TAB, as a function, and takes what that offers.
const ZSH_FIRST_TAB: &str = "\n[[ $funcstack[1] == _devbox ]] && _clap_dynamic_completer_devbox \"$@\"\n";

/// More than a file for people to edit has. A larger one would have them wait for their next letter.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// `devbox completions`.
pub(crate) fn script(shell: Shell) -> Result<ExitCode, Failure> {
    let unknown = || Failure::new(code::FAILED, format!("{shell} cannot be completed"));
    let shells = Shells::builtins();
    let name = shell.to_string();
    let found = shells.completer(&name).ok_or_else(unknown)?;
    let mut script = Vec::new();
    found
        .write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)
        .map_err(Failure::because)?;
    if shell == Shell::Zsh {
        script.extend(ZSH_FIRST_TAB.bytes());
    }
    print::out(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// Answers a shell, if one asks.
pub(crate) fn answer() -> bool {
    let typed = || -> Vec<OsString> { std::env::args_os().skip_while(|word| word != "--").collect() };
    let answered = CompleteEnv::with_factory(|| parser(&typed()))
        .var(VARIABLE)
        .bin(PROGRAM)
        .completer(PROGRAM)
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref());
    // A shell that is not known or has gone away gets no answer.
    answered.unwrap_or(true)
}

/// The parser, which also knows what is in the hosts file that the words name.
fn parser(words: &[OsString]) -> clap::Command {
    let asked = Asked::by(words);
    let every = asked.clone();
    let every = ArgValueCompleter::new(move |typed: &OsStr| every.names(typed, |_| true));
    let editable = asked.clone();
    let editable = ArgValueCompleter::new(move |typed: &OsStr| {
        editable.names(typed, |block| match (editable.own, block) {
            (true, None) => true,
            (false, Some(block)) => block == editable.tag,
            _ => false,
        })
    });
    let tags = ArgValueCompleter::new(move |typed: &OsStr| asked.tags(typed));
    Cli::command().mut_subcommand("hosts", |hosts| {
        let hosts = hosts.mut_arg("tag", |tag| tag.add(tags));
        let hosts = hosts.mut_subcommand("get", |get| get.mut_arg("what", |what| what.add(every)));
        let completed = [("rm", "what"), ("comment", "what"), ("add", "names")];
        completed.into_iter().fold(hosts, |hosts, (command, argument)| {
            hosts.mut_subcommand(command, |command| {
                command.mut_arg(argument, |argument| argument.add(editable.clone()))
            })
        })
    })
}

/// What the words say about which names are meant.
#[derive(Debug, Clone)]
struct Asked {
    file: Option<OsString>,
    tag: String,
    own: bool,
}

impl Asked {
    fn by(words: &[OsString]) -> Self {
        let tag = value_of("--tag", words).and_then(OsStr::to_str);
        Self {
            file: value_of("--file", words).map(OsStr::to_owned),
            tag: tag.unwrap_or(DEFAULT_TAG).to_owned(),
            own: words.iter().any(|word| word == "--own"),
        }
    }

    /// The names of the file that begin as typed, each with its addresses.
    ///
    /// Only those that the commands take: what else a file has for a name may be an escape code, or a command to the shell.
    fn names(&self, typed: &OsStr, wanted: impl Fn(Option<&str>) -> bool) -> Vec<CompletionCandidate> {
        let (Some(document), Some(typed)) = (self.read(), typed.to_str()) else {
            return Vec::new();
        };
        let blocks = document.blocks();
        let mut blocks = blocks.iter().peekable();
        let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for entry in document.entries() {
            while blocks.next_if(|block| block.lines.end <= entry.line).is_some() {}
            let block = blocks.peek().filter(|block| block.lines.contains(&entry.line));
            if !wanted(block.map(|block| block.tag)) {
                continue;
            }
            let fitting = entry.names.iter().filter(|name| name.starts_with(typed));
            for name in fitting.filter(|name| HostName::with_underscore(name).is_ok()) {
                found.entry(name).or_default().push(entry.address.to_string());
            }
        }
        let offered = found
            .into_iter()
            .map(|(name, addresses)| CompletionCandidate::new(name).help(Some(addresses.join(", ").into())));
        offered.collect()
    }

    /// The tags of the file's blocks, whole or damaged, that begin as typed.
    fn tags(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let (Some(document), Some(typed)) = (self.read(), typed.to_str()) else {
            return Vec::new();
        };
        let blocks = document.blocks();
        let damage = document.damage();
        let whole = blocks.iter().map(|block| {
            let state = if block.enabled { "on" } else { "off" };
            (block.tag, state)
        });
        let damaged = damage.iter().map(|(tag, ..)| (tag.as_str(), "damaged"));
        let found: BTreeMap<&str, &str> = whole.chain(damaged).collect();
        let fitting = found.into_iter().filter(|(tag, _)| tag.starts_with(typed));
        fitting
            .map(|(tag, state)| CompletionCandidate::new(tag).help(Some(state.into())))
            .collect()
    }

    fn read(&self) -> Option<Document> {
        let path = match &self.file {
            Some(typed) => as_meant(typed)?,
            None => devbox_engine::system_hosts_file().ok()?,
        };
        let about = fs::metadata(&path).ok()?;
        // A pipe would have the shell wait for whoever writes into it.
        let quick = about.is_file() && about.len() <= MAX_BYTES;
        quick.then(|| fs::read(&path).ok().map(Document::parse))?
    }
}

/// The value of a flag. bash takes `--flag=value` for three words.
fn value_of<'w>(flag: &str, words: &'w [OsString]) -> Option<&'w OsStr> {
    let mut words = words.iter().map(OsString::as_os_str);
    let mut found = None;
    while let Some(word) = words.next() {
        if word == flag {
            found = words
                .next()
                .filter(|value| *value != "=")
                .or_else(|| words.next());
        } else if let Some(value) = word
            .to_str()
            .and_then(|word| word.strip_prefix(flag)?.strip_prefix('='))
        {
            found = Some(OsStr::new(value));
        }
    }
    found
}

/// The file that a word stands for: bash and zsh give words as they were typed, with `~` and quotes.
fn as_meant(typed: &OsStr) -> Option<PathBuf> {
    let path = Path::new(typed);
    if path.exists() {
        return Some(path.to_owned());
    }
    let unquoted = typed.to_str()?.replace(['\'', '"', '\\'], "");
    match unquoted.strip_prefix("~/") {
        Some(below) => Some(std::env::home_dir()?.join(below)),
        None => Some(unquoted.into()),
    }
}
