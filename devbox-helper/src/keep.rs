//! A keeper: the process that starts a helper, and another one in place of a helper that was killed, for a caller that has given
//! up the rights to do so. It serves nobody itself, and is gone when its helper has ended by itself.

use std::io;

use devbox_helper_client::{Call, Channel, Reply, Request, Response};

use crate::sys::{self, Fork};

/// Which process this is.
pub(crate) enum Role {
    /// A helper, with a channel of its own as its standard input.
    Helper,
    /// The keeper, at its end.
    Keeper,
}

/// Starts a helper whenever the caller asks for one. Returns in each of the helpers, and in the keeper at its end. There must be no
/// second thread.
pub(crate) fn keep(channel: Channel) -> io::Result<Role> {
    let (mut sender, mut receiver) = channel.split();
    // A caller that is gone, or says what nobody understands, gets no further helper.
    while let Ok(Some(Call {
        id,
        request: Request::Another,
    })) = receiver.receive::<Call>()
    {
        let (callers_end, helper) = match sys::fork()? {
            Fork::Helper => return Ok(Role::Helper),
            Fork::Keeper { callers_end, helper } => (callers_end, helper),
        };
        let response = Response {
            id: Some(id),
            listener: true,
            reply: Reply::Bound,
        };
        // Where the caller is gone its end closes with this, and the helper ends by itself.
        let is_there = sender.send_with_listener(&response, &callers_end).is_ok();
        drop(callers_end);
        if !sys::was_killed(helper)? || !is_there {
            break;
        }
    }
    Ok(Role::Keeper)
}
