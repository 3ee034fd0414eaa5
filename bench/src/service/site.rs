//! Where the two clients of a service run. A guard process removes it all when this process ends, however
//! it ends.

use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use super::Options;
use crate::{
    BenchError, Context as _, Result, agent,
    lab::{Place, net, start_guard},
    manifests,
    systems::System,
};

/// For benchmarks of networks (RFC 2544), so that nobody should have them: 198.18.0.0/15.
const RANGE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Until the agent knows the client.
const ENLISTED_WITHIN: Duration = Duration::from_secs(15);

pub struct Site {
    id: String,
    namespace: String,
    cgroup: PathBuf,
    /// Outside, inside; `None`: the machine's own.
    netns: Option<[String; 2]>,
    addresses: [Ipv4Addr; 2],
    guard: Child,
}

impl Site {
    pub fn make(options: &Options) -> Result<Self> {
        let pid = std::process::id();
        let id = format!("up-bench-{pid}-0");
        let cgroup = options.cgroup_root.join(&id);
        let file = options.mesh.join(file_name(&id));
        let more: [&OsStr; 4] = [
            "--cgroup".as_ref(),
            cgroup.as_ref(),
            "--file".as_ref(),
            file.as_ref(),
        ];
        let guard = start_guard(&id, &more)?;
        let first = RANGE.to_bits() + (pid & 0x3fff) * 8;
        let site = Self {
            netns: (!options.shared).then(|| [format!("{id}-outside"), format!("{id}-inside")]),
            addresses: [2, 6].map(|n| Ipv4Addr::from_bits(first + n)),
            namespace: options.namespace.clone(),
            id,
            cgroup,
            guard,
        };
        for dir in ["outside", "inside"] {
            let dir = site.cgroup.join(dir);
            fs::create_dir_all(&dir).context(dir.display())?;
        }
        let namespaces = site.netns.iter().flatten();
        for ((name, address), device) in namespaces.zip(site.addresses).zip(["o", "i"]) {
            net::join_here(&format!("upb{pid}{device}"), name, address)?;
        }
        Ok(site)
    }

    /// Puts the client into the mesh, and waits until it is in.
    pub fn enlist(&self, options: &Options) -> Result<()> {
        let cgroup = format!("{}/inside", self.id);
        let addresses = match self.netns {
            Some(_) => format!("  addresses: [{}]\n", self.addresses[1]),
            None => String::new(),
        };
        let text = format!(
            "# Made by `underpass bench`, which removes it.\n\
             apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {}\n  \
             namespace: {}\n  labels: {{ underpass.dev/mesh: enabled }}\nspec:\n  \
             serviceAccountName: {}\n  cgroup: {cgroup}\n{addresses}",
            self.id, self.namespace, options.account
        );
        manifests::put(&options.mesh, &file_name(&self.id), &text)?;
        let begin = Instant::now();
        loop {
            let status = agent::status(&options.api)?;
            let known = status["workloads"].as_array().is_some_and(|all| {
                let mut all = all.iter();
                all.any(|w| w["name"] == self.workload().as_str() && w["state"] == "local")
            });
            let workers = &status["workers"];
            // Without a vendor nothing goes through a worker.
            let idle = workers["vendor"] != "answers" || workers["doors_wanted"] == 0;
            if known && (idle || agent::doors_stand(workers)) {
                return Ok(());
            }
            if begin.elapsed() > ENLISTED_WITHIN {
                let why = format!(
                    "the agent has not taken {} in: {}",
                    self.workload(),
                    status["problems"]
                );
                return Err(BenchError::Agent(why));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn place(&self, system: System) -> Place {
        let (dir, index) = match system {
            System::Inside => ("inside", 1),
            _ => ("outside", 0),
        };
        Place {
            cgroup: Some(self.cgroup.join(dir)),
            netns: self.netns.as_ref().map(|names| names[index].clone()),
            cpu: None,
        }
    }

    /// `namespace/name` of the client in the mesh.
    pub fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.id)
    }

    /// What may be missing on the way.
    pub fn route_hint(&self) -> String {
        if self.netns.is_none() {
            return "does it answer on this machine?".to_owned();
        }
        let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        let forward = match forward.trim() {
            "0" => "`sysctl net.ipv4.ip_forward` is 0, so nothing is forwarded to it; or ",
            _ => "",
        };
        format!(
            "the clients are at {} and {}, behind this network namespace: {forward}does it listen on \
             127.0.0.1 only, has it a way back to 198.18.0.0/15, does a firewall drop it? --shared puts the \
             clients into this namespace",
            self.addresses[0], self.addresses[1]
        )
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The guard removes everything when its input ends.
        drop(self.guard.stdin.take());
        if let Err(e) = self.guard.wait() {
            eprintln!("guard of {}: {e}", self.id);
        }
    }
}

fn file_name(id: &str) -> String {
    format!("{id}.yaml")
}
