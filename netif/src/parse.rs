//! What systems tell about their network, read from bytes and texts: compiled and tested on every system.
#![cfg_attr(not(test), allow(dead_code, reason = "each system uses its own part"))]

pub(crate) mod netlink;
pub(crate) mod proc_net;
pub(crate) mod resolvectl;
