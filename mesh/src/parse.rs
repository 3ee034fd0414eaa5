//! From text to objects: YAML with several documents, JSON, and lists of either. An error has its
//! line and field; one error rejects the file, so that half a file is never in force.

use serde::{
    Deserialize,
    de::{DeserializeSeed, IgnoredAny},
};
use underpass_abi::reason::code;

use crate::{
    Str,
    k8s::{NOT_IMPLEMENTED, Object},
    problem::{Problem, Severity},
};
use document::{Document, HTTP_ROUTE, KIND_LATER, Known};

mod document;

/// Largest file that is read.
pub const FILE_BYTES_MAX: usize = 32 << 20;
/// Most objects in one file.
pub const FILE_OBJECTS_MAX: usize = 100_000;
/// Problems that are reported of one file; the rest is left out.
pub const FILE_PROBLEMS_MAX: usize = 100;

/// The objects of a usable file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// With the line on which the object's document begins.
    pub objects: Vec<(u32, Object)>,
    pub warnings: Vec<Problem>,
}

/// Reads a file. On `Err` at least one problem is an error.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Vec<Problem>> {
    let mut reader = Reader {
        file: file.into(),
        parsed: Parsed::default(),
        errors: Vec::new(),
    };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{} bytes, the limit is {FILE_BYTES_MAX}", text.len());
        return Err(vec![reader.problem(
            Severity::Error,
            code::TOO_LARGE,
            0,
            "",
            message,
        )]);
    }
    if !(text.trim_start().starts_with('{') && reader.json(text)) {
        reader.yaml(text);
    }
    let Reader {
        parsed, mut errors, ..
    } = reader;
    if errors.is_empty() {
        return Ok(parsed);
    }
    errors.extend(parsed.warnings);
    errors.truncate(FILE_PROBLEMS_MAX);
    Err(errors)
}

struct Reader {
    file: Str,
    parsed: Parsed,
    errors: Vec<Problem>,
}

impl Reader {
    /// The fast path. False if it is no JSON or has an error: YAML, of which JSON is a part, tells
    /// more about errors.
    fn json(&mut self, text: &str) -> bool {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Document>();
        let mut found = Vec::new();
        let (mut line, mut counted) = (1, 0);
        loop {
            let start = stream.byte_offset();
            let start = start + text[start..].len() - text[start..].trim_start().len();
            match stream.next() {
                Some(Ok(document)) => {
                    line += text[counted..start].bytes().filter(|b| *b == b'\n').count();
                    counted = start;
                    found.push((line as u32, document));
                }
                Some(Err(_)) => return false,
                None => break,
            }
        }
        for (line, document) in found {
            self.take(line, "", document);
        }
        true
    }

    fn yaml(&mut self, text: &str) {
        for (line, document) in documents(text) {
            if self.errors.len() >= FILE_PROBLEMS_MAX {
                return;
            }
            match read_yaml(document) {
                Ok(d) => self.take(line, "", d),
                Err(_) if route_of_gateways(document) => self.not_ours(line, ""),
                Err(error) => self.yaml_error(line, document, &error),
            }
        }
    }

    fn take(&mut self, line: u32, path: &str, document: Document) {
        match document {
            Document::Object(object) => self.object(line, path, object),
            Document::List(items) => {
                for (i, item) in items.into_iter().enumerate() {
                    self.take(line, &format!("items[{i}]"), item);
                }
            }
            Document::Unknown { api, kind } => {
                // A slip in our own group must not open what it was meant to close.
                let ours = api.starts_with("underpass.dev/");
                let severity = if ours {
                    Severity::Error
                } else {
                    Severity::Warning
                };
                let (code, message) = if routes(&api) {
                    let message = format!("{kind} of {api} is not obeyed");
                    (code::NOT_IMPLEMENTED, message)
                } else {
                    (code::UNKNOWN_KIND, format!("{kind} of {api} is not read"))
                };
                let problem = self.problem(severity, code, line, path, message);
                if ours {
                    self.errors.push(problem)
                } else {
                    self.parsed.warnings.push(problem)
                }
            }
        }
    }

    fn object(&mut self, line: u32, path: &str, object: Object) {
        if self.parsed.objects.len() >= FILE_OBJECTS_MAX {
            if self.errors.is_empty() {
                let message = format!("more than {FILE_OBJECTS_MAX} objects");
                self.errors
                    .push(self.problem(Severity::Error, code::TOO_LARGE, line, "", message));
            }
            return;
        }
        if let Object::HttpRoute(route) = &object
            && route.parents.is_empty()
        {
            return self.not_ours(line, path);
        }
        if let Object::Service(service) = &object {
            for (field, why) in service.spec.unbuilt() {
                let field = join(path, &field);
                let p = self.problem(
                    Severity::Warning,
                    code::NOT_IMPLEMENTED,
                    line,
                    &field,
                    why.into(),
                );
                self.parsed.warnings.push(p);
            }
        }
        if let Object::EndpointSlice(slice) = &object
            && let Some(i) = slice.misplaced()
        {
            let field = join(path, &format!("endpoints[{i}].addresses"));
            let message = format!(
                "{} is not {:?}",
                slice.endpoints[i].address, slice.address_type
            );
            let p = self.problem(Severity::Error, code::BAD_FIELD, line, &field, message);
            self.errors.push(p);
        }
        self.parsed.objects.push((line, object));
    }

    /// Of a route that other programs obey, whatever it holds.
    fn not_ours(&mut self, line: u32, path: &str) {
        let field = join(path, "spec.parentRefs");
        let message = "a route with no Service as parent is not obeyed".into();
        let problem = self.problem(
            Severity::Warning,
            code::NOT_IMPLEMENTED,
            line,
            &field,
            message,
        );
        self.parsed.warnings.push(problem);
    }

    fn yaml_error(&mut self, line: u32, document: &str, error: &serde_yaml_ng::Error) {
        let mut text = error.to_string();
        let mut at = line;
        if let Some(place) = error.location() {
            let suffix = format!(" at line {} column {}", place.line(), place.column());
            text = text.replace(&suffix, "");
            at = line + place.line().max(1) as u32 - 1;
        }
        let syntax = serde_yaml_ng::from_str::<IgnoredAny>(document).is_err();
        let (path, message) = if syntax {
            ("", text.as_str())
        } else {
            split_path(&text)
        };
        let (code, message) = match message.split_once(NOT_IMPLEMENTED) {
            _ if syntax => (code::BAD_YAML, message),
            Some((_, message)) => (code::NOT_IMPLEMENTED, message),
            None => (code::BAD_FIELD, message),
        };
        let path = join(path, named_field(message));
        self.errors
            .push(self.problem(Severity::Error, code, at, &path, message.into()));
    }

    fn problem(
        &self,
        severity: Severity,
        code: u16,
        line: u32,
        field: &str,
        message: String,
    ) -> Problem {
        Problem {
            severity,
            code,
            file: self.file.clone(),
            line,
            field: field.into(),
            message,
        }
    }
}

fn join(path: &str, field: &str) -> String {
    let dot = if path.is_empty() || field.is_empty() {
        ""
    } else {
        "."
    };
    format!("{path}{dot}{field}")
}

/// `spec.ports[0]: message` in its two parts.
fn split_path(text: &str) -> (&str, &str) {
    match text.split_once(": ") {
        Some((path, message))
            if !path.is_empty()
                && path != NOT_IMPLEMENTED.trim_end_matches(": ")
                && path
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-[]/".contains(&b)) =>
        {
            (path, message)
        }
        _ => ("", text),
    }
}

/// The field that serde's message names, if it is about one that is missing or unknown.
fn named_field(message: &str) -> &str {
    for start in ["missing field `", "unknown field `", "duplicate field `"] {
        if let Some((name, _)) = message.strip_prefix(start).and_then(|r| r.split_once('`')) {
            return name;
        }
    }
    ""
}

/// The documents of a YAML stream with their first lines. `---` at the start of a line is a marker
/// everywhere, also within quotes and block scalars (YAML 1.2, c-forbidden), so that a stream can be
/// cut before it is parsed; each document alone then bounds the parser's memory.
fn documents(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some((1, text));
    std::iter::from_fn(move || {
        let (first, text) = rest.take()?;
        let mut at = 0;
        for (line, l) in (first..).zip(text.split_inclusive('\n')) {
            if let Some(after) = l.strip_prefix("---")
                && (after.is_empty() || after.starts_with([' ', '\t', '\r', '\n']))
            {
                rest = Some((line, &text[at + 3..]));
                return Some((first, &text[..at]));
            }
            at += l.len();
        }
        Some((first, text))
    })
    .filter(|(_, document)| !is_blank(document))
}

/// Comments, directives and end markers only.
fn is_blank(document: &str) -> bool {
    document.lines().all(|l| {
        let l = l.trim();
        l.is_empty() || l.starts_with(['#', '%']) || l == "..."
    })
}

fn read_yaml(document: &str) -> Result<Document, serde_yaml_ng::Error> {
    match serde_yaml_ng::from_str(document) {
        Err(error) if error.to_string().contains(KIND_LATER) => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Head {
                api_version: String,
                kind: String,
            }
            let Head { api_version, kind } = serde_yaml_ng::from_str(document)?;
            Known(api_version, kind).deserialize(serde_yaml_ng::Deserializer::from_str(document))
        }
        read => read,
    }
}

/// An HTTPRoute that is attached to no Service.
fn route_of_gateways(document: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        api_version: String,
        kind: String,
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        parent_refs: Vec<Parent>,
    }
    #[derive(Deserialize)]
    struct Parent {
        kind: Option<String>,
    }
    let head: Result<Head, _> = serde_yaml_ng::from_str(document);
    head.is_ok_and(|head| {
        let mut parents = head.spec.parent_refs.iter();
        (&*head.api_version, &*head.kind) == HTTP_ROUTE
            && !parents.any(|p| p.kind.as_deref() == Some("Service"))
    })
}

/// Groups of the Gateway API.
fn routes(api: &str) -> bool {
    api.starts_with("gateway.networking.k8s.io/") || api.starts_with("gateway.networking.x-k8s.io/")
}

#[cfg(test)]
mod tests;
