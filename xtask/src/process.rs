//! Child processes: each step is named, timed and bounded in time.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Result, workspace};

/// A `cargo` of the pinned toolchain, run in the clone.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace::root());
    // What `cargo run` set for this program would make the child's build scripts run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    if std::env::var_os("CARGO_TARGET_DIR").is_some() {
        command.env("CARGO_TARGET_DIR", workspace::target());
        command.env("UNDERPASS_BPF_OBJECT", workspace::object());
    }
    command.env("UNDERPASS_TOOLS", workspace::tools());
    command
}

/// Runs a step to its end, its output going to the terminal. Fails on a non-zero exit, or when
/// `limit` has passed: then the step and everything it started is ended.
pub fn step(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    step_lines(what, command.stdin(Stdio::null()), limit, None)
}

/// As [`step`]; `line` sees each line of standard output, which is shown as well.
pub fn step_lines(
    what: &str,
    command: &mut Command,
    limit: Duration,
    line: Option<&mut (dyn FnMut(&str) + Send)>,
) -> Result<()> {
    println!("--> {what}");
    let start = Instant::now();
    if line.is_some() {
        command.stdout(Stdio::piped());
    }
    let mut child = command
        .spawn()
        .map_err(|e| format!("{what}: cannot start {:?}: {e}", command.get_program()))?;
    let status = thread::scope(|scope| {
        if let (Some(line), Some(out)) = (line, child.stdout.take()) {
            scope.spawn(move || {
                for text in BufReader::new(out).lines().map_while(std::io::Result::ok) {
                    println!("{text}");
                    line(&text);
                }
            });
        }
        wait(&mut child, limit)
    })
    .map_err(|e| format!("{what}: {e}"))?;
    let took = start.elapsed().as_secs_f64();
    match status {
        None => Err(format!(
            "{what}: ended after its limit of {} s",
            limit.as_secs()
        )),
        Some(status) if status.success() => {
            println!("<-- {what}: ok, {took:.1} s");
            Ok(())
        }
        Some(status) => Err(format!("{what}: failed ({status}) after {took:.1} s")),
    }
}

/// Standard output of a command that is quick; `None` if it fails or does not exist.
pub fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program)
        .args(args)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits for the child; `None` if the limit passed, when its whole tree was ended.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    // TERM first, so that test binaries can remove their namespaces and cgroups.
    let tree = descendants(child.id());
    for signal in ["TERM", "KILL"] {
        // The shell's own `kill`: the program is not on every machine.
        let script = format!("kill -{signal} \"$@\"");
        let pids = tree.iter().map(u32::to_string);
        let _ = Command::new("sh")
            .args(["-c", &script, "kill"])
            .args(pids)
            .status();
        let grace = Instant::now();
        while grace.elapsed() < Duration::from_secs(5) && tree.iter().any(|pid| runs(*pid)) {
            child.try_wait()?;
            thread::sleep(Duration::from_millis(20));
        }
    }
    child.wait()?;
    Ok(None)
}

/// True until the process has ended (a zombie has).
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A process and all that descend from it, by /proc.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name may hold spaces and parentheses; the state and the parent follow the last one.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|p| p.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        tree.extend(children.remove(&tree[next]).into_iter().flatten());
        next += 1;
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_outlives_its_limit_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $! ; wait"]);
        let mut pid = String::new();
        let start = Instant::now();
        let result = step_lines(
            "sleeper",
            &mut command,
            Duration::from_millis(300),
            Some(&mut |line: &str| pid = line.to_owned()),
        );
        assert!(result.is_err());
        assert!(start.elapsed() < Duration::from_secs(30));
        let pid = pid.parse().expect("the shell's $!");
        assert!(!runs(pid), "{pid} is still there");
    }

    #[test]
    fn a_failing_step_says_so() {
        let why = step("no", Command::new("false").arg("x"), Duration::from_secs(5)).unwrap_err();
        assert!(why.contains("no: failed"), "{why}");
    }
}
