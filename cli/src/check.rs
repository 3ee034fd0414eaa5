//! `underpass check`: findings with a mark, a code and a hint, about this node or about files.

mod agent;
pub mod files;
pub mod node;

use underpass_abi::reason::Code;
use underpass_api::check::{Finding, Mark, Report};

use crate::{
    options::Format,
    render::{self, Look, Tone},
};

/// A finding with the code's own hint.
pub fn coded(result: Mark, check: &str, number: u16, detail: impl Into<String>) -> Finding {
    let entry = Code::find(number);
    let name = entry.map(|e| e.name).unwrap_or_default();
    Finding {
        result,
        code: Some(format!("UP{number:04} {name}")),
        hint: entry.map(|e| e.hint.to_owned()).filter(|h| !h.is_empty()),
        ..Finding::ok(check, detail)
    }
}

/// The report, and below a table its sum.
fn print(report: &Report, output: Format, look: Look) -> String {
    let findings = &report.checks;
    match output {
        Format::Json => render::json(report),
        Format::Yaml => render::yaml(report),
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
    let mut line = format!("{} {check:width$}  ", tone.paint(mark, look.color));
    if let Some(code) = &finding.code {
        line.push_str(&format!("{}: ", render::printable(code)));
    }
    // The kernel's log of a refused program has many lines.
    let detail: Vec<String> = finding.detail.lines().map(render::printable).collect();
    line.push_str(&detail.join(&format!("\n  {:width$}  ", "")));
    line.push('\n');
    if let Some(hint) = &finding.hint
        && (wide || finding.result != Mark::Ok)
    {
        let hint = render::printable(hint);
        line.push_str(&format!("  {:width$}  try: {hint}\n", ""));
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
            coded(Mark::Warning, "bpffs", code::NO_BPFFS, "none mounted"),
            coded(Mark::Error, "btf", code::NO_BTF, "no vmlinux\nat all"),
        ];
        let expected = "\
✓ kernel  6.18.0
! bpffs   UP0403 NO_BPFFS: none mounted
          try: mount -t bpf bpf /sys/fs/bpf, or give --pin-dir on a bpffs
✗ btf     UP0402 NO_BTF: no vmlinux
          at all
          try: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y

ok: 1, warnings: 1, errors: 1
";
        let report = Report {
            ok: false,
            checks: findings.into(),
        };
        assert_eq!(print(&report, Format::Table, PLAIN), expected);
        let json: serde_json::Value =
            serde_json::from_str(&print(&report, Format::Json, PLAIN)).expect("json");
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][2]["code"], "UP0402 NO_BTF");
        assert_eq!(json["checks"][1]["result"], "warning");
    }
}
