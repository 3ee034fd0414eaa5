//! Reads structs and enums of clap and serde as text: names, doc comments, attributes.

use super::Repository;

/// A field of a struct with its doc comment and attributes.
pub struct Field<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub docs: String,
    pub attribute: String,
}

pub fn fields<'a>(source: &'a str, of: &str) -> Vec<Field<'a>> {
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
pub fn with_flattened<'a>(source: &'a str, of: &str) -> Vec<Field<'a>> {
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

/// The values of a clap enum, as they are typed.
pub fn variants(source: &str, of: &str) -> Vec<String> {
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
pub fn spelling(field: &Field) -> String {
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

pub fn default(repository: &Repository, attribute: &str) -> String {
    let Some((_, rest)) = attribute.split_once("default_value = ") else {
        let number = attribute.split_once("default_value_t = ");
        let word = number.and_then(|(_, rest)| rest.split([',', ')']).next());
        let word = word.filter(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        return word.map_or("–".to_owned(), |w| format!("`{}`", w.replace('_', "")));
    };
    let value = match rest.strip_prefix('"') {
        Some(text) => text.split('"').next().unwrap_or_default().to_owned(),
        None => {
            // A constant of the API.
            let name = rest.split([',', ')']).next().unwrap_or_default();
            let name = name.rsplit("::").next().unwrap_or_default();
            let sources = ["api/src/lib.rs", "api/src/vend.rs"].map(|file| repository.text(file));
            let start = format!("{name}: &str = \"");
            let found = sources.iter().find_map(|text| quoted(text, &start));
            found.unwrap_or("?").to_owned()
        }
    };
    if value.is_empty() {
        "–".to_owned()
    } else {
        format!("`{value}`")
    }
}

pub fn quoted<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split('"').next()
}

/// Verbs with the struct of their flags and what they do.
pub fn verbs(source: &str) -> Vec<(&str, Option<&str>, String)> {
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
}
