//! What keeps splice(2) off sockets in the shortcut's map, where the kernel lets a program do that. It
//! runs at each read and write of the node, so only while connections may take the shortcut.

use std::os::fd::OwnedFd;

use aya::{Btf, Ebpf, Endianness, programs::Program};
use underpass_abi::{reason::code, shortcut::Mode};

use super::{
    KernelError, KernelOptions,
    apply::Maps,
    btf,
    feature::Feature,
    load::{self, Source},
    object,
    pins::{self, Pins},
    self_test, splice_watch,
};
use crate::sys::{bpf::obj_get, tracing};

/// The feature.
pub const SPLICE_GUARD: &str = "splice-guard";
pub const PROGRAM: &str = "up_splice_guard";

const HOOK: &str = "file_permission";

/// Tries the guard on sockets of its own, then puts it in place, or takes it away if nothing takes the
/// shortcut. The feature says whether splice is guarded from now on.
pub fn install(mode: Mode, source: &Source, kernel: &btf::Btf, maps: &Maps) -> Feature {
    let path = source.pins.link(PROGRAM);
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
    let link = attach(&load(&mut ebpf, kernel)?)?;
    // Such a link cannot be moved to another program: the new one is there before the old one goes.
    let path = source.pins.link(PROGRAM);
    load::replace_pin(&link, &path, obj_get(&path).is_ok())
}

/// Loads the program, which is tied to a hook of this kernel.
pub fn load(ebpf: &mut Ebpf, kernel: &btf::Btf) -> Result<OwnedFd, KernelError> {
    let function = format!("bpf_lsm_{HOOK}");
    let id = kernel.function(&function).ok_or_else(|| {
        let text = format!("no security hook for programs, {function} (CONFIG_BPF_LSM)");
        KernelError::new(code::KERNEL_TOO_OLD, text)
    })?;
    let types = Btf::parse(&btf::only_function(id, &function), Endianness::default())
        .map_err(|e| KernelError::new(code::NO_BTF, e.to_string()))?;
    let Some(Program::Lsm(program)) = ebpf.program_mut(PROGRAM) else {
        return Err(load::absent(PROGRAM));
    };
    let loaded = program
        .load(HOOK, &types)
        .and_then(|()| load::fd_of(program.fd()));
    loaded.map_err(|e| match load::program_error(PROGRAM, e) {
        // The agent has the capabilities: some kernels are built to refuse these programs.
        e if e.code == code::NO_BPF_CAPABILITY => {
            KernelError::new(code::FEATURE_OFF, format!("{}, whoever asks", e.detail))
        }
        e => e,
    })
}

/// The link; the guard is in place as long as it is open or pinned.
pub fn attach(program: &OwnedFd) -> Result<OwnedFd, KernelError> {
    tracing::attach(program).map_err(KernelError::io(
        code::FEATURE_OFF,
        format!("{PROGRAM}: attach"),
    ))
}
