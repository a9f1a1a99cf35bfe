//! The blocks of other sessions in the same file. A name has one owner on a machine: whoever published it first, until that one
//! leaves or another session was told to take it.

use devbox_helper_client::{HeldNames, HostsReport, SweptBlock};
use hostsfile::{Block, BlockView, Document, HostName, Neighbour, Owner, Setting};

use super::SESSION_PREFIX;
use crate::owner;

/// How to set a caller's block beside those of other sessions.
pub(super) fn setting(
    document: &Document,
    block: Block,
    caller: &Owner,
    take: impl Fn(&HostName) -> bool,
) -> Setting {
    document.setting_beside(block, |other| judge(other, caller), take)
}

fn judge(other: &BlockView<'_>, caller: &Owner) -> Neighbour {
    match &other.owner {
        Some(owner) if other.tag.starts_with(SESSION_PREFIX) && owner != caller => {
            if owner::is_alive(owner.as_str()) {
                Neighbour::Holder
            } else {
                Neighbour::Abandoned
            }
        }
        _ => Neighbour::Stranger,
    }
}

/// Adds to a report what the caller is told of the others. Unlike what is found wrong in the file, this is never cut short: it
/// is less than the caller sent.
pub(super) fn tell(report: &mut HostsReport, setting: Setting) {
    let held = setting.held.into_iter().map(|held| HeldNames {
        helper_pid: held.owner.as_ref().and_then(|owner| owner::pid(owner.as_str())),
        tag: held.tag.to_string(),
        names: held.names.iter().map(ToString::to_string).collect(),
    });
    report.held = held.collect();
    let removed = setting.removed.into_iter().map(|(tag, owner)| SweptBlock {
        tag: tag.to_string(),
        owner: owner.to_string(),
    });
    report.removed = removed.collect();
}
