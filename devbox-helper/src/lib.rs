#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod by_hand;
mod error;
mod hosts;
mod keep;
mod name_check;
pub mod owner;
mod peer;
mod policy;
mod serve;
mod strays;
mod sys;

pub use by_hand::to_wire;
pub use error::Error;
pub use hosts::{clean_up, sweep};
pub use policy::{Caller, Policy};
pub use serve::{enter, run};
