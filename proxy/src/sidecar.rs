//! As a sidecar: in the namespace of the one workload that it serves, with sockets of its own. Connections
//! are led here by [`crate::capture`]'s rules; what to do with them it reads from manifests, as the agent does.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::mpsc::unbounded_channel};
use underpass_mesh::{
    Facts, Model, Place, door,
    snapshot::{FORMAT, Snapshot},
    split_name,
};

use crate::{
    crew::{Crew, Order},
    doors::{Door, Doors},
    draft::Draft,
    metrics::reporter::Reporter,
    shard::Settings,
};

/// Between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The workload's number; there is no vendor to give one.
const SELF: u64 = 1;
/// A namespace of its own, which is this process's.
const OWN_NETNS: u64 = 1;

/// Which workload, and where its mesh is described.
#[derive(Clone, Debug)]
pub struct Sidecar {
    pub mesh: PathBuf,
    /// `namespace/name`.
    pub workload: String,
}

/// What was seen of a file.
type Seen = BTreeMap<String, (SystemTime, u64)>;

/// Serves without end.
///
/// # Errors
/// If a port is taken, or the directory cannot be read at first.
pub async fn run(sidecar: &Sidecar, shards: usize, settings: Settings) -> io::Result<()> {
    let crew = Crew::start(shards, settings, &mut Reporter::default(), None)?;
    let crew = Rc::new(RefCell::new(crew));
    let (mut seen, mut version) = (Seen::new(), 0);
    let mut last = None;
    look(sidecar, &mut seen)?;
    let mut doors = Doors::default();
    for port in [door::OUTBOUND, door::INBOUND] {
        let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(at).await?;
        let door = Door {
            crew: crew.clone(),
            workload: SELF,
            name: sidecar.workload.as_str().into(),
            port,
        };
        doors.open(door, listener.into_std()?.into())?;
    }
    println!("sidecar of {}", sidecar.workload);
    seen.clear();
    loop {
        // A directory that cannot be read leaves the last good snapshot in force.
        if let Ok(true) = look(sidecar, &mut seen) {
            let snapshot = compile(sidecar, &seen);
            if last.as_ref() != Some(&snapshot) {
                version += 1;
                tell(&crew.borrow(), &snapshot, version);
                last = Some(snapshot);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// True if a file has come, gone or changed.
fn look(sidecar: &Sidecar, seen: &mut Seen) -> io::Result<bool> {
    let mut now = Seen::new();
    for entry in fs::read_dir(&sidecar.mesh)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let meta = fs::metadata(entry.path())?;
        let suffix = Path::new(&name).extension().and_then(|e| e.to_str());
        if meta.is_file() && matches!(suffix, Some("yaml" | "yml" | "json")) {
            now.insert(name, (meta.modified()?, meta.len()));
        }
    }
    let differs = now != *seen;
    *seen = now;
    Ok(differs)
}

/// What the workload's worker would be given.
fn compile(sidecar: &Sidecar, files: &Seen) -> Snapshot {
    let mut model = Model::default();
    for name in files.keys() {
        match fs::read_to_string(sidecar.mesh.join(name)) {
            Ok(text) => {
                model.set_file(name, &text);
            }
            Err(e) => eprintln!("underpass-proxy: {name}: {e}"),
        }
    }
    for problem in model.problems() {
        eprintln!("underpass-proxy: {problem}");
    }
    let place = Place {
        cgroups: Vec::new(),
        netns: Some(OWN_NETNS),
    };
    let facts = Facts {
        places: BTreeMap::from([(sidecar.workload.as_str().into(), place)]),
        ..Facts::default()
    };
    let plan = model.compile(&facts);
    let (tenant, _) = split_name(&sidecar.workload);
    let mut all = plan.snapshots().into_iter();
    let found = all.find(|snapshot| snapshot.tenant == tenant);
    found.unwrap_or_else(|| {
        // Nothing of it is HTTP: everything is let through.
        let workload = plan.workload(&sidecar.workload);
        let served = workload.map(|workload| underpass_mesh::snapshot::Workload {
            name: workload.full_name.clone(),
            identity: workload.identity.clone(),
            addresses: workload.addresses.iter().map(|ip| (*ip).into()).collect(),
            inbound: Vec::new(),
        });
        Snapshot {
            format: FORMAT,
            tenant: tenant.into(),
            workloads: served.into_iter().collect(),
            ..Snapshot::default()
        }
    })
}

fn tell(crew: &Crew, snapshot: &Snapshot, version: u64) {
    let mut snapshot = snapshot.clone();
    snapshot.version = version;
    match Draft::new(snapshot) {
        Ok(mut draft) => {
            draft.passes = true;
            let draft = Arc::new(draft);
            let (done, _) = unbounded_channel();
            crew.tell_all(|| Order::Draft(draft.clone(), done.clone()));
        }
        Err(rejected) => eprintln!("underpass-proxy: UP{:04} {}", rejected.code, rejected.why),
    }
}
