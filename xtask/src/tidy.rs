//! `tidy`: what must hold of the repository itself. The same checks are a test of this crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Result,
    flags::{Flag, Flags, Verb},
    workspace,
};

mod docs;
mod generate;
mod rooms;
mod source;
mod structs;

pub const VERB: Verb = Verb {
    name: "tidy",
    about: "room arrows, unsafe, file lengths, spelling, generated docs",
    flags: &[Flag {
        name: "--fix",
        value: None,
        help: "write the generated docs anew",
    }],
    rest: None,
    run,
};

/// Each rule gives one line per problem.
type Rule = (&'static str, fn(&Repository) -> Vec<String>);

const RULES: &[Rule] = &[
    ("rooms use each other only as DESIGN 2 says", rooms::arrows),
    (
        "the agent links no HTTP or TLS beyond tonic's",
        rooms::agent_links,
    ),
    (
        "the vendor links nothing of HTTP, TLS or BPF",
        rooms::vend_links,
    ),
    ("unsafe code only where it may be", source::unsafe_placement),
    ("every crate root forbids unsafe code", source::crate_roots),
    ("files are short", source::lengths),
    ("American spelling", source::spelling),
    ("no registry hosts", source::hosts),
    ("generated docs are current", docs::generated),
    ("ARCHITECTURE.md describes every folder", docs::folders),
    ("limits and counters are documented", docs::limits),
    ("every metric is documented", docs::metrics),
    (
        "the systemd units have the capabilities that are kept",
        docs::capabilities,
    ),
    ("links between pages hold", docs::links),
];

/// The text files of the clone.
pub struct Repository {
    pub root: PathBuf,
    /// Paths relative to the root, with `/`, sorted.
    pub files: Vec<String>,
}

fn run(flags: &Flags) -> Result<()> {
    if flags.has("--fix") {
        docs::write(&Repository::read(&workspace::root()))?;
    }
    let checked = check()?;
    println!("{checked} rules hold");
    Ok(())
}

/// Applies every rule; how many hold.
pub fn check() -> Result<usize> {
    let repository = Repository::read(&workspace::root());
    let mut problems = Vec::new();
    for (name, rule) in RULES {
        problems.extend(
            rule(&repository)
                .into_iter()
                .map(|p| format!("{name}: {p}")),
        );
    }
    if problems.is_empty() {
        Ok(RULES.len())
    } else {
        Err(problems.join("\n"))
    }
}

impl Repository {
    pub fn read(root: &Path) -> Self {
        let mut files = Vec::new();
        walk(root, "", &mut files);
        files.sort();
        Self {
            root: root.to_path_buf(),
            files,
        }
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// Files whose name ends so.
    pub fn ending(&self, ends: &[&str]) -> impl Iterator<Item = &str> {
        let ends: Vec<String> = ends.iter().map(|e| (*e).to_owned()).collect();
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |f| ends.iter().any(|e| f.ends_with(e)))
    }
}

fn walk(root: &Path, below: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(below))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name.clone()
        } else {
            format!("{below}/{name}")
        };
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && name != ".git" && path != "target" {
            walk(root, &path, files);
        } else if kind.is_file() && !name.ends_with(".swp") {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        if let Err(problems) = check() {
            panic!("{problems}\n`cargo xtask tidy --fix` writes the generated docs");
        }
    }

    #[test]
    fn finds_its_own_files() {
        let repository = Repository::read(&workspace::root());
        assert!(repository.files.contains(&"xtask/src/tidy.rs".to_owned()));
        assert!(!repository.files.iter().any(|f| f.starts_with("target/")));
    }
}
