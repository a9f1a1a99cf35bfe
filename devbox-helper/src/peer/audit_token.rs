//! audit_token_t of mach/message.h, as libbsm's audit_token_to_euid(3) and audit_token_to_pid(3) read it.

use std::io;

/// Places in a token.
const EUID: usize = 1;
const PID: usize = 5;

/// The process of a token, which must run as the user who connected.
///
/// The token is that of the process which has the socket. Where that number was given to another user's process since, or the socket
/// was, the kernel's two answers are of two users.
pub(super) fn pid_of(token: [u32; 8], uid: u32) -> io::Result<u32> {
    if token[EUID] != uid {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "user {uid} connected, and the process at the other end is user {}'s",
                token[EUID]
            ),
        ));
    }
    match token[PID] {
        pid @ 1..=PID_MAX => Ok(pid),
        pid => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the kernel tells a process {pid}"),
        )),
    }
}

/// pid_t is signed.
const PID_MAX: u32 = i32::MAX.cast_unsigned();

#[cfg(test)]
mod tests {
    use super::*;

    /// Audit user, user and group in effect, real ones, process, audit session, version of the process number.
    fn token(euid: u32, pid: u32) -> [u32; 8] {
        [501, euid, 20, 502, 20, pid, 100_005, 4_711]
    }

    #[test]
    fn the_process_is_that_of_the_user_who_connected() {
        assert_eq!(pid_of(token(501, 4242), 501).unwrap(), 4242);
        // The real user, and the one that logged in, are not asked for.
        for uid in [0, 20, 502, 4242] {
            let refused = pid_of(token(501, 4242), uid).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{uid}");
        }
    }

    #[test]
    fn no_process_is_told_as_an_error() {
        for pid in [0, PID_MAX + 1, u32::MAX] {
            let refused = pid_of(token(501, pid), 501).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{pid}");
        }
    }
}
