//! Blocks of the hosts file, as callers ask for them.

use devbox_helper_client::{HostsBlock, HostsEntry};

pub(crate) fn block(tag: &str, entries: &[(&str, &[&str])]) -> HostsBlock {
    let entry = |(address, names): &(&str, &[&str])| HostsEntry {
        address: address.parse().unwrap(),
        names: names.iter().map(ToString::to_string).collect(),
    };
    HostsBlock {
        tag: tag.into(),
        entries: entries.iter().map(entry).collect(),
    }
}
