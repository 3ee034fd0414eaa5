//! Names of the pinned maps, as in the object and below `<pin dir>/maps/`.

pub const SETTINGS: &str = "SETTINGS";
pub const SERVICE_IDS: &str = "SERVICE_IDS";
pub const SERVICES: &str = "SERVICES";
pub const SLOTS: &str = "SLOTS";
pub const BACKENDS: &str = "BACKENDS";
pub const BACKEND_LIFE: &str = "BACKEND_LIFE";
pub const AFFINITY: &str = "AFFINITY";
pub const CGROUPS: &str = "CGROUPS";
pub const NETNS: &str = "NETNS";
pub const ADDRESSES: &str = "ADDRESSES";
pub const WORKLOADS: &str = "WORKLOADS";
pub const IDENTITIES: &str = "IDENTITIES";
pub const HOMES: &str = "HOMES";
pub const OWN: &str = "OWN";
pub const STEERED: &str = "STEERED";
pub const POLICIES: &str = "POLICIES";
pub const RULES: &str = "RULES";
pub const BLOCKS: &str = "BLOCKS";
pub const NAMES: &str = "NAMES";
pub const LISTENERS: &str = "LISTENERS";
pub const FLOW_SLOTS: &str = "FLOW_SLOTS";
pub const FLOWS: &str = "FLOWS";
pub const ORIGINALS: &str = "ORIGINALS";
pub const DOORS: &str = "DOORS";
pub const UDP_REVERSE: &str = "UDP_REVERSE";
pub const SOCKS: &str = "SOCKS";
pub const EVENTS: &str = "EVENTS";
pub const TOTALS: &str = "TOTALS";
pub const COUNTERS: &str = "COUNTERS";
pub const SHORTCUT: &str = "SHORTCUT";
pub const ENDS: &str = "ENDS";
pub const PAIRS: &str = "PAIRS";
pub const MATES: &str = "MATES";
pub const CANDIDATES: &str = "CANDIDATES";
pub const PROGRAMS: &str = "PROGRAMS";
pub const LEARNT: &str = "LEARNT";

/// All of them, for pinning, `status` and uninstall.
pub const ALL: [&str; 36] = [
    SETTINGS,
    SERVICE_IDS,
    SERVICES,
    SLOTS,
    BACKENDS,
    BACKEND_LIFE,
    AFFINITY,
    CGROUPS,
    NETNS,
    ADDRESSES,
    WORKLOADS,
    IDENTITIES,
    HOMES,
    OWN,
    STEERED,
    POLICIES,
    RULES,
    BLOCKS,
    NAMES,
    LISTENERS,
    FLOW_SLOTS,
    FLOWS,
    ORIGINALS,
    DOORS,
    UDP_REVERSE,
    SOCKS,
    EVENTS,
    TOTALS,
    COUNTERS,
    SHORTCUT,
    ENDS,
    PAIRS,
    MATES,
    CANDIDATES,
    PROGRAMS,
    LEARNT,
];
