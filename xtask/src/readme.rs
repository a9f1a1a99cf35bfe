//! Runs the commands in a README exactly as they are shown.
//!
//! Every block fenced as `sh` is one bash script (`set -eu`), run in the workspace's root with the built `devbox` first in `PATH`;
//! it must exit with 0. A block fenced as `sh,norun` is only for reading, and one fenced as `sh,ci` is the command that runs these
//! blocks. A comment on the line before a block changes how it is run:
//!
//! - `<!-- test: skip, REASON -->`: it is not run, and is listed as skipped with the reason;
//! - `<!-- test: interrupt after "TEXT" -->`: its last command runs until it is interrupted. Once it has printed TEXT, it gets
//!   the signal that Ctrl-C sends, and must then exit with 0.
//!
//! `cargo xtask test` and `ci` are left out, since they run these blocks.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{program_in_root, target_dir};
use crate::sys::own_group;

/// A first release build on two cores takes minutes; whatever takes longer than this has hung.
const BLOCK_LIMIT: Duration = Duration::from_secs(15 * 60);
const END_LIMIT: Duration = Duration::from_secs(15);

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The line of its first command.
    pub(crate) line: usize,
    pub(crate) script: String,
    pub(crate) how: How,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum How {
    Run,
    InterruptAfter(String),
    Skip(String),
}

/// The blocks of a Markdown text. A comment that is not understood is an error, which gives its line.
pub(crate) fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut how = How::Run;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("<!-- test:") {
            how = directive(comment).with_context(|| format!("line {}", number + 1))?;
        } else if let Some(fence) = line.strip_prefix("```") {
            let script = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```");
            let script: String = script
                .filter(|line| !runs_us(line))
                .map(|line| line.to_owned() + "\n")
                .collect();
            let how = std::mem::replace(&mut how, How::Run);
            if let Some(tag) = fence.trim().strip_prefix("sh,")
                && !["norun", "ci"].contains(&tag)
            {
                bail!(
                    "line {}: unknown fence `sh,{tag}`; expected `sh`, `sh,norun` or `sh,ci`",
                    number + 1
                );
            }
            if fence.trim() == "sh" && has_a_command(&script) {
                found.push(Block {
                    line: number + 2,
                    script,
                    how,
                });
            }
        } else if !line.is_empty() && how != How::Run {
            bail!(
                "line {}: a `test:` comment is not followed by a block",
                number + 1
            );
        }
    }
    Ok(found)
}

fn directive(comment: &str) -> Result<How> {
    let comment = comment.trim().strip_suffix("-->").unwrap_or(comment).trim();
    if let Some(reason) = comment.strip_prefix("skip,") {
        return Ok(How::Skip(reason.trim().to_owned()));
    }
    let quoted = comment
        .strip_prefix("interrupt after ")
        .and_then(|rest| rest.strip_prefix('"')?.strip_suffix('"'));
    match quoted {
        Some(text) if !text.is_empty() => Ok(How::InterruptAfter(text.to_owned())),
        _ => {
            bail!("unknown comment `test: {comment}`; expected `skip, REASON` or `interrupt after \"TEXT\"`")
        }
    }
}

fn has_a_command(script: &str) -> bool {
    script
        .lines()
        .map(str::trim)
        .any(|line| !line.is_empty() && !line.starts_with('#'))
}

fn runs_us(line: &str) -> bool {
    let line = line.trim();
    ["cargo xtask test", "cargo xtask ci", "cargo xtask readme"]
        .iter()
        .any(|ours| line.starts_with(ours))
}

/// Runs one block; if it fails, the error contains what it printed.
pub(crate) fn run(block: &Block) -> Result<()> {
    let mut command = program_in_root("bash");
    let built = target_dir().join("release");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(built).chain(std::env::split_paths(&path)))?;
    command
        .args(["-c", &format!("set -eu\n{}", block.script)])
        .env("PATH", path);
    // In a process group of its own, the interrupt reaches whatever Ctrl-C in a terminal would, and no process stays behind.
    own_group(&mut command);
    match &block.how {
        How::Skip(_) => Ok(()),
        How::Run => watch(command, None),
        How::InterruptAfter(text) => watch(command, Some(text)),
    }
}

fn watch(mut command: Command, interrupt_after: Option<&str>) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .stdin(Stdio::null());
    let mut child = command.spawn().context("cannot run bash")?;
    drop(command);
    let group = child.id();
    let (sender, printed) = mpsc::channel();
    // This thread ends when the last process of the group is gone, which closes the pipe.
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut text = String::new();
    let result = follow(&mut child, &printed, &mut text, interrupt_after);
    if child.try_wait()?.is_none() || matches!(result, Ok(None)) {
        signal(group, "KILL")?;
        child.wait()?;
    }
    text.extend(printed.try_iter().map(|line| line + "\n"));
    match result {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => bail!("ended with {status} after printing\n{text}"),
        Ok(None) => bail!("did not end in time; it had printed\n{text}"),
        Err(error) => Err(error.context(format!("it had printed\n{text}"))),
    }
}

/// Waits until the script has ended; `None` if it did not end in time.
fn follow(
    child: &mut Child,
    printed: &mpsc::Receiver<String>,
    text: &mut String,
    interrupt_after: Option<&str>,
) -> Result<Option<ExitStatus>> {
    let mut deadline = Instant::now() + BLOCK_LIMIT;
    let mut awaited = interrupt_after;
    loop {
        match printed.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => {
                let seen = awaited.is_some_and(|awaited| line.contains(awaited));
                text.push_str(&line);
                text.push('\n');
                if seen {
                    awaited = None;
                    deadline = Instant::now() + END_LIMIT;
                    signal(child.id(), "INT")?;
                }
                continue;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(20)),
        }
        if let Some(status) = child.try_wait()? {
            if let Some(awaited) = awaited {
                bail!("ended with {status} before it printed `{awaited}`");
            }
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
    }
}

/// Signals every process of a group, with the shell's `kill`, since std has none.
fn signal(group: u32, name: &str) -> Result<()> {
    let status = Command::new("bash")
        .args(["-c", &format!("kill -{name} -- -{group} 2>/dev/null || true")])
        .status()?;
    if !status.success() {
        bail!("cannot send {name} to process group {group}");
    }
    Ok(())
}

/// Where a block is, as `file:line`.
pub(crate) fn place(file: &Path, block: &Block) -> String {
    format!("{}:{}", file.display(), block.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Block {
        let mut found = blocks(text).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn only_sh_blocks_are_commands() {
        let text = "# a\n```rust\nfn main() {}\n```\n\n```sh\necho a\necho b\n```\n```yaml\na: b\n```\n";
        assert_eq!(
            only(text),
            Block {
                line: 7,
                script: "echo a\necho b\n".into(),
                how: How::Run
            }
        );
    }

    #[test]
    fn a_block_may_be_only_for_reading() {
        assert_eq!(
            blocks("```sh,norun\nfalse\n```\n```sh,ci\nfalse\n```\n```console\n$ false\n```\n").unwrap(),
            []
        );
    }

    #[test]
    fn an_unknown_tag_is_an_error() {
        let error = blocks("text\n```sh,no_run\nfalse\n```\n").unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }

    #[test]
    fn the_command_that_runs_the_blocks_is_left_out() {
        assert_eq!(
            blocks("```sh\ncargo xtask test   # everything\n```\n").unwrap(),
            []
        );
        assert_eq!(only("```sh\ncargo xtask test\necho x\n```\n").script, "echo x\n");
    }

    #[test]
    fn a_comment_changes_how_a_block_is_run() {
        let block = only("<!-- test: skip, needs a cluster -->\n\n```sh\nfalse\n```\n");
        assert_eq!(block.how, How::Skip("needs a cluster".into()));
        let block = only("<!-- test: interrupt after \"ready\" -->\n```sh\nfalse\n```\n");
        assert_eq!(block.how, How::InterruptAfter("ready".into()));
    }

    #[test]
    fn a_comment_applies_only_to_the_next_block() {
        let found = blocks("<!-- test: skip, why -->\n```sh\nfalse\n```\n```sh\ntrue\n```\n").unwrap();
        assert_eq!(found[1].how, How::Run);
    }

    #[test]
    fn an_unknown_comment_is_an_error() {
        assert!(blocks("<!-- test: skipp -->\n```sh\nfalse\n```\n").is_err());
        assert!(blocks("<!-- test: skip, lost -->\nSome text.\n").is_err());
    }

    #[test]
    fn a_command_that_fails_fails_its_block() {
        run(&only("```sh\ntrue\n```\n")).unwrap();
        let error = run(&only("```sh\necho before\nfalse\necho after\n```\n")).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("before") && !error.contains("after\n"), "{error}");
    }

    #[test]
    fn a_block_is_interrupted_after_the_text_and_must_then_exit_with_0() {
        let text = |code| {
            format!(
                "<!-- test: interrupt after \"up\" -->\n```sh\nexec sh -c 'trap \"exit {code}\" INT; echo up; while :; do sleep 0.05; done'\n```\n"
            )
        };
        run(&only(&text(0))).unwrap();
        assert!(run(&only(&text(4))).is_err());
    }

    #[test]
    fn a_block_that_ends_before_the_text_fails() {
        assert!(
            run(&only(
                "<!-- test: interrupt after \"never\" -->\n```sh\necho other\n```\n"
            ))
            .is_err()
        );
    }
}
