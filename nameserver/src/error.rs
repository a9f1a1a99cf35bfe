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
