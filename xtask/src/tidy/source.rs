//! What must hold of single source files.

use super::Repository;

/// Folders and files (by prefix) whose Rust code may be unsafe.
const UNSAFE: &[&str] = &["abi/", "ebpf/", "agent/src/sys"];
/// Crate roots that cannot forbid it; the agent's denies it but in `sys`.
const UNSAFE_ROOTS: &[&str] = &["abi/", "ebpf/"];

const LONGEST: usize = 400;
const NEVER_LONGER: usize = 700;
/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

const BRITISH: &[&str] = &[
    "artefact",
    "authoris",
    "behaviour",
    "cancelled",
    "centre",
    "colour",
    "defence",
    "favour",
    "finalis",
    "honour",
    "initialis",
    "labelled",
    "licence",
    "minimis",
    "modelled",
    "neighbour",
    "normalis",
    "optimis",
    "organis",
    "prioritis",
    "recognis",
    "serialis",
    "summaris",
    "synchronis",
    "unauthoris",
    "utilis",
    "whilst",
];
const HOSTS: &[&str] = &[
    "crates.io",
    "deb.debian.org",
    "docker.io",
    "ghcr.io",
    "npmjs.org",
    "proxy.golang.org",
    "pypi.org",
    "quay.io",
];
const TEXT: &[&str] = &[
    ".rs", ".md", ".toml", ".proto", ".sh", ".yaml", ".service", ".txt", ".ci/run",
];
/// This file, which lists the words.
const SELF: &str = "xtask/src/tidy/source.rs";

pub fn unsafe_placement(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    let files = repository.ending(&[".rs"]).filter(|f| *f != SELF);
    for file in files.filter(|f| !UNSAFE.iter().any(|u| f.starts_with(u))) {
        for (number, line) in repository.text(file).lines().enumerate() {
            if is_unsafe(line) {
                problems.push(format!("{file}:{}", number + 1));
            }
        }
    }
    problems
}

/// The keyword in code; a word of a comment or an attribute is none.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].trim_start();
        let starts =
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"' && c != '`');
        starts
            && ["{", "fn ", "impl ", "extern ", "trait "]
                .iter()
                .any(|k| after.starts_with(k))
            || code[at + word.len()..].starts_with("(no_mangle")
            || code[at + word.len()..].starts_with("(link_section")
    })
}

pub fn crate_roots(repository: &Repository) -> Vec<String> {
    let root = |f: &&str| {
        f.ends_with("/src/lib.rs") || f.ends_with("/src/main.rs") || f.contains("/src/bin/")
    };
    let mut problems = Vec::new();
    for file in repository.ending(&[".rs"]).filter(root) {
        if UNSAFE_ROOTS.iter().any(|r| file.starts_with(r)) || file.matches('/').count() > 3 {
            continue;
        }
        let attribute = if file == "agent/src/lib.rs" {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        if !repository.text(file).lines().any(|l| l.trim() == attribute) {
            problems.push(format!("{file} lacks {attribute}"));
        }
    }
    problems
}

pub fn lengths(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    for file in repository.ending(&[".rs", ".proto", ".ci/run"]) {
        let lines = repository.text(file).lines().count();
        // Cases of a test read better side by side.
        let test = file.contains("/tests/") || file.ends_with("/tests.rs");
        let excepted = test || LONG.iter().any(|(path, _)| *path == file);
        problems.extend(
            too_long(lines, excepted)
                .map(|limit| format!("{file} has {lines} lines, {limit} are allowed: split it")),
        );
    }
    let gone = LONG
        .iter()
        .filter(|(path, _)| repository.text(path).lines().count() <= LONGEST);
    problems.extend(gone.map(|(path, _)| format!("{path} needs no exception any more")));
    problems
}

fn too_long(lines: usize, excepted: bool) -> Option<usize> {
    let limit = if excepted { NEVER_LONGER } else { LONGEST };
    (lines > limit).then_some(limit)
}

pub fn spelling(repository: &Repository) -> Vec<String> {
    words(repository, BRITISH, |file| file == SELF)
}

pub fn hosts(repository: &Repository) -> Vec<String> {
    words(repository, HOSTS, |file| file == SELF)
}

fn words(repository: &Repository, words: &[&str], skip: fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for file in repository.ending(TEXT).filter(|f| !skip(f)) {
        for (number, line) in repository.text(file).to_lowercase().lines().enumerate() {
            problems.extend(
                words
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{file}:{}: {word}", number + 1)),
            );
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_keyword_from_the_word() {
        for code in [
            "    unsafe { x() }",
            "pub unsafe fn f()",
            "unsafe impl Send for X {}",
        ] {
            assert!(is_unsafe(code), "{code}");
        }
        for code in [
            "// unsafe { }",
            "#![forbid(unsafe_code)]",
            "let not_unsafe = 1;",
            "fn unsafely() {",
        ] {
            assert!(!is_unsafe(code), "{code}");
        }
    }

    #[test]
    fn an_exception_has_its_own_cap() {
        assert_eq!(too_long(400, false), None);
        assert_eq!(too_long(401, false), Some(400));
        assert_eq!(too_long(700, true), None);
        assert_eq!(too_long(701, true), Some(700));
    }
}
