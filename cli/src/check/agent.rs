//! `underpass-agent --check`: the agent's binary tries what it would meet on this node.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};
use underpass_api::check::{Finding, Report};

const BINARY: &str = "underpass-agent";
/// Longest wait for its report; it takes about a second.
pub const REPORT_WITHIN: Duration = Duration::from_secs(30);
/// Largest report that is read, in bytes.
pub const REPORT_MAX: u64 = 1 << 20;

/// What it found, or why it could not be asked.
pub async fn try_node(chosen: Option<&Path>) -> Result<Vec<Finding>, String> {
    let (program, tried) = match chosen {
        Some(path) => (path.to_owned(), path.display().to_string()),
        None => beside(env::current_exe().ok().as_deref()),
    };
    let failed = |why: String| format!("{tried}: {why}");
    let mut command = Command::new(&program);
    command.args(["--check", "--log", "json"]);
    match tokio::time::timeout(REPORT_WITHIN, report(&mut command)).await {
        Ok(Ok(report)) => Ok(report.checks),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed(format!("no report within {REPORT_WITHIN:?}"))),
    }
}

/// The program, and its name in a message.
fn beside(this: Option<&Path>) -> (PathBuf, String) {
    let dir = this.and_then(Path::parent);
    match dir.map(|dir| dir.join(BINARY)).filter(|p| p.is_file()) {
        Some(path) => (path.clone(), path.display().to_string()),
        None => {
            let place = dir.map(|d| d.display().to_string()).unwrap_or_default();
            (BINARY.into(), format!("{BINARY} (not in {place}) in PATH"))
        }
    }
}

/// Dropping the future ends the program.
async fn report(command: &mut Command) -> Result<Report, String> {
    let words = |e: io::Error| e.to_string();
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(words)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::try_join!(bounded(out), bounded(err)).map_err(words)?;
    if out.len() as u64 > REPORT_MAX {
        return Err(format!("its report has more than {REPORT_MAX} bytes"));
    }
    let status = child.wait().await.map_err(words)?;
    serde_json::from_slice(&out).map_err(|e| match String::from_utf8_lossy(&err).trim() {
        "" => format!("no report, {status}: {e}"),
        said => {
            let said = said.lines().next().unwrap_or_default();
            format!(
                "no report, {status}: {}",
                said.chars().take(300).collect::<String>()
            )
        }
    })
}

/// One byte more than allowed tells an output that is too large.
async fn bounded(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(REPORT_MAX + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of_script(script: &str) -> Result<Report, String> {
        let mut command = Command::new("sh");
        report(command.args(["-c", script])).await
    }

    #[tokio::test]
    async fn a_report_counts_whatever_the_exit_code() {
        let script = r#"echo '{"ok":false,"checks":[]}'; echo noise >&2; exit 1"#;
        let read = of_script(script).await.expect("a report");
        assert!(!read.ok && read.checks.is_empty());
    }

    #[tokio::test]
    async fn what_is_no_report_is_said_so() {
        let old = "echo \"error: unexpected argument '--check' found\" >&2; echo usage >&2; exit 2";
        let why = of_script(old).await.expect_err("no report");
        assert_eq!(
            why,
            "no report, exit status: 2: error: unexpected argument '--check' found"
        );
        let why = of_script("yes").await.expect_err("endless");
        assert_eq!(why, "its report has more than 1048576 bytes");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let why = try_node(Some(Path::new("/nonexistent/agent"))).await;
        let why = why.expect_err("not there");
        assert!(why.starts_with("/nonexistent/agent: No such file"), "{why}");
        let (program, name) = beside(Some(Path::new("/nonexistent/underpass")));
        assert_eq!(program, Path::new(BINARY));
        assert_eq!(name, "underpass-agent (not in /nonexistent) in PATH");
    }
}
