//! The installed helper, and the claim that outlives a process which is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use devbox_helper_client::{Client, Error, MAX_GRACE, Token};

use crate::helper::TAKE_OVER_PATIENCE;
use crate::sys;

/// Where it listens, and where this user's sessions keep the token of a claim.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) socket: PathBuf,
    pub(crate) claim_file: Option<PathBuf>,
}

impl Installed {
    /// Its first client in this process, with the claim of one that was killed a moment ago.
    pub(crate) fn first(&self) -> Result<Client, Error> {
        let mut client = Client::connect(&self.socket)?;
        if let Some(file) = &self.claim_file {
            resume(&mut client, file);
            hold(&mut client, file);
        }
        Ok(client)
    }

    /// The helper again, which the system may be about to start. The one before it has undone the claim, or this one has.
    pub(crate) fn another(&self) -> Result<Client, Error> {
        let deadline = Instant::now() + TAKE_OVER_PATIENCE;
        let mut pause = Duration::from_millis(20);
        let mut client = loop {
            match Client::connect(&self.socket) {
                Err(Error::Connect { .. } | Error::NoWelcome { .. }) if Instant::now() < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                done => break done?,
            }
        };
        if let Some(file) = &self.claim_file {
            hold(&mut client, file);
        }
        Ok(client)
    }
}

/// Takes over the claim whose token is in the file. There is none in most cases: the session of that token has ended, or goes on.
fn resume(client: &mut Client, file: &Path) {
    let Ok(token) = fs::read_to_string(file) else {
        return;
    };
    match client.resume(Token(token)) {
        Ok(()) => tracing::debug!("took over the claim of a session that was killed"),
        Err(error) => tracing::debug!(%error, "no claim to take over"),
    }
}

/// Has the claim outlive this process for a while. Without that, which no session needs, it ends with the connection.
fn hold(client: &mut Client, file: &Path) {
    match client.hold(MAX_GRACE) {
        Ok(token) => {
            if let Err(error) = sys::write_privately(file, token.0.as_bytes()) {
                tracing::debug!(%error, file = %file.display(), "the token of the claim is not kept");
            }
        }
        Err(error) => tracing::debug!(%error, "the claim ends with the connection"),
    }
}
