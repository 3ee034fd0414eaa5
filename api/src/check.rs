//! What was found on a node, as JSON: `underpass-agent --check --log json` prints a report,
//! `underpass check` reads it and prints the same form.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    /// The mesh works, perhaps in part.
    Warning,
    /// The mesh does not work like this.
    Error,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub result: Mark,
    /// What was looked at.
    pub check: String,
    /// What was seen.
    pub detail: String,
    /// "UP0402 NO_BTF"; null if all is well.
    pub code: Option<String>,
    pub hint: Option<String>,
}

impl Finding {
    pub fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            result: Mark::Ok,
            check: check.into(),
            detail: detail.into(),
            code: None,
            hint: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// False if there is an error; of a directory of objects, also if there is a warning.
    pub ok: bool,
    pub checks: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent and the command may be of different versions.
    #[test]
    fn the_form_is_stable() {
        let report = Report {
            ok: false,
            checks: vec![
                Finding::ok("kernel", "6.18.0"),
                Finding {
                    result: Mark::Warning,
                    code: Some("UP0403 NO_BPFFS".into()),
                    hint: Some("mount one".into()),
                    ..Finding::ok("bpffs", "none")
                },
            ],
        };
        let text = r#"{"ok":false,"checks":[{"result":"ok","check":"kernel","detail":"6.18.0","code":null,"hint":null},{"result":"warning","check":"bpffs","detail":"none","code":"UP0403 NO_BPFFS","hint":"mount one"}]}"#;
        assert_eq!(serde_json::to_string(&report).expect("plain data"), text);
        let newer = text.replace(r#""ok":false,"#, r#""ok":false,"added":1,"#);
        let read: Report = serde_json::from_str(&newer).expect("more fields are no error");
        assert_eq!(read, report);
    }
}
