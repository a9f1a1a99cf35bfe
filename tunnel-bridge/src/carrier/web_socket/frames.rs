//! Frames of RFC 6455 as bytes: what both directions know of them.

/// The most bytes that a frame has before its payload.
pub(super) const MAX_HEAD_BYTES: usize = 14;

/// The most bytes that the payload of a control frame has (RFC 6455 §5.5).
pub(super) const MAX_CONTROL_BYTES: usize = 125;

/// The bits of a frame's first byte.
pub(super) const FIN: u8 = 0x80;
pub(super) const RESERVED: u8 = 0x70;
pub(super) const OPCODE: u8 = 0x0F;

/// The bit of a frame's second byte.
pub(super) const MASKED: u8 = 0x80;

pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// Codes of a Close (RFC 6455 §7.4.1).
pub(super) const NORMAL: u16 = 1000;
pub(super) const GOING_AWAY: u16 = 1001;
pub(super) const PROTOCOL_ERROR: u16 = 1002;
pub(super) const INVALID_PAYLOAD: u16 = 1007;
pub(super) const MESSAGE_TOO_BIG: u16 = 1009;

/// Whether the code may be in a Close that is sent (RFC 6455 §7.4 and the registry there: 1012 to 1014 came later).
pub(super) const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A payload of a control frame: at most 125 bytes.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    bytes: [u8; MAX_CONTROL_BYTES],
    len: usize,
}

impl Payload {
    pub(super) const EMPTY: Payload = Payload {
        bytes: [0; MAX_CONTROL_BYTES],
        len: 0,
    };

    /// Appends what there is room for.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.len..];
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// The head of a whole message, or of a control frame, with the byte that the message begins with, if that is not part of
/// what was taken.
pub(super) struct Head {
    bytes: [u8; MAX_HEAD_BYTES + 1],
    len: usize,
}

impl Head {
    /// The head of a frame with a payload of `len` bytes, masked with `key`.
    pub(super) fn new(opcode: u8, len: usize, key: Option<[u8; 4]>) -> Head {
        let mut head = Head {
            bytes: [0; MAX_HEAD_BYTES + 1],
            len: 0,
        };
        let masked = if key.is_some() { MASKED } else { 0 };
        head.put(&[FIN | opcode]);
        // In as few bytes as will hold it (RFC 6455 §5.2).
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ 0..=125), _) => head.put(&[masked | len]),
            (_, Ok(len)) => {
                head.put(&[masked | 126]);
                head.put(&len.to_be_bytes());
            }
            _ => {
                head.put(&[masked | 127]);
                head.put(&(len as u64).to_be_bytes());
            }
        }
        if let Some(key) = key {
            head.put(&key);
        }
        head
    }

    /// Adds the first byte of the payload.
    pub(super) fn put_first(&mut self, byte: u8) {
        self.put(&[byte]);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_few_bytes_as_will_hold_them() {
        let head = |len| Head::new(BINARY, len, None).bytes().to_vec();
        assert_eq!(head(0), [0x82, 0]);
        assert_eq!(head(125), [0x82, 125]);
        assert_eq!(head(126), [0x82, 126, 0, 126]);
        assert_eq!(head(65_535), [0x82, 126, 0xFF, 0xFF]);
        assert_eq!(head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        let masked = Head::new(CLOSE, 2, Some([1, 2, 3, 4]));
        assert_eq!(masked.bytes(), [0x88, 0x82, 1, 2, 3, 4]);
    }
}
