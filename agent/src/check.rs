//! `underpass-agent --check`: what an agent that starts here with the same flags would meet.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use underpass_abi::reason::Code;
use underpass_api::check::{Finding, Mark, Report};

use crate::{
    kernel::{Check, checks},
    options::{LogForm, Options},
    problem::coded,
};

pub fn run(options: &Options) -> ExitCode {
    let checks = checks(&options.kernel());
    let ok = checks.iter().all(|c| c.mark != Mark::Error);
    let text = match options.log {
        LogForm::Text => checks.iter().map(line).collect(),
        LogForm::Json => json(ok, &checks),
    };
    // Who has closed the pipe has the exit code.
    let _ = io::stdout().write_all(text.as_bytes());
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `warning  bpffs                UP0403 NO_BPFFS: … Try: …`
fn line(check: &Check) -> String {
    let mark = match check.mark {
        Mark::Ok => "ok",
        Mark::Warning => "warning",
        Mark::Error => "error",
    };
    let detail = match check.code {
        0 => check.detail.clone(),
        code => coded(code, &check.detail),
    };
    format!("{mark:8} {:20} {detail}\n", check.name)
}

/// One line: what `underpass check` reads.
fn json(ok: bool, checks: &[Check]) -> String {
    let checks = checks.iter().map(finding).collect();
    let report = Report { ok, checks };
    serde_json::to_string(&report).expect("plain data") + "\n"
}

fn finding(check: &Check) -> Finding {
    let code = Code::find(check.code);
    Finding {
        result: check.mark,
        code: code.map(|c| format!("UP{:04} {}", c.number, c.name)),
        hint: code.map(|c| c.hint.to_owned()).filter(|h| !h.is_empty()),
        ..Finding::ok(&check.name, &check.detail)
    }
}

#[cfg(test)]
mod tests {
    use underpass_abi::reason::code;

    use super::*;

    fn check(name: &str, mark: Mark, code: u16, detail: &str) -> Check {
        Check {
            name: name.into(),
            mark,
            code,
            detail: detail.into(),
        }
    }

    #[test]
    fn both_forms_have_the_code_and_the_hint() {
        let checks = [
            check("kernel", Mark::Ok, 0, "6.18.0"),
            check("btf", Mark::Error, code::NO_BTF, "no vmlinux"),
        ];
        let text: String = checks.iter().map(line).collect();
        let expected = "\
ok       kernel               6.18.0
error    btf                  UP0402 NO_BTF: no vmlinux. Try: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y
";
        assert_eq!(text, expected);
        let report: Report = serde_json::from_str(&json(false, &checks)).expect("a report");
        assert!(!report.ok);
        assert_eq!(report.checks[0], Finding::ok("kernel", "6.18.0"));
        let error = Finding {
            result: Mark::Error,
            code: Some("UP0402 NO_BTF".into()),
            hint: Some("boot a kernel built with CONFIG_DEBUG_INFO_BTF=y".into()),
            ..Finding::ok("btf", "no vmlinux")
        };
        assert_eq!(report.checks[1], error);
    }
}
