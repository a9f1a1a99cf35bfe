use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a gateway cannot start, or a catalog cannot be read.
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
    /// The catalog file names another environment than when the gateway started. Its clients asked for the former one.
    #[error("{}: the environment was `{from}` and is `{to}` in the file: restart the gateway to serve another one", path.display())]
    EnvironmentChanged {
        /// The file.
        path: PathBuf,
        /// The environment that is served.
        from: String,
        /// The environment that the file names.
        to: String,
    },
    /// A service does not fit a catalog.
    #[error(transparent)]
    Service {
        /// What is wrong with it.
        #[from]
        source: service_catalog::Error,
    },
    /// An address to dial is not `host:port`.
    #[error("`{}` is not an address to dial: {fault}", text.escape_debug())]
    DialAddress {
        /// The text, cut to 300 characters.
        text: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The token file or the files for TLS cannot be used.
    #[error(transparent)]
    Tunnel {
        /// Which file, and what is wrong with it.
        #[from]
        source: tunnel_bridge::Error,
    },
    /// The address can be reached from other machines, and tokens would cross the network in clear.
    #[error(
        "{address} is reachable from other machines and needs TLS: give a certificate and a key, listen on loopback, or allow it with `insecure`"
    )]
    InsecureListen {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}
