//! Loads programs from the object, each in its own way, with the pinned maps or with maps of their own.

use std::{
    borrow::Cow,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, Endianness,
    maps::MapError,
    programs::{Program, ProgramError, ProgramFd},
};
use underpass_abi::{reason::code, shortcut::ShortcutOffsets, sock::Offsets, tables::maps};

use super::{
    KernelError, btf, object,
    pins::Pins,
    program::{ITER_CANDIDATES, ITER_ENDS, ITER_SOCKS, SPLICE, SPLICE_GUARD},
};

/// What is needed to load the object, also again for each guarded namespace.
pub struct Source {
    pub object: Cow<'static, [u8]>,
    pub offsets: Offsets,
    /// `known` is 0 if the kernel lacks a field: then the shortcut is off.
    pub shortcut: ShortcutOffsets,
    pub pins: Pins,
}

impl Source {
    /// Parses the object and opens or creates the pinned maps.
    pub fn parse(&self, netns_cookie: u64) -> Result<Ebpf, KernelError> {
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            loader.map_pin_path(name, self.pins.map(name));
        }
        self.finish(loader, &netns_cookie)
    }

    /// Parses the object with maps of its own, small and gone with it.
    pub fn parse_private(&self) -> Result<Ebpf, KernelError> {
        const HELD_SMALL: [&str; 12] = [
            maps::AFFINITY,
            maps::FLOWS,
            maps::ORIGINALS,
            maps::OWN,
            maps::UDP_REVERSE,
            maps::TOTALS,
            maps::SLOTS,
            maps::BACKENDS,
            maps::RULES,
            maps::CANDIDATES,
            maps::MATES,
            maps::LEARNT,
        ];
        let mut loader = EbpfLoader::new();
        for name in HELD_SMALL {
            loader.map_max_entries(name, 64);
        }
        self.finish(loader, &0)
    }

    fn finish<'a>(
        &'a self,
        mut loader: EbpfLoader<'a>,
        netns_cookie: &'a u64,
    ) -> Result<Ebpf, KernelError> {
        loader.override_global("OFFSETS", &self.offsets, true);
        loader.override_global("SHORTCUT_OFFSETS", &self.shortcut, true);
        loader.override_global("NETNS_COOKIE", netns_cookie, true);
        let object = object::with_kernel_function(&self.object, self.offsets.rdonly_cast);
        loader.load(&object).map_err(object_error)
    }
}

/// Loads one program, and takes its descriptor out of aya's hands.
pub fn load(
    ebpf: &mut Ebpf,
    name: &'static str,
    kernel: &btf::Btf,
) -> Result<OwnedFd, KernelError> {
    let iterator = |map: &str| {
        let function = format!("bpf_iter_{map}");
        known(kernel.function(&function), || format!("no {function}"))
            .map(|id| btf::only_function(id, &function))
    };
    match name {
        ITER_SOCKS | ITER_ENDS => {
            let to = "bpf_sk_storage_map";
            load_typed(ebpf, name, to, &iterator(to)?)
        }
        ITER_CANDIDATES => {
            let to = "bpf_map_elem";
            load_typed(ebpf, name, to, &iterator(to)?)
        }
        SPLICE => {
            let to = "tcp_rcv_space_adjust";
            let id = known(kernel.tracepoint(to), || format!("no tracepoint {to}"))?;
            load_typed(ebpf, name, to, &btf::only_tracepoint(id, to))
        }
        SPLICE_GUARD => {
            let to = "file_permission";
            let function = format!("bpf_lsm_{to}");
            let id = known(kernel.function(&function), || {
                format!("no security hook for programs, {function} (CONFIG_BPF_LSM)")
            })?;
            let loaded = load_typed(ebpf, name, to, &btf::only_function(id, &function));
            loaded.map_err(|e| match e {
                // The agent has the capabilities: some kernels are built to refuse these programs.
                e if e.code == code::NO_BPF_CAPABILITY => {
                    KernelError::new(code::FEATURE_OFF, format!("{}, whoever asks", e.detail))
                }
                e => e,
            })
        }
        _ => load_plain(ebpf, name),
    }
}

/// Loads a program that is tied to no kernel type.
pub fn load_plain(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let Some(program) = ebpf.program_mut(name) else {
        return Err(absent(name));
    };
    let loaded = match program {
        Program::CgroupSockAddr(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::CgroupSock(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::CgroupSockopt(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::SockOps(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::SkLookup(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::SkMsg(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::SkSkb(p) => p.load().and_then(|()| fd_of(p.fd())),
        _ => {
            let text = format!("{name} is of an unexpected type");
            return Err(KernelError::new(code::NO_OBJECT, text));
        }
    };
    loaded.map_err(|e| program_error(name, e))
}

fn absent(name: &str) -> KernelError {
    KernelError::new(code::NO_OBJECT, format!("the object has no program {name}"))
}

fn fd_of(fd: Result<&ProgramFd, ProgramError>) -> Result<OwnedFd, ProgramError> {
    fd?.as_fd()
        .try_clone_to_owned()
        .map_err(ProgramError::IOError)
}

/// Loads a program that is tied to a type of this kernel. `types`: BTF that holds just that one.
fn load_typed(
    ebpf: &mut Ebpf,
    name: &'static str,
    to: &str,
    types: &[u8],
) -> Result<OwnedFd, KernelError> {
    let types = Btf::parse(types, Endianness::default())
        .map_err(|e| KernelError::new(code::NO_BTF, e.to_string()))?;
    let loaded = match ebpf.program_mut(name) {
        Some(Program::Iter(p)) => p.load(to, &types).and_then(|()| fd_of(p.fd())),
        Some(Program::BtfTracePoint(p)) => p.load(to, &types).and_then(|()| fd_of(p.fd())),
        Some(Program::Lsm(p)) => p.load(to, &types).and_then(|()| fd_of(p.fd())),
        _ => return Err(absent(name)),
    };
    loaded.map_err(|e| program_error(name, e))
}

fn known(id: Option<u32>, missing: impl FnOnce() -> String) -> Result<u32, KernelError> {
    id.ok_or_else(|| KernelError::new(code::KERNEL_TOO_OLD, missing()))
}

/// Lines of the verifier's log that are shown.
const LOG_LINES: usize = 12;

fn program_error(name: &str, e: ProgramError) -> KernelError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = &e
    else {
        return KernelError::new(code::PROGRAM_REFUSED, format!("{name}: {}", chain(&e)));
    };
    let log = verifier_log.to_string();
    if log.trim().is_empty() && io_error.raw_os_error() == Some(libc::EPERM) {
        return KernelError::new(code::NO_BPF_CAPABILITY, format!("{name}: {io_error}"));
    }
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    KernelError::new(
        code::PROGRAM_REFUSED,
        format!("{name}: {io_error}\n{tail}\n"),
    )
}

pub fn object_error(e: EbpfError) -> KernelError {
    let text = chain(&e);
    let code = match &e {
        EbpfError::MapError(MapError::IncompatiblePinnedMap { .. }) => code::PINS_INCOMPATIBLE,
        EbpfError::MapError(_) | EbpfError::BtfError(_) if denied(&e) => code::NO_BPF_CAPABILITY,
        EbpfError::ParseError(_) => code::NO_OBJECT,
        _ => code::PROGRAM_REFUSED,
    };
    KernelError::new(code, text)
}

/// True if some cause is EPERM.
fn denied(e: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(e), |e| e.source()).any(|e| {
        e.downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.raw_os_error() == Some(libc::EPERM))
    })
}

/// An error with all its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let texts: Vec<String> = std::iter::successors(Some(e), |e| e.source())
        .map(ToString::to_string)
        .collect();
    texts.join(": ")
}
