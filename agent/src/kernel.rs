//! The kernel side of the node: programs, links and maps, all pinned, adopted by the next agent.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Mutex,
};

use underpass_abi::{
    Ip, plain,
    reason::code,
    shortcut::{Mode, Pair, learn},
    sock::{SockState, Total, TotalKey, counter},
    tables::{FlowKey, ListenKey, checked, maps, setting},
};
use underpass_mesh::{Change, Dump};

pub use self::{
    apply::Applied,
    cgroup::CgroupRoot,
    checks::{Check, checks},
    error::KernelError,
    events::EventRing,
    feature::Feature,
    netns::Netns,
    uninstall::{Uninstalled, uninstall},
    usage::MapUse,
};
use crate::sys::maps::{Map, Put};

pub mod apply;
pub mod btf;
pub mod caps;
pub mod cgroup;
pub mod checks;
pub mod diag;
mod error;
pub mod events;
pub mod feature;
pub mod guard;
pub mod iter;
mod load;
pub mod loader;
pub mod netns;
mod object;
pub mod pins;
pub mod program;
mod self_test;
pub mod shortcut;
pub mod splice_guard;
pub mod splice_watch;
pub mod totals;
mod uninstall;
pub mod usage;
mod workers;

/// Where and what to load.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// Directory on a bpffs; maps and links go below `<pin_dir>/v<abi version>`.
    pub pin_dir: PathBuf,
    /// Where programs attach; `None`: the root of the cgroup2 hierarchy in `/proc/self/mountinfo`.
    pub cgroup_root: Option<PathBuf>,
    /// A BPF object to load in place of the built-in one.
    pub object: Option<PathBuf>,
    /// Mount a bpffs at `/sys/fs/bpf` if there is none.
    pub mount_bpffs: bool,
    /// `--shortcut`
    pub shortcut: Mode,
    /// `--shortcut-keep-out`, in seconds.
    pub shortcut_keep_out: u32,
    /// `--shortcut-any-level`
    pub shortcut_any_level: bool,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            pin_dir: PathBuf::from("/sys/fs/bpf/underpass"),
            cgroup_root: None,
            object: None,
            mount_bpffs: true,
            shortcut: Mode::Off,
            shortcut_keep_out: learn::KEEP_OUT as u32,
            shortcut_any_level: false,
        }
    }
}

/// The loaded node. Dropping it detaches nothing: links and maps stay pinned and in force.
pub struct Kernel {
    options: KernelOptions,
    cgroup: CgroupRoot,
    source: loader::Source,
    maps: apply::Maps,
    features: Vec<Feature>,
    iter: Option<OwnedFd>,
    guards: Mutex<guard::Guards>,
    watch: Mutex<splice_watch::SpliceWatch>,
    _lock: pins::NodeLock,
}

impl Kernel {
    /// Finds the cgroup2 root and a bpffs, locks the node, opens or makes the maps, loads the
    /// programs and puts them behind the pinned links. Doing it again changes nothing.
    pub fn open(options: &KernelOptions) -> Result<Self, KernelError> {
        let object = object::bytes(options)?;
        caps::require()?;
        let btf = btf::Btf::read(Path::new(btf::VMLINUX))?;
        let offsets = btf::offsets(&btf)?;
        let shortcut = btf::shortcut_offsets(&btf).unwrap_or_default();
        let cgroup = CgroupRoot::find(options.cgroup_root.as_deref())?;
        let pins = pins::Pins::make(options)?;
        let lock = pins::NodeLock::take(&options.pin_dir, &cgroup)?;
        let source = loader::Source {
            object,
            offsets,
            shortcut,
            pins,
        };
        let loaded = load::load(&source, &cgroup, &btf, options)?;
        let maps = load::open_maps(&source.pins)?;
        let guards = guard::Guards::adopt(&source, loaded.lookup_tag)?;
        let mut features = loaded.features;
        features.push(diag::destroy_feature());
        let mode = shortcut::mode(options.shortcut, &mut features);
        let guard = splice_guard::install(mode, &source, &btf, &maps);
        shortcut::switch_to(&maps, mode, guard.on, options.shortcut_keep_out)?;
        features.push(guard);
        let mut programs = loaded.watch;
        if mode == Mode::Off {
            shortcut::detach(&source)?;
            programs = None;
        }
        let watch = splice_watch::SpliceWatch::adopt(programs, &source, &maps)?;
        Ok(Self {
            options: options.clone(),
            cgroup,
            source,
            maps,
            features,
            iter: loaded.iter,
            guards: Mutex::new(guards),
            watch: Mutex::new(watch),
            _lock: lock,
        })
    }

    pub fn options(&self) -> &KernelOptions {
        &self.options
    }

    pub fn cgroup(&self) -> &CgroupRoot {
        &self.cgroup
    }

    /// The plan in the maps, for `Tables::adopt`.
    pub fn dump(&self) -> Result<Dump, KernelError> {
        apply::dump(&self.maps)
    }

    /// Applies a change; blocks for up to two grace periods a round (8 to 30 ms each), so not for an
    /// async thread.
    pub fn apply(&self, change: &Change) -> Result<Applied, KernelError> {
        apply::apply(&self.maps, change)
    }

    /// Checks every SYN that arrives in `netns`. Nothing happens if it is guarded already.
    pub fn guard(&self, netns: &Netns) -> Result<(), KernelError> {
        self.guards().add(netns, &self.source)
    }

    /// Takes the guard of a namespace away. False if there was none.
    pub fn unguard(&self, cookie: u64) -> Result<bool, KernelError> {
        self.guards().remove(cookie, &self.source)
    }

    /// Drops the guards of namespaces that are gone. Returns their cookies.
    pub fn prune_guards(&self) -> Vec<u64> {
        self.guards().prune(&self.source)
    }

    /// Cookies of the guarded namespaces.
    pub fn guarded(&self) -> Vec<u64> {
        self.guards().cookies()
    }

    fn guards(&self) -> std::sync::MutexGuard<'_, guard::Guards> {
        self.guards.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the processes below a cgroup workers: what they dial is their workload's, and they are told
    /// what was dialed of the connections that they accept. Stays in force when the agent ends; doing it
    /// again changes nothing.
    pub fn set_vendor(&self, cgroup: &Path) -> Result<(), KernelError> {
        workers::set_vendor(cgroup, &self.cgroup, &self.source, &self.maps)
    }

    /// Cookies of the namespaces in which a worker's listener for steered ports is known. One that is older
    /// than the maps is not: then what is steered there is refused until it listens again.
    pub fn doors(&self) -> Result<Vec<u64>, KernelError> {
        workers::doors(&self.maps)
    }

    /// Nobody is a worker any more.
    pub fn forget_vendor(&self) -> Result<(), KernelError> {
        workers::forget_vendor(&self.source, &self.maps)
    }

    /// Says below which cgroup processes probe the health of workloads, as the kubelet does; what they
    /// dial is not steered to workers. `None`: nobody does.
    pub fn set_probes(&self, cgroup: Option<&Path>) -> Result<(), KernelError> {
        workers::set_probes(cgroup, &self.cgroup, &self.maps)
    }

    /// Every socket that the programs keep state of, in all namespaces, with its counts so far.
    pub fn sockets(&self) -> Result<Vec<SockState>, KernelError> {
        let Some(program) = &self.iter else {
            let text = format!("{} is off", feature::OPEN_SOCKETS);
            return Err(KernelError::new(code::FEATURE_OFF, text));
        };
        iter::sockets(program, self.map(maps::SOCKS)?)
            .map_err(KernelError::io(code::FEATURE_OFF, "iterator over SOCKS"))
    }

    /// Key in `PAIRS` of the connection that a socket in the shortcut's map is an end of.
    pub fn pair_of(&self, cookie: u64) -> Option<u64> {
        let mut found = None;
        let pairs = self.map(maps::PAIRS).ok()?;
        pairs
            .each(|_, value| {
                if let Some(pair) = plain::from_bytes::<Pair>(value)
                    && [pair.active_cookie, pair.passive_cookie].contains(&cookie)
                {
                    found = Some(pair.active_cookie);
                }
            })
            .ok()?;
        found
    }

    pub fn totals(&self) -> Result<Vec<(TotalKey, Total)>, KernelError> {
        totals::totals(self.map(maps::TOTALS)?).map_err(apply::failed(maps::TOTALS))
    }

    pub fn counters(&self) -> Result<[u64; counter::COUNT], KernelError> {
        totals::counters(self.map(maps::COUNTERS)?).map_err(apply::failed(maps::COUNTERS))
    }

    pub fn map_use(&self) -> Vec<MapUse> {
        usage::map_use(&self.maps)
    }

    pub fn features(&self) -> Vec<Feature> {
        let mut features = self.features.clone();
        let watch = self.watch.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(f) = features
            .iter_mut()
            .find(|f| f.name == feature::SPLICE_WATCH)
        {
            watch.describe(f);
        }
        features
    }

    /// Says which connection is about to be reset at the end that `key` leads to.
    pub fn resetting(&self, key: &FlowKey) -> Result<(), KernelError> {
        apply::set(&self.maps, setting::RESET_FLOW, key.check().into())
    }

    /// Attaches the watch for splice if something could take the shortcut, and detaches it if not.
    pub fn watch_splice(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(|e| e.into_inner());
        watch.look(&self.maps);
    }

    /// The consumer of the ring. Take it once: two consumers would each see a part.
    pub fn take_events(&self) -> Result<EventRing, KernelError> {
        EventRing::open(&self.source.pins.map(maps::EVENTS))
    }

    /// Registers listeners that are older than the mesh. What a program has learnt since stays.
    /// Returns how many were new.
    pub fn seed_listeners(
        &self,
        netns: u64,
        listeners: &[(Ip, u16, u8, u32)],
    ) -> Result<usize, KernelError> {
        let map = self.map(maps::LISTENERS)?;
        let mut new = 0;
        for &(ip, port, proto, workload) in listeners {
            let key = ListenKey {
                netns,
                ip,
                port,
                proto,
                pad: 0,
                pad2: 0,
            };
            let value = checked(workload, key.check());
            match map.put(plain::bytes(&key), plain::bytes(&value), Put::New) {
                Ok(()) => new += 1,
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(apply::failed(maps::LISTENERS)(e)),
            }
        }
        Ok(new)
    }

    /// All known listeners and their workloads.
    pub fn listeners(&self) -> Result<Vec<(ListenKey, u32)>, KernelError> {
        let mut out = Vec::new();
        self.map(maps::LISTENERS)?
            .each(|key, value| {
                if let (Some(key), Some(value)) = (
                    plain::from_bytes::<ListenKey>(key),
                    plain::from_bytes::<u64>(value),
                ) {
                    out.push((key, value as u32));
                }
            })
            .map_err(apply::failed(maps::LISTENERS))?;
        Ok(out)
    }

    /// Forgets listeners, as when their workload leaves the mesh. Returns how many were known.
    pub fn forget_listeners(&self, keys: &[ListenKey]) -> Result<usize, KernelError> {
        let bytes: Vec<u8> = keys.iter().flat_map(|k| plain::bytes(k).to_vec()).collect();
        self.map(maps::LISTENERS)?
            .delete_all(&bytes)
            .map_err(apply::failed(maps::LISTENERS))
    }

    fn map(&self, name: &str) -> Result<&Map, KernelError> {
        apply::map(&self.maps, name)
    }
}
