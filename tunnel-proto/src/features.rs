//! Parts of the protocol that both sides must offer before either uses them.

use std::ops::{BitAnd, BitOr};

/// A set of optional parts of the protocol, as HELLO offers them.
///
/// ```
/// use tunnel_proto::Features;
///
/// let offered = Features::RESUME | Features::DATAGRAMS;
/// assert!(offered.contains(Features::DATAGRAMS));
/// assert_eq!(offered & Features::RESUME, Features::RESUME);
/// assert!(!Features::NONE.contains(Features::RESUME));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u16);

impl Features {
    /// No optional part.
    pub const NONE: Features = Features(0);
    /// A link whose connection is lost goes on over another one.
    pub const RESUME: Features = Features(1);
    /// Flows of datagrams beside the streams.
    pub const DATAGRAMS: Features = Features(1 << 1);

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn to_bits(self) -> u16 {
        self.0
    }

    /// Bits that are not known stay: a later revision may know them, and nothing asks for them here.
    pub(crate) const fn from_bits(bits: u16) -> Features {
        Features(bits)
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl BitAnd for Features {
    type Output = Features;

    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}
