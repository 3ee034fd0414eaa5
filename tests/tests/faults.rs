//! A node on which something is missing: what the user is told, by the agent and by
//! `underpass check`, and that the rules of an earlier agent stay in force meanwhile.

use underpass_tests::{
    Result,
    installed::{Installed, programs},
    lab::{Agent, Lab, place::binary, process::Done, until},
    manifest::{Source, Target, allow},
    scene::{EPERM, LIMIT, Scene, service_at},
};

const SERVER: Target = Target::Workload("server");
const CLIENT: Source = Source::Account("app", "client");

const NO_BTF: &str = "mount -t tmpfs none /sys/kernel/btf";
/// Mounts may be stacked.
const NO_BPFFS: &str = "while umount /sys/fs/bpf 2>/dev/null; do :; done";
const NO_CGROUP2: &str =
    "for at in $(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo); do umount -l $at; done";

/// A command that makes `fault` in a mount namespace of its own and then becomes what follows.
fn broken(fault: &str) -> Vec<String> {
    let script = format!("set -e; {fault}; exec \"$@\"");
    ["unshare", "-m", "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .into()
}

fn without_capabilities() -> Vec<String> {
    [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ]
    .map(str::to_owned)
    .into()
}

/// Starts the agent on the broken node; it ends at once with `code` and a hint, and nothing of what
/// an earlier agent left has changed. Then the same node, mended.
fn refused(name: &str, wrapper: &[String], flags: &[&str], code: &str, hint: &str) -> Result<()> {
    let mut scene = Scene::new(name, &[])?;
    let _server = scene.echo()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    scene.agent.terminate()?;
    let before = Installed::on(&scene.lab)?;
    before.assert_once();

    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let done = Agent::spawn_under(&scene.lab, &wrapper, flags)?.finish(LIMIT)?;
    println!("{name}: exit {:?}: {}", done.code, done.stderr);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(
        done.stderr
            .starts_with(&format!("underpass-agent: {code}: ")),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains(&format!("Try: {hint}")),
        "{}",
        done.stderr
    );
    assert_eq!(done.stderr.lines().count(), 1, "one line: {}", done.stderr);

    assert_eq!(Installed::on(&scene.lab)?, before);
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    scene.agent.restart()?;
    Installed::on(&scene.lab)?.assert_once();
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    Ok(())
}

/// `underpass check` on the broken node, without an agent.
fn check(lab: &Lab, wrapper: &[String]) -> Result<Done> {
    let underpass = binary("underpass")?.to_string_lossy().into_owned();
    let mut command: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    command.extend([&underpass, "check", "--api", "/nonexistent.sock"]);
    let done = lab.run(&lab.backstage(), &command)?.finish(LIMIT)?;
    println!("{}{}", done.stdout, done.stderr);
    Ok(done)
}

/// The line of `check` about `what`, and the one below it.
fn finding(done: &Done, what: &str) -> (String, String) {
    let mut lines = done.stdout.lines();
    let about = |l: &&str| l.split_whitespace().nth(1) == Some(what);
    let line = lines.find(about).unwrap_or_default().to_owned();
    (line, lines.next().unwrap_or_default().trim().to_owned())
}

fn checked(
    name: &str,
    wrapper: &[String],
    what: &str,
    mark: &str,
    code: &str,
    hint: &str,
) -> Result<()> {
    let lab = Lab::new(name)?;
    let done = check(&lab, wrapper)?;
    let (line, below) = finding(&done, what);
    assert!(
        line.starts_with(mark) && line.contains(code),
        "{line}\n{}",
        done.stdout
    );
    assert!(below.starts_with(&format!("try: {hint}")), "{below}");
    assert_eq!(done.code, Some(i32::from(mark == "✗")), "{}", done.stdout);
    Ok(())
}

#[test]
fn without_btf() -> Result<()> {
    let (code, hint) = (
        "UP0402 NO_BTF",
        "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    );
    refused("nobtf", &broken(NO_BTF), &[], code, hint)?;
    checked("nobtf", &broken(NO_BTF), "btf", "✗", code, hint)
}

#[test]
fn without_bpffs_when_it_may_not_be_mounted() -> Result<()> {
    let (code, hint) = (
        "UP0403 NO_BPFFS",
        "mount -t bpf bpf /sys/fs/bpf, or give --pin-dir",
    );
    refused("nobpffs", &broken(NO_BPFFS), &["--no-mount"], code, hint)?;
    // The agent would mount one: no error.
    checked("nobpffs", &broken(NO_BPFFS), "bpffs", "!", code, hint)
}

#[test]
fn with_cgroup_v1_only() -> Result<()> {
    let (code, hint) = ("UP0404 NO_CGROUP2", "mount -t cgroup2 none");
    refused("cgroup1", &broken(NO_CGROUP2), &[], code, hint)?;
    checked("cgroup1", &broken(NO_CGROUP2), "cgroup2", "✗", code, hint)
}

#[test]
fn without_capabilities_root_is_refused() -> Result<()> {
    let (code, hint) = (
        "UP0401 NO_BPF_CAPABILITY",
        "run as root or with CAP_NET_ADMIN",
    );
    refused("nocaps", &without_capabilities(), &[], code, hint)?;
    let wrapper = without_capabilities();
    checked("nocaps", &wrapper, "capabilities", "✗", code, hint)?;
    // Each program would fail for the same reason.
    let (code, hint) = ("UP0421 NOT_TRIED", "mend what other lines name");
    let done = check(&Lab::new("nocaps")?, &wrapper)?;
    let (line, below) = finding(&done, "programs");
    assert!(line.starts_with('!') && line.contains(code), "{line}");
    assert!(below.starts_with(&format!("try: {hint}")), "{below}");
    assert!(!done.stdout.contains("program connect4"), "{}", done.stdout);
    Ok(())
}

/// Who may not even read the pins is not told that there are none.
#[test]
fn other_users_are_told_what_they_lack() -> Result<()> {
    let scene = Scene::new("nobody", &[])?;
    let before = Installed::on(&scene.lab)?;
    // Copies: the build's directory may be closed to others.
    let dir = scene.lab.dir.join("bin");
    std::fs::create_dir(&dir)?;
    let agent = dir.join("underpass-agent");
    std::fs::copy(binary("underpass-agent")?, &agent)?;
    let agent = agent.to_string_lossy();
    let pins = scene.lab.pin_dir.to_string_lossy();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let cases: [&[&str]; 2] = [
        &[&agent, "--mesh", "/tmp", "--metrics", "127.0.0.1:9999"],
        &[&agent, "--uninstall", "--pin-dir", &pins],
    ];
    for case in cases {
        let command = [&nobody, case].concat();
        let done = scene
            .lab
            .run(&scene.lab.backstage(), &command)?
            .finish(LIMIT)?;
        println!("{}", done.stderr);
        assert_eq!(done.code, Some(1), "{}", done.stdout);
        let expected = "underpass-agent: UP0401 NO_BPF_CAPABILITY: missing CAP_NET_ADMIN";
        assert!(done.stderr.starts_with(expected), "{}", done.stderr);
    }
    assert_eq!(Installed::on(&scene.lab)?, before);
    Ok(())
}

/// A node after a bare boot: the agent mounts what it needs, and the mesh works.
#[test]
fn a_missing_bpffs_is_mounted() -> Result<()> {
    let mut scene = Scene::new("mounts", &[])?;
    let _server = scene.echo()?;
    scene.agent.terminate()?;
    let state = scene.lab.dir.join("state");
    let (pins, state) = (scene.lab.pin_dir.to_string_lossy(), state.to_string_lossy());
    let uninstall = [
        "underpass-agent",
        "--uninstall",
        "--pin-dir",
        &pins,
        "--state-dir",
        &state,
    ];
    scene
        .lab
        .output(&scene.lab.backstage(), &uninstall, LIMIT)?;
    assert_eq!(programs(&scene.lab)?, 0);

    let wrapper = broken(NO_BPFFS);
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    scene.agent = Agent::spawn_under(&scene.lab, &wrapper, &[])?;
    scene.agent.wait_ready()?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(programs(&scene.lab)?, 10);
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    assert!(
        !scene.lab.pin_dir.exists(),
        "pinned in the mount of the agent's namespace"
    );
    // The only holder of that mount is the agent: with it everything goes.
    scene.agent.kill9()?;
    until("programs gone with their pins", LIMIT, || {
        match programs(&scene.lab) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}
