/// Why something could not be taken as it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that cannot be on the wire (RFC 1035 §2.3.4).
    #[error("{name:?} is not a domain name: {reason}; labels have 1 to 63 bytes, the whole at most 253")]
    InvalidName {
        /// The text.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Text that does not fit into a TXT record.
    #[error("a string of a TXT record has {len} bytes; at most 255 fit (RFC 1035 §3.3)")]
    LongText {
        /// How long it is.
        len: usize,
    },
    /// Text that is not the data of an HTTPS record (RFC 9460 §2.1).
    #[error(
        "{text:?} is not an HTTPS record: {reason}; expected PRIORITY TARGET PARAMETERS, as in `1 . alpn=h2,http/1.1 port=8443`"
    )]
    InvalidHttps {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Record data that does not fit into a message.
    #[error("the data of a record has {len} bytes; at most {max} fit", max = crate::data::MAX_RDATA)]
    LongData {
        /// How long it is.
        len: usize,
    },
    /// A type of records that has no such name.
    #[error("{rtype:?} is no type of records; expected one such as A, AAAA, SRV or TYPE65")]
    UnknownType {
        /// The text.
        rtype: String,
    },
}
