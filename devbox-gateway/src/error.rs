use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The token or its file cannot be used.
    #[error(transparent)]
    Token {
        /// What is wrong with it.
        #[from]
        source: devbox_gateway_client::Error,
    },
    /// The token is one that is given out anew for each client.
    #[error("tokens that are given out are for clients: a gateway takes a fixed one or those of a file")]
    IssuedToken,
    /// A place in a tokens file is wrong. No token is in the message.
    #[error("{}:{line}:{column}: {message}", path.display())]
    TokensFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where the YAML reader gives no place.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls {
        /// Which file, and what is wrong with it.
        #[from]
        source: tunnel_bridge::Error,
    },
    /// The address can be reached from other machines, and tokens would cross the network in the clear.
    #[error(
        "{address} is reachable from other machines and needs TLS: give a certificate and a key, listen on loopback, or allow it with `insecure`"
    )]
    InsecureListen {
        /// The address.
        address: SocketAddr,
    },
    /// QUIC has no form without TLS.
    #[error("quic on {address} needs a certificate and a key")]
    QuicWithoutTls {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on by UDP.
    #[error("cannot listen for quic on {address}")]
    ListenQuic {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        source: tunnel_bridge::Error,
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
