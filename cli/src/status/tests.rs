//! Golden text.

use super::*;

const PLAIN: Look = Look {
    headers: true,
    color: false,
};

fn fixed() -> Document {
    let workload = |name: &str, state: &str| api::WorkloadStatus {
        name: name.into(),
        identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
        addresses: vec!["10.0.0.2".into(), "fd00::2".into()],
        found_by: if state == "local" {
            "cgroup shop/web".into()
        } else {
            String::new()
        },
        state: state.into(),
    };
    let map = |name: &str, used| api::MapUse {
        name: name.into(),
        used,
        capacity: 16_384,
        bytes: 1 << 20,
    };
    let feature = |name: &str, on, reason: &str| api::Feature {
        name: name.into(),
        on,
        reason: reason.into(),
    };
    let problem = |code: &str, name: &str, severity: &str, place: &str, hint: &str| api::Problem {
        code: code.into(),
        name: name.into(),
        severity: severity.into(),
        message: "`spec.ports`: expected a list".into(),
        hint: hint.into(),
        r#where: place.into(),
    };
    Document::from(api::Status {
        workers_http: Some(api::WorkersStatus {
            vendor: "answers".into(),
            pid: 812,
            doors: 2,
            doors_wanted: 3,
            tenants: vec![api::TenantStatus {
                name: "shop".into(),
                state: "running".into(),
                worker: 815,
                workloads: 3,
                sent: 7,
                applied: 6,
                rejected: "SNAPSHOT_FORMAT".into(),
                starts: 2,
                crashes: 1,
                codes: vec!["UP0434".into()],
            }],
            ..Default::default()
        }),
        node: "demo".into(),
        mesh_dir: "/etc/underpass/mesh".into(),
        version: "0.1.0".into(),
        uptime_ms: 192_000,
        plan_version: 4,
        plan_age_ms: 12_000,
        state: "ready".into(),
        problems: vec![
            problem(
                "UP0303",
                "BAD_FIELD",
                "error",
                "shop.yaml:12 spec.ports",
                "fix the field",
            ),
            problem("UP0405", "NODE_BUSY", "warning", "", ""),
        ],
        features: vec![
            feature("connect4", true, ""),
            feature("sock_destroy", false, "UP0412 NO_SOCK_DESTROY"),
        ],
        maps: vec![
            map("SERVICES", 100),
            map("TOTALS", 16_000),
            api::MapUse {
                capacity: 0,
                ..map("SOCKS", 0)
            },
        ],
        counters: [("events_lost".into(), 7), ("flows_full".into(), 0)]
            .into_iter()
            .collect(),
        workloads: vec![
            workload("shop/web", "local"),
            workload("shop/gone", "missing"),
            workload("shop/web-2", "local"),
        ],
        cgroup_root: "/sys/fs/cgroup/unified".into(),
        pin_dir: "/sys/fs/bpf/underpass".into(),
        default_policy: "allow".into(),
        plan_apply_us: 1_234,
    })
}

#[test]
fn table_shows_what_matters() {
    let expected = "\
node            demo
state           ready
version         0.1.0
uptime          3m12s
plan            version 4, 12.0s old, applied in 1.2ms
default policy  allow
workloads       2 local, 1 missing
workers         vendor 812 answers, 2 of 3 workloads have a door
maps            3.0MiB, the fullest is TOTALS (97.7%)
problems        errors: 1, warnings: 1
cgroup root     /sys/fs/cgroup/unified
pins            /sys/fs/bpf/underpass

TENANT  WORKER   PID  WORKLOADS  SNAPSHOT  APPLIED  STARTS  CRASHES  REJECTED         CODES
shop    running  815          3         7        6       2        1  SNAPSHOT_FORMAT  UP0434

FEATURE       STATE  REASON
connect4      on     -
sock_destroy  off    UP0412 NO_SOCK_DESTROY

MAP      USED  CAPACITY   FULL  MEMORY
TOTALS  16000     16384  97.7%  1.0MiB

COUNTER      VALUE
events_lost      7

✗ UP0303 BAD_FIELD shop.yaml:12 spec.ports: `spec.ports`: expected a list
  try: fix the field
! UP0405 NODE_BUSY: `spec.ports`: expected a list
";
    assert_eq!(text(&fixed(), false, PLAIN), expected);
}

#[test]
fn wide_shows_every_map_and_workload() {
    let expected = "\
node            demo
state           ready
version         0.1.0
uptime          3m12s
plan            version 4, 12.0s old, applied in 1.2ms
default policy  allow
workloads       2 local, 1 missing
workers         vendor 812 answers, 2 of 3 workloads have a door
maps            3.0MiB, the fullest is TOTALS (97.7%)
problems        errors: 1, warnings: 1
cgroup root     /sys/fs/cgroup/unified
pins            /sys/fs/bpf/underpass

TENANT  WORKER   PID  WORKLOADS  SNAPSHOT  APPLIED  STARTS  CRASHES  REJECTED         CODES
shop    running  815          3         7        6       2        1  SNAPSHOT_FORMAT  UP0434

FEATURE       STATE  REASON
connect4      on     -
sock_destroy  off    UP0412 NO_SOCK_DESTROY

MAP        USED  CAPACITY             FULL  MEMORY
SERVICES    100     16384             0.6%  1.0MiB
TOTALS    16000     16384            97.7%  1.0MiB
SOCKS         0         0  -(NOT_OBSERVED)  1.0MiB

COUNTER      VALUE
events_lost      7

WORKLOAD    STATE    FOUND_BY         ADDRESSES         IDENTITY
shop/web    local    cgroup shop/web  10.0.0.2,fd00::2  spiffe://cluster.local/ns/shop/sa/web
shop/gone   missing  -(NOT_OBSERVED)  10.0.0.2,fd00::2  spiffe://cluster.local/ns/shop/sa/web
shop/web-2  local    cgroup shop/web  10.0.0.2,fd00::2  spiffe://cluster.local/ns/shop/sa/web

✗ UP0303 BAD_FIELD shop.yaml:12 spec.ports: `spec.ports`: expected a list
  try: fix the field
! UP0405 NODE_BUSY: `spec.ports`: expected a list
";
    assert_eq!(text(&fixed(), true, PLAIN), expected);
}

#[test]
fn json_names_the_place_where() {
    let document = serde_json::to_value(fixed()).expect("plain data");
    assert_eq!(document["problems"][0]["where"], "shop.yaml:12 spec.ports");
    assert_eq!(document["problems"][1]["where"], serde_json::Value::Null);
    assert_eq!(document["counters"]["flows_full"], 0);
}
