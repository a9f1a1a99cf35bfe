#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cluster;
mod error;
#[cfg_attr(not(test), expect(dead_code, reason = "the provider chooses it"))]
mod forward;
mod options;
mod road;

pub use cluster::{Cluster, ClusterOptions};
pub use error::{Error, Forbidden};
pub use options::{BadWayIn, KubeOptions, WayIn};
