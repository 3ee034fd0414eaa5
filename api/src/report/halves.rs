//! A file that one process writes and another reads, without a lock and without mapping it: two halves,
//! of which the older is written. The reader takes the newer one that is whole.
//!
//! A half begins with four numbers of 8 bytes, little-endian: magic, sequence, length, checksum. The
//! writer may be hostile: the checksum shows that it was interrupted, no more.

use std::{io, os::unix::fs::FileExt};

/// Bytes of a file, unless the agent makes another.
pub const FILE_BYTES: u64 = 4 << 20;
/// Bytes that a reader takes at most, whatever the file's size.
const BODY_MAX: u64 = 32 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"UPRPRT01");
const HEADER: u64 = 32;

/// Bytes that a body may have in a file of this size.
pub fn room(size: u64) -> u64 {
    (size / 2).saturating_sub(HEADER).min(BODY_MAX)
}

/// The sequence number of the next body: after all that are there, also those of a process before.
///
/// # Errors
/// If the file cannot be read.
pub fn next_sequence(file: &impl FileExt, size: u64) -> io::Result<u64> {
    let found = [header(file, size, 0)?, header(file, size, 1)?];
    let newest = found.into_iter().flatten().map(|h| h.sequence).max();
    Ok(newest.map_or(1, |n| n.wrapping_add(1)))
}

/// Writes a body over the older half.
///
/// # Errors
/// If it is larger than [`room`], or the file cannot be written.
pub fn write(file: &impl FileExt, size: u64, sequence: u64, body: &[u8]) -> io::Result<()> {
    if body.len() as u64 > room(size) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let at = start(size, sequence);
    let header = Header {
        sequence,
        length: body.len() as u64,
        checksum: checksum(sequence, body),
    };
    // Until its header is there again the half is none.
    file.write_all_at(&[0; HEADER as usize], at)?;
    file.write_all_at(body, at + HEADER)?;
    file.write_all_at(&header.to_bytes(), at)
}

/// The newest body that is whole, with its sequence number; `None` if there is none, or it is the one of
/// `last`.
///
/// # Errors
/// If the file cannot be read.
pub fn read(
    file: &impl FileExt,
    size: u64,
    last: Option<u64>,
) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut found = [header(file, size, 0)?, header(file, size, 1)?];
    found.sort_by_key(|h| std::cmp::Reverse(h.map(|h| h.sequence)));
    for header in found.into_iter().flatten() {
        if Some(header.sequence) == last {
            return Ok(None);
        }
        let mut body = vec![0; usize::try_from(header.length).unwrap_or(0)];
        match file.read_exact_at(&mut body, start(size, header.sequence) + HEADER) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
            other => other?,
        }
        if header.checksum == checksum(header.sequence, &body) {
            return Ok(Some((header.sequence, body)));
        }
    }
    Ok(None)
}

fn start(size: u64, sequence: u64) -> u64 {
    sequence % 2 * (size / 2)
}

#[derive(Clone, Copy, Debug)]
struct Header {
    sequence: u64,
    length: u64,
    checksum: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        let words = [MAGIC, self.sequence, self.length, self.checksum];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

/// Of half 0 or 1; `None` if nothing of this form is there.
fn header(file: &impl FileExt, size: u64, half: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER as usize];
    match file.read_exact_at(&mut bytes, start(size, half)) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let word = |i: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let header = Header {
        sequence: word(1),
        length: word(2),
        checksum: word(3),
    };
    let is_good = word(0) == MAGIC && header.sequence % 2 == half && header.length <= room(size);
    Ok(is_good.then_some(header))
}

/// FNV-1a over words of 8 bytes: of a torn write it finds what there is to find.
fn checksum(sequence: u64, body: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(PRIME).rotate_left(23);
    mix(sequence);
    mix(body.len() as u64);
    let chunks = body.chunks(8);
    for chunk in chunks {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(u64::from_le_bytes(word));
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    /// A file of which each write past `left` bytes is lost, as of a process that was killed.
    struct Torn {
        bytes: RefCell<Vec<u8>>,
        left: RefCell<usize>,
    }

    impl Torn {
        fn new(size: u64) -> Self {
            Self {
                bytes: RefCell::new(vec![0; size as usize]),
                left: RefCell::new(usize::MAX),
            }
        }
    }

    impl FileExt for Torn {
        fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
            let bytes = self.bytes.borrow();
            let from = bytes.get(at as usize..).unwrap_or(&[]);
            let len = from.len().min(into.len());
            into[..len].copy_from_slice(&from[..len]);
            Ok(len)
        }

        fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
            let left = &mut *self.left.borrow_mut();
            let len = from.len().min(*left);
            *left -= len;
            self.bytes.borrow_mut()[at as usize..at as usize + len].copy_from_slice(&from[..len]);
            Ok(from.len())
        }
    }

    const SIZE: u64 = 512;

    #[test]
    fn the_newest_whole_body_is_read_once() {
        let file = Torn::new(SIZE);
        assert_eq!(read(&file, SIZE, None).unwrap(), None);
        for n in 1..=5 {
            assert_eq!(next_sequence(&file, SIZE).unwrap(), n);
            let body = vec![n as u8; n as usize];
            write(&file, SIZE, n, &body).unwrap();
            assert_eq!(read(&file, SIZE, Some(n - 1)).unwrap(), Some((n, body)));
            assert_eq!(read(&file, SIZE, Some(n)).unwrap(), None);
        }
    }

    #[test]
    fn a_write_that_stops_anywhere_leaves_the_one_before() {
        for stop in 0..(32 + 20 + 32) {
            let file = Torn::new(SIZE);
            write(&file, SIZE, 6, &[6; 40]).unwrap();
            write(&file, SIZE, 7, &[7; 30]).unwrap();
            *file.left.borrow_mut() = stop;
            write(&file, SIZE, 8, &[8; 20]).unwrap();
            let (sequence, body) = read(&file, SIZE, None).unwrap().unwrap();
            // Of 0 bytes that were written the half before is whole, and older.
            assert_eq!((sequence, body), (7, vec![7; 30]), "{stop}");
            *file.left.borrow_mut() = usize::MAX;
            // The next process goes on after it.
            assert!(matches!(next_sequence(&file, SIZE).unwrap(), 8 | 9));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let file = Torn::new(SIZE);
        write(&file, SIZE, 2, b"the body of a half").unwrap();
        for bit in 0..(32 + 18) * 8 {
            file.bytes.borrow_mut()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&file, SIZE, None).unwrap(), None, "bit {bit}");
            file.bytes.borrow_mut()[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(read(&file, SIZE, None).unwrap().is_some());
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let file = Torn::new(SIZE);
        let most = vec![1; room(SIZE) as usize];
        write(&file, SIZE, 1, &most).unwrap();
        assert!(write(&file, SIZE, 2, &vec![1; most.len() + 1]).is_err());
        assert_eq!(read(&file, SIZE, None).unwrap(), Some((1, most)));
    }

    #[test]
    fn a_number_at_its_end_does_not_stop_what_follows() {
        let file = Torn::new(SIZE);
        write(&file, SIZE, u64::MAX, b"hostile").unwrap();
        let mut next = next_sequence(&file, SIZE).unwrap();
        for n in 0..2 {
            write(&file, SIZE, next + n, b"good").unwrap();
        }
        next += 1;
        assert_eq!(
            read(&file, SIZE, None).unwrap(),
            Some((next, b"good".to_vec()))
        );
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_file(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            magic in any::<[bool; 2]>(),
            length in prop_oneof![any::<u64>(), 0..300_u64],
            size in 0..600_u64,
        ) {
            let mut bytes = bytes;
            for half in [0, 1] {
                let at = (size / 2 * half) as usize;
                if magic[half as usize] && bytes.len() >= at + 24 {
                    bytes[at..at + 8].copy_from_slice(&MAGIC.to_le_bytes());
                    bytes[at + 16..at + 24].copy_from_slice(&length.to_le_bytes());
                }
            }
            let file = Torn { bytes: RefCell::new(bytes), left: RefCell::new(usize::MAX) };
            let body = read(&file, size, None).unwrap();
            prop_assert!(body.is_none_or(|(_, body)| body.len() as u64 <= room(size)));
            next_sequence(&file, size).unwrap();
        }
    }
}
