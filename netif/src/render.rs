//! What each system has to be told, as data: built and tested on every system, handed over under `sys`.

pub mod ifconfig;
pub mod ip_helper;
pub mod netlink;
pub mod nrpt;
pub mod resolvectl;
pub mod resolver_file;
#[cfg(test)]
mod tests;
