//! Sets or removes a block in a hosts file: `cargo run --example block -- FILE TAG [ADDRESS NAME...]`.
//!
//! Without an address it removes the block, and the file is byte for byte as it was before.

use std::process::ExitCode;

use hostsfile::{Block, Edit, Entry, Error, HostsFile, Tag};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, tag, rest @ ..] = arguments.as_slice() else {
        report("usage: block FILE TAG [ADDRESS NAME...]");
        return ExitCode::from(2);
    };
    match run(file, tag, rest) {
        Ok(text) => {
            report(&text);
            ExitCode::SUCCESS
        }
        Err(e) => {
            report(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(file: &str, tag: &str, entry: &[String]) -> Result<String, Error> {
    let tag = Tag::new(tag)?;
    let edit = match entry {
        [] => Edit::RemoveBlock(tag),
        [address, names @ ..] => {
            Edit::SetBlock(Block::new(tag).with_entries([Entry::parse(address, names)?]))
        }
    };
    let outcome = HostsFile::open(file)?.edit(&[edit])?;
    let mut text = outcome
        .diff()
        .map(|diff| diff.with_label(file).to_string())
        .unwrap_or_default();
    for diagnostic in outcome.diagnostics() {
        text.push_str(&format!("{diagnostic}\n"));
    }
    text.push_str(&format!("{:?}", outcome.method));
    Ok(text)
}

#[expect(clippy::print_stderr, reason = "an example reports what it did")]
fn report(text: &str) {
    eprintln!("{text}");
}
