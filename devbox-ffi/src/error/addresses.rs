//! Failures of addresses.

use devbox_provider::with_causes;
use ipalloc::{Error, LockFault};

use super::{DevboxError, os_code, shown};

/// Something wrong with a line of a file.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct LineFault {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

impl From<LockFault> for LineFault {
    fn from(fault: LockFault) -> Self {
        let reason = fault.to_string();
        let line = match fault {
            LockFault::ConflictMarker { line }
            | LockFault::BadLine { line, .. }
            | LockFault::DuplicateKey { line, .. }
            | LockFault::DuplicateAddress { line, .. }
            | LockFault::Newer { line, .. } => line,
            _ => 0,
        };
        Self {
            line: line as u64,
            reason,
        }
    }
}

impl From<Error> for DevboxError {
    fn from(error: Error) -> Self {
        let reason = with_causes(&error);
        let os_code = os_code(&error);
        let pool = |pool: String, other: Option<String>, reason| Self::Pool { pool, other, reason };
        let taken = |address: std::net::IpAddr, key: String, resting_until, reason| Self::AddressTaken {
            address: address.to_string(),
            key,
            resting_until,
            reason,
        };
        match error {
            Error::PoolExhausted {
                pool,
                leased,
                resting,
            } => Self::PoolExhausted {
                pool,
                leased: leased as u64,
                resting: resting as u64,
            },
            Error::BadKey { key, why } => Self::Config {
                key: "key".to_owned(),
                value: key,
                reason: format!("it {why}"),
            },
            Error::EmptyPool { pool: empty } => pool(empty, None, reason),
            Error::HostBits { prefix, network } => {
                pool(prefix.to_string(), Some(network.to_string()), reason)
            }
            Error::MixedFamilies { one, other } | Error::Overlap { one, other } => {
                pool(one.to_string(), Some(other.to_string()), reason)
            }
            Error::BadBeside { prefix } => pool(prefix.to_string(), None, reason),
            Error::OutOfPool {
                address,
                pool: prefixes,
            } => pool(prefixes, Some(address.to_string()), reason),
            Error::AddressTaken { address, key }
            | Error::KeyLive { key, address }
            | Error::PortTaken { address, key, .. } => taken(address, key.to_string(), None, reason),
            Error::AddressResting { address, key, until } => {
                taken(address, key.to_string(), Some(until.as_secs()), reason)
            }
            Error::NoneUsable { key, .. } | Error::NotLeased { key } | Error::PortNotHeld { key, .. } => {
                Self::NoAddress {
                    key: key.to_string(),
                    reason,
                }
            }
            Error::LockFile { path, faults } => Self::LockFile {
                file: path.map(|path| shown(&path)),
                faults: faults.into_iter().map(Into::into).collect(),
                reason,
            },
            Error::Locked { file, waited } => Self::Locked { file, waited },
            Error::Damaged { file, .. }
            | Error::Newer { file, .. }
            | Error::OtherPool { file, .. }
            | Error::Io { file, .. } => Self::File {
                file,
                os_code,
                reason,
            },
            _ => Self::Other { reason },
        }
    }
}
