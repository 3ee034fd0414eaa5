//! The machine's whole disk: our binaries, a shell and `ip`, their libraries, kernel modules, in a
//! cpio archive that the kernel unpacks into memory.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::kernels::Kernel;
use crate::{
    Result,
    process::{self, output},
    workspace,
};

/// Of this workspace; they look for each other in one directory.
const OURS: [&str; 6] = [
    "underpass-vm",
    "underpass-agent",
    "underpass",
    "underpass-lab",
    "underpass-peer",
    "underpass-equivalence",
];
/// Of this system: what the lab starts, then what only the test files start.
const SYSTEM: [&str; 2] = ["sh", "ip"];
const SYSTEM_OF_SUITE: [&str; 10] = [
    "awk", "cat", "mount", "readlink", "rm", "setpriv", "sleep", "ss", "umount", "unshare",
];

/// A file and where it goes.
pub struct Program {
    from: PathBuf,
    to: String,
}

/// Test files of `tests/tests/`, built.
pub fn suite<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Program>> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut args = vec!["test", "--package", "underpass-tests", "--no-run"];
    args.extend(names.iter().flat_map(|n| ["--test", n]));
    let built = process::cargo(&args).output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&built.stderr);
    if !built.status.success() {
        return Err(format!("building the tests: {said}"));
    }
    let program = |name: &&str| {
        let start = format!("Executable tests/{name}.rs (");
        let line = said.lines().find_map(|l| l.trim().strip_prefix(&start));
        let path = line.ok_or(format!("cargo did not name the binary of {name}"))?;
        Ok(Program {
            from: workspace::root().join(path.trim_end_matches(')')),
            to: format!("up/suite/{name}"),
        })
    };
    let mut programs: Vec<Program> = names.iter().map(program).collect::<Result<_>>()?;
    programs.extend(SYSTEM_OF_SUITE.iter().filter_map(|name| system(name).ok()));
    Ok(programs)
}

/// Writes the archive for one kernel.
pub fn build(kernel: &Kernel, suite: &[Program]) -> Result<PathBuf> {
    let dir = workspace::target().join("vm");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut archive = Archive::default();
    for name in ["proc", "sys", "run", "tmp", "etc"] {
        archive.dir(name);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(module, &format!("modules/{name}"))?;
    }
    let mut programs: Vec<Program> = OURS.iter().map(|name| ours(name)).collect();
    for name in SYSTEM {
        programs.push(system(name)?);
    }
    let mut libraries = BTreeSet::new();
    for program in programs.iter().chain(suite) {
        libraries.extend(libraries_of(&program.from)?);
        if program.to.starts_with("up/") {
            archive.copy(&stripped(&program.from, &dir)?, &program.to)?;
        } else {
            archive.copy(&program.from, &program.to)?;
        }
    }
    for library in libraries {
        archive.copy(Path::new(&library), library.trim_start_matches('/'))?;
    }
    let path = dir.join(format!("{}.cpio", kernel.release));
    fs::write(&path, archive.end()).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn ours(name: &str) -> Program {
    Program {
        from: workspace::target().join("debug").join(name),
        to: format!("up/{name}"),
    }
}

fn system(name: &str) -> Result<Program> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    Ok(Program {
        from: found.ok_or(format!("there is no program `{name}` here"))?,
        to: format!("bin/{name}"),
    })
}

/// Without debug information, if there is a `strip`: a fifth of the size.
fn stripped(file: &Path, dir: &Path) -> Result<PathBuf> {
    let to = dir.join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&to).arg(file);
    match strip.output() {
        Ok(done) if done.status.success() => Ok(to),
        _ => Ok(file.to_path_buf()),
    }
}

fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let text = output("ldd", &[&program.to_string_lossy()]);
    let text = text.ok_or(format!("ldd {} failed", program.display()))?;
    Ok(libraries(&text))
}

/// Of what `ldd` prints.
fn libraries(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(' ').next()?;
        path.starts_with('/').then(|| path.to_owned())
    };
    text.lines().filter_map(path).collect()
}

/// A cpio archive in the kernel's format, "newc".
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    dirs: BTreeSet<String>,
    entries: u32,
}

const DIR: u32 = 0o40_755;
const FILE: u32 = 0o100_755;
const DEVICE: u32 = 0o20_600;

impl Archive {
    fn dir(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        if self.dirs.insert(name.to_owned()) {
            self.entry(name, DIR, (0, 0), &[]);
        }
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let data = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        self.inside(to);
        self.entry(to, FILE, (0, 0), &data);
        Ok(())
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.inside(name);
        self.entry(name, DEVICE, (major, minor), &[]);
    }

    /// Makes the directories above.
    fn inside(&mut self, name: &str) {
        if let Some((dir, _)) = name.rsplit_once('/') {
            self.dir(dir);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (data.len() as u32, name.len() as u32 + 1);
        // inode, mode, owner, group, links, time, size, device of the file, its own, name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(text),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn an_archive_has_parents_once_and_is_aligned() {
        let mut archive = Archive::default();
        archive.device("dev/console", 5, 1);
        archive.device("dev/null", 1, 3);
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[110..114], b"dev\0");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4, "{text}");
    }
}
