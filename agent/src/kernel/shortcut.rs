//! The shortcut past TCP: its programs on the socket map, its switches, and the list of programs that
//! mode `auto` takes.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::Ebpf;
use underpass_abi::{
    plain,
    reason::code,
    shortcut::{Mode, ProgramKey, ShortcutOffsets, bound, programs, switch},
    sock::Offsets,
    tables::{maps, setting},
};

use super::{
    KernelError, KernelOptions,
    apply::{self, Maps},
    btf,
    feature::{CLOSE_RECORDS, Feature, SHORTCUT},
    loader::{self, Source},
    pins,
    program::{SK_MSG, SK_SKB},
    self_test, splice_watch, usage,
};
use crate::sys::{
    bpf::{Attach, link_create, link_update, obj_get, prog_attach},
    info::{LinkTarget, link_info, map_info},
    maps::{Map, Put},
};

/// Tries the kernel and puts the programs on the map. After an error, or if nobody wants it, nothing of
/// the shortcut is loaded or attached; see [`detach`] for what an earlier agent left.
pub fn prepare(
    ebpf: &mut Ebpf,
    options: &KernelOptions,
    source: &Source,
    kernel: &btf::Btf,
) -> Result<splice_watch::Programs, KernelError> {
    if options.shortcut == Mode::Off {
        // No code: nothing is wrong.
        return Err(KernelError::new(0, "--shortcut off"));
    }
    complete(&source.offsets, &source.shortcut)?;
    self_test::run(source, kernel, options.shortcut_any_level)?;
    // Nothing may enter the map that nobody watches.
    let watch = splice_watch::Programs::load(ebpf, kernel)?;
    attach(ebpf, source)?;
    Ok(watch)
}

/// Puts both programs on the map: what enters it from now on has them. Sockets that are in it keep the
/// programs that they found; those read the same pinned switches.
fn attach(ebpf: &mut Ebpf, source: &Source) -> Result<(), KernelError> {
    let map = obj_get(&source.pins.map(maps::SHORTCUT))
        .map_err(KernelError::io(code::PINS_INCOMPATIBLE, maps::SHORTCUT))?;
    // The verdict first: without it redirection is not safe.
    for (name, at) in [(SK_SKB, Attach::SK_SKB), (SK_MSG, Attach::SK_MSG)] {
        let program = loader::load_plain(ebpf, name)?;
        attach_one(name, at, &program, &map, source)?;
    }
    Ok(())
}

/// Whether this kernel has all that the guard of each message reads.
pub fn complete(offsets: &Offsets, shortcut: &ShortcutOffsets) -> Result<(), KernelError> {
    let missing = if shortcut.known == 0 {
        "a field of the kernel's is missing (`underpass check` names it)"
    } else if offsets.rdonly_cast == 0 {
        "no kernel function bpf_rdonly_cast"
    } else {
        return Ok(());
    };
    Err(KernelError::new(code::KERNEL_TOO_OLD, missing))
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
        Ok(link) => pins::replace_pin(&link, &path, false),
        // Before 6.10 there are no links on socket maps; the program stays with the map.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            prog_attach(program, map, at).map_err(failed("attach"))
        }
        Err(e) => Err(failed("attach")(e)),
    }
}

/// Takes the programs off the map. Sockets that are in it keep them until they close.
pub fn detach(source: &Source) -> Result<(), KernelError> {
    for name in [SK_MSG, SK_SKB] {
        let path = source.pins.link(name);
        if path.exists() {
            pins::unlink_link(&path)?;
        }
    }
    Ok(())
}

/// The mode that this kernel allows, with what `status` says of it.
pub fn mode(wanted: Mode, features: &mut [Feature]) -> Mode {
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
    feature.detail = format!(
        "mode {}; list {} of tested programs: {}",
        wanted.name(),
        programs::VERSION,
        programs::TESTED.join(", ")
    );
    wanted
}

/// Sets the switches and bounds; holds from the next message on.
/// `guarded`: splice from a socket in the map is turned into EINVAL. `keep_out`: seconds.
pub fn switch_to(maps: &Maps, mode: Mode, guarded: bool, keep_out: u32) -> Result<(), KernelError> {
    let mut switches = match mode {
        Mode::Off => 0,
        Mode::Auto => switch::INSERT | switch::REDIRECT,
        Mode::On => switch::INSERT | switch::REDIRECT | switch::NODE_ON,
    };
    if guarded && mode != Mode::Off {
        switches |= switch::GUARDED;
    }
    list_programs(maps)?;
    apply::set(maps, setting::SHORTCUT_SOCKET, bound::SOCKET)?;
    apply::set(maps, setting::SHORTCUT_NODE, node_pages())?;
    apply::set(maps, setting::SHORTCUT_KEEP_OUT, keep_out.into())?;
    apply::set(maps, setting::SHORTCUT, switches)
}

/// Ends redirection by the maps pinned in `dir`, and waits until no socket is in the shortcut's map, at
/// most until `until`. Gives the number that is: those go on by TCP, and keep their programs until they
/// close. Their programs keep the map, so nothing that waits to be read is lost with its pin.
pub fn drain(dir: &Path, until: Instant) -> io::Result<u64> {
    const PAUSE: Duration = Duration::from_millis(50);
    set_switches(dir, 0)?;
    let map = Map::new(obj_get(&dir.join(maps::SHORTCUT))?, 1)?;
    loop {
        let left = usage::keys(&map)?;
        if left == 0 || Instant::now() >= until {
            return Ok(left);
        }
        std::thread::sleep(PAUSE);
    }
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
        let learnt = flags & (programs::SPLICES | programs::RING | programs::BLOCKS);
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
