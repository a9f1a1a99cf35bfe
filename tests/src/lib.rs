//! End-to-end tests: real programs through a real devbox.
//!
//! This library is the stage on which the tests in `tests/tests/` play. It knows how to start `devbox` and programs that
//! nobody here wrote (PostgreSQL, Redis, nginx, sshd, git, rsync), as whom, and in which view of the file system; it must
//! not know how devbox works inside: it sees what a user sees, which is output, exit codes, files and sockets.
//!
//! Rules that every test keeps:
//! - it has a [`Scene`] of its own: a directory, a loopback address, an environment name. Tests run side by side;
//! - it waits for conditions with a deadline ([`wait::until`]), never for a time;
//! - it ends only processes that it started, by their id, also when it fails ([`Process`]);
//! - the machine is left as it was: the system's own hosts file is only touched inside a [`Machine`], a private mount
//!   namespace with a copy of `/etc`;
//! - what it needs and does not find makes it print one line, `SKIP <test>: <why>`, to standard error, and pass.
//!
//! ```no_run
//! use devbox_tests::{Caller, Gateway, Service, Up, peers::Echo, scenario};
//!
//! scenario(|scene| {
//!     let echo = Echo::start(scene)?;
//!     let catalog = scene.catalog(&[Service::new("echo", "demo", 7777, echo.address())])?;
//!     let gateway = Gateway::start(scene, &catalog)?;
//!     let up = Up::start(&gateway, Caller::Ordinary)?;
//!     println!("echo.demo is at {}", up.address_of("echo.demo")?);
//!     Ok(())
//! })
//! # .unwrap();
//! ```
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod caller;
mod command;
mod devbox;
mod machine;
mod process;
mod program;
mod roads;
mod scene;
mod skip;

pub mod hosts;
pub mod peers;
pub mod proc;
pub mod pty;
pub mod services;
pub mod wait;

pub use caller::Caller;
pub use command::{Finished, Invocation};
pub use devbox::{CatalogFile, Exec, Gateway, Service, TOKEN, Up, UpOptions};
pub use machine::Machine;
pub use process::{Exit, Process};
pub use program::{is_release, program};
pub use roads::Road;
pub use rustix::process::Signal;
pub use scene::{Failed, Outcome, Scene, files_below, scenario};
pub use skip::{Skip, find_program, need_netcat, need_program};

/// The result of a test's body and of its helpers: an error fails the test, a [`Skip`] inside is caught by [`scenario`].
pub type Result<T = ()> = anyhow::Result<T>;
