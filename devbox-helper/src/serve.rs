//! One caller, one request at a time, until its stream ends; then everything is undone.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;

use hostsfile::Owner;

use devbox_helper_client::{
    BindFailure, Call, Channel, Endpoint, Error as ChannelError, FrameError, Handshake, HelperError,
    Protocol, Receiver, Reply, Request, Response, Sender, VERSION,
};

use crate::error::{Error, with_sources};
use crate::hosts::Hosts;
use crate::keep::{self, Role};
use crate::policy::Policy;
use crate::sys;

/// Serves the caller at the other end of standard input within `policy` until the stream ends or SIGTERM arrives, then
/// undoes what is not undone yet. Call it first thing in a process of its own, before there is a second thread.
///
/// The caller is welcomed only once this process has left its session and terminal. From then on nothing but SIGKILL keeps
/// the helper from undoing its work, and after a SIGKILL the next [`sweep`](crate::sweep) does it.
///
/// With [`Policy::keep`] this process serves nobody itself: each helper that the caller asks for is a child of it.
///
/// # Errors
/// [`Error::Undo`] when something stays behind; [`Error::Path`], [`Error::Pool`],
/// [`Error::NoChannel`], [`Error::Detach`], [`Error::Keep`], [`Error::Owner`] when nothing was served.
pub fn run(policy: Policy) -> Result<(), Error> {
    policy.check()?;
    let mut channel = Channel::inherited().map_err(Error::NoChannel)?;
    sys::detach().map_err(Error::Detach)?;
    if policy.keep {
        match keep::keep(channel).map_err(Error::Keep)? {
            Role::Keeper => return Ok(()),
            Role::Helper => channel = Channel::inherited().map_err(Error::NoChannel)?,
        }
        sys::detach().map_err(Error::Detach)?;
    }
    sys::end_on_terminate().map_err(Error::Detach)?;
    let owner = crate::owner::current().and_then(|owner| Owner::new(&owner).map_err(io::Error::other));
    let owner = owner.map_err(Error::Owner)?;
    let mut service = Service {
        hosts: Hosts::new(policy, owner),
    };
    let (mut sender, mut receiver) = channel.split();
    // A channel that fails has ended: its caller is gone, and what it asked for is undone either way.
    service.serve(&mut receiver, &mut sender).ok();
    // The stream stays open until this process ends, so that a caller who sees its end knows that everything is undone.
    service.hosts.undo_with_patience()
}

/// The entry point of a program that was started as the helper: reads the policy from its arguments
/// ([`Policy::from_args`]) and [serves](run).
///
/// # Errors
/// As those two. The program should print the error to standard error and exit with a code other than 0.
pub fn enter<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<(), Error> {
    Policy::from_args(args).and_then(run)
}

struct Service {
    hosts: Hosts,
}

enum Answer {
    Reply(Reply),
    Listener(TcpListener),
}

impl Service {
    fn serve(&mut self, receiver: &mut Receiver, sender: &mut Sender) -> Result<(), ChannelError> {
        if !greet(receiver, sender)? {
            return Ok(());
        }
        loop {
            let (id, answer, last) = match receiver.receive::<Call>() {
                Ok(Some(Call { id, request })) => (Some(id), self.handle(request), false),
                Ok(None) => return Ok(()),
                Err(ChannelError::Frame(error @ FrameError::Malformed { id, .. })) => {
                    (id, Answer::Reply(Reply::Error(malformed(&error))), false)
                }
                // Where the next frame begins is unknown.
                Err(ChannelError::Frame(error)) => {
                    (None, Answer::Reply(Reply::Error(malformed(&error))), true)
                }
                Err(error) => return Err(error),
            };
            match answer {
                Answer::Reply(reply) => sender.send(&Response {
                    id,
                    listener: false,
                    reply,
                })?,
                Answer::Listener(listener) => {
                    let response = Response {
                        id,
                        listener: true,
                        reply: Reply::Bound,
                    };
                    sender.send_with_listener(&response, &listener)?;
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, request: Request) -> Answer {
        let reply = match request {
            Request::SetHosts { block } => self.hosts.set(&block, false).map(Reply::Hosts),
            Request::TakeHosts { block } => self.hosts.set(&block, true).map(Reply::Hosts),
            Request::ClearHosts => self.hosts.clear().map(Reply::Hosts),
            Request::EditHosts { edits } => self.hosts.edit_by_hand(&edits).map(Reply::Hosts),
            Request::RestoreHosts { content } => self.hosts.restore_by_hand(&content).map(Reply::Hosts),
            Request::Sweep => self.hosts.sweep().map(Reply::Swept),
            Request::CleanUp => self.hosts.clean_up().map(Reply::Swept),
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

    /// The bound socket belongs to the caller: nothing is kept here, and there is nothing to undo.
    fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, HelperError> {
        self.hosts.policy().check_listener(endpoint)?;
        if !sys::PASSES_LISTENERS {
            return Err(HelperError::Unsupported {
                what: "handing over a listener on this system".into(),
            });
        }
        let bound = match endpoint.protocol {
            Protocol::Tcp => sys::listen(endpoint.socket_addr()),
            Protocol::Udp => sys::bind_datagrams(endpoint.socket_addr()),
        };
        bound.map_err(|error| {
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

/// Whether the caller may be served: it said hello first, and speaks this version.
fn greet(receiver: &mut Receiver, sender: &mut Sender) -> Result<bool, ChannelError> {
    let welcome = match receiver.receive::<Handshake>() {
        Ok(Some(Handshake::Hello { version: VERSION })) => Handshake::Welcome {
            version: VERSION,
            pid: std::process::id(),
        },
        Ok(Some(Handshake::Hello { version })) => Handshake::Error(HelperError::VersionMismatch {
            client: version,
            server: VERSION,
        }),
        Ok(Some(_)) => Handshake::Error(HelperError::Malformed {
            message: "the first message must be a hello".into(),
        }),
        Ok(None) => return Ok(false),
        Err(ChannelError::Frame(error)) => Handshake::Error(malformed(&error)),
        Err(error) => return Err(error),
    };
    sender.send(&welcome)?;
    Ok(matches!(welcome, Handshake::Welcome { .. }))
}

fn malformed(error: &FrameError) -> HelperError {
    HelperError::Malformed {
        message: with_sources(error),
    }
}
