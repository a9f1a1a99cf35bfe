//! The lines that the system performs: leaving the caller's session, taking on a caller's rights, listening for callers.

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        use unix as system;
    } else if #[cfg(windows)] {
        mod windows;
        use windows as system;
    }
}

// Text, which is tested everywhere.
#[cfg(any(windows, test))]
mod sddl;

pub(crate) use system::service::{
    Listener, POLICY_FILE, STATE_DIR, SYSLOG, USERS_ARE_NUMBERS, gid_of, log, own_account, passable,
    read_trusted, send_datagram, uid_of, user_text,
};
pub(crate) use system::{
    Fork, PASSES_LISTENERS, as_service, bind_datagrams, detach, fork, give_memory_back, hold_signals,
    is_root, listen, on_terminate, on_terminate_or_interrupt, shut_input, was_killed, with_rights_of,
};
