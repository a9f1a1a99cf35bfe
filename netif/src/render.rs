//! What each system has to be told, as data: built and tested on every system, handed over under `sys`.
#![cfg_attr(not(test), allow(dead_code, reason = "each system uses its own part"))]

pub(crate) mod ifconfig;
pub(crate) mod netlink;
pub(crate) mod resolvectl;
pub(crate) mod resolver_file;
#[cfg(test)]
mod tests;
