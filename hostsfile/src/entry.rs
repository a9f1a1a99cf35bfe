//! What a caller wants to write: entries, and blocks of entries.

use std::net::IpAddr;

use crate::error::Error;
use crate::name::{Comment, HostName, Owner, Tag, Zone};

/// An address and its names.
///
/// The first name is the canonical one, which reverse lookups and `AI_CANONNAME` return, so the caller's order is kept.
/// ```
/// use hostsfile::{Comment, Entry};
/// let entry = Entry::new("127.77.0.1".parse()?, ["orders", "orders.backend"])?.with_comment(Comment::new("shop")?);
/// assert_eq!(entry.to_string(), "127.77.0.1 orders orders.backend # shop");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Entry {
    /// The address; never an IPv4-mapped IPv6 address.
    pub address: IpAddr,
    /// The interface of a link-local IPv6 address. glibc and FreeBSD ignore lines with a zone.
    pub zone: Option<Zone>,
    /// At least one name; duplicates are written once.
    pub names: Vec<HostName>,
    /// The comment after the `#` on the entry's lines.
    pub comment: Option<Comment>,
}

impl Entry {
    /// Makes an entry from checked names, or from texts, which are checked here.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::NoNames`], [`Error::MappedAddress`].
    pub fn new<N>(address: IpAddr, names: impl IntoIterator<Item = N>) -> Result<Self, Error>
    where
        N: TryInto<HostName>,
        N::Error: Into<Error>,
    {
        let names = names
            .into_iter()
            .map(|n| n.try_into().map_err(Into::into))
            .collect::<Result<Vec<_>, Error>>()?;
        let entry = Entry {
            address,
            zone: None,
            names,
            comment: None,
        };
        entry.check()?;
        Ok(entry)
    }

    /// Makes an entry from texts, including the address, which may have a zone.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] for anything but the full form of an address, [`Error::InvalidZone`], and those of [`new`](Self::new).
    pub fn parse<N>(address: &str, names: impl IntoIterator<Item = N>) -> Result<Self, Error>
    where
        N: TryInto<HostName>,
        N::Error: Into<Error>,
    {
        let (text, zone) = match address.split_once('%') {
            Some((text, zone)) => (text, Some(Zone::new(zone)?)),
            None => (address, None),
        };
        let parsed = text.parse().map_err(|_| Error::InvalidAddress {
            text: address.to_owned(),
        })?;
        let mut entry = Entry::new(parsed, names)?;
        entry.zone = zone;
        entry.check()?;
        Ok(entry)
    }

    /// Sets the comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<Option<Comment>>) -> Self {
        self.comment = comment.into();
        self
    }

    /// Sets the zone.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Option<Zone>>) -> Self {
        self.zone = zone.into();
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if let IpAddr::V6(v6) = self.address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(Error::MappedAddress {
                address: self.address,
            });
        }
        if self.names.is_empty() {
            return Err(Error::NoNames {
                address: self.address,
            });
        }
        if let (IpAddr::V4(_), Some(zone)) = (self.address, &self.zone) {
            return Err(Error::InvalidZone {
                zone: zone.to_string(),
                reason: "an IPv4 address cannot have a zone",
            });
        }
        Ok(())
    }

    /// Whether two entries can share a line.
    pub(crate) fn same_place(&self, other: &Entry) -> bool {
        self.address == other.address && self.zone == other.zone && self.comment == other.comment
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(zone) = &self.zone {
            write!(f, "%{zone}")?;
        }
        for name in &self.names {
            write!(f, " {name}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " # {comment}"),
            None => Ok(()),
        }
    }
}

/// A block as a caller wants it: everything between `# BEGIN <tag>` and `# END <tag>`.
/// ```
/// use hostsfile::{Block, Entry, Tag};
/// let mut block = Block::new(Tag::new("devbox")?);
/// block.entries.push(Entry::new("127.77.0.1".parse()?, ["orders"])?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// The block's tag.
    pub tag: Tag,
    /// The owner, written as `owner=<token>` after the tag.
    pub owner: Option<Owner>,
    /// The entries, in the order in which they are written. A block without entries is not written at all.
    pub entries: Vec<Entry>,
    /// Whether [`Edit::SetBlock`](crate::Edit::SetBlock) writes a seal in a comment on each line, which proves that the line is
    /// the block's even where the markers are lost ([`Document::strays`](crate::Document::strays)). Default: `false`.
    pub sealed: bool,
}

impl Block {
    /// Makes a block with no owner and no entries.
    #[must_use]
    pub fn new(tag: Tag) -> Self {
        Block {
            tag,
            owner: None,
            entries: Vec::new(),
            sealed: false,
        }
    }

    /// Has each line sealed.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    /// Sets the owner.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<Option<Owner>>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Replaces the entries.
    #[must_use]
    pub fn with_entries(mut self, entries: impl IntoIterator<Item = Entry>) -> Self {
        self.entries = entries.into_iter().collect();
        self
    }
}
