//! The helper as a program of its own. The `devbox` command does not need it: it runs itself again in this role.

use std::process::ExitCode;

fn main() -> ExitCode {
    devbox_helper::enter(std::env::args_os().skip(1))
}
