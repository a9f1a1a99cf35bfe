#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod admission;
mod audit;
mod by_hand;
mod claims;
mod conversation;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod journal;
mod keep;
mod machine;
mod name_check;
mod network;
pub mod owner;
mod peer;
mod policy;
mod serve;
mod service;
mod strays;
mod sys;

pub use admission::{PolicyFile, default_policy};
pub use audit::LogTo;
pub use by_hand::to_wire;
pub use error::Error;
pub use hosts::{clean_up, sweep};
pub use network::{Undo, undo_journals};
pub use policy::{Caller, Policy};
pub use serve::{enter, run};
pub use service::{POLICY_FILE, SERVE, SERVICE, STATE_DIR, SWEEP, Service, own_account};
