//! What carries changes out.

use std::fmt;
use std::io;

use thiserror::Error as ThisError;

use crate::observed::Observed;
pub use crate::sys::TunHandle;
use crate::{Change, Device, Error, InterfaceName, Kind, RouteKind};

/// A machine's network, as one owner changes it.
///
/// Every method blocks, and none keeps anything that the machine itself does not keep, apart from the descriptors of TUN interfaces:
/// another `Backend` of the same owner, in another process after a crash, undoes what this one did.
///
/// Whoever must leave nothing behind asks [`find`](Self::find) first, writes down the changes that are [`Found::Absent`], and only then
/// calls [`apply`](Self::apply): to undo what was written down is right whether or not it had been applied.
pub trait Backend: Send {
    /// Which kinds of change there are on this system and this kernel. Changes nothing.
    fn capabilities(&mut self) -> Capabilities;

    /// What there is.
    ///
    /// # Errors
    /// [`Error::Unsupported`], or [`Error::System`] where the system does not tell.
    fn observe(&mut self) -> Result<Observed, Error>;

    /// Whether each change is there already, in their order.
    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>>;

    /// Applies changes in their order, and says of each what became of it. The failure of one stops none of the others, except those that
    /// needed it.
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>>;

    /// Takes back changes that were applied in this order, the last one first, and says of each, in the order of `changes`, what became of
    /// it. What is gone already is fine, and what is another owner's stays.
    ///
    /// Whatever is on an interface that is removed goes with it.
    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>>;

    /// A descriptor of a [`Kind::Tun`](crate::Kind::Tun) interface that this backend made: packets without a header before them (on macOS
    /// with the four bytes of their family). On Windows they are read by Wintun's own calls, and there is no descriptor. The interface stays for as long as anybody has one.
    ///
    /// # Errors
    /// [`ChangeError::Missing`] where this backend made none of that name, [`ChangeError::Unsupported`].
    fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, ChangeError>;
}

/// Whether a change is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is not.
    Absent,
    /// It is, and bears this owner's mark.
    Ours,
    /// It is as wanted, and is somebody else's: there is nothing to do, and nothing to undo.
    Theirs,
}

/// What became of a change that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was made, and is to be undone.
    Added,
    /// It was there as wanted, and is not this call's to undo.
    Present,
}

/// What became of a change that was undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It was there, and was removed.
    Removed,
    /// It was not there.
    Gone,
    /// It is another owner's, and was left.
    Left {
        /// What shows that.
        why: String,
    },
}

/// Why one change could not be applied, undone or found.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ChangeError {
    /// This system, or its kernel, has no such thing.
    #[error("{what} cannot be had on this system")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The name begins with another word than the owner's, so that the interface can never be this owner's.
    #[error("the name of interface {name} does not begin with {owner}")]
    Name {
        /// The interface.
        name: InterfaceName,
        /// The owner's word.
        owner: String,
    },
    /// Something of the same name or for the same names is there, and is another owner's.
    #[error("{what} is there already, and is not ours: {why}")]
    Foreign {
        /// What.
        what: String,
        /// What shows whose it is.
        why: String,
    },
    /// It is there, is this owner's, and is not as wanted.
    #[error("{what} is there already with {found} rather than {wanted}")]
    Differs {
        /// What.
        what: String,
        /// As it is.
        found: String,
        /// As it was wanted.
        wanted: String,
    },
    /// The interface that the change needs is not there.
    #[error("there is no interface {name}")]
    Missing {
        /// The interface.
        name: InterfaceName,
    },
    /// The change is none: host bits in a route's destination, a rule without a server.
    #[error("{what}: {why}")]
    Invalid {
        /// The change.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    #[error("cannot {what}")]
    System {
        /// What was tried, as it follows "cannot".
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Which kinds of change there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`Kind::Dummy`](crate::Kind::Dummy) interfaces.
    pub dummy: Support,
    /// [`Kind::Tun`](crate::Kind::Tun) interfaces.
    pub tun: Support,
    /// Whether packets to the addresses of a TUN interface stay on this machine, so that it can stand in for a dummy interface. On macOS
    /// they go to the program that reads its packets.
    pub tun_is_local: bool,
    /// Addresses on [`Device::Loopback`](crate::Device::Loopback).
    pub loopback: Support,
    /// [`RouteKind::Local`](crate::RouteKind::Local) routes, which make a whole prefix this machine's own.
    pub local_routes: Support,
    /// [`RouteKind::Unicast`](crate::RouteKind::Unicast) routes.
    pub unicast_routes: Support,
    /// [`Change::Resolver`].
    pub resolver: Support,
    /// Whether a resolver rule's servers may have another port than 53.
    pub resolver_ports: bool,
    /// Whether a resolver rule needs an interface that was made.
    pub resolver_needs_interface: bool,
    /// Whether every address of 127.0.0.0/8 can be bound without any change.
    pub whole_127: bool,
}

impl Capabilities {
    /// None at all, each for the same reason.
    #[must_use]
    pub fn none(why: &str) -> Self {
        let missing = || Support::Missing(why.to_owned());
        Self {
            dummy: missing(),
            tun: missing(),
            tun_is_local: false,
            loopback: missing(),
            local_routes: missing(),
            unicast_routes: missing(),
            resolver: missing(),
            resolver_ports: false,
            resolver_needs_interface: false,
            whole_127: false,
        }
    }

    /// Whether there are changes of this kind.
    #[must_use]
    pub fn of(&self, change: &Change) -> &Support {
        match change {
            Change::Interface(interface) => match interface.kind {
                Kind::Dummy => &self.dummy,
                Kind::Tun => &self.tun,
            },
            Change::Address {
                device: Device::Loopback,
                ..
            } => &self.loopback,
            Change::Route(route) => match route.kind {
                RouteKind::Local => &self.local_routes,
                RouteKind::Unicast => &self.unicast_routes,
            },
            Change::Resolver(_) => &self.resolver,
            // An interface that could be made takes addresses.
            Change::Address { .. } => &Support::Available,
        }
    }
}

/// Whether something can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Available,
    /// It cannot, and why.
    Missing(String),
}

impl Support {
    /// Whether it can be had.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Support::Available)
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undone::Removed => f.write_str("removed"),
            Undone::Gone => f.write_str("gone already"),
            Undone::Left { why } => write!(f, "left: {why}"),
        }
    }
}
