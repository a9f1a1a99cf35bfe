//! What systems tell about their network, read from bytes and texts: compiled and tested on every system.

pub mod lsof;
pub mod netlink;
pub mod netstat;
pub mod proc_net;
pub mod resolvectl;
pub mod scutil;
#[cfg(test)]
mod tests;
