//! What a machine said of itself.

use crate::Result;

/// Of one kernel.
pub struct Results {
    pub release: String,
    pub rows: Vec<Row>,
    /// Seconds that the checks took; `None`: the last line never came.
    pub took: Option<String>,
}

/// One line: `kind TAB name TAB result TAB detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: String,
    pub name: String,
    pub result: String,
    pub detail: String,
}

/// Beginnings of what the kernel prints when something is broken in it.
const BROKEN: [&str; 6] = [
    "BUG:",
    "WARNING: CPU",
    "Oops",
    "general protection fault",
    "Kernel panic",
    "INFO: task",
];

impl Results {
    pub fn new(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            rows: Vec::new(),
            took: None,
        }
    }

    pub fn line(&mut self, line: &str) {
        let columns: Vec<&str> = line.trim_end_matches('\r').split('\t').collect();
        let [kind, name, result, detail] = columns.as_slice() else {
            return;
        };
        if *kind == "end" {
            self.took = Some((*result).to_owned());
            return;
        }
        self.rows.push(Row {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            result: (*result).to_owned(),
            detail: unescaped(detail),
        });
    }

    /// Adds what the kernel's own log says, and whether the machine came to its end.
    pub fn console(&mut self, log: &str, ended: Result<()>) {
        let broken: Vec<&str> = log
            .lines()
            .filter(|l| BROKEN.iter().any(|b| l.contains(b)))
            .collect();
        let mut why = broken.join("\n");
        if let Err(e) = ended {
            why += &format!("\n{e}");
        }
        if self.took.is_none() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            why += &format!("\nthe checks did not end; the console's last lines:\n{tail}");
        }
        let ok = why.is_empty();
        self.rows.push(Row {
            kind: "check".to_owned(),
            name: "kernel log".to_owned(),
            result: if ok { "ok" } else { "failed" }.to_owned(),
            detail: why.trim().to_owned(),
        });
    }

    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |r| r.kind == kind)
    }

    pub fn row(&self, kind: &str, name: &str) -> Option<&Row> {
        self.of_kind(kind).find(|r| r.name == name)
    }

    pub fn problems(&self) -> Vec<String> {
        let failed = self.rows.iter().filter(|r| r.result == "failed");
        failed
            .map(|r| format!("{}: {} {}: {}", self.release, r.kind, r.name, r.detail))
            .collect()
    }
}

/// `\n` and `\\` as the machine wrote them.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            out.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c }));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[&str]) -> Results {
        let mut results = Results::new("6.1");
        for line in lines {
            results.line(line);
        }
        results
    }

    #[test]
    fn a_run_that_ends_well_has_no_problem() {
        let mut good = results(&["noise", "check\tbtf\tok\t\r", "end\t0\t7.4\t\r"]);
        good.console("Linux version 6.1\n", Ok(()));
        assert_eq!(good.took.as_deref(), Some("7.4"));
        assert_eq!(good.problems(), Vec::<String>::new());
    }

    #[test]
    fn failures_warnings_and_an_early_end_are_problems() {
        let failed = "program\tconnect4\tfailed\tR1 type=\\\\x\\nprocessed\t";
        let mut bad = results(&[failed.trim_end(), "end\t1\t7.4\t"]);
        bad.console(
            "[ 1.0] WARNING: CPU: 0 PID: 1 at net/core/skmsg.c\n",
            Ok(()),
        );
        assert_eq!(bad.problems().len(), 2, "{:?}", bad.rows);
        assert_eq!(bad.rows[0].detail, "R1 type=\\x\nprocessed");
        let mut early = results(&["check\tbtf\tok\t"]);
        early.console("Kernel panic - not syncing\n", Ok(()));
        assert_eq!(early.problems().len(), 1);
        assert!(early.problems()[0].contains("did not end"));
        let mut slow = results(&["end\t0\t7.4\t"]);
        slow.console("", Err("ended after its limit".to_owned()));
        assert_eq!(slow.problems().len(), 1);
    }
}
