#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod access;
mod cluster;
mod error;
#[cfg_attr(not(test), expect(dead_code, reason = "the provider chooses it"))]
mod forward;
mod kubeconfig;
mod options;
#[expect(dead_code, reason = "the provider chooses it")]
mod pod;
pub mod rbac;
mod road;

pub use cluster::{Cluster, ClusterOptions};
pub use error::{Error, Forbidden};
pub use kubeconfig::environment_of;
pub use options::{BadWayIn, KubeOptions, WayIn};
