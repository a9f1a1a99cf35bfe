#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod access;
mod cluster;
mod dialer;
mod endpoints;
mod error;
pub mod forward;
pub mod gateway;
mod kubeconfig;
mod objects;
mod oidc;
mod options;
mod pod;
mod provider;
pub mod rbac;
mod road;
mod source;
mod watch;

pub use cluster::{Cluster, ClusterOptions};
pub use error::{Error, Forbidden, Who};
pub use kubeconfig::environment_of;
pub use options::{BadWayIn, KubeOptions, WayIn};
pub use provider::KubeProvider;
