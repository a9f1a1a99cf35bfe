//! The helper of one caller, who has started it: it serves until that caller's stream ends; then everything is undone.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use devbox_helper_client::{Channel, Request};

use crate::claims::{ClaimId, Claims, Limits};
use crate::conversation::{Desk, converse};
use crate::error::Error;
use crate::journal::Journal;
use crate::keep::{self, Role};
use crate::machine::{Answer, Caller, Machine};
use crate::network::{self, Network, Undo};
use crate::policy::Policy;
use crate::service::{self, Service};
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
/// [`Error::Undo`], [`Error::Network`] when something stays behind; [`Error::Path`], [`Error::Pool`],
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
    sys::on_terminate(sys::shut_input).map_err(Error::Detach)?;
    let owner = crate::owner::current().map_err(Error::Owner)?;
    let mut backend = network::system();
    let dir = PathBuf::from(service::STATE_DIR);
    let mut undo = Undo::default();
    if sys::is_root() {
        // What a helper left that was killed. Nobody else can undo it, and `devbox cleanup` asks for nothing more.
        undo = network::undo_journals(backend.as_mut(), &dir)?;
    }
    let network = Network::new(backend, Journal::new(&dir, &owner));
    let mut machine = Machine::new(owner, Claims::new(Limits::default()), network);
    machine.has_undone(undo);
    let caller = Caller {
        uid: policy.caller.as_ref().map_or(0, |caller| caller.uid),
        pid: 0,
        policy,
    };
    let id = machine
        .enter_alone(caller)
        .map_err(|error| Error::Owner(std::io::Error::other(error)))?;
    let (mut sender, mut receiver) = channel.split();
    let mut desk = Alone {
        machine,
        id,
        large: false,
    };
    // A channel that fails has ended: its caller is gone, and what it asked for is undone either way.
    converse(&mut receiver, &mut sender, None, &mut desk).ok();
    // The stream stays open until this process ends, so that a caller who sees its end knows that everything is undone.
    desk.machine.finish()
}

/// The entry point of a program that was started as the helper: reads the policy from its arguments
/// ([`Policy::from_args`]) and [serves](run) the one caller who has started it. With [`SERVE`](crate::SERVE) as the first argument
/// it [serves](Service::run) everybody whom the policy file admits, with [`SWEEP`](crate::SWEEP) [nobody](Service::sweep).
///
/// # Errors
/// As those. The program should print the error to standard error and exit with a code other than 0.
pub fn enter<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<(), Error> {
    let mut args = args.into_iter().map(Into::into).peekable();
    if args.next_if(|argument| argument == service::SERVE).is_some() {
        return Service::from_args(args)?.run();
    }
    if args.next_if(|argument| argument == service::SERVICE).is_some() {
        let service = Service::from_args(args)?;
        return sys::as_service(|| service.run());
    }
    if args.next_if(|argument| argument == service::SWEEP).is_some() {
        return Service::from_args(args)?.sweep();
    }
    Policy::from_args(args).and_then(run)
}

struct Alone {
    machine: Machine,
    id: ClaimId,
    /// Whether the last request was a large one.
    large: bool,
}

/// So many lines of a hosts file take memory to read and to write that is worth giving back: the next change may be hours away.
const LARGE: usize = 256;

impl Desk for Alone {
    fn answer(&mut self, request: Request) -> Answer {
        self.large = match &request {
            Request::SetHosts { block } | Request::TakeHosts { block } => block.entries.len() >= LARGE,
            _ => false,
        };
        self.machine.tick(Instant::now());
        self.machine.handle(&mut self.id, request)
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.large) {
            sys::give_memory_back();
        }
    }
}
