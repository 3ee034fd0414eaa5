//! `underpass check`: findings with a mark, a code and a hint, about this node or about files.

pub mod files;
pub mod node;

use serde::Serialize;
use underpass_abi::reason::Code;

use crate::{
    options::Format,
    render::{self, Look, Tone},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    Warning,
    Error,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    pub fn ok(check: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            result: Mark::Ok,
            check: check.to_owned(),
            detail,
            code: None,
            hint: None,
        }
    }

    /// With the code's own hint.
    pub fn coded(result: Mark, check: &str, number: u16, detail: impl Into<String>) -> Self {
        let entry = Code::find(number);
        let hint = entry.map(|e| e.hint.to_owned()).filter(|h| !h.is_empty());
        let name = entry.map(|e| e.name).unwrap_or_default();
        let code = Some(format!("UP{number:04} {name}"));
        Self {
            result,
            check: check.to_owned(),
            detail: detail.into(),
            code,
            hint,
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Finding],
}

/// The report, and below a table its sum.
fn print(findings: &[Finding], ok: bool, output: Format, look: Look) -> String {
    match output {
        Format::Json => render::json(&Report {
            ok,
            checks: findings,
        }),
        Format::Yaml => render::yaml(&Report {
            ok,
            checks: findings,
        }),
        Format::Table | Format::Wide => {
            let width = findings
                .iter()
                .map(|f| f.check.chars().count())
                .max()
                .unwrap_or(0);
            let wide = output == Format::Wide;
            let lines = findings.iter().map(|f| text(f, width, wide, look));
            lines.collect::<String>() + &sum(findings)
        }
    }
}

fn text(finding: &Finding, width: usize, wide: bool, look: Look) -> String {
    let (mark, tone) = match finding.result {
        Mark::Ok => ("✓", Tone::Good),
        Mark::Warning => ("!", Tone::Warn),
        Mark::Error => ("✗", Tone::Bad),
    };
    let check = render::printable(&finding.check);
    let detail = render::printable(&finding.detail);
    let mut line = format!("{} {check:width$}  ", tone.paint(mark, look.color));
    if let Some(code) = &finding.code {
        line.push_str(&format!("{}: ", render::printable(code)));
    }
    line.push_str(&detail);
    line.push('\n');
    if let Some(hint) = &finding.hint
        && (wide || finding.result != Mark::Ok)
    {
        line.push_str(&format!(
            "  {:width$}  try: {}\n",
            "",
            render::printable(hint)
        ));
    }
    line
}

fn sum(findings: &[Finding]) -> String {
    let count = |mark| findings.iter().filter(|f| f.result == mark).count();
    format!(
        "\nok: {}, warnings: {}, errors: {}\n",
        count(Mark::Ok),
        count(Mark::Warning),
        count(Mark::Error)
    )
}

#[cfg(test)]
mod tests {
    use underpass_abi::reason::code;

    use super::*;

    const PLAIN: Look = Look {
        headers: true,
        color: false,
    };

    #[test]
    fn each_line_has_a_mark_a_code_and_a_hint() {
        let findings = [
            Finding::ok("kernel", "6.18.0"),
            Finding::coded(Mark::Warning, "bpffs", code::NO_BPFFS, "none mounted"),
            Finding::coded(Mark::Error, "btf", code::NO_BTF, "no vmlinux"),
        ];
        let expected = "\
✓ kernel  6.18.0
! bpffs   UP0403 NO_BPFFS: none mounted
          try: mount -t bpf bpf /sys/fs/bpf, or give --pin-dir on a bpffs
✗ btf     UP0402 NO_BTF: no vmlinux
          try: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y

ok: 1, warnings: 1, errors: 1
";
        assert_eq!(print(&findings, false, Format::Table, PLAIN), expected);
        let json: serde_json::Value =
            serde_json::from_str(&print(&findings, false, Format::Json, PLAIN)).expect("json");
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][2]["code"], "UP0402 NO_BTF");
        assert_eq!(json["checks"][1]["result"], "warning");
    }
}
