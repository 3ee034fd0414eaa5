//! Reference pages made from the code's own descriptions: codes, flags, fields.
//!
//! Sources are read as text, so that this crate depends on nothing; a form that the readers here do
//! not know gives an empty table, which a test finds.

use super::Repository;

#[path = "../../../abi/src/reason.rs"]
#[expect(dead_code, reason = "only the registry itself is used here")]
mod reason;

const AGENT: &str = "agent/src/options.rs";
const CLI: &str = "cli/src/options.rs";
const ROW: &str = "cli/src/row.rs";

/// All generated pages: path and text.
pub fn pages(repository: &Repository) -> Vec<(&'static str, String)> {
    vec![
        ("docs/reference/codes.md", codes()),
        ("docs/reference/agent-flags.md", agent_flags(repository)),
        ("docs/reference/cli.md", cli(repository)),
        (
            "docs/reference/connection-fields.md",
            fields_of_rows(repository),
        ),
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
        _ => "Other",
    }
}

fn agent_flags(repository: &Repository) -> String {
    let source = repository.text(AGENT);
    let mut text = head("Flags of underpass-agent", AGENT);
    text += "Exit codes: 0 stopped or uninstalled, 1 failed (the message starts with a \
             [code](codes.md)), 2 bad usage.\n\n";
    text + &flag_table(repository, &source, &fields(&source, "Options"))
}

fn cli(repository: &Repository) -> String {
    let source = repository.text(CLI);
    let mut text = head("The underpass command", CLI);
    text += "Exit codes: 0 ok, 1 failed or something was found, 2 the command line is wrong. \
             Errors start with a [code](codes.md). No color when the output is piped.\n";
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

/// A field of a struct with its doc comment and attributes.
struct Field<'a> {
    name: &'a str,
    kind: &'a str,
    docs: String,
    attribute: String,
}

fn fields<'a>(source: &'a str, of: &str) -> Vec<Field<'a>> {
    let Some((_, body)) = source.split_once(&format!("pub struct {of} {{\n")) else {
        return Vec::new();
    };
    let body = body.split("\n}").next().unwrap_or_default();
    let (mut docs, mut attribute) = (String::new(), String::new());
    let mut fields = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs += doc;
        } else if let Some((name, kind)) =
            line.strip_prefix("pub ").and_then(|l| l.split_once(": "))
        {
            let kind = kind.trim_end_matches(',');
            let docs = std::mem::take(&mut docs).trim().to_owned();
            fields.push(Field {
                name,
                kind,
                docs,
                attribute: std::mem::take(&mut attribute),
            });
        } else {
            attribute += line;
        }
    }
    fields
}

/// The fields of a clap struct, with those of the structs that it flattens in.
fn with_flattened<'a>(source: &'a str, of: &str) -> Vec<Field<'a>> {
    let mut all = Vec::new();
    for field in fields(source, of) {
        if field.attribute.contains("flatten") {
            all.extend(with_flattened(source, field.kind));
        } else {
            all.push(field);
        }
    }
    all
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

/// The values of a clap enum, as they are typed.
fn variants(source: &str, of: &str) -> Vec<String> {
    let body = source
        .split_once(&format!("pub enum {of} {{\n"))
        .map_or("", |(_, rest)| rest);
    let body = body.split("\n}").next().unwrap_or_default();
    let names = body
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with(char::is_uppercase));
    names
        .map(|l| l.trim_end_matches(',').to_lowercase())
        .collect()
}

/// As it is typed: `-o, --output FORMAT`.
fn spelling(field: &Field) -> String {
    let words: Vec<&str> = field
        .attribute
        .split(['(', ',', ')'])
        .map(str::trim)
        .collect();
    let value = quoted(&field.attribute, "value_name = \"").map_or_else(
        || {
            if field.kind == "bool" {
                String::new()
            } else {
                field.name.to_uppercase()
            }
        },
        str::to_owned,
    );
    let positional = !words
        .iter()
        .any(|w| *w == "long" || w.starts_with("long ="));
    if positional {
        return if field.kind.starts_with("Option") {
            format!("[{value}]")
        } else {
            value
        };
    }
    let long = quoted(&field.attribute, "long = \"");
    let long = long.map_or_else(|| field.name.replace('_', "-"), str::to_owned);
    let short = words
        .iter()
        .find_map(|w| match w.strip_prefix("short = '") {
            Some(letter) => letter.chars().next(),
            None => (*w == "short").then(|| long.chars().next().unwrap_or_default()),
        });
    let short = short.map(|s| format!("-{s}, ")).unwrap_or_default();
    format!("{short}--{long} {value}").trim_end().to_owned()
}

fn default(repository: &Repository, attribute: &str) -> String {
    let Some((_, rest)) = attribute.split_once("default_value = ") else {
        return "–".to_owned();
    };
    let value = match rest.strip_prefix('"') {
        Some(text) => text.split('"').next().unwrap_or_default().to_owned(),
        None => {
            // A constant of the API.
            let name = rest.split([',', ')']).next().unwrap_or_default();
            let name = name.rsplit("::").next().unwrap_or_default();
            let api = repository.text("api/src/lib.rs");
            quoted(&api, &format!("{name}: &str = \""))
                .unwrap_or("?")
                .to_owned()
        }
    };
    if value.is_empty() {
        "–".to_owned()
    } else {
        format!("`{value}`")
    }
}

fn quoted<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split('"').next()
}

/// Verbs with the struct of their flags and what they do.
fn verbs(source: &str) -> Vec<(&str, Option<&str>, String)> {
    let Some((_, body)) = source.split_once("pub enum Verb {\n") else {
        return Vec::new();
    };
    let body = body.split("\n}").next().unwrap_or_default();
    let mut about = String::new();
    let mut verbs = Vec::new();
    // Lines of the enum itself, not of a variant's own fields.
    for line in body
        .lines()
        .filter(|l| l.len() - l.trim_start().len() == 4)
        .map(str::trim)
    {
        if let Some(doc) = line.strip_prefix("///") {
            about += doc;
        } else if line.starts_with(char::is_uppercase) && !about.is_empty() {
            let name = line.split(['(', ' ', ',']).next().unwrap_or_default();
            let args = line
                .split_once('(')
                .and_then(|(_, rest)| rest.split(')').next());
            verbs.push((name, args, std::mem::take(&mut about).trim().to_owned()));
        }
    }
    verbs
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
pub enum Verb {
    /// List things
    List(List),
}
pub struct List {
    /// Where
    /// it is
    #[arg(short = 'f', long, value_name = "DIR", default_value = "x")]
    pub from_dir: PathBuf,
    #[command(flatten)]
    pub more: More,
}
pub struct More {
    /// Go on
    #[arg(short, long)]
    pub watch: bool,
}
"#;

    #[test]
    fn reads_flags_as_clap_makes_them() {
        let fields = with_flattened(SOURCE, "List");
        let flags: Vec<String> = fields.iter().map(spelling).collect();
        assert_eq!(flags, ["-f, --from-dir DIR", "-w, --watch"]);
        assert_eq!(fields[0].docs, "Where it is");
        assert_eq!(
            verbs(SOURCE),
            [("List", Some("List"), "List things".to_owned())]
        );
    }

    #[test]
    fn no_table_is_empty() {
        let repository = Repository::read(&crate::workspace::root());
        for (path, text) in pages(&repository) {
            assert!(
                text.lines().filter(|l| l.starts_with("| ")).count() > 6,
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
