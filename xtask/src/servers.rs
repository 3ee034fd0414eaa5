//! Real third-party programs for the tests and the demo, unpacked from Debian packages into a
//! private prefix: never installed, never started as services.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Result,
    process::{output, step},
    setup,
};

/// A program and the package that holds it. The system's own are not used, so that versions and paths
/// are the same everywhere.
pub struct Program {
    /// Below the prefix.
    path: &'static str,
    package: &'static str,
    /// Prints the version; empty for a file that is no program.
    flag: &'static str,
}

/// What all tests and the demo use.
pub const SERVERS: &[Program] = &[
    program("usr/sbin/nginx", "nginx", "-v"),
    program("usr/bin/redis-server", "redis-server", "--version"),
    program("usr/bin/redis-cli", "redis-tools", "--version"),
    program("usr/sbin/nft", "nftables", "--version"),
];

/// What `bench shortcut` and `test --programs` use as well.
pub const POSTGRES: &[Program] = &[
    program(
        "usr/lib/postgresql/15/bin/postgres",
        "postgresql-15",
        "--version",
    ),
    program(
        "usr/lib/postgresql/15/bin/psql",
        "postgresql-client-15",
        "--version",
    ),
];

/// What `bench` compares the mesh with, beside nginx and Envoy.
pub const PEERS: &[Program] = &[
    program("usr/sbin/haproxy", "haproxy", "-v"),
    program(
        "usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
        "",
    ),
];

/// What `test --programs` uses beside them.
pub const MORE: &[Program] = &[
    program("usr/bin/h2load", "nghttp2-client", "--version"),
    program("usr/bin/wrk", "wrk", "-v"),
    program("usr/sbin/pgbouncer", "pgbouncer", "--version"),
];

const fn program(path: &'static str, package: &'static str, flag: &'static str) -> Program {
    Program {
        path,
        package,
        flag,
    }
}

const LIBRARIES: &[&str] = &["usr/lib", "lib"];

/// Unpacks what is missing. A machine without apt is told so, and that is no error.
pub fn unpack(prefix: &Path, programs: &[Program]) -> Result<()> {
    let missing = missing(prefix, programs);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name()).collect();
    println!(
        "missing: {}; unpacking them into {}",
        names.join(", "),
        prefix.display()
    );
    if output("apt-get", &["--version"]).is_none() || output("dpkg", &["--version"]).is_none() {
        println!(
            "there is no apt-get here: what needs {} cannot run",
            names.join(", ")
        );
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|p| p.package).collect();
    if fetch(prefix, &packages).is_err() {
        // Stale or absent lists. Without root or a network this fails too; then say what is missing.
        let tried = setup::apt_update().and_then(|()| fetch(prefix, &packages));
        if let Err(why) = tried {
            println!("{why}");
        }
    }
    for program in self::missing(prefix, programs) {
        println!(
            "still missing: {} (package {}); what needs it cannot run",
            program.name(),
            program.package
        );
    }
    Ok(())
}

fn missing<'a>(prefix: &Path, programs: &'a [Program]) -> Vec<&'a Program> {
    programs.iter().filter(|p| !p.runs(prefix)).collect()
}

impl Program {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// True if the program starts: its file is there and its libraries are found (else the loader
    /// exits with 127; `wrk -v` exits with 1).
    fn runs(&self, prefix: &Path) -> bool {
        if self.flag.is_empty() {
            return prefix.join(self.path).exists();
        }
        let status = Command::new(prefix.join(self.path))
            .arg(self.flag)
            .env("LD_LIBRARY_PATH", library_path(prefix))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|s| s.code().is_some_and(|code| code < 126))
    }
}

/// Directories of the prefix's libraries, as `LD_LIBRARY_PATH` wants them.
fn library_path(prefix: &Path) -> String {
    let arch = std::env::consts::ARCH;
    let dirs = LIBRARIES.iter().flat_map(|dir| {
        let dir = prefix.join(dir);
        [dir.join(format!("{arch}-linux-gnu")), dir]
    });
    dirs.map(|d| d.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(":")
}

fn fetch(prefix: &Path, packages: &[&str]) -> Result<()> {
    let debs = prefix.join("debs");
    fs::create_dir_all(&debs).map_err(|e| format!("{}: {e}", debs.display()))?;
    let wanted = with_libraries(packages);
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet", "download"])
        .args(&wanted)
        .current_dir(&debs)
        .stdout(Stdio::null());
    step(
        &format!("apt-get download {}", packages.join(" ")),
        &mut apt,
        Duration::from_secs(300),
    )?;
    for entry in fs::read_dir(&debs).map_err(|e| e.to_string())?.flatten() {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(entry.path()).arg(prefix);
        if !dpkg.status().is_ok_and(|s| s.success()) {
            return Err(format!("dpkg -x {} failed", entry.path().display()));
        }
    }
    fs::remove_dir_all(&debs).map_err(|e| format!("{}: {e}", debs.display()))
}

/// The packages, and the libraries below them that this machine does not have.
fn with_libraries(packages: &[&str]) -> BTreeSet<String> {
    let mut args = vec!["depends", "--recurse"];
    args.extend([
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
    ]);
    args.extend(["--no-replaces", "--no-enhances"]);
    args.extend(packages);
    let below = output("apt-cache", &args).unwrap_or_default();
    let here = output(
        "dpkg-query",
        &["-W", "-f", "${Package} ${db:Status-Status}\n"],
    );
    let here = here.unwrap_or_default();
    let here: BTreeSet<&str> = here
        .lines()
        .filter_map(|l| l.strip_suffix(" installed"))
        .collect();
    let library = |name: &&str| {
        ["lib", "lua", "zlib"]
            .iter()
            .any(|start| name.starts_with(start))
            && !name.contains([':', '<', '|', ' '])
            && !here.contains(name)
    };
    let libraries = below.lines().filter(library).map(str::to_owned);
    packages
        .iter()
        .map(|p| (*p).to_owned())
        .chain(libraries)
        .collect()
}
