//! Starts a helper for a hosts file of its own, sets a block, and shows that nothing is left of it.
//!
//! The program is both ends, as `devbox` is: run again with a hidden first argument it is the helper.

use std::process::ExitCode;

use devbox_helper::Policy;
use devbox_helper_client::{Client, HostsBlock, HostsEntry};

const HIDDEN_ARGUMENT: &str = "__helper";

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    // Before anything else: the helper must not have another thread when it begins.
    if args.next().is_some_and(|first| first == HIDDEN_ARGUMENT) {
        devbox_helper::enter(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n")?;
    show("before", &file)?;

    let mut policy = Policy::new(&file)?;
    policy.pools.push("127.77.0.0/16".parse()?);
    let args = std::iter::once(HIDDEN_ARGUMENT.into()).chain(policy.to_args());
    let mut helper = Client::start(std::env::current_exe()?, args)?;
    helper.set_hosts(HostsBlock {
        tag: "devbox-example".into(),
        entries: vec![HostsEntry {
            address: "127.77.3.4".parse()?,
            names: vec!["orders.backend".into()],
        }],
    })?;
    show("while the helper has a caller", &file)?;

    helper.close()?;
    show("after", &file)?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn show(when: &str, file: &std::path::Path) -> std::io::Result<()> {
    println!("--- {when}\n{}", std::fs::read_to_string(file)?);
    Ok(())
}
