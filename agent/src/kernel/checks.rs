//! What this node can do, for `underpass check`: every line is tried, none is guessed.

use std::{fs::File, path::Path};

use aya::EbpfLoader;
use rustix::system::uname;
use underpass_abi::{VERSION, reason::code, sock::Offsets};

use super::{
    CgroupRoot, KernelError, KernelOptions, btf, caps, diag,
    load::{self, ITER, SK_LOOKUP},
    object, pins, shortcut,
};
use crate::sys::{
    bpf::attached,
    info::{prog_by_id, prog_info},
};

/// One line. `code` names the hint; 0 if there is none to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    pub code: u16,
    pub detail: String,
}

impl Check {
    fn new(name: &str, result: Result<String, KernelError>) -> Self {
        let name = name.to_owned();
        match result {
            Ok(detail) => Self {
                name,
                ok: true,
                code: 0,
                detail,
            },
            Err(e) => Self {
                name,
                ok: false,
                code: e.code,
                detail: e.detail,
            },
        }
    }
}

/// Runs every check. Loads programs into maps of their own, attaches nothing and leaves nothing.
pub fn checks(options: &KernelOptions) -> Vec<Check> {
    let kernel = btf::Btf::read(Path::new(btf::VMLINUX));
    let offsets = kernel.as_ref().map_err(copy).and_then(btf::offsets);
    let cgroup = CgroupRoot::find(options.cgroup_root.as_deref());
    let mut out = vec![
        Check::new("kernel", version()),
        Check::new(
            "btf",
            offsets
                .as_ref()
                .map(|_| btf::VMLINUX.to_owned())
                .map_err(copy),
        ),
        Check::new("bpffs", bpffs(options)),
        Check::new(
            "cgroup2",
            cgroup
                .as_ref()
                .map(|c| c.path().display().to_string())
                .map_err(copy),
        ),
        Check::new("capabilities", capabilities()),
        Check::new("agent", agent(options, cgroup.as_ref().ok())),
    ];
    match (&kernel, &offsets) {
        (Ok(kernel), Ok(offsets)) => out.extend(programs(options, kernel, offsets)),
        (_, Err(e)) | (Err(e), _) => out.push(Check::new("programs", Err(copy(e)))),
    }
    let destroy = diag::destroy_feature();
    out.push(Check {
        name: destroy.name.into(),
        ok: destroy.on,
        code: destroy.code,
        detail: destroy.detail,
    });
    if let Ok(cgroup) = &cgroup {
        out.push(Check::new("conflicts", conflicts(cgroup)));
    }
    out
}

fn copy(e: &KernelError) -> KernelError {
    KernelError::new(e.code, e.detail.clone())
}

/// Oldest kernel that has everything we attach to.
const OLDEST: (u32, u32) = (6, 1);

fn version() -> Result<String, KernelError> {
    let release = uname().release().to_string_lossy().into_owned();
    match parse_release(&release) {
        Some(version) if version >= OLDEST => Ok(release),
        _ => Err(KernelError::new(code::KERNEL_TOO_OLD, release)),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn bpffs(options: &KernelOptions) -> Result<String, KernelError> {
    let dir = options.pin_dir.display();
    if pins::on_bpffs(&options.pin_dir) {
        Ok(format!("{dir}/v{VERSION}"))
    } else if options.mount_bpffs && options.pin_dir.starts_with("/sys/fs/bpf") {
        Ok("not mounted yet; the agent will mount /sys/fs/bpf".into())
    } else {
        Err(KernelError::new(
            code::NO_BPFFS,
            format!("{dir} is on no bpffs"),
        ))
    }
}

fn capabilities() -> Result<String, KernelError> {
    caps::require().map(|()| caps::NEEDED.map(|n| n.name).join(" "))
}

/// Who serves this node.
fn agent(options: &KernelOptions, cgroup: Option<&CgroupRoot>) -> Result<String, KernelError> {
    let holder = |path: &Path| File::open(path).ok().and_then(|f| pins::holder(&f));
    let pid = holder(&options.pin_dir).or_else(|| cgroup.and_then(|c| holder(c.path())));
    Ok(pid.map_or("not running".into(), |pid| {
        format!("running as process {pid}")
    }))
}

fn programs(options: &KernelOptions, kernel: &btf::Btf, offsets: &Offsets) -> Vec<Check> {
    let parsed = object::bytes(options).and_then(|object| {
        let shortcut = btf::shortcut_offsets(kernel).unwrap_or_default();
        let object = load::with_kernel_function(&object, shortcut.rdonly_cast);
        EbpfLoader::new()
            .override_global("OFFSETS", offsets, true)
            .override_global("SHORTCUT_OFFSETS", &shortcut, true)
            .load(&object)
            .map_err(load::object_error)
    });
    let mut ebpf = match parsed {
        Ok(ebpf) => ebpf,
        Err(e) => return vec![Check::new("programs", Err(e))],
    };
    let names = load::hooks()
        .map(|(name, _)| name)
        .chain([SK_LOOKUP, ITER])
        .chain(shortcut::PROGRAMS);
    let check = |name| {
        let loaded = load::load_program(&mut ebpf, name, kernel).and_then(|fd| {
            prog_info(fd).map_err(KernelError::io(
                code::PROGRAM_REFUSED,
                format!("{name}: info"),
            ))
        });
        let cost = |i: crate::sys::info::ProgInfo| {
            format!(
                "{} instructions verified, {} B",
                i.verified_instructions, i.jited_len
            )
        };
        Check::new(name, loaded.map(cost))
    };
    names.map(check).collect()
}

/// Other programs at our hooks: any number may watch sockets, but two that rewrite destinations (such
/// as Cilium's socket load balancer) work against each other.
fn conflicts(cgroup: &CgroupRoot) -> Result<String, KernelError> {
    let mut rewriters = Vec::new();
    let mut others = Vec::new();
    for (hook, attach) in load::hooks() {
        let ids = attached(cgroup.dir(), attach).map_err(KernelError::io(
            code::NO_BPF_CAPABILITY,
            format!("{hook}: query"),
        ))?;
        for name in ids
            .into_iter()
            .filter_map(|id| Some(prog_info(prog_by_id(id).ok()?).ok()?.name))
        {
            if load::is_ours(&name) {
                continue;
            }
            let rewrites = !matches!(hook, "up_sock_ops" | "up_sock_release");
            let list = if rewrites {
                &mut rewriters
            } else {
                &mut others
            };
            list.push(format!("{name} beside {hook}"));
        }
    }
    if rewriters.is_empty() {
        others.insert(0, "none".into());
        return Ok(others.join(", "));
    }
    Err(KernelError::new(code::CONFLICT, rewriters.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases() {
        assert_eq!(parse_release("6.18.44-cloud"), Some((6, 18)));
        assert_eq!(parse_release("6.1.0+"), Some((6, 1)));
        assert_eq!(parse_release("weird"), None);
        assert!(parse_release("5.9.1") < Some(OLDEST));
    }
}
