//! Our proxy beside each workload: the client's and the server's, each in the namespace of its neighbor,
//! where nft sends it the neighbor's connections.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
};

use underpass_abi::reason::code;

use super::{
    Refusal,
    proxy::{Proxy, Told},
};
use crate::{
    BenchError, Context as _, Result,
    agent::beside,
    apps::packaged,
    lab::{Lab, Place, Side},
    manifests,
    rig::Cpus,
    way::Workers,
};

/// Its own connections are told by it from its neighbor's.
const UID: u32 = 61_337;
const OUTBOUND: u16 = 15_001;
/// Its neighbor, and the workload of that.
const BESIDE: [(&str, &str); 2] = [("client", "bench/client"), ("server", "served/server")];

/// Sends the connections of client and server to the proxies beside them.
pub struct Capture {
    places: [Place; 2],
    on: bool,
}

impl Capture {
    pub fn new(lab: &Lab) -> Self {
        let places = BESIDE.map(|(party, _)| lab.place(Side::Off, party, None));
        Self { places, on: false }
    }

    pub fn set(&mut self, on: bool) -> Result<()> {
        if self.on == on {
            return Ok(());
        }
        for place in &self.places {
            capture(place, if on { "apply" } else { "remove" })?;
        }
        self.on = on;
        Ok(())
    }
}

fn capture(place: &Place, what: &str) -> Result<()> {
    let program = beside("underpass-proxy")?.display().to_string();
    let uid = UID.to_string();
    let words = [&program, "--capture", what, "--capture-uid", &uid];
    // nft is among the tools.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}/usr/sbin:{path}", packaged::prefix().display());
    let done = packaged::command(&words, place)?
        .env("PATH", path)
        .output()
        .context("underpass-proxy --capture")?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let why = format!("underpass-proxy --capture {what}: {}: {said}", done.status);
    Err(BenchError::Setup(why))
}

/// The client's first.
pub fn start(lab: &Lab, cpus: Cpus) -> std::result::Result<Vec<Proxy>, Refusal> {
    let begin = || -> Result<Vec<Proxy>> {
        if packaged::find("usr/sbin/nft").is_err() {
            // Said before anything is measured.
            return Err(BenchError::Setup("nft is not here".into()));
        }
        let mesh = lab.dir.join("beside");
        fs::create_dir_all(&mesh).context(mesh.display())?;
        manifests::write_http(lab, &mesh, Workers::Both)?;
        let one = |(number, (party, workload))| {
            let name = format!("sidecar-{number}");
            let dir = lab.dir.join(&name);
            fs::create_dir_all(&dir).context(dir.display())?;
            let words = words(&mesh.display().to_string(), workload)?;
            let told = Told {
                command_line: format!("underpass-proxy --sidecar --mesh DIR --workload {workload}"),
                config: String::new(),
            };
            let place = lab.proxy_place(party, &name, cpus.of(true))?;
            let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, OUTBOUND);
            Proxy::launch(&name, &words, at, &dir, &place, told)
        };
        (1..).zip(BESIDE).map(one).collect()
    };
    begin().map_err(|e| Refusal::new(code::NOT_MEASURED, e.to_string()))
}

fn words(mesh: &str, workload: &str) -> Result<Vec<String>> {
    let uid = UID.to_string();
    let program = beside("underpass-proxy")?.display().to_string();
    let words = [
        "setpriv",
        "--reuid",
        &uid,
        "--regid",
        &uid,
        "--clear-groups",
        &program,
        "--sidecar",
        "--mesh",
        mesh,
        "--workload",
        workload,
    ];
    Ok(words.map(str::to_owned).into())
}
