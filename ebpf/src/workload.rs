//! Who is who: the calling task's workload, a socket's own workload, the owner of an address.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    Ip,
    tables::{AddressWord, ListenKey, setting, unchecked},
};

use crate::{
    door,
    kernel::{offset, read, zeroed},
    maps::{ADDRESSES, CGROUPS, LISTENERS, NETNS, SETTINGS, count, entry, entry_word, word},
};

/// Deepest level below the cgroup root at which a workload's cgroup may be.
const LEVELS: u32 = 16;

/// The workload whose cgroup is the deepest ancestor of the calling task's, 0 if none.
///
/// Like every `no_mangle` function here it is a *global* BPF function: the verifier proves it once,
/// for any arguments, instead of once per path that leads to it (measured: 674,000 instructions and
/// a refusal without). Arguments are numbers, so that nothing about memory has to be proven.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_of_current_cgroup() -> u32 {
    let levels = word!(SETTINGS, setting::CGROUP_LEVELS);
    let mut found = 0;
    let mut level = LEVELS;
    while level > 0 {
        level -= 1;
        if found == 0 && levels & (1 << level) != 0 {
            // SAFETY: plain helper call; 0 if the task is not that deep.
            let id = unsafe { h::bpf_get_current_ancestor_cgroup_id(level as i32) };
            if id != 0 {
                found = entry_word!(CGROUPS, &id).unwrap_or(0);
            }
        }
    }
    found
}

/// The calling task, where the hook has no helper that says its cgroup or its id (sock_ops before
/// Linux 6.12).
pub struct Task(u64);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: plain helper call.
        Self(unsafe { h::bpf_get_current_task() })
    }

    #[inline(always)]
    pub fn process(&self) -> u32 {
        read(self.0 + offset!(task_tgid))
    }

    /// Its `struct cgroup`.
    #[inline(always)]
    pub fn cgroup(&self) -> u64 {
        let set: u64 = read(self.0 + offset!(task_cgroups));
        read(set + offset!(css_set_cgroup))
    }

    /// As [`of_caller`].
    #[inline(always)]
    pub fn workload(&self, netns: u64) -> u32 {
        else_of_netns(up_of_cgroup(self.cgroup()), netns)
    }
}

/// The workload of the cgroup in which the socket at a kernel address was made, 0 if none.
#[inline(always)]
pub fn of_socket(sk: u64) -> u32 {
    up_of_cgroup(read(sk + offset!(sk_cgroup)))
}

/// The workload of a `struct cgroup` at a kernel address, 0 if none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_of_cgroup(cgroup: u64) -> u32 {
    let levels = word!(SETTINGS, setting::CGROUP_LEVELS);
    let depth: u32 = read(cgroup + offset!(cgroup_level));
    let mut found = 0;
    let mut level = LEVELS;
    while level > 0 {
        level -= 1;
        if found == 0 && level <= depth && levels & (1 << level) != 0 {
            let ancestor: u64 = read(cgroup + offset!(cgroup_ancestors) + 8 * u64::from(level));
            let id = cgroup_id(ancestor);
            found = entry_word!(CGROUPS, &id).unwrap_or(0);
        }
    }
    found
}

#[inline(always)]
pub fn cgroup_id(cgroup: u64) -> u64 {
    let kn: u64 = read(cgroup + offset!(cgroup_kn));
    read(kn + offset!(kn_id))
}

/// The workload that owns a network namespace: `Some(0)` if several share it, `None` if the
/// namespace holds no workload.
#[inline(always)]
pub fn of_netns(cookie: u64) -> Option<u32> {
    entry_word!(NETNS, &cookie)
}

/// The source of a connection: the caller's workload by cgroup, else by namespace; 0 = a process of
/// this node outside the mesh. And whether a worker dials in its place.
#[inline(always)]
pub fn of_caller(netns: u64) -> (u32, bool) {
    match up_of_current_cgroup() {
        0 => match of_netns(netns).unwrap_or(0) {
            0 => (0, false),
            source => (source, door::is_worker()),
        },
        source => (source, false),
    }
}

#[inline(always)]
fn else_of_netns(by_cgroup: u32, netns: u64) -> u32 {
    match by_cgroup {
        0 => of_netns(netns).unwrap_or(0),
        workload => workload,
    }
}

/// What an address is, from the caller's point of view.
#[derive(Clone, Copy)]
pub struct Place {
    /// The workload that answers on (address, port), 0 if none is known.
    pub workload: u32,
    /// The address is on this node.
    pub local: bool,
}

/// Finds who answers on (ip, port) as dialed from namespace `netns`.
#[inline(always)]
pub fn of_address(ip: &Ip, port: u16, proto: u8, netns: u64) -> Place {
    let (high, low) = ip_words(ip);
    let packed = up_of_address(high, low, u64::from(port) | u64::from(proto) << 16, netns);
    Place {
        workload: packed as u32,
        local: packed >> 32 != 0,
    }
}

/// An address as two numbers.
#[inline(always)]
pub fn ip_words(ip: &Ip) -> (u64, u64) {
    (
        u64::from(ip.0[0]) | u64::from(ip.0[1]) << 32,
        u64::from(ip.0[2]) | u64::from(ip.0[3]) << 32,
    )
}

/// The reverse of [`ip_words`].
#[inline(always)]
pub fn words_ip(high: u64, low: u64) -> Ip {
    Ip([
        high as u32,
        (high >> 32) as u32,
        low as u32,
        (low >> 32) as u32,
    ])
}

/// `local << 32 | workload` of an address; `port | proto << 16`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_of_address(high: u64, low: u64, port: u64, netns: u64) -> u64 {
    const LOCAL: u64 = 1 << 32;
    let (ip, proto, port) = (&words_ip(high, low), (port >> 16) as u8, port as u16);
    let mut home = netns;
    if !ip.is_loopback() {
        let Some(address) = entry_word!(ADDRESSES, ip).map(AddressWord) else {
            return 0;
        };
        let local = address.flags() & AddressWord::LOCAL != 0;
        if address.workload() != 0 || !local {
            return u64::from(address.workload()) | if local { LOCAL } else { 0 };
        }
        home = word!(SETTINGS, setting::HOST_NETNS);
    }
    LOCAL | u64::from(of_port(ip, port, proto, home))
}

/// The workload that owns a port of a namespace: the namespace's only one, or whoever listened.
#[inline(always)]
pub fn of_port(ip: &Ip, port: u16, proto: u8, netns: u64) -> u32 {
    if let Some(owner) = of_netns(netns)
        && owner != 0
    {
        return owner;
    }
    let key = ListenKey {
        netns,
        ip: *ip,
        port,
        proto,
        pad: 0,
        pad2: 0,
    };
    if let Some(owner) = listener(&key) {
        return owner;
    }
    zeroed!(any: ListenKey);
    any.netns = netns;
    any.port = port;
    any.proto = proto;
    listener(any).unwrap_or(0)
}

#[inline(always)]
fn listener(key: &ListenKey) -> Option<u32> {
    let value = entry!(LISTENERS, key)?;
    let owner = unchecked(value, key.check());
    if owner.is_none() {
        count(underpass_abi::sock::counter::STALE_READS);
    }
    owner
}
