//! Views of abi types as bytes, for batched map writes and reads.

use crate::{addr::Ip, shortcut::*, sock::*, tables::*, verdict::*, worker::Peer};

/// Types without padding that accept any bit pattern, so that they can cross to the kernel as bytes.
///
/// # Safety
/// The type is `repr(C)`/`repr(transparent)`, has no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: integers and `repr(C)` structs of integers whose sizes are asserted beside
            // their definitions to equal the sum of their fields.
            unsafe impl Plain for $t {}
            // SAFETY: as above.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $t {}
        )*
    };
}

plain!(
    Ip,
    ServiceKey,
    ServiceWord,
    SlotHeader,
    AliasSlot,
    Backend,
    Life,
    AffinityKey,
    Entry,
    AddressWord,
    IdentityPair,
    ListenKey,
    FlowKey,
    FlowSlot,
    OwnAddresses,
    SteerKey,
    Original,
    Peer,
    UdpReverseKey,
    UdpReverse,
    BlockKey,
    NameKey,
    RuleKey,
    RuleWord,
    PolicyHeader,
    SockState,
    TcpCounts,
    Event,
    TotalKey,
    Total,
    Offsets,
    ProgramKey,
    Candidate,
    End,
    Pair,
    Notice,
    PairKey,
    ShortcutOffsets,
);

// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: an array of bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}

/// The bytes of a value.
pub fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so every byte is initialized.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A value from its bytes; `None` if the length differs.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: the length is right and `Plain` accepts any bit pattern.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
