//! What needs a Kubernetes node: `cargo xtask kube-test`.
#![cfg(target_os = "linux")]

mod away;
mod catalog;
mod clusters;
mod credentials;
mod crowd;
mod displaced;
mod endpoints;
mod gateway;
mod gateway_image;
mod gateway_rights;
mod node;
mod oidc;
mod people;
mod pod;
mod raw;
mod renewal;
mod rights;
mod services;
mod session;
mod static_tokens;
mod team;
mod user;
mod watch;
