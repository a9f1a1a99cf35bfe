//! What systems tell about their network, read from bytes and texts: compiled and tested on every system.

pub mod netlink;
pub mod proc_net;
pub mod resolvectl;
