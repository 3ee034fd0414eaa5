//! The form of every message: 20 bytes, then at most [`TEXT_MAX`] bytes of UTF-8. Pure.

/// The protocol's version; a message of another one is refused.
pub const VERSION: u8 = 1;
/// Bytes before the text.
pub const HEAD: usize = 20;
/// Bytes of text in one message.
pub const TEXT_MAX: usize = 1024;
/// Bytes of the longest message.
pub const MESSAGE_MAX: usize = HEAD + TEXT_MAX;
/// Descriptors that travel with one message.
pub const FDS_MAX: usize = 64;

/// One message, before anybody asks what it means. Little-endian on the wire: version, kind, length of
/// the text (2 bytes), `a` (4), `b` (4), `id` (8), text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub id: u64,
    pub a: u32,
    pub b: u32,
    pub text: String,
}

/// Why a message was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter or longer than it says.
    Length,
    /// Not [`VERSION`].
    Version(u8),
    /// A kind that this end does not take.
    Kind(u8),
    /// A number beyond its bounds.
    Number,
    /// Text that is no UTF-8, too long, or of the wrong form.
    Text,
    /// Other descriptors came than the kind has.
    Descriptors,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length => f.write_str("a message of a wrong length"),
            Self::Version(v) => write!(f, "protocol version {v}, this is {VERSION}"),
            Self::Kind(kind) => write!(f, "no message of kind {kind}"),
            Self::Number => f.write_str("a number out of bounds"),
            Self::Text => f.write_str("text of a wrong form"),
            Self::Descriptors => f.write_str("a message with a wrong number of descriptors"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Frame {
    /// Of a message that is no more than its kind.
    pub fn of(kind: u8) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// # Errors
    /// [`Malformed::Text`] if the text is longer than [`TEXT_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        if self.text.len() > TEXT_MAX {
            return Err(Malformed::Text);
        }
        let length = u16::try_from(self.text.len()).map_err(|_| Malformed::Text)?;
        let mut bytes = Vec::with_capacity(HEAD + self.text.len());
        bytes.extend([VERSION, self.kind]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.a.to_le_bytes());
        bytes.extend(self.b.to_le_bytes());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.text.as_bytes());
        Ok(bytes)
    }

    /// # Errors
    /// Whatever is not exactly one message of this version. The version is looked at first, so that a
    /// later one with another head is still told as such.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(Malformed::Version(other)),
            None => return Err(Malformed::Length),
        }
        let (head, text) = bytes.split_at_checked(HEAD).ok_or(Malformed::Length)?;
        let four =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if text.len() != usize::from(u16::from_le_bytes([head[2], head[3]]))
            || text.len() > TEXT_MAX
        {
            return Err(Malformed::Length);
        }
        Ok(Self {
            kind: head[1],
            a: four(4),
            b: four(8),
            id: u64::from(four(12)) | u64::from(four(16)) << 32,
            text: String::from_utf8(text.to_vec()).map_err(|_| Malformed::Text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_arrives(kind: u8, id: u64, a: u32, b: u32, text in ".{0,200}") {
            let frame = Frame { kind, id, a, b, text };
            prop_assert_eq!(Frame::decode(&frame.encode().unwrap()), Ok(frame));
        }

        // Bytes of a hostile worker: never a panic, and what is taken is exactly what was sent.
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80), honest: bool) {
            if honest && bytes.len() >= HEAD {
                bytes[0] = VERSION;
                let text = u16::try_from(bytes.len() - HEAD).unwrap().to_le_bytes();
                bytes[2..4].copy_from_slice(&text);
            }
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn the_bounds_hold() {
        let mut frame = Frame {
            text: "x".repeat(TEXT_MAX),
            ..Frame::of(7)
        };
        let bytes = frame.encode().unwrap();
        assert_eq!(bytes.len(), MESSAGE_MAX);
        assert_eq!(Frame::decode(&bytes), Ok(frame.clone()));
        assert_eq!(
            Frame::decode(&bytes[..bytes.len() - 1]),
            Err(Malformed::Length)
        );
        frame.text.push('x');
        assert_eq!(frame.encode(), Err(Malformed::Text));
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Frame::decode(&other), Err(Malformed::Version(2)));
        assert_eq!(Frame::decode(&[]), Err(Malformed::Length));
    }
}
