//! Sessions of this user that run already, in this program or another: finding, ending and joining them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devbox_session::control::{AskError, Asking};
use devbox_session::sink::{Record, hosts_entries};
use devbox_session::{ServiceReport, StatusReport};
use futures_util::future::join_all;
use service_catalog::Label;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::host::environment_of;
use crate::hosts;
use crate::sinks::PrivateHosts;
use crate::sys::{self, ControlStream};

/// How long a session may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session may take to end, draining included.
const LEAVING: Duration = Duration::from_secs(20);

/// The sessions of this user.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that answered, each once, whatever the number of its environments.
    pub running: Vec<Running>,
    /// Those that are there and did not say how they are.
    pub silent: Vec<Silent>,
}

/// A session that answered.
#[derive(Debug)]
pub struct Running {
    socket: PathBuf,
    /// What it said.
    pub report: StatusReport,
}

/// A session that is there, and whose state is not known.
#[derive(Debug)]
pub struct Silent {
    /// Its control socket.
    pub socket: PathBuf,
    /// Why its state is not known.
    pub reason: Silence,
}

/// Why the state of a session is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Silence {
    /// It said nothing in time.
    #[error("it does not answer")]
    NoAnswer,
    /// It is of a version before the control protocol had one. It can be stopped.
    #[error("it was started by an older devbox, whose state this one cannot read")]
    Older,
    /// It speaks another version of the control protocol.
    #[error("it was started by {program}, whose state this devbox cannot read")]
    Version {
        /// What runs it, with its version.
        program: String,
    },
    /// What it said could not be read.
    #[error("its answer cannot be read")]
    Malformed,
}

/// The sessions of this user; those of one environment if one is given.
///
/// # Cancel safety
/// Safe.
pub async fn find(environment: Option<&Label>) -> Found {
    let sockets = sys::control_sockets();
    let asked = join_all(sockets.into_iter().map(|socket| async {
        let answer = tokio::time::timeout(PATIENCE, ask(&socket)).await;
        (socket, answer)
    }));
    let mut found = Found::default();
    for (socket, answer) in asked.await {
        let reason = match answer {
            Ok(Ok(report)) => {
                // A session has a socket for each of its environments.
                let known = found
                    .running
                    .iter()
                    .any(|running| running.report.identity.session == report.identity.session);
                if !known {
                    found.running.push(Running { socket, report });
                }
                continue;
            }
            Ok(Err(AskError::Older)) => Silence::Older,
            Ok(Err(AskError::Version { theirs })) => Silence::Version {
                program: theirs.program,
            },
            Ok(Err(AskError::Io(error))) if error.kind() == io::ErrorKind::InvalidData => Silence::Malformed,
            // Nobody listens any more, or the session is ending.
            Ok(Err(error)) => {
                tracing::debug!(socket = %socket.display(), %error, "nobody answers");
                continue;
            }
            Err(_) => Silence::NoAnswer,
        };
        found.silent.push(Silent { socket, reason });
    }
    if let Some(wanted) = environment {
        found.running.retain(|running| {
            running
                .report
                .environments()
                .any(|served| served == wanted.as_ref())
        });
        found
            .silent
            .retain(|silent| silent.environment() == Some(wanted.as_ref()));
    }
    found
}

async fn ask(socket: &Path) -> Result<StatusReport, AskError> {
    match connect(socket).await {
        // A session that is ending hangs up as an older one does, but not twice.
        Err(AskError::Older) => connect(socket).await?,
        asking => asking?,
    }
    .status()
    .await
}

async fn connect(socket: &Path) -> Result<Asking<ControlStream>, AskError> {
    Asking::connect(sys::connect_control(socket).await?).await
}

impl Running {
    /// Asks it to end, and waits until everything of it is undone, for up to 20 s. `by` says who asks.
    ///
    /// # Errors
    /// [`Error::Ask`], [`Error::StillEnding`].
    ///
    /// # Cancel safety
    /// Safe: it was asked, or it was not.
    pub async fn stop(&self, by: &str) -> Result<(), Error> {
        match stop(&self.socket, by, false).await {
            Some(stopped) => stopped.map_err(|source| self.failed(source)),
            None => Err(Error::StillEnding {
                session: self.report.identity.session.clone(),
                pid: self.report.identity.pid,
                after: LEAVING,
            }),
        }
    }

    /// Takes its addresses and names into a private hosts file, and follows them: no second session, no second tunnel.
    /// `base` is what the names are added to.
    ///
    /// # Errors
    /// [`Error::Ask`], [`Error::Hosts`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn join(&self, base: Vec<u8>) -> Result<Joined, Error> {
        let connecting = async {
            let mut asking = connect(&self.socket).await?;
            asking.watch().await?;
            let first = asking.next_report().await?;
            Ok((asking, first))
        };
        let (asking, report) = tokio::time::timeout(PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| Err(timed_out()))
            .map_err(|source| self.failed(source))?;
        Joined::new(asking, report, base)
    }

    fn failed(&self, source: AskError) -> Error {
        Error::Ask {
            socket: self.socket.clone(),
            source,
        }
    }
}

impl Running {
    /// Follows it: its state now, and after each change.
    ///
    /// # Errors
    /// [`Error::Ask`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn watch(&self) -> Result<Watch, Error> {
        let connecting = async {
            let mut asking = connect(&self.socket).await?;
            asking.watch().await?;
            Ok(asking)
        };
        let asking = tokio::time::timeout(PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| Err(timed_out()))
            .map_err(|source| self.failed(source))?;
        Ok(Watch {
            socket: self.socket.clone(),
            asking,
        })
    }
}

/// The state of another session, followed.
#[derive(Debug)]
pub struct Watch {
    socket: PathBuf,
    asking: Asking<ControlStream>,
}

impl Watch {
    /// The state at once, then after each change, at most every 50 ms; `None` when the session has ended.
    ///
    /// # Errors
    /// [`Error::Ask`] where what it says cannot be read.
    ///
    /// # Cancel safety
    /// Not safe: half a report may have been read.
    pub async fn next(&mut self) -> Result<Option<StatusReport>, Error> {
        match self.asking.next_report().await {
            Ok(report) => Ok(Some(report)),
            Err(AskError::Ended) => Ok(None),
            Err(source) => Err(Error::Ask {
                socket: self.socket.clone(),
                source,
            }),
        }
    }
}

impl Silent {
    /// The environment that its socket is named after.
    #[must_use]
    pub fn environment(&self) -> Option<&str> {
        environment_of(&self.socket)
    }

    /// Asks it to end, as [`Running::stop`] does.
    ///
    /// # Errors
    /// [`Error::Ask`], [`Error::StillEnding`].
    ///
    /// # Cancel safety
    /// Safe: it was asked, or it was not.
    pub async fn stop(&self, by: &str) -> Result<(), Error> {
        let old = matches!(self.reason, Silence::Older | Silence::Version { .. });
        match stop(&self.socket, by, old).await {
            Some(stopped) => stopped.map_err(|source| Error::Ask {
                socket: self.socket.clone(),
                source,
            }),
            None => Err(Error::Ask {
                socket: self.socket.clone(),
                source: timed_out(),
            }),
        }
    }
}

/// `None`: it did not end in time.
async fn stop(socket: &Path, by: &str, old: bool) -> Option<Result<(), AskError>> {
    let stopping = async {
        let mut asking = if old {
            Asking::connect_old(sys::connect_control(socket).await?)
        } else {
            connect(socket).await?
        };
        asking.stop(by).await?;
        Ok(asking.ended().await?)
    };
    tokio::time::timeout(LEAVING, stopping).await.ok()
}

fn timed_out() -> AskError {
    AskError::Io(io::ErrorKind::TimedOut.into())
}

/// The names of another session in a private hosts file.
#[derive(Debug)]
pub struct Joined {
    /// The session as it was when it was joined.
    pub report: StatusReport,
    /// The file's content, which follows the session for as long as this value lives.
    pub hosts: PrivateHosts,
    _following: JoinSet<()>,
}

impl Joined {
    /// Follows a session over a connection on which its reports come.
    pub(crate) fn new(
        mut asking: Asking<ControlStream>,
        report: StatusReport,
        base: Vec<u8>,
    ) -> Result<Self, Error> {
        let mut published = records(&report.services);
        let (content, contents) = watch::channel(private(&base, &published)?);
        let mut following = JoinSet::new();
        following.spawn(async move {
            while let Ok(report) = asking.next_report().await {
                let records = records(&report.services);
                // Most reports are about connections alone.
                if records == published {
                    continue;
                }
                match private(&base, &records) {
                    Ok(bytes) => drop(content.send_replace(bytes)),
                    Err(error) => tracing::warn!(%error, "the names stay as they are"),
                }
                published = records;
            }
            tracing::warn!("the session has ended: its names lead nowhere from here on");
            // The names stay: what a program has looked up must not change its meaning under it.
            content.closed().await;
        });
        Ok(Self {
            report,
            hosts: PrivateHosts::new(contents),
            _following: following,
        })
    }
}

fn private(base: &[u8], records: &[Record]) -> Result<Vec<u8>, Error> {
    let rendered = hosts::render(base, &hosts_entries(records))?;
    Ok(rendered.bytes)
}

/// The names that a session's services have where no other session has them as well.
#[must_use]
pub fn records(services: &[ServiceReport]) -> Vec<Record> {
    let records = services.iter().map(|service| Record {
        // The general ones first, as where nobody else has them.
        names: service
            .held
            .iter()
            .chain(&service.names)
            .map(|name| name.as_str().into())
            .collect(),
        addresses: service.addresses.clone(),
        behind: None,
    });
    records
        .filter(|record| !record.names.is_empty() && !record.addresses.is_empty())
        .collect()
}
