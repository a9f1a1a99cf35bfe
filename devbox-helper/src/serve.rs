//! One caller, one request at a time, until its stream ends; then everything is undone.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;

use hostsfile::Owner;

use devbox_helper_client::{
    BindFailure, Channel, Endpoint, Error as ChannelError, FrameError, HelperError, Protocol, Receiver,
    Reply, Request, Sender, VERSION,
};

use crate::error::{Error, with_sources};
use crate::hosts::Hosts;
use crate::policy::{Policy, not_allowed};
use crate::sys;

/// Serves the caller at the other end of standard input within `policy`, until the stream ends or SIGTERM comes; then
/// undoes what is not undone yet. To be called first thing in a process of its own, before it has another thread.
///
/// Nothing is welcomed before this process has left its caller's session and terminal: from then on only SIGKILL keeps
/// it from undoing, and then the next [`sweep`](crate::sweep) does it.
///
/// # Errors
/// [`Error::Undo`] when something stays behind; [`Error::Path`], [`Error::Pool`],
/// [`Error::NoChannel`], [`Error::Detach`], [`Error::Owner`] when nothing was served.
pub fn run(policy: Policy) -> Result<(), Error> {
    policy.check()?;
    let channel = Channel::inherited().map_err(Error::NoChannel)?;
    sys::detach().map_err(Error::Detach)?;
    sys::end_on_terminate().map_err(Error::Detach)?;
    let owner = crate::owner::current().and_then(|owner| Owner::new(&owner).map_err(io::Error::other));
    let owner = owner.map_err(Error::Owner)?;
    let mut service = Service {
        hosts: Hosts::new(policy, owner),
        greeted: false,
    };
    let (mut sender, mut receiver) = channel.split();
    service.serve(&mut receiver, &mut sender);
    // The stream stays open until this process ends: a caller that sees its end sees that all is undone.
    service.hosts.undo_with_patience()
}

/// What the program does whose first argument says that it is the helper: reads the policy from the other arguments
/// ([`Policy::from_args`]) and [serves](run).
///
/// # Errors
/// As those two. The program says it on standard error and exits with a code other than 0.
pub fn enter<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<(), Error> {
    Policy::from_args(args).and_then(run)
}

struct Service {
    hosts: Hosts,
    greeted: bool,
}

enum Answer {
    Reply(Reply),
    Listener(TcpListener),
    /// The caller is none that can be served.
    Last(HelperError),
}

impl Service {
    fn serve(&mut self, receiver: &mut Receiver, sender: &mut Sender) {
        loop {
            let answer = match receiver.receive::<Request>() {
                Ok(Some(request)) => self.handle(request),
                Ok(None) => return,
                Err(ChannelError::Frame(error @ FrameError::Malformed(_))) if self.greeted => {
                    Answer::Reply(Reply::Error(malformed(&error)))
                }
                Err(ChannelError::Frame(error)) => Answer::Last(malformed(&error)),
                Err(_) => return,
            };
            let (sent, last) = match answer {
                Answer::Reply(reply) => (sender.send(&reply), false),
                Answer::Listener(listener) => (sender.send_with_listener(&Reply::Bound, &listener), false),
                Answer::Last(error) => (sender.send(&Reply::Error(error)), true),
            };
            if last || sent.is_err() {
                return;
            }
        }
    }

    fn handle(&mut self, request: Request) -> Answer {
        if let Request::Hello { version } = request {
            return self.greet(version);
        }
        if !self.greeted {
            return Answer::Last(HelperError::Malformed {
                message: "the first request must be a hello".into(),
            });
        }
        let reply = match request {
            Request::SetHosts { block } => self.hosts.set(&block).map(Reply::Hosts),
            Request::ClearHosts => self.hosts.clear().map(Reply::Hosts),
            Request::EditHosts { edits } => self.hosts.edit_by_hand(&edits).map(Reply::Hosts),
            Request::RestoreHosts { content } => self.hosts.restore_by_hand(&content).map(Reply::Hosts),
            Request::Sweep => self.hosts.sweep().map(Reply::Swept),
            Request::Release => self.hosts.release().map(Reply::Released),
            Request::Bind { endpoint } => match self.bind(endpoint) {
                Ok(listener) => return Answer::Listener(listener),
                Err(error) => Err(error),
            },
            _ => Err(HelperError::Unsupported {
                what: "this request".into(),
            }),
        };
        Answer::Reply(reply.unwrap_or_else(Reply::Error))
    }

    fn greet(&mut self, version: u32) -> Answer {
        if version != VERSION {
            return Answer::Last(HelperError::VersionMismatch {
                client: version,
                server: VERSION,
            });
        }
        if self.greeted {
            return Answer::Reply(Reply::Error(not_allowed("a second hello", "one is enough")));
        }
        self.greeted = true;
        Answer::Reply(Reply::Welcome {
            version: VERSION,
            pid: std::process::id(),
        })
    }

    /// The bound socket is the caller's: nothing is kept here, and nothing is to be undone.
    fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, HelperError> {
        self.hosts.policy().check_listener(endpoint)?;
        if endpoint.protocol != Protocol::Tcp {
            return Err(HelperError::Unsupported {
                what: format!("binding {endpoint}: this version binds TCP listeners only"),
            });
        }
        if !sys::PASSES_LISTENERS {
            return Err(HelperError::Unsupported {
                what: "handing over a listener on this system".into(),
            });
        }
        sys::listen(endpoint.socket_addr()).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::AddrInUse => BindFailure::AddrInUse,
                io::ErrorKind::PermissionDenied => BindFailure::PermissionDenied,
                io::ErrorKind::AddrNotAvailable => BindFailure::AddrNotAvailable,
                _ => BindFailure::Other,
            };
            HelperError::Bind {
                endpoint,
                kind,
                message: error.to_string(),
            }
        })
    }
}

fn malformed(error: &FrameError) -> HelperError {
    HelperError::Malformed {
        message: with_sources(error),
    }
}
