//! The user that a program runs as.

use crate::skip::Skip;

/// The user that a program of a test runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// The superuser. Only possible if the tests themselves run as root.
    Root,
    /// An unprivileged user: `nobody` if the tests run as root, otherwise whoever runs them.
    Ordinary,
    /// A second unprivileged user, `daemon`. Only possible if the tests themselves run as root.
    Other,
}

impl Caller {
    /// The user that runs the tests.
    pub fn own() -> Caller {
        if rustix::process::geteuid().is_root() {
            Caller::Root
        } else {
            Caller::Ordinary
        }
    }

    /// The users that the program must work for: an ordinary user, and root if the tests run as root.
    pub fn possible() -> Vec<Caller> {
        let all = [Caller::Root, Caller::Ordinary];
        all.into_iter()
            .filter(|caller| caller.ids_to_take().is_ok())
            .collect()
    }

    /// The user and group id to change to; `None` if the caller is the user who runs the tests.
    ///
    /// # Errors
    /// [`Skip`] if changing the user needs root and the tests are not run by root.
    pub(crate) fn ids_to_take(self) -> crate::Result<Option<(u32, u32)>> {
        match (self, Caller::own()) {
            (Caller::Root, Caller::Root) => Ok(None),
            (Caller::Ordinary, Caller::Root) => Ok(Some((65534, 65534))),
            (Caller::Other, Caller::Root) => Ok(Some((1, 1))),
            (Caller::Ordinary, _) => Ok(None),
            (Caller::Root, _) => Err(Skip::new("needs root").into()),
            (Caller::Other, _) => Err(Skip::new("needs root, to run as a second user").into()),
        }
    }

    /// The user's name in the password file.
    pub fn name(self) -> String {
        match (self, Caller::own()) {
            (Caller::Root, _) => "root".to_owned(),
            (Caller::Ordinary, Caller::Root) => "nobody".to_owned(),
            (Caller::Other, _) => "daemon".to_owned(),
            (Caller::Ordinary, _) => crate::proc::user_name(rustix::process::geteuid().as_raw()),
        }
    }

    /// The numeric user id.
    pub fn uid(self) -> u32 {
        match self {
            Caller::Root => 0,
            _ => match self.ids_to_take() {
                Ok(Some((uid, _))) => uid,
                _ => rustix::process::geteuid().as_raw(),
            },
        }
    }
}
