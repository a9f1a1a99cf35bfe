#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cluster;
mod error;
pub mod forward;
mod options;
mod road;

pub use cluster::{Cluster, ClusterOptions};
pub use error::{Error, Forbidden};
pub use options::{BadWayIn, KubeOptions, WayIn};
