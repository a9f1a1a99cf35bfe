//! What the engine says about the machine that a session runs on, for other languages.

use devbox_engine as engine;

/// Something about this machine that the user would want to know.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Notice {
    /// What sessions had before cannot be read: addresses follow from the names alone, and are not remembered.
    AddressesInMemory {
        /// Why.
        reason: String,
    },
    /// Addresses can no longer be written to the store, and are not remembered.
    AddressesNotKept {
        /// Why.
        reason: String,
    },
    /// Any certificate of a gateway is accepted, because the configuration says so: who is on the way can read the token and
    /// change what is carried.
    AnyCertificate {
        /// The gateway.
        far_side: String,
    },
    /// The user may not do everything in a cluster that was asked for.
    Lacking {
        /// The cluster's provider.
        provider: String,
        /// What they lack, and what is so without it: a few clauses.
        what: String,
    },
    /// What a session that was killed had left was removed.
    Swept {
        /// The hosts file.
        file: String,
        /// The tag of the block that was removed.
        tag: String,
    },
    /// An older session of this user for the same environment and hosts file was asked to leave, and is waited for.
    WaitingForOlder {
        /// The environment.
        environment: String,
    },
    /// There is no control socket for an environment: other programs cannot find this session.
    NoControlSocket {
        /// The environment.
        environment: String,
        /// Why.
        reason: String,
    },
    /// The helper was killed. Another one has taken over what it did.
    HelperRestarted {
        /// The new one's process.
        pid: u32,
    },
    /// Something that these bindings have no case for.
    Other {
        /// It, for a log.
        text: String,
    },
}

impl From<engine::Notice> for Notice {
    fn from(notice: engine::Notice) -> Self {
        match notice {
            engine::Notice::AddressesInMemory { reason } => Self::AddressesInMemory { reason },
            engine::Notice::AddressesNotKept { reason } => Self::AddressesNotKept { reason },
            engine::Notice::AnyCertificate { far_side } => Self::AnyCertificate { far_side },
            engine::Notice::Lacking { provider, what } => Self::Lacking { provider, what },
            engine::Notice::Swept { file, tag } => Self::Swept {
                file: file.display().to_string(),
                tag,
            },
            engine::Notice::WaitingForOlder { environment } => Self::WaitingForOlder {
                environment: environment.to_string(),
            },
            engine::Notice::NoControlSocket { environment, reason } => Self::NoControlSocket {
                environment: environment.to_string(),
                reason,
            },
            engine::Notice::HelperRestarted { pid } => Self::HelperRestarted { pid },
            engine::Notice::Conflict(conflict) => Self::Other {
                text: conflict.to_string(),
            },
            other => Self::Other {
                text: format!("{other:?}"),
            },
        }
    }
}
