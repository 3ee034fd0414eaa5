//! The BPF object: built in, or a file in its place.

use std::{borrow::Cow, fs};

use underpass_abi::reason::code;

use super::{KernelError, KernelOptions};

static BUILT_IN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/underpass.o"));

/// Largest object that is read, in bytes.
const LIMIT: u64 = 16 << 20;

pub fn bytes(options: &KernelOptions) -> Result<Cow<'static, [u8]>, KernelError> {
    let Some(path) = &options.object else {
        if BUILT_IN.is_empty() {
            return Err(KernelError::new(
                code::NO_OBJECT,
                "no target/bpf/underpass.o at build time",
            ));
        }
        return Ok(Cow::Borrowed(BUILT_IN));
    };
    let size = fs::metadata(path)
        .map_err(KernelError::io(code::NO_OBJECT, path.display()))?
        .len();
    if size == 0 || size > LIMIT {
        return Err(KernelError::new(
            code::NO_OBJECT,
            format!("{}: {size} B", path.display()),
        ));
    }
    fs::read(path)
        .map(Cow::Owned)
        .map_err(KernelError::io(code::NO_OBJECT, path.display()))
}
