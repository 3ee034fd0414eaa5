//! docs/reference/kernels.md.

use super::results::{Results, Row};

const HEAD: &str = "\
# Kernels

<!-- Written by `cargo xtask vm 6.1 6.12 next --update`. -->

What Debian's kernels, booted in QEMU, made of this build: the real agent loads and attaches every
program, then one short way through everything that the mesh does. `cargo xtask vm` repeats it for
the kernels of this Debian release, `next` stands for the newest one built for the next release,
`cargo xtask vm 6.1.0-50` boots one release, `--suite accounting,udp` runs whole test files in it
(bounds on time are made for real machines), `--append WORDS` adds to the kernel's command line.
`cargo xtask test` runs 6.12.

Without JIT (`--append sysctl.net.core.bpf_jit_enable=0`) everything works too. Under
`lockdown=confidentiality` the kernel refuses the helpers that read its memory: the agent does not
start.
";

const SHORTCUT: &str = "
## The shortcut

On a kernel that the agent refuses by its number, the checks forbid it to look at that
(`--shortcut-any-level`), so that the rest of its self-test must pass: what they show is what the refusal
keeps back. A relay that is on no list splices: on its first connection the guard
refuses that and it copies, the next ones stay on TCP, where it splices; every byte is compared. The core
is `underpass-equivalence run --core` against TCP; the control, which must fail, is the guard of each
message without the verdict program.

";
const SHORTCUT_FACT: &str = "the shortcut";
const SHORTCUT_CHECKS: [&str; 4] = [
    "splice-guard",
    "a splicing program",
    "equivalence, the core",
    "soak",
];

pub fn render(all: &[Results]) -> String {
    let mut text = HEAD.to_owned();
    text += "\n## What the kernel is and can do\n\n";
    text += &head("", all);
    text += &line("programs loaded", all, |r| share(r, "program"));
    text += &line("checks that hold", all, |r| share(r, "check"));
    text += &rows("fact", all, &[SHORTCUT_FACT]);
    text += &rows("probe", all, &[]);
    text += "\nThe probes attach small programs. `up_splice_guard` uses the security hook (LSM); nothing \
             uses the others yet, but for the tracepoint.\n";
    text += SHORTCUT;
    text += &head("", all);
    text += &line("what the agent says", all, |r| {
        said(r, "fact", SHORTCUT_FACT)
    });
    for name in SHORTCUT_CHECKS {
        text += &line(name, all, |r| said(r, "check", name));
    }
    text += "\n## Checks\n\n";
    text += &head("", all);
    text += &rows("check", all, &[]);
    text += "\n## Programs\n\nVerified instructions, and bytes of machine code.\n\n";
    text += &head("program", all);
    text += &rows("program", all, &[]);
    text
}

fn head(first: &str, all: &[Results]) -> String {
    let releases: Vec<&str> = all.iter().map(|r| r.release.as_str()).collect();
    format!(
        "| {first} | {} |\n|---|{}\n",
        releases.join(" | "),
        "---|".repeat(all.len())
    )
}

fn line(name: &str, all: &[Results], cell: impl Fn(&Results) -> String) -> String {
    let cells: Vec<String> = all.iter().map(cell).collect();
    format!("| {name} | {} |\n", cells.join(" | "))
}

fn share(results: &Results, kind: &str) -> String {
    let all = results.of_kind(kind).count();
    let ok = results.of_kind(kind).filter(|r| r.result == "ok").count();
    format!("{ok} of {all}")
}

/// What a row says at length, without its time.
fn said(results: &Results, kind: &str, name: &str) -> String {
    let Some(row) = results.row(kind, name) else {
        return "–".to_owned();
    };
    if row.result == "failed" {
        return cell(row);
    }
    let detail = row.detail.split_once(" s; ").map_or("", |(_, text)| text);
    let text = match row.result.as_str() {
        "ok" if detail.is_empty() => "ok".to_owned(),
        "ok" => detail.to_owned(),
        other => format!("{other} {}", row.detail),
    };
    text.trim().replace('|', "\\|").replace('\n', " ")
}

/// Every row of a kind that any kernel has and `but` has not, in the order of their first mention.
fn rows(kind: &str, all: &[Results], but: &[&str]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for row in all.iter().flat_map(|r| r.of_kind(kind)) {
        if !names.contains(&row.name.as_str()) && !but.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let cell = |name: &str, r: &Results| r.row(kind, name).map_or("–".to_owned(), cell);
    names
        .iter()
        .map(|name| line(name, all, |r| cell(name, r)))
        .collect()
}

fn cell(row: &Row) -> String {
    // The rest of a verifier's log is for the terminal.
    let detail = row.detail.lines().next().unwrap_or_default();
    let detail = detail.replace('|', "\\|");
    match (row.kind.as_str(), row.result.as_str()) {
        ("program", "ok") => detail,
        (_, "ok" | "yes") => row.result.clone(),
        (_, "no" | "failed") => format!("**{}**: {detail}", row.result),
        _ => row.result.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_is_a_column() {
        let mut old = Results::new("6.1");
        old.line("fact\tJIT\ton\t");
        old.line("program\tconnect4\tok\t43305, 14346 B");
        let mut new = Results::new("6.12");
        new.line("program\tconnect4\tfailed\tR1 a|b\\nmore");
        let text = render(&[old, new]);
        assert!(
            text.contains("| programs loaded | 1 of 1 | 0 of 1 |"),
            "{text}"
        );
        assert!(text.contains("JIT | on | – |"), "{text}");
        assert!(
            text.contains("| 43305, 14346 B | **failed**: R1 a\\|b |"),
            "{text}"
        );
    }
}
