//! Systems whose ports below 1024 are root's, or everybody's.

/// Where ports below this one are for root alone; systems that know no such rule answer as Linux does.
pub(crate) fn first_free_port() -> u16 {
    1024
}

/// There is one network.
pub(crate) fn network() -> std::path::PathBuf {
    std::path::PathBuf::new()
}
