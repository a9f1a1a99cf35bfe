//! The ways in which a program gets to see a session's names.

use std::ffi::OsString;
use std::fmt;

use crate::caller::Caller;
use crate::command::{Invocation, own_users_refused};
use crate::devbox::{Gateway, Up};
use crate::skip::Skip;

/// One way in which a program gets to see a session's names: beside a running `devbox up`, or inside `devbox exec`.
#[derive(Debug)]
pub enum Road<'a, 'g> {
    /// The names are in the hosts file that the program sees as the system's.
    Up(Up<'a>),
    /// The program is run by `devbox exec` as this caller.
    Exec(&'g Gateway<'a>, Caller),
}

impl<'a> Road<'a, '_> {
    /// Takes every road once, as every caller that is possible here, one after the other. A road that cannot be taken on this
    /// system gets its own `SKIP` line.
    ///
    /// # Errors
    /// The first error of `travel`, with the road's name.
    pub fn each<F>(gateway: &Gateway<'a>, mut travel: F) -> crate::Result
    where
        F: FnMut(&Road<'_, '_>) -> crate::Result,
    {
        use anyhow::Context;
        for caller in [Caller::Root, Caller::Ordinary] {
            if caller.ids_to_take().is_err() {
                Skip::new("needs root").tell(&format!("{} (as root)", gateway.scene().name()));
                continue;
            }
            let road = Road::Up(Up::start(gateway, caller)?);
            travel(&road).with_context(|| road.to_string())?;
            drop(road);
            let road = Road::Exec(gateway, caller);
            match own_users_refused(caller) {
                None => travel(&road).with_context(|| road.to_string())?,
                Some(why) => Skip::new(why).tell(&format!("{} ({road})", gateway.scene().name())),
            }
        }
        Ok(())
    }

    /// A program on this road.
    ///
    /// # Errors
    /// If the program under test does not exist.
    pub fn command<I, S>(&self, argv: I) -> crate::Result<Invocation<'a>>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        match self {
            Road::Up(up) => Ok(up.client(argv)),
            Road::Exec(gateway, caller) => gateway.exec(*caller, argv),
        }
    }

    /// The user that programs run as on it.
    pub fn caller(&self) -> Caller {
        match self {
            Road::Up(up) => up.caller(),
            Road::Exec(_, caller) => *caller,
        }
    }
}

impl fmt::Display for Road<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, caller) = match self {
            Road::Up(up) => ("up", up.caller()),
            Road::Exec(_, caller) => ("exec", *caller),
        };
        write!(f, "{verb} as {}", caller.name())
    }
}
