//! The maps. Names, keys and values are the contract of `abi::tables`; all are pinned.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage,
        SockHash,
    },
    macros::btf_map,
};
use underpass_abi::{
    Ip,
    shortcut::{Candidate, End, Pair, PairKey, ProgramKey, ShortcutOffsets},
    sock::{Offsets, SockState, Total, TotalKey, counter},
    tables::*,
    verdict::RuleKey,
};

/// Elements are allocated when inserted: these maps are sized for large nodes.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;
/// User space can write the array's memory: a large plan has 10,000s of elements.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub static SETTINGS: Array<u64, { setting::COUNT }> = Array::new();
#[btf_map]
pub static SERVICE_IDS: HashMap<ServiceKey, u64, { limits::SERVICES }, LAZY> = HashMap::new();
#[btf_map]
pub static SERVICES: Array<u64, { limits::SERVICES }, MAPPED> = Array::new();
#[btf_map]
pub static SLOTS: Array<u64, { limits::SLOTS }, MAPPED> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, { limits::BACKENDS }, MAPPED> = Array::new();
#[btf_map]
pub static BACKEND_LIFE: Array<u64, { limits::BACKENDS }, MAPPED> = Array::new();
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, u64, { limits::AFFINITY }> = LruHashMap::new();
#[btf_map]
pub static CGROUPS: HashMap<u64, Entry, { limits::WORKLOADS }, LAZY> = HashMap::new();
#[btf_map]
pub static NETNS: HashMap<u64, Entry, { limits::NETNS }, LAZY> = HashMap::new();
#[btf_map]
pub static ADDRESSES: HashMap<Ip, Entry, { limits::ADDRESSES }, LAZY> = HashMap::new();
#[btf_map]
pub static WORKLOADS: Array<u64, { limits::WORKLOADS }, MAPPED> = Array::new();
#[btf_map]
pub static IDENTITIES: Array<IdentityPair, { limits::WORKLOADS }, MAPPED> = Array::new();
#[btf_map]
pub static HOMES: Array<u64, { limits::WORKLOADS }, MAPPED> = Array::new();
#[btf_map]
pub static OWN: Array<OwnAddresses, { limits::WORKLOADS }, MAPPED> = Array::new();
#[btf_map]
pub static STEERED: HashMap<SteerKey, Entry, { limits::STEERED }, LAZY> = HashMap::new();
#[btf_map]
pub static POLICIES: Array<u64, { limits::POLICIES }> = Array::new();
#[btf_map]
pub static RULES: HashMap<RuleKey, u64, { limits::RULES }, LAZY> = HashMap::new();
#[btf_map]
pub static BLOCKS: LpmTrie<BlockKey, u64, { limits::BLOCKS }> = LpmTrie::new();
/// Programs never read it: the agent's durable register of names.
#[btf_map]
pub static NAMES: HashMap<NameKey, [u8; NAMES_PAGE], { limits::NAMES }, LAZY> = HashMap::new();
#[btf_map]
pub static LISTENERS: HashMap<ListenKey, u64, { limits::LISTENERS }, LAZY> = HashMap::new();
#[btf_map]
pub static FLOW_SLOTS: Array<FlowSlot, { limits::FLOW_SLOTS }> = Array::new();
/// Preallocated: an insert must not fail for want of memory while there is room.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, u64, { limits::FLOWS }> = HashMap::new();
/// Preallocated, as `FLOWS` is.
#[btf_map]
pub static ORIGINALS: HashMap<FlowKey, Original, { limits::ORIGINALS }> = HashMap::new();
/// By namespace: the worker's listener for steered ports.
#[btf_map]
pub static DOORS: SockHash<u64, { limits::DOORS }> = SockHash::new();
#[btf_map]
pub static UDP_REVERSE: LruHashMap<UdpReverseKey, UdpReverse, { limits::UDP_REVERSE }> =
    LruHashMap::new();
#[btf_map]
pub static SOCKS: SkStorage<SockState> = SkStorage::new();
/// `()`: with a value type, libbpf's tools refuse the object.
#[btf_map]
pub static EVENTS: RingBuf<(), { limits::EVENTS_BYTES }> = RingBuf::new();
/// Preallocated: sums must be exact.
#[btf_map]
pub static TOTALS: PerCpuHashMap<TotalKey, Total, { limits::TOTALS }> = PerCpuHashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counter::COUNT }> = PerCpuArray::new();
/// Sockets by cookie. `up_sk_msg` and `up_sk_skb` hang on it; entries go when the socket does.
#[btf_map]
pub static SHORTCUT: SockHash<u64, { limits::SHORTCUT }> = SockHash::new();
#[btf_map]
pub static ENDS: SkStorage<End> = SkStorage::new();
/// By the dialing end's cookie.
#[btf_map]
pub static PAIRS: HashMap<u64, Pair, { limits::PAIRS }, LAZY> = HashMap::new();
/// From a dialing end that entered the map to its other end: the cookie.
#[btf_map]
pub static MATES: LruHashMap<FlowKey, u64, { limits::MATES }> = LruHashMap::new();
#[btf_map]
pub static CANDIDATES: LruHashMap<ListenKey, Candidate, { limits::CANDIDATES }> = LruHashMap::new();
#[btf_map]
pub static PROGRAMS: HashMap<ProgramKey, u64, { limits::PROGRAMS }, LAZY> = HashMap::new();
/// Whose connections stay on TCP, until when (`shortcut::learn`).
#[btf_map]
pub static LEARNT: LruHashMap<PairKey, u64, { limits::LEARNT }> = LruHashMap::new();

/// Kernel field offsets, set by the agent from BTF before the object is loaded.
#[unsafe(no_mangle)]
pub static OFFSETS: Global<Offsets> = Global::new(NO_OFFSETS);
#[unsafe(no_mangle)]
pub static SHORTCUT_OFFSETS: Global<ShortcutOffsets> = Global::new(NO_SHORTCUT_OFFSETS);
/// Cookie of the namespace that a `sk_lookup` program guards; the hook itself cannot tell.
#[unsafe(no_mangle)]
pub static NETNS_COOKIE: Global<u64> = Global::new(0);

const NO_OFFSETS: Offsets = Offsets {
    tcp_write_seq: 0,
    tcp_copied_seq: 0,
    tcp_rcv_nxt: 0,
    tcp_snd_una: 0,
    tcp_bytes_acked: 0,
    tcp_bytes_received: 0,
    tcp_bytes_sent: 0,
    tcp_bytes_retrans: 0,
    tcp_segs_out: 0,
    tcp_total_retrans: 0,
    tcp_srtt_us: 0,
    sk_state: 0,
    sk_err: 0,
    sk_shutdown: 0,
    sk_flags: 0,
    sk_socket: 0,
    socket_file: 0,
    sk_cgroup: 0,
    cgroup_kn: 0,
    kn_id: 0,
    cgroup_level: 0,
    cgroup_ancestors: 0,
    tcp_cb_flags: 0,
    task_cgroups: 0,
    task_tgid: 0,
    css_set_cgroup: 0,
    type_tcp_sock: 0,
    rdonly_cast: 0,
};

const NO_SHORTCUT_OFFSETS: ShortcutOffsets = ShortcutOffsets {
    known: 0,
    sk_cookie: 0,
    sk_prot: 0,
    sk_user_data: 0,
    sk_rmem_alloc: 0,
    sk_rcvbuf: 0,
    sk_sndbuf: 0,
    sk_rcvlowat: 0,
    icsk_ulp_ops: 0,
    tcp_is_mptcp: 0,
    psock_msg_tot_len: 0,
    psock_skb_verdict: 0,
    psock_sk: 0,
    proto_memory_allocated: 0,
    file_flags: 0,
    task_mm: 0,
    mm_exe_file: 0,
    file_dentry: 0,
    dentry_name: 0,
    regs_syscall: 0,
    splice: 0,
    type_psock: 0,
    socket_sk: 0,
    task_io_uring: 0,
    psock_msgs: 0,
    psock_last_msg: 0,
    psock_held: 0,
    psock_last_held: 0,
    msg_list: 0,
    msg_skb: 0,
    skb_end_seq: 0,
    type_sk_msg: 0,
    type_sk_buff: 0,
    tcp_last_oow: 0,
};

/// Reads one array word once.
macro_rules! word {
    ($map:expr, $index:expr) => {
        match $map.get_ptr($index) {
            // SAFETY: the pointer is to a live, 8-byte aligned array element.
            Some(p) => unsafe { core::ptr::read_volatile(p.cast::<u64>()) },
            None => 0,
        }
    };
}
pub(crate) use word;

/// Reads an 8-byte hash value once.
macro_rules! entry {
    ($map:expr, $key:expr) => {
        match $map.get_ptr($key) {
            // SAFETY: elements stay readable memory for the run, whoever they belong to by then.
            Some(p) => Some(unsafe { core::ptr::read_volatile(p.cast::<u64>()) }),
            None => None,
        }
    };
}
pub(crate) use entry;

/// Reads the word of an `Entry` once: user space writes it in place.
macro_rules! entry_word {
    ($map:expr, $key:expr) => {
        match $map.get_ptr($key) {
            // SAFETY: as for `entry`; the word is the first field.
            Some(p) => Some(unsafe { core::ptr::read_volatile(p.cast::<u32>()) }),
            None => None,
        }
    };
}
pub(crate) use entry_word;

/// Adds one to a per-CPU counter.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(p) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: per-CPU element, no preemption within a run on this CPU.
        unsafe { *p += 1 }
    }
}
