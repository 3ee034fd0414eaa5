//! Docs that are generated from code or compared with it.

use std::{collections::BTreeSet, fs};

use super::{Repository, generate};
use crate::Result;

const METRICS: [&str; 2] = ["agent/src/metrics.rs", "agent/src/metrics/requests.rs"];
/// Unit, and the list that it must have.
const UNITS: [(&str, &str); 2] = [
    (
        "deploy/systemd/underpass-agent.service",
        generate::CAPABILITIES,
    ),
    (
        "deploy/systemd/underpass-vend.service",
        generate::VEND_CAPABILITIES,
    ),
];
/// Top-level folders that are no rooms.
const NO_ROOMS: &[&str] = &[".cargo", ".ci", ".github"];

/// Writes what is generated.
pub fn write(repository: &Repository) -> Result<()> {
    for (path, text) in generate::pages(repository) {
        if repository.text(path) != text {
            println!("writing {path}");
            fs::write(repository.root.join(path), text).map_err(|e| format!("{path}: {e}"))?;
        }
    }
    Ok(())
}

pub fn generated(repository: &Repository) -> Vec<String> {
    let pages = generate::pages(repository).into_iter();
    let stale = pages.filter(|(path, text)| repository.text(path) != *text);
    stale
        .map(|(path, _)| format!("{path} is stale: cargo xtask tidy --fix"))
        .collect()
}

pub fn folders(repository: &Repository) -> Vec<String> {
    let text = repository.text("docs/ARCHITECTURE.md");
    let folders: BTreeSet<&str> = repository
        .files
        .iter()
        .filter_map(|f| Some(f.split_once('/')?.0))
        .collect();
    let missing = |f: &&&str| !NO_ROOMS.contains(*f) && !text.contains(&format!("`{f}/`"));
    folders
        .iter()
        .filter(missing)
        .map(|f| format!("{f}/ is not in docs/ARCHITECTURE.md"))
        .collect()
}

pub fn limits(repository: &Repository) -> Vec<String> {
    let page = repository.text("docs/reference/limits.md");
    let tables = repository.text("abi/src/tables.rs");
    let mut problems = Vec::new();
    for (name, value) in constants(module(&tables, "limits")) {
        let row = format!("| `{name}` | {value} |");
        if !page.contains(&row) {
            problems.push(format!("docs/reference/limits.md lacks the row `{row}`"));
        }
    }
    for row in page.lines().filter_map(|l| l.strip_prefix("| `")) {
        // `NAME` | value | `file` | meaning
        let columns: Vec<&str> = row.split(" | ").map(|c| c.trim_matches('`')).collect();
        let [name, value, file, _] = columns.as_slice() else {
            continue;
        };
        let plain = |text: &str| text.replace('_', "");
        let source = plain(&repository.text(file));
        let (start, end) = (
            format!("const {}: ", plain(name)),
            format!(" = {};", plain(value)),
        );
        if !source
            .lines()
            .any(|l| l.contains(&start) && l.ends_with(&end))
        {
            problems.push(format!(
                "docs/reference/limits.md: {name} is not {value} in {file}"
            ));
        }
    }
    let page = repository.text("docs/reference/counters.md");
    let counters = repository.text("abi/src/sock/counter.rs");
    for name in counters.split('"').skip(1).step_by(2) {
        if !page.contains(&format!("| `{name}` |")) {
            problems.push(format!("docs/reference/counters.md lacks `{name}`"));
        }
    }
    problems
}

/// The body of `pub mod NAME { … }` that ends with a brace in the first column.
fn module<'a>(source: &'a str, name: &str) -> &'a str {
    let Some((_, rest)) = source.split_once(&format!("pub mod {name} {{\n")) else {
        return "";
    };
    rest.split("\n}").next().unwrap_or_default()
}

/// `pub const NAME: usize = 4 << 20;` as (NAME, `4 << 20`), digits without underscores.
fn constants(body: &str) -> Vec<(&str, String)> {
    let row = |line: &'_ str| -> Option<(usize, usize)> {
        let at = line.find("pub const ")? + 10;
        Some((at, line.find(": usize = ")?))
    };
    let lines = body
        .lines()
        .filter_map(|l| row(l).map(|(from, to)| (&l[from..to], &l[to + 10..])));
    lines
        .map(|(name, value)| (name, value.trim_end_matches(';').replace('_', "")))
        .collect()
}

/// Every metric of the agent has a row.
pub fn metrics(repository: &Repository) -> Vec<String> {
    let page = repository.text("docs/reference/metrics.md");
    let mut problems = Vec::new();
    for file in repository
        .ending(&[".rs"])
        .filter(|f| f.starts_with("agent/src/"))
    {
        let source = repository.text(file);
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        // Elsewhere such a word is a name of the kernel's.
        let families = |name: &&str| METRICS.contains(&file) || name.starts_with("underpass_");
        for name in metric_names(code).into_iter().filter(families) {
            if !page.contains(&format!("`{name}`")) && !page.contains(&format!("`{name}_total`")) {
                problems.push(format!("docs/reference/metrics.md lacks {name} of {file}"));
            }
        }
    }
    problems
}

/// String literals that are names of metrics.
fn metric_names(code: &str) -> BTreeSet<&str> {
    let crates = [
        "underpass_abi",
        "underpass_agent",
        "underpass_api",
        "underpass_mesh",
    ];
    let metric = |text: &&str| {
        ["tcp_", "udp_", "underpass_", "http_", "request", "response"]
            .iter()
            .any(|start| text.starts_with(start))
            && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !crates.contains(text)
    };
    code.lines()
        .flat_map(|l| l.split('"').skip(1).step_by(2))
        .filter(metric)
        .collect()
}

pub fn capabilities(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    for (unit, list) in UNITS {
        let source = repository.text(list);
        let kept: BTreeSet<&str> = generate::needed(&source)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let text = repository.text(unit);
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("CapabilityBoundingSet="))
            .unwrap_or_default();
        let granted: BTreeSet<&str> = line.split_whitespace().collect();
        if kept.is_empty() || granted != kept {
            problems.push(format!("{unit} grants {granted:?}, {list} keeps {kept:?}"));
        }
    }
    problems
}

/// Relative links of every page lead to a file.
pub fn links(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    for page in repository.ending(&[".md"]) {
        let text = repository.text(page);
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            let from = repository.root.join(page);
            if !from.parent().is_some_and(|dir| dir.join(file).exists()) {
                problems.push(format!("{page}: {target} does not exist"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_constants_and_modules() {
        let source = "pub mod limits {\n    pub const A: usize = 16_384;\n    pub const B: usize = 4 << 20;\n}\n";
        let expected = vec![("A", "16384".to_owned()), ("B", "4 << 20".to_owned())];
        assert_eq!(constants(module(source, "limits")), expected);
    }

    #[test]
    fn finds_metric_names() {
        let code =
            "(\"tcp_open\", \"Connections\")\nlet x = \"underpass_api\"; f(\"underpass_{name}\");";
        assert_eq!(
            metric_names(code).into_iter().collect::<Vec<_>>(),
            ["tcp_open"]
        );
    }
}
