//! What keeps splice(2) off sockets in the shortcut's map, where the kernel lets a program do that. It
//! runs at each read and write of the node, so only while connections may take the shortcut.

use underpass_abi::shortcut::Mode;

use super::{
    KernelError, KernelOptions,
    apply::Maps,
    btf,
    feature::{Feature, SPLICE_GUARD},
    loader::{self, Source},
    object,
    pins::{self, Pins},
    program, self_test, splice_watch,
};
use crate::sys::bpf::obj_get;

/// Tries the guard on sockets of its own, then puts it in place, or takes it away if nothing takes the
/// shortcut. The feature says whether splice is guarded from now on.
pub fn install(mode: Mode, source: &Source, kernel: &btf::Btf, maps: &Maps) -> Feature {
    let path = source.pins.link(program::SPLICE_GUARD);
    let result = if mode == Mode::Off {
        // Sockets that are still in the map are guarded until they are gone.
        if !splice_watch::in_use(maps).unwrap_or(false) {
            let _ = pins::unlink_link(&path);
        }
        Ok(false)
    } else {
        self_test::guard::run(source, kernel)
            .and_then(|()| put(source, kernel))
            .map(|()| true)
    };
    let (on, code, detail) = match result {
        Ok(true) => (
            true,
            0,
            "mode `auto` takes programs that are not listed".into(),
        ),
        Ok(false) => (false, 0, "nothing takes the shortcut".into()),
        Err(e) => {
            let _ = pins::unlink_link(&path);
            (false, e.code, e.detail)
        }
    };
    Feature {
        name: SPLICE_GUARD,
        on,
        code,
        detail,
    }
}

/// Tries the guard on sockets of its own; nothing stays.
pub fn trial(options: &KernelOptions, kernel: &btf::Btf) -> Result<(), KernelError> {
    let source = Source {
        object: object::bytes(options)?,
        offsets: btf::offsets(kernel)?,
        shortcut: btf::shortcut_offsets(kernel)?,
        pins: Pins::of(options),
    };
    self_test::guard::run(&source, kernel)
}

fn put(source: &Source, kernel: &btf::Btf) -> Result<(), KernelError> {
    let mut ebpf = source.parse(0)?;
    let program = loader::load(&mut ebpf, program::SPLICE_GUARD, kernel)?;
    let link = self_test::guard::attach(&program)?;
    // Such a link cannot be moved to another program: the new one is there before the old one goes.
    let path = source.pins.link(program::SPLICE_GUARD);
    pins::replace_pin(&link, &path, obj_get(&path).is_ok())
}
