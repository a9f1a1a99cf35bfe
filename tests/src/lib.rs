//! End-to-end tests: real programs through a real devbox.
//!
//! This library is the stage for the tests in `tests/tests/`. It knows how to start `devbox` and other people's programs
//! (PostgreSQL, Redis, nginx, sshd, git, rsync), as which user, and with which view of the file system. It must not know how
//! devbox works inside: it sees what a user sees, which is output, exit codes, files and sockets.
//!
//! Rules for every test:
//! - it has its own [`Scene`]: a directory, a loopback address, an environment name. Tests run side by side;
//! - it waits for conditions with a deadline ([`wait::until`]), never for a fixed time;
//! - it ends only processes that it started, by their id, even if it fails ([`Process`]);
//! - it leaves the machine as it was: the system's own hosts file is only changed inside a [`Machine`], a private mount
//!   namespace with a copy of `/etc`;
//! - if something it needs is missing, it prints one line, `SKIP <test>: <why>`, to standard error, and passes.
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
mod installed;
mod machine;
mod other_gateway;
mod process;
mod program;
mod roads;
mod scene;
mod siege;
mod skip;

pub mod attacks;
pub mod hosts;
pub mod kube;
pub mod networks;
pub mod peers;
pub mod proc;
pub mod pty;
pub mod relay;
pub mod resolved;
pub mod services;
pub mod wait;

pub use caller::Caller;
pub use command::{Finished, Invocation};
pub use devbox::{CatalogFile, Exec, Gateway, Service, TOKEN, Up, UpOptions};
pub use installed::Installed;
pub use machine::Machine;
pub use other_gateway::{OtherGateway, need_python};
pub use process::{Exit, Process};
pub use program::{is_release, program};
pub use roads::Road;
pub use rustix::process::Signal;
pub use scene::{Certificate, Failed, Outcome, Scene, files_below, scenario};
pub use siege::{Bound, Row};
pub use skip::{Skip, find_program, need_netcat, need_program};

/// The result of a test's body and of its helpers. An error fails the test, except a [`Skip`], which [`scenario`] catches.
pub type Result<T = ()> = anyhow::Result<T>;
