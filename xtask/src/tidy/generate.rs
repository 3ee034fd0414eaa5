//! Reference pages made from the code's own descriptions: codes, flags, fields.
//!
//! Sources are read as text, so that this crate depends on nothing; a form that the readers here do
//! not know gives an empty table, which a test finds.

use super::{
    Repository,
    structs::{Field, default, fields, quoted, spelling, variants, verbs, with_flattened},
};

#[path = "../../../abi/src/reason.rs"]
#[expect(dead_code, reason = "only the registry itself is used here")]
mod reason;

#[path = "../../../tests/src/equivalence/exceptions.rs"]
mod exceptions;

#[path = "../../../tests/src/programs/table.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod programs;

const AGENT: &str = "agent/src/options.rs";
const CLI: &str = "cli/src/options.rs";
const ROW: &str = "cli/src/row.rs";
const VEND: &str = "vend/src/options.rs";
pub const CAPABILITIES: &str = "agent/src/kernel/caps.rs";
pub const VEND_CAPABILITIES: &str = "vend/src/caps.rs";

/// All generated pages: path and text.
pub fn pages(repository: &Repository) -> Vec<(&'static str, String)> {
    vec![
        ("docs/reference/codes.md", codes()),
        ("docs/reference/agent-flags.md", agent_flags(repository)),
        ("docs/reference/vend-flags.md", vend_flags(repository)),
        ("docs/reference/cli.md", cli(repository)),
        (
            "docs/reference/connection-fields.md",
            fields_of_rows(repository),
        ),
        ("docs/reference/capabilities.md", capabilities(repository)),
        ("docs/reference/shortcut-differences.md", differences()),
        ("docs/reference/shortcut-programs.md", real_programs()),
    ]
}

fn head(title: &str, source: &str) -> String {
    format!("# {title}\n\n<!-- Generated from {source} by `cargo xtask tidy --fix`. -->\n\n")
}

fn codes() -> String {
    let mut text = head("Codes", "abi/src/reason.rs");
    text += "Every refusal, every empty cell and every error has one of these. `-o json` shows the \
             name, messages show number and name. Names never change their meaning.\n";
    let mut hundred = 0;
    for code in reason::CODES {
        if code.number / 100 != hundred {
            hundred = code.number / 100;
            text += &format!("\n## {}\n\n", chapter(hundred));
            text += "| code | name | what happened | what to do |\n|---|---|---|---|\n";
        }
        let (what, hint) = (cell(code.text), cell(code.hint));
        text += &format!(
            "| UP{:04} | `{}` | {what} | {hint} |\n",
            code.number, code.name
        );
    }
    text
}

fn chapter(hundred: u16) -> &'static str {
    match hundred {
        1 => "Why a connection was refused, or ended",
        2 => "Why a cell is empty, or a layer was chosen",
        3 => "Configuration",
        4 => "The node",
        5 => "Command line",
        6 => "Why a request was refused (no worker applies these rules yet)",
        _ => "Other",
    }
}

fn agent_flags(repository: &Repository) -> String {
    let source = repository.text(AGENT);
    let mut text = head("Flags of underpass-agent", AGENT);
    text += "Exit codes: 0 stopped, uninstalled or checked, 1 failed (the message starts with a \
             [code](codes.md)) or `--check` found an error, 2 bad usage.\n\n";
    text + &flag_table(repository, &source, &fields(&source, "Options"))
}

fn vend_flags(repository: &Repository) -> String {
    let source = repository.text(VEND);
    let mut text = head("Flags of underpass-vend", VEND);
    text += "Exit codes: 0 stopped or done, 1 failed or refused (the message starts with a [code](codes.md)), \
             2 bad usage. What it is: [the vendor](../explanation/vendor.md).\n\n";
    let flags: Vec<Field> = fields(&source, "Options")
        .into_iter()
        .filter(|f| !f.attribute.contains("subcommand") && !f.attribute.contains("hide"))
        .collect();
    text += &flag_table(repository, &source, &flags);
    text += "\n## underpass-vend ctl\n\nSays something to a running vendor, as root.\n\n\
             | command | meaning |\n|---|---|\n";
    for (line, about) in commands(&source) {
        text += &format!("| `{line}` | {} |\n", cell(&about));
    }
    text
}

/// The commands of `ctl` with their arguments.
fn commands(source: &str) -> Vec<(String, String)> {
    let body = source
        .split_once("pub enum Ctl {\n")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .map_or("", |(body, _)| body);
    let mut about = String::new();
    let mut all = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            about += doc;
            continue;
        }
        let verb = line.split(['(', ' ', ',']).next().unwrap_or_default();
        let mut words = verb.to_lowercase();
        if let Some((_, argument)) = line.split_once("{ ") {
            let name = argument.split(':').next().unwrap_or_default();
            words += &format!(" {}", name.to_uppercase());
        }
        if line.contains('(') {
            for field in fields(source, verb) {
                words += &format!(" {}", spelling(&field));
            }
        }
        all.push((words, std::mem::take(&mut about).trim().to_owned()));
    }
    all
}

fn cli(repository: &Repository) -> String {
    let source = repository.text(CLI);
    let mut text = head("The underpass command", CLI);
    text += "Exit codes: 0 ok, 1 failed or something was found (`check` and `status`: an error; \
             `check -f`: also a warning), 2 the command line is wrong. Errors start with a \
             [code](codes.md). No color when the output is piped.\n";
    for (verb, args, about) in verbs(&source) {
        text += &format!("\n## underpass {}\n\n{about}.\n\n", verb.to_lowercase());
        if let Some(args) = args {
            text += &flag_table(repository, &source, &with_flattened(&source, args));
        }
    }
    let planned = source
        .split_once("PLANNED: [")
        .and_then(|(_, rest)| rest.split_once("];"));
    let planned = planned
        .and_then(|(list, _)| list.split_once("= ["))
        .map_or("", |(_, names)| names);
    let planned: Vec<&str> = planned.split('"').skip(1).step_by(2).collect();
    text += "\n## Not built yet\n\nThese verbs are refused with `NOT_IMPLEMENTED`: ";
    text + &planned.join(", ") + ".\n"
}

fn fields_of_rows(repository: &Repository) -> String {
    let source = repository.text(ROW);
    let mut text = head("Fields of a connection", ROW);
    text += "`underpass conns -o json` prints `{\"items\": […]}`; each item has these fields, in \
             this order, whose names do not change. [JSON Schema](conns.schema.json)\n";
    for (name, title) in [
        ("Connection", "Connection"),
        ("Peer", "`source` and `destination`"),
    ] {
        text += &format!("\n## {title}\n\n| field | type | meaning |\n|---|---|---|\n");
        for field in fields(&source, name) {
            let kind = json_type(field.kind);
            text += &format!("| `{}` | {kind} | {} |\n", field.name, cell(&field.docs));
        }
    }
    text
}

fn json_type(kind: &str) -> String {
    if let Some(inner) = kind.strip_prefix("Option<") {
        return format!("{} or null", json_type(inner.trim_end_matches('>')));
    }
    let name = match kind {
        "String" => "string",
        "Peer" => "object",
        "bool" => "boolean",
        _ => "integer",
    };
    name.to_owned()
}

fn cell(text: &str) -> String {
    if text.is_empty() {
        "–".to_owned()
    } else {
        text.replace('|', "\\|")
    }
}

fn flag_table(repository: &Repository, source: &str, fields: &[Field]) -> String {
    let mut text = String::from("| flag | default | meaning |\n|---|---|---|\n");
    for field in fields {
        let (flag, default) = (spelling(field), default(repository, &field.attribute));
        let mut meaning = cell(&field.docs);
        let choices = variants(source, field.kind);
        if field.attribute.contains("value_enum") && !choices.is_empty() {
            meaning += &format!(": {}", choices.join(", "));
        }
        text += &format!(
            "| `{}` | {default} | {meaning} |\n",
            flag.replace('|', "\\|")
        );
    }
    text
}

fn capabilities(repository: &Repository) -> String {
    let mut text = head("Capabilities of the agent", CAPABILITIES);
    text += "What `underpass-agent` keeps after its start, and what the systemd unit grants. Each was \
             taken away alone, and the named thing failed. All others are dropped for good at start.\n\n| capability | what for |\n|---|---|\n";
    for (name, why) in needed(&repository.text(CAPABILITIES)) {
        text += &format!("| `{name}` | {} |\n", cell(&why));
    }
    text += "\nMounting a bpffs and making directories happen before the others are dropped.\n\n\
             ## The vendor\n\n<!-- Generated from vend/src/caps.rs. -->\n\n\
             What `underpass-vend` keeps, and what its unit grants. Each was taken away alone, and something \
             failed. Its children keep `CAP_SYS_ADMIN` alone, [workers](../explanation/vendor.md) keep none.\n\n\
             | capability | what for |\n|---|---|\n";
    for (name, why) in needed(&repository.text(VEND_CAPABILITIES)) {
        text += &format!("| `{name}` | {} |\n", cell(&why));
    }
    text
}

/// Name and reason of each capability in the agent's list.
pub fn needed(source: &str) -> Vec<(&str, String)> {
    let list = source.split_once("NEEDED: [").map_or("", |(_, rest)| rest);
    let list = list.split("\n];").next().unwrap_or_default();
    let entries = list.split("name: \"").skip(1);
    let entry = |text: &'_ str| -> Option<(usize, String)> {
        let why = quoted(text, "why: \"")?;
        Some((
            text.find('"')?,
            why.split('\\').map(str::trim).collect::<Vec<_>>().join(" "),
        ))
    };
    entries
        .filter_map(|text| entry(text).map(|(end, why)| (&text[..end], why)))
        .collect()
}

/// What an application can notice of the shortcut.
fn differences() -> String {
    let mut text = head(
        "What an application can notice of the shortcut",
        "tests/src/equivalence/exceptions.rs",
    );
    text += "`cargo xtask test --equivalence` runs scripts of system calls over plain TCP, over sockets \
             that are in the shortcut's map while nothing is redirected, and over the shortcut, and compares \
             what they see. Nothing else differs: a difference that is not listed here fails, and so does \
             a listed one that is none. Sockets that are blocking when they connect or listen never enter the map: theirs is TCP's behavior.\n\n\
             | what | over TCP | over the shortcut | in the map without redirection | cases |\n|---|---|---|---|---|\n";
    for e in exceptions::EXCEPTIONS {
        let mapped = match (e.mapped, e.shortcut) {
            (true, true) => "as over the shortcut",
            (true, false) => "differs",
            (false, _) => "as over TCP",
        };
        let cases: Vec<String> = e.cases.iter().map(|c| format!("`{c}`")).collect();
        let row = [e.what, e.tcp, e.here, mapped, &cases.join(", ")].map(cell);
        text += &format!("| {} |\n", row.join(" | "));
    }
    text +=
        "\n## Why, and what protects the user\n\n| what | reason | protection |\n|---|---|---|\n";
    for e in exceptions::EXCEPTIONS {
        let row = [e.what, e.reason, e.protection].map(cell);
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// Which programs take the shortcut.
fn real_programs() -> String {
    let mut text = head(
        "Real programs and the shortcut",
        "tests/src/programs/table.rs",
    );
    text += "`cargo xtask test --programs` runs each of these twice between pods of one node, with \
             `underpass.dev/shortcut: \"off\"` on the namespace and with mode `on`, compares the results, and \
             reads from `underpass conns` which way the bytes took. A row whose bytes take another way than it \
             says fails, and so does one for whose program there is no package or toolchain, unless \
             `tests/missing-programs.txt` gives a reason. In mode `auto` only the tested list takes \
             the shortcut ([modes](../explanation/shortcut.md)).\n\n\
             | programs | versions | equal to TCP | way | why not |\n|---|---|---|---|---|\n";
    for row in programs::ROWS {
        let versions: Vec<String> = row
            .needs
            .iter()
            .map(|n| format!("{} {}", n.program, n.version.trim_end_matches('.')))
            .collect();
        let equal = match row.differs {
            "" => row.equal.to_owned(),
            differs => format!("**no**: {differs}"),
        };
        let (way, why) = ways(row.legs);
        let cells = [row.what, &versions.join(", "), &equal, way, &why].map(cell);
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text + "\nBytes of a connection that takes the shortcut may go by TCP as well, when the reader is behind \
            (`SHORTCUT_UNREAD`, `SHORTCUT_QUEUE_FULL`) or at its end (`SHORTCUT_CLOSING`): the suite prints \
            how many did. The first connection of a program that splices may hang until its client gives up; \
            what is written of such a program holds from the next one on.\n"
}

/// The way of a row's legs, and the codes of those that stay.
fn ways(legs: &[programs::Leg]) -> (&'static str, String) {
    let mut codes: Vec<String> = Vec::new();
    let mut taken = 0;
    for leg in legs {
        match leg.way {
            programs::Way::Takes => taken += 1,
            programs::Way::Stays(why) => codes.extend(why.iter().map(|c| format!("`{c}`"))),
        }
    }
    codes.dedup();
    let way = match taken {
        0 => "TCP",
        n if n == legs.len() => "shortcut",
        _ => "both",
    };
    (way, codes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_empty() {
        let repository = Repository::read(&crate::workspace::root());
        for (path, text) in pages(&repository) {
            assert!(
                text.lines().filter(|l| l.starts_with("| ")).count() > 3,
                "{path}:\n{text}"
            );
            assert!(!text.contains("`?`"), "{path}");
        }
    }

    #[test]
    fn every_code_has_a_row() {
        let text = codes();
        for code in reason::CODES {
            assert!(text.contains(&format!("| UP{:04} | `{}` |", code.number, code.name)));
        }
    }
}
