//! Debian's kernels, unpacked into the private prefix: nothing is installed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Result,
    process::{output, step},
    setup, workspace,
};

/// Small kernels for virtual machines, with all drivers that QEMU's own machine needs built in.
const FLAVOR: &str = "-cloud-amd64";

/// What the lab's networks and the agent need, each after those it needs itself. What a kernel has
/// built in is no file.
const MODULES: [&str; 7] = [
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/net/veth",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
    "net/ipv4/udp_diag",
];

pub struct Kernel {
    pub release: String,
    pub image: PathBuf,
    /// In the order of loading.
    pub modules: Vec<PathBuf>,
}

/// The kernels of these names; without names the newest of each series that apt knows. Never empty.
pub fn find(wanted: &[String]) -> Result<Vec<Kernel>> {
    if output("dpkg", &["--print-architecture"]).is_none_or(|a| a.trim() != "amd64") {
        return Err("kernels are taken from Debian's packages for amd64 only".to_owned());
    }
    let mut newest = newest();
    if newest.is_empty() {
        setup::apt_update()?;
        newest = self::newest();
    }
    if newest.is_empty() {
        return Err(format!("apt knows no package linux-image-*{FLAVOR}"));
    }
    let packages = match wanted {
        [] => newest.into_iter().collect(),
        names => names
            .iter()
            .map(|n| package(n, &newest))
            .collect::<Result<Vec<_>>>()?,
    };
    packages.iter().map(|p| unpacked(p)).collect()
}

/// The packages that apt's own names for "the newest of a series" lead to.
fn newest() -> BTreeSet<String> {
    let names = format!("^linux-image-([0-9.]+-)?{}$", &FLAVOR[1..]);
    let found = output("apt-cache", &["search", "--names-only", &names]).unwrap_or_default();
    let series = found.lines().filter_map(|l| l.split(' ').next());
    let depends = series.filter_map(|name| output("apt-cache", &["depends", "--important", name]));
    depends
        .filter_map(|text| {
            let line = text
                .lines()
                .find(|l| l.contains("linux-image-") && l.contains(": "))?;
            Some(line.split_once(": ")?.1.trim().to_owned())
        })
        .collect()
}

/// `6.1` is the newest of that series, anything longer a release.
fn package(name: &str, newest: &BTreeSet<String>) -> Result<String> {
    let series = format!("linux-image-{name}.");
    if name.matches('.').count() > 1 {
        return Ok(format!("linux-image-{name}{FLAVOR}"));
    }
    let known: Vec<&str> = newest.iter().map(String::as_str).collect();
    let found = known.iter().find(|p| p.starts_with(&series));
    found
        .map(|p| (*p).to_owned())
        .ok_or(format!("no kernel {name}; apt knows {}", known.join(", ")))
}

fn unpacked(package: &str) -> Result<Kernel> {
    let release = package.trim_start_matches("linux-image-").to_owned();
    let dir = workspace::tools().join("kernels").join(&release);
    if !dir.join("vmlinuz").exists() {
        println!(
            "kernel {release} is missing; unpacking it into {}",
            dir.display()
        );
        let _ = fs::remove_dir_all(&dir);
        let fetched = fetch(package, &dir.with_extension("partial"));
        fetched.or_else(|_| {
            setup::apt_update()?;
            fetch(package, &dir.with_extension("partial"))
        })?;
        keep(&release, &dir.with_extension("partial"), &dir)
            .map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let names = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut modules: Vec<PathBuf> = names
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains(".ko"))
        .collect();
    modules.sort();
    Ok(Kernel {
        image: dir.join("vmlinuz"),
        release,
        modules,
    })
}

fn fetch(package: &str, into: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet", "download", package])
        .current_dir(into)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    step(
        &format!("apt-get download {package}"),
        &mut apt,
        Duration::from_secs(300),
    )?;
    let mut files = fs::read_dir(into).into_iter().flatten().flatten();
    let archive = files.next().ok_or("apt-get has downloaded nothing")?.path();
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("-x").arg(archive).arg(into);
    step(
        &format!("dpkg -x {package}"),
        &mut dpkg,
        Duration::from_secs(120),
    )
}

/// Of an unpacked package: the kernel and the modules that are needed, numbered.
fn keep(release: &str, from: &Path, dir: &Path) -> std::io::Result<()> {
    let partial = dir.with_extension("kept");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let modules = from.join("lib/modules").join(release).join("kernel");
    for (number, module) in MODULES.iter().enumerate() {
        for end in [".ko", ".ko.xz", ".ko.zst"] {
            let file = modules.join(format!("{module}{end}"));
            if file.exists() {
                let name = module.rsplit('/').next().unwrap_or(module);
                fs::rename(file, partial.join(format!("{number}-{name}{end}")))?;
            }
        }
    }
    fs::rename(
        from.join(format!("boot/vmlinuz-{release}")),
        partial.join("vmlinuz"),
    )?;
    fs::rename(&partial, dir)?;
    fs::remove_dir_all(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_from_a_release() {
        let newest = [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        let newest = newest.map(str::to_owned).into();
        let package = |name| package(name, &newest);
        assert_eq!(
            package("6.1").as_deref(),
            Ok("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            package("6.12").as_deref(),
            Ok("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(
            package("6.1.0-50").as_deref(),
            Ok("linux-image-6.1.0-50-cloud-amd64")
        );
        assert!(package("6.2").is_err());
    }
}
