//! What owners have under one name.

use crate::data::Data;

/// One record of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) owner: u32,
    /// Of the write in which the owner first had the name; a newer one is greater.
    pub(super) order: u32,
    pub(super) data: Data,
}

/// All of them, sorted by their data, so that what several owners published is side by side. Nearly all names have one record, and there
/// may be a million: it lies in place, in no more than its own size.
#[derive(Debug, Clone, Default)]
pub(super) enum Claims {
    #[default]
    None,
    One(Claim),
    Several(Box<[Claim]>),
}

impl Claims {
    pub(super) fn as_slice(&self) -> &[Claim] {
        match self {
            Self::None => &[],
            Self::One(claim) => std::slice::from_ref(claim),
            Self::Several(claims) => claims,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Those of one owner.
    pub(super) fn of(&self, owner: u32) -> Self {
        let claims = self.as_slice().iter();
        claims.filter(|claim| claim.owner == owner).cloned().collect()
    }

    /// Makes `new` all that this owner has.
    pub(super) fn replace(&mut self, owner: u32, new: impl Iterator<Item = Claim>) {
        let others = self.as_slice().iter().filter(|claim| claim.owner != owner);
        *self = others.cloned().chain(new).collect();
    }

    /// The data, each once (RFC 2181 §5), of all owners.
    pub(super) fn distinct(&self) -> impl Iterator<Item = &Data> {
        self.as_slice()
            .chunk_by(|a, b| a.data == b.data)
            .filter_map(|same| same.first())
            .map(|claim| &claim.data)
    }

    /// The data of the owner who had the name last.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Data> {
        let newest = self.as_slice().iter().map(|claim| claim.order).max();
        let claims = self.as_slice().iter();
        claims
            .filter(move |claim| Some(claim.order) == newest)
            .map(|claim| &claim.data)
    }
}

impl FromIterator<Claim> for Claims {
    fn from_iter<I: IntoIterator<Item = Claim>>(claims: I) -> Self {
        let mut claims = claims.into_iter();
        let Some(first) = claims.next() else {
            return Self::None;
        };
        let Some(second) = claims.next() else {
            return Self::One(first);
        };
        let mut all: Vec<_> = [first, second].into_iter().chain(claims).collect();
        all.sort_by(|a, b| a.data.cmp(&b.data));
        Self::Several(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_takes_no_more_than_itself() {
        assert_eq!(size_of::<Claims>(), size_of::<Claim>());
        assert_eq!(size_of::<Claim>(), 24);
    }
}
