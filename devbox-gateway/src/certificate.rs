use std::time::Duration;

use catalog_file::follow::{Follower, Reading};
use devbox_provider::with_causes;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};
use tunnel_bridge::tls::Acceptor;

use crate::TlsFiles;

/// How often the files are read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long after a change of one file the other one is given to change as well.
const SETTLE: Duration = Duration::from_secs(1);

/// Larger files are not followed: a chain has some KiB.
const MAX_BYTES: usize = 1 << 20;

/// A certificate and its key that are followed: a new pair is used for new connections once it is whole.
pub(crate) struct Certificate {
    files: TlsFiles,
    first: (Reading, Reading, Option<Reading>),
    acceptor: watch::Sender<Acceptor>,
}

impl Certificate {
    /// Reads both files.
    pub(crate) async fn open(files: &TlsFiles) -> Result<Self, tunnel_bridge::Error> {
        // Before they are used, so that no change in between is missed.
        let first = (
            Reading::now(&files.certificate, MAX_BYTES).await,
            Reading::now(&files.key, MAX_BYTES).await,
            match &files.client_ca {
                Some(path) => Some(Reading::now(path, MAX_BYTES).await),
                None => None,
            },
        );
        Ok(Self {
            first,
            acceptor: watch::Sender::new(Acceptor::new(&files.server_options())?),
            files: files.clone(),
        })
    }

    /// What connections are to be accepted with.
    pub(crate) fn acceptor(&self) -> watch::Receiver<Acceptor> {
        self.acceptor.subscribe()
    }

    /// Follows both files, for as long as the runtime goes on. A pair that cannot be used changes nothing.
    pub(crate) async fn follow(self) {
        let files = self.files;
        let (certificate, key) = (&files.certificate, &files.key);
        let follow =
            |path: &std::path::Path, first| Follower::new(path.to_owned(), MAX_BYTES, first, POLL_INTERVAL);
        let mut certificates = follow(certificate, self.first.0);
        let mut keys = follow(key, self.first.1);
        let mut authorities = match (&files.client_ca, self.first.2) {
            (Some(path), Some(first)) => Some(follow(path, first)),
            _ => None,
        };
        let mut changed = async || {
            let of_authorities = async {
                match &mut authorities {
                    Some(authorities) => authorities.next_change().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = of_authorities => change,
                change = certificates.next_change() => change.map(drop),
                change = keys.next_change() => change.map(drop),
            }
        };
        while changed().await.is_some() {
            while let Ok(Some(())) = timeout(SETTLE, changed()).await {}
            let options = files.server_options();
            let read = tokio::task::spawn_blocking(move || Acceptor::new(&options));
            let Ok(read) = read.await else { return };
            match read {
                Ok(acceptor) => {
                    info!(certificate = %certificate.display(), "certificate read again");
                    self.acceptor.send_replace(acceptor);
                }
                Err(error) => warn!(
                    certificate = %certificate.display(),
                    key = %key.display(),
                    reason = with_causes(&error),
                    "certificate not usable, the former one stays in use"
                ),
            }
        }
    }
}
