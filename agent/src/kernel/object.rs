//! The BPF object: built in, or a file in its place.

use std::{borrow::Cow, fs};

use underpass_abi::{reason::code, sock::RDONLY_CAST};

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

/// The object with calls of [`RDONLY_CAST`] made calls of the kernel function with this BTF id. With id
/// 0 (the kernel has none) programs that read another way then are as they were, and `up_sk_msg`, which
/// does not, is refused, and with it the shortcut.
pub fn with_kernel_function(object: &[u8], id: u32) -> Cow<'_, [u8]> {
    const CALL: u8 = 0x85;
    /// `BPF_PSEUDO_KFUNC_CALL` as source register.
    const KERNEL_FUNCTION: u8 = 2 << 4;
    if id == 0 {
        return Cow::Borrowed(object);
    }
    let mut object = object.to_vec();
    let wanted = [&[CALL, 0, 0, 0][..], &RDONLY_CAST.to_le_bytes()].concat();
    for call in object.as_chunks_mut::<8>().0 {
        if call[..] == wanted[..] {
            call[1] = KERNEL_FUNCTION;
            call[4..].copy_from_slice(&id.to_le_bytes());
        }
    }
    Cow::Owned(object)
}
