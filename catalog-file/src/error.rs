use std::io;
use std::num::NonZeroU16;
use std::path::PathBuf;

use service_catalog::{Protocol, ServiceId};

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A place in the catalog file is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Catalog {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where the YAML reader gives no place.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// The catalog file cannot be read.
    #[error("cannot read the catalog file {}", path.display())]
    ReadCatalog {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The catalog file is over the limit.
    #[error("the catalog file {} is over {limit} bytes", path.display())]
    CatalogTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// A newer catalog is of another environment than the one in force. Whoever uses that one asked for its environment.
    #[error("the environment was `{from}` and is `{to}` now: restart to serve another one")]
    EnvironmentChanged {
        /// The environment in force.
        from: String,
        /// The newer catalog's.
        to: String,
    },
    /// A service does not fit a catalog.
    #[error(transparent)]
    Service {
        /// What is wrong with it.
        #[from]
        source: service_catalog::Error,
    },
    /// A port cannot be dialed.
    #[error("port {port}/{protocol} of `{service}`: {fault}")]
    Port {
        /// The service.
        service: ServiceId,
        /// The port.
        port: NonZeroU16,
        /// What is spoken there.
        protocol: Protocol,
        /// What is wrong with it.
        fault: String,
    },
    /// An address to dial is not `host:port`.
    #[error("`{}` is not an address to dial: {fault}", text.escape_debug())]
    DialAddress {
        /// The text, cut to 300 characters.
        text: String,
        /// What is wrong with it.
        fault: &'static str,
    },
}
