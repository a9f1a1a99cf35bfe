//! What needs a Kubernetes node: `cargo xtask kube-test`.
#![cfg(target_os = "linux")]

mod away;
mod clusters;
mod crowd;
mod displaced;
mod gateway;
mod gateway_image;
mod node;
mod pod;
mod rights;
mod services;
mod team;
mod user;
