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

/// In place of a kernel's name: the newest of Debian's next release.
const NEXT: &str = "next";

/// The kernels of these names; without names the newest of each series that apt knows. Never empty.
pub fn find(wanted: &[String]) -> Result<Vec<Kernel>> {
    if output("dpkg", &["--print-architecture"]).is_none_or(|a| a.trim() != "amd64") {
        return Err("kernels are taken from Debian's packages for amd64 only".to_owned());
    }
    if wanted.is_empty() {
        let newest = newest_here()?;
        return newest.iter().map(|p| unpacked(p, &Apt::system())).collect();
    }
    wanted.iter().map(|name| one(name)).collect()
}

/// What was unpacked before is used as it is, so that only the first run needs a network.
fn one(name: &str) -> Result<Kernel> {
    if name == NEXT {
        let apt = Apt::next()?;
        let newest = newest(&apt);
        let package = newest.first().ok_or("the next release has no kernel")?;
        return unpacked(package, &apt);
    }
    let package = package(name, &newest_here()?)?;
    unpacked(&package, &Apt::system())
}

/// The packages that apt's own names for "the newest of a series" lead to.
fn newest_here() -> Result<BTreeSet<String>> {
    let apt = Apt::system();
    let mut newest = newest(&apt);
    if newest.is_empty() {
        apt.update()?;
        newest = self::newest(&apt);
    }
    if newest.is_empty() {
        return Err(format!("apt knows no package linux-image-*{FLAVOR}"));
    }
    Ok(newest)
}

fn newest(apt: &Apt) -> BTreeSet<String> {
    let names = format!("^linux-image-([0-9.]+-)?{}$", &FLAVOR[1..]);
    let found = apt.cache(&["search", "--names-only", &names]);
    let series = found.lines().filter_map(|l| l.split(' ').next());
    series
        .filter_map(|name| {
            let text = apt.cache(&["depends", "--important", name]);
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

fn unpacked(package: &str, apt: &Apt) -> Result<Kernel> {
    let release = package.trim_start_matches("linux-image-").to_owned();
    let dir = workspace::tools().join("kernels").join(&release);
    if !dir.join("vmlinuz").exists() {
        println!(
            "kernel {release} is missing; unpacking it into {}",
            dir.display()
        );
        let _ = fs::remove_dir_all(&dir);
        // Not `with_extension`: releases have dots.
        let partial = workspace::tools()
            .join("kernels")
            .join(format!("partial-{release}"));
        fetch(apt, package, &partial).or_else(|_| {
            apt.update()?;
            fetch(apt, package, &partial)
        })?;
        keep(&release, &partial, &dir).map_err(|e| format!("{}: {e}", dir.display()))?;
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

fn fetch(apt: &Apt, package: &str, into: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let mut download = apt.get(&["--quiet", "download", package]);
    download
        .args(parts(apt, package))
        .current_dir(into)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    step(
        &format!("apt-get download {package}"),
        &mut download,
        Duration::from_secs(300),
    )?;
    let files = fs::read_dir(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let archives: Vec<PathBuf> = files.flatten().map(|f| f.path()).collect();
    for archive in archives {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(&archive).arg(into);
        step(
            &format!("dpkg -x {}", archive.display()),
            &mut dpkg,
            Duration::from_secs(120),
        )?;
    }
    Ok(())
}

/// Newer releases have the kernel and its modules in packages beside an empty `linux-image`.
fn parts(apt: &Apt, package: &str) -> Vec<String> {
    let release = package.trim_start_matches("linux-image-");
    let wanted = ["binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    let depends = apt.cache(&["depends", "--important", package]);
    let named = |name: &String| depends.lines().any(|l| l.ends_with(&format!(": {name}")));
    wanted.into_iter().filter(named).collect()
}

/// apt as this system has it set up, or with lists of its own for another release's kernels: nothing
/// of the system's is changed.
struct Apt(Vec<String>);

/// A suite whose kernels run under the programs of the release before.
const NEXT_SUITE: &str = "trixie-backports";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Apt {
    fn system() -> Self {
        Self(Vec::new())
    }

    /// Debian's mirror is the one that the system uses.
    fn next() -> Result<Self> {
        let dir = workspace::tools().join("apt");
        let mirror = mirror().ok_or("apt knows no mirror of Debian")?;
        let sources = dir.join("sources.list");
        let line = format!("deb [signed-by={KEYS}] {mirror} {NEXT_SUITE} main\n");
        fs::create_dir_all(dir.join("lists/partial"))
            .and_then(|()| fs::write(&sources, line))
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        let option = |name: &str, value: &Path| format!("--option={name}={}", value.display());
        let apt = Self(vec![
            option("Dir::Etc::sourcelist", &sources),
            option("Dir::Etc::sourceparts", Path::new("/dev/null")),
            option("Dir::State::lists", &dir.join("lists")),
            option("Dir::Cache", &dir),
            // The lists are where only this user may write.
            "--option=APT::Sandbox::User=root".to_owned(),
        ]);
        apt.update()?;
        Ok(apt)
    }

    fn get(&self, args: &[&str]) -> Command {
        let mut apt = Command::new("apt-get");
        apt.args(&self.0).args(args);
        apt
    }

    /// What `apt-cache` prints, empty if it fails.
    fn cache(&self, args: &[&str]) -> String {
        let options = self.0.iter().map(String::as_str);
        let args: Vec<&str> = options.chain(args.iter().copied()).collect();
        output("apt-cache", &args).unwrap_or_default()
    }

    fn update(&self) -> Result<()> {
        if self.0.is_empty() {
            return setup::apt_update();
        }
        let mut update = self.get(&["--quiet", "update"]);
        update.stdout(Stdio::null());
        step(
            &format!("apt-get update of {NEXT_SUITE}"),
            &mut update,
            Duration::from_secs(300),
        )
    }
}

fn mirror() -> Option<String> {
    let format = ["indextargets", "--format", "$(REPO_URI) $(LABEL)"];
    let known = || {
        let text = output(
            "apt-get",
            &[&format[..], &["Identifier: Packages"]].concat(),
        )?;
        let line = text.lines().find_map(|l| l.strip_suffix(" Debian"))?;
        Some(line.to_owned())
    };
    known().or_else(|| {
        setup::apt_update().ok()?;
        known()
    })
}

/// Of an unpacked package: the kernel and the modules that are needed, numbered.
fn keep(release: &str, from: &Path, dir: &Path) -> std::io::Result<()> {
    let partial = workspace::tools()
        .join("kernels")
        .join(format!("kept-{release}"));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let tree = ["lib/modules", "usr/lib/modules"].map(|dir| from.join(dir).join(release));
    let tree = if tree[0].exists() { &tree[0] } else { &tree[1] };
    let modules = tree.join("kernel");
    for (number, module) in MODULES.iter().enumerate() {
        for end in [".ko", ".ko.xz", ".ko.zst"] {
            let file = modules.join(format!("{module}{end}"));
            if file.exists() {
                let name = module.rsplit('/').next().unwrap_or(module);
                fs::rename(file, partial.join(format!("{number}-{name}{end}")))?;
            }
        }
    }
    let boot = from.join(format!("boot/vmlinuz-{release}"));
    let image = if boot.exists() {
        boot
    } else {
        tree.join("vmlinuz")
    };
    fs::rename(image, partial.join("vmlinuz"))?;
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
