//! The shortcut past TCP: its programs on the socket map, its switches, and the list of programs that
//! mode `auto` takes.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{Btf, Ebpf, Endianness, programs::Program};
use underpass_abi::{
    plain,
    reason::code,
    shortcut::{Mode, ProgramKey, bound, programs, switch},
    tables::{maps, setting},
};

use super::{
    KernelError,
    apply::{self, Maps},
    btf,
    feature::{CLOSE_RECORDS, Feature},
    load::{self, Source},
    pins, self_test,
};
use crate::sys::{
    bpf::{Attach, link_create, link_create_tracing, link_update, obj_get, prog_attach},
    info::{LinkTarget, link_info, map_info},
    maps::{Map, Put},
};

/// Features.
pub const SHORTCUT: &str = "shortcut";
pub const SPLICE_WATCH: &str = "splice-watch";

pub const SK_MSG: &str = "up_sk_msg";
pub const SK_SKB: &str = "up_sk_skb";
pub const SPLICE: &str = "up_splice";
/// Of the self-test.
pub const ITER: &str = "up_iter_ends";
pub const PROGRAMS: [&str; 4] = [SK_SKB, SK_MSG, SPLICE, ITER];

const TRACEPOINT: &str = "tcp_rcv_space_adjust";

/// Puts both programs on the map: what enters it from now on has them. Sockets that are in it keep the
/// programs that they found; those read the same pinned switches.
pub fn attach(ebpf: &mut Ebpf, source: &Source) -> Result<(), KernelError> {
    if source.shortcut.known == 0 {
        let text = "a field of the kernel's is missing";
        return Err(KernelError::new(code::KERNEL_TOO_OLD, text));
    }
    let map = obj_get(&source.pins.map(maps::SHORTCUT))
        .map_err(KernelError::io(code::PINS_INCOMPATIBLE, maps::SHORTCUT))?;
    // The verdict first: without it redirection is not safe.
    for (name, at) in [(SK_SKB, Attach::SK_SKB), (SK_MSG, Attach::SK_MSG)] {
        let program = load::load_plain(ebpf, name)?;
        attach_one(name, at, &program, &map, source)?;
    }
    Ok(())
}

fn attach_one(
    name: &str,
    at: Attach,
    program: &OwnedFd,
    map: &OwnedFd,
    source: &Source,
) -> Result<(), KernelError> {
    let failed = |what| KernelError::io(code::PROGRAM_REFUSED, format!("{name}: {what}"));
    let path = source.pins.link(name);
    let id = map_info(map.as_fd()).map_err(failed("map"))?.id;
    let old = obj_get(&path).ok();
    if let Some(link) = &old
        && link_info(link).is_ok_and(|i| i.target == LinkTarget::Sockmap(id, at.0))
        && link_update(link, program).is_ok()
    {
        return Ok(());
    }
    if old.is_some() {
        pins::unlink_link(&path)?;
    }
    match link_create(program, map, at) {
        Ok(link) => load::replace_pin(&link, &path, false),
        // Before 6.10 there are no links on socket maps; the program stays with the map.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            prog_attach(program, map, at).map_err(failed("attach"))
        }
        Err(e) => Err(failed("attach")(e)),
    }
}

/// Sees who splices from a TCP socket.
pub fn watch_splice(
    ebpf: &mut Ebpf,
    source: &Source,
    kernel: &btf::Btf,
) -> Result<(), KernelError> {
    let program = load_splice(ebpf, kernel)?;
    let link = link_create_tracing(&program).map_err(KernelError::io(
        code::FEATURE_OFF,
        format!("{SPLICE}: attach"),
    ))?;
    // Such a link cannot be moved to another program: the new one is there before the old one goes.
    let path = source.pins.link(SPLICE);
    load::replace_pin(&link, &path, obj_get(&path).is_ok())
}

/// The watch costs each TCP receive of the node some 50 ns: not while nothing can take the shortcut.
pub fn unwatch_splice(source: &Source, features: &mut [Feature]) {
    let _ = pins::unlink_link(&source.pins.link(SPLICE));
    if let Some(feature) = features.iter_mut().find(|f| f.name == SPLICE_WATCH && f.on) {
        feature.on = false;
        feature.detail = "nothing takes the shortcut".into();
    }
}

pub fn load_splice(ebpf: &mut Ebpf, kernel: &btf::Btf) -> Result<OwnedFd, KernelError> {
    let id = kernel.tracepoint(TRACEPOINT).ok_or_else(|| {
        KernelError::new(code::KERNEL_TOO_OLD, format!("no tracepoint {TRACEPOINT}"))
    })?;
    let types = Btf::parse(&btf::only_tracepoint(id, TRACEPOINT), Endianness::default())
        .map_err(|e| KernelError::new(code::NO_BTF, e.to_string()))?;
    let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(SPLICE) else {
        return Err(load::absent(SPLICE));
    };
    let loaded = program
        .load(TRACEPOINT, &types)
        .and_then(|()| load::fd_of(program.fd()));
    loaded.map_err(|e| load::program_error(SPLICE, e))
}

/// The mode that this kernel allows, with what `status` says of it.
pub fn mode(wanted: Mode, source: &Source, kernel: &btf::Btf, features: &mut [Feature]) -> Mode {
    // The last close ends a connection's entry in `PAIRS`.
    let closes = features.iter().any(|f| f.name == CLOSE_RECORDS && f.on);
    let Some(feature) = features.iter_mut().find(|f| f.name == SHORTCUT) else {
        return Mode::Off;
    };
    if feature.on && !closes {
        feature.on = false;
        (feature.code, feature.detail) = (code::FEATURE_OFF, format!("needs {CLOSE_RECORDS}"));
    }
    if !feature.on {
        return Mode::Off;
    }
    if wanted == Mode::Off {
        feature.on = false;
        feature.detail = "--shortcut off".into();
        return Mode::Off;
    }
    if let Err(e) = self_test::run(source, kernel) {
        tracing::warn!("{e}");
        (feature.on, feature.code, feature.detail) = (false, e.code, e.detail);
        return Mode::Off;
    }
    feature.detail = format!(
        "mode {}; list {} of tested programs: {}",
        wanted.name(),
        programs::VERSION,
        programs::TESTED.join(", ")
    );
    wanted
}

/// Sets the switches and bounds; holds from the next message on. `keep_out`: seconds.
pub fn switch_to(maps: &Maps, mode: Mode, keep_out: u32) -> Result<(), KernelError> {
    let switches = match mode {
        Mode::Off => 0,
        Mode::Auto => switch::INSERT | switch::REDIRECT,
        Mode::On => switch::INSERT | switch::REDIRECT | switch::NODE_ON,
    };
    list_programs(maps)?;
    set(maps, setting::SHORTCUT_SOCKET, bound::SOCKET)?;
    set(maps, setting::SHORTCUT_NODE, node_pages())?;
    set(maps, setting::SHORTCUT_KEEP_OUT, keep_out.into())?;
    set(maps, setting::SHORTCUT, switches)
}

fn set(maps: &Maps, index: u32, value: u64) -> Result<(), KernelError> {
    apply::map(maps, maps::SETTINGS)?
        .put(plain::bytes(&index), plain::bytes(&value), Put::Any)
        .map_err(apply::failed(maps::SETTINGS))
}

/// Sets the bits of [`switch`] in the maps pinned in `dir`; 0 ends redirection. For uninstall, which
/// meets other versions, and for tests.
pub fn set_switches(dir: &Path, bits: u64) -> io::Result<()> {
    let settings = Map::new(obj_get(&dir.join(maps::SETTINGS))?, 1)?;
    let index = plain::bytes(&setting::SHORTCUT);
    settings.put(index, plain::bytes(&bits), Put::Any)
}

/// `tcp_mem[0]`: below it TCP feels no pressure.
fn node_pages() -> u64 {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_mem")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(bound::NODE_PAGES)
}

/// Makes the list in the kernel this agent's; what was learnt of splicing stays.
fn list_programs(maps: &Maps) -> Result<(), KernelError> {
    let map = apply::map(maps, maps::PROGRAMS)?;
    let failed = || apply::failed(maps::PROGRAMS);
    let mut known: Vec<(ProgramKey, u64)> = Vec::new();
    map.each(|key, value| known.extend(plain::from_bytes(key).zip(plain::from_bytes(value))))
        .map_err(failed())?;
    let tested = programs::TESTED.map(ProgramKey::new);
    for key in tested {
        if !known.iter().any(|(k, _)| *k == key) {
            known.push((key, 0));
        }
    }
    for (key, flags) in known {
        let learnt = flags & programs::SPLICES;
        let wanted = if tested.contains(&key) {
            learnt | programs::LISTED
        } else {
            learnt
        };
        let stays = map.get(plain::bytes(&key)).map_err(failed())?;
        if stays.is_none_or(|v| plain::from_bytes(&v) != Some(wanted)) {
            map.put(plain::bytes(&key), plain::bytes(&wanted), Put::Any)
                .map_err(failed())?;
        }
    }
    Ok(())
}
