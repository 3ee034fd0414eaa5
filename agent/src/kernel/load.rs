//! Loads every program, then puts each behind its pinned link: an existing link is moved to the new
//! program in one step, so that an upgrade has no gap; nothing is attached until all have loaded.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{Program, ProgramError, ProgramFd},
};
use underpass_abi::{reason::code, shortcut::ShortcutOffsets, sock::Offsets, tables::maps};

use super::{
    CgroupRoot, KernelError, KernelOptions,
    apply::Maps,
    btf,
    feature::{CLOSE_RECORDS, Feature, Features, INBOUND, OPEN_SOCKETS, UDP},
    iter, object, pins,
    pins::Pins,
    shortcut, splice_guard, splice_watch,
};
use crate::sys::{
    bpf::{Attach, link_create, link_update, obj_get, obj_pin},
    info::{LinkTarget, link_info, prog_info},
    maps::Map,
};

/// One program at the cgroup root.
struct Hook {
    program: &'static str,
    attach: Attach,
    /// The feature that is off without it; `None`: the agent does not start.
    feature: Option<&'static str>,
}

const fn hook(program: &'static str, attach: Attach, feature: Option<&'static str>) -> Hook {
    Hook {
        program,
        attach,
        feature,
    }
}

/// In the order of attaching: connect comes last, when all that it relies on is in place.
const HOOKS: [Hook; 10] = [
    hook("up_sock_release", Attach::SOCK_RELEASE, Some(CLOSE_RECORDS)),
    hook("up_sock_ops", Attach::SOCK_OPS, None),
    hook("up_getpeername4", Attach::GETPEERNAME4, None),
    hook("up_getpeername6", Attach::GETPEERNAME6, None),
    hook("up_recvmsg4", Attach::RECVMSG4, Some(UDP)),
    hook("up_recvmsg6", Attach::RECVMSG6, Some(UDP)),
    hook("up_sendmsg4", Attach::SENDMSG4, Some(UDP)),
    hook("up_sendmsg6", Attach::SENDMSG6, Some(UDP)),
    hook("up_connect4", Attach::CONNECT4, None),
    hook("up_connect6", Attach::CONNECT6, None),
];
pub const SK_LOOKUP: &str = "up_sk_lookup";
pub const ITER: &str = "up_iter_socks";

/// True for the name of one of our programs.
pub fn is_ours(program: &str) -> bool {
    [SK_LOOKUP, ITER].contains(&program)
        || shortcut::PROGRAMS.contains(&program)
        || HOOKS.iter().any(|h| h.program == program)
}

/// The feature that is off without this program; `None`: the agent does not start without it.
pub fn feature(program: &str) -> Option<&'static str> {
    match program {
        SK_LOOKUP => Some(INBOUND),
        ITER => Some(OPEN_SOCKETS),
        splice_guard::PROGRAM => Some(splice_guard::SPLICE_GUARD),
        _ if shortcut::PROGRAMS.contains(&program) => Some(shortcut::SHORTCUT),
        _ => HOOKS.iter().find(|h| h.program == program)?.feature,
    }
}

/// Programs and attach points, for `--check`.
pub fn hooks() -> impl Iterator<Item = (&'static str, Attach)> {
    HOOKS.iter().map(|h| (h.program, h.attach))
}

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
        const HELD_SMALL: [&str; 10] = [
            maps::AFFINITY,
            maps::FLOWS,
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

/// What stays of a load.
pub struct Loaded {
    pub features: Vec<Feature>,
    /// The iterator's program; its links are made when it is used.
    pub iter: Option<OwnedFd>,
    /// Tag of the `sk_lookup` program of this object.
    pub lookup_tag: Option<[u8; 8]>,
    /// `None`: the shortcut is off.
    pub watch: Option<splice_watch::Programs>,
}

/// Loads and attaches everything that hangs on the cgroup root, and the shortcut if it is wanted.
pub fn load(
    source: &Source,
    cgroup: &CgroupRoot,
    btf: &btf::Btf,
    options: &KernelOptions,
) -> Result<Loaded, KernelError> {
    let mut ebpf = source.parse(0)?;
    let mut features = Features::default();
    let mut ready = Vec::new();
    for hook in &HOOKS {
        match (load_plain(&mut ebpf, hook.program), hook.feature) {
            (Ok(program), _) => ready.push((hook, program)),
            (Err(e), Some(feature)) => features.off(feature, e),
            (Err(e), None) => return Err(e),
        }
    }
    let lookup_tag = match load_plain(&mut ebpf, SK_LOOKUP) {
        Ok(fd) => prog_info(fd.as_fd()).ok().map(|i| i.tag),
        Err(e) => {
            features.off(INBOUND, e);
            None
        }
    };
    let iter = match iter::load(&mut ebpf, ITER, btf) {
        Ok(fd) => Some(fd),
        Err(e) => {
            features.off(OPEN_SOCKETS, e);
            None
        }
    };
    // Before sock_ops: what enters the map must find its programs there.
    let watch = match shortcut::prepare(&mut ebpf, options, source, btf) {
        Ok(watch) => Some(watch),
        Err(e) => {
            features.off(shortcut::SHORTCUT, e);
            None
        }
    };
    let mut ours = BTreeSet::new();
    for (hook, program) in ready {
        // A feature works with all its programs or is off with all of them.
        if hook.feature.is_some_and(|f| features.is_off(f)) {
            continue;
        }
        match (attach(hook, &program, &source.pins, cgroup), hook.feature) {
            (Ok(id), _) => {
                ours.insert(id);
            }
            (Err(e), Some(feature)) => features.off(feature, e),
            (Err(e), None) => return Err(e),
        }
    }
    for hook in HOOKS
        .iter()
        .filter(|h| h.feature.is_some_and(|f| features.is_off(f)))
    {
        let path = source.pins.link(hook.program);
        if path.exists() {
            pins::unlink_link(&path)?;
        }
    }
    pins::detach_strays(Some(cgroup), &BTreeSet::new(), &ours, &mut Vec::new());
    Ok(Loaded {
        features: features.list(),
        iter,
        lookup_tag,
        watch,
    })
}

/// Opens all pinned maps.
pub fn open_maps(pins: &Pins) -> Result<Maps, KernelError> {
    let failed = |name| KernelError::io(code::PINS_INCOMPATIBLE, format!("map {name}"));
    let cpus = aya::util::nr_cpus()
        .map_err(|(what, e)| failed(what)(e))?
        .get() as usize;
    let open = |name: &'static str| {
        let map = obj_get(&pins.map(name)).and_then(|fd| Map::new(fd, cpus));
        map.map(|m| (name, m)).map_err(failed(name))
    };
    maps::ALL.into_iter().map(open).collect()
}

/// Loads one program; `kernel` is for the iterator.
pub fn load_program(
    ebpf: &mut Ebpf,
    name: &'static str,
    kernel: &btf::Btf,
) -> Result<OwnedFd, KernelError> {
    if [ITER, shortcut::ITER, splice_watch::CANDIDATES].contains(&name) {
        iter::load(ebpf, name, kernel)
    } else if name == splice_watch::PROGRAM {
        splice_watch::load_watch(ebpf, kernel)
    } else if name == splice_guard::PROGRAM {
        splice_guard::load(ebpf, kernel)
    } else {
        load_plain(ebpf, name)
    }
}

/// Loads a program that is tied to no kernel type, and takes its descriptor out of aya's hands.
pub fn load_plain(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let Some(program) = ebpf.program_mut(name) else {
        return Err(absent(name));
    };
    let loaded = match program {
        Program::CgroupSockAddr(p) => p.load().and_then(|()| fd_of(p.fd())),
        Program::CgroupSock(p) => p.load().and_then(|()| fd_of(p.fd())),
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

pub fn absent(name: &str) -> KernelError {
    KernelError::new(code::NO_OBJECT, format!("the object has no program {name}"))
}

pub fn fd_of(fd: Result<&ProgramFd, ProgramError>) -> Result<OwnedFd, ProgramError> {
    fd?.as_fd()
        .try_clone_to_owned()
        .map_err(ProgramError::IOError)
}

/// Moves the pinned link to `program`, or makes and pins a new one. Returns the link's id.
fn attach(
    hook: &Hook,
    program: &OwnedFd,
    pins: &Pins,
    cgroup: &CgroupRoot,
) -> Result<u32, KernelError> {
    let path = pins.link(hook.program);
    let here = LinkTarget::Cgroup(cgroup.id(), hook.attach.0);
    let failed = |what| KernelError::io(code::PROGRAM_REFUSED, format!("{}: {what}", hook.program));
    let old = obj_get(&path).ok();
    if let Some(link) = &old
        && let Ok(info) = link_info(link)
        && info.target == here
        && link_update(link, program).is_ok()
    {
        return Ok(info.id);
    }
    // None, severed, or of another cgroup: attach first, then take the old one away.
    let link =
        link_create(program, cgroup.dir(), hook.attach).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) if crate::sys::bpf::attached(cgroup.dir(), hook.attach).is_ok() => {
                let text = format!("{}: the cgroup above allows one program only", hook.program);
                KernelError::new(code::CONFLICT, text)
            }
            _ => failed("attach")(e),
        })?;
    replace_pin(&link, &path, old.is_some())?;
    link_info(&link).map(|i| i.id).map_err(failed("link info"))
}

/// Pins `link` at `path`, in place of an older link there, which is detached.
pub fn replace_pin(link: &OwnedFd, path: &Path, old: bool) -> Result<(), KernelError> {
    if old {
        pins::unlink_link(path)?;
    } else {
        // A leftover that is no link.
        let _ = fs::remove_file(path);
    }
    obj_pin(link, path).map_err(KernelError::io(code::NO_BPFFS, path.display()))
}

/// Lines of the verifier's log that are shown.
const LOG_LINES: usize = 12;

pub fn program_error(name: &str, e: ProgramError) -> KernelError {
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
