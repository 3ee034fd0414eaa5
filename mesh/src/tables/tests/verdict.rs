//! The verdict of the programs' function over the maps is that of the model over names.

use std::net::IpAddr;

use proptest::prelude::*;
use underpass_abi::{
    Ip,
    plain::{bytes, from_bytes},
    tables::{AddressWord, BlockKey, Entry, IdentityPair, NameKind, ServiceKey, ServiceWord, maps},
    verdict::{self, PolicyHeader, RuleWord, Subjects, Verdict, subject},
};

use super::{fresh_store, plan_of, spec::spec, store::Store, view::name};
use crate::{
    Plan, SourceRef, Tables,
    plan::{Decision, Workload},
};

/// As `ebpf/src/authorize.rs` has it.
fn subjects(store: &Store, source: &SourceRef, index: impl Fn(&str) -> u32, set: u8) -> Subjects {
    let of_index = |w: u32| {
        let pair = &store.arrays[maps::IDENTITIES][&w];
        let IdentityPair {
            identity,
            namespace,
        } = from_bytes(pair).unwrap();
        [identity, namespace]
    };
    match source {
        SourceRef::Workload(name) => of_index(index(name)),
        SourceRef::Host => [subject::HOST, 0],
        SourceRef::UnknownLocal => [subject::UNKNOWN_LOCAL, 0],
        SourceRef::Address(ip) => {
            let word = store.get(maps::ADDRESSES, bytes(&Ip::from(*ip)));
            let word = word.map(|w| AddressWord(from_bytes::<Entry>(w).unwrap().word));
            match word {
                Some(a) if a.flags() & AddressWord::LOCAL != 0 => [subject::UNKNOWN_LOCAL, 0],
                Some(a) if a.workload() != 0 => of_index(a.workload()),
                _ => [block(store, set, Ip::from(*ip)), subject::OUTSIDE],
            }
        }
    }
}

/// Longest prefix match.
fn block(store: &Store, set: u8, ip: Ip) -> u32 {
    let key = BlockKey {
        set_be: u32::from(set).to_be(),
        ip,
        pad: 0,
    };
    let wanted = bytes(&key);
    let matches = store.hash(maps::BLOCKS).filter_map(|(key, value)| {
        let len = u32::from_ne_bytes(key[..4].try_into().unwrap());
        let same = (0..len as usize).all(|bit| {
            let at = |b: &[u8]| b[bit / 8] >> (7 - bit % 8) & 1;
            at(&key[4..]) == at(wanted)
        });
        same.then(|| (len, u64::from_ne_bytes(value.try_into().unwrap()) as u32))
    });
    if set == 0 {
        0
    } else {
        matches.max().map_or(0, |(_, class)| class)
    }
}

fn kernel(
    store: &Store,
    table: u32,
    port: u16,
    proto: u8,
    subjects: impl Fn(u8) -> Subjects,
) -> (Verdict, String) {
    if table == 0 {
        return (Verdict::Allowed, String::new());
    }
    let header = PolicyHeader(store.word(maps::POLICIES, table));
    let subjects = subjects(header.block_set());
    let d = verdict::decide(header, table, subjects, port, proto, |key| {
        store
            .get(maps::RULES, bytes(key))
            .map(|v| RuleWord(from_bytes(v).unwrap()))
    });
    (d.verdict, name(store, NameKind::Policy, d.policy))
}

/// 0 is the kernel's name for "default" and for "nothing had to decide".
fn plain(d: Decision) -> (Verdict, String) {
    (
        d.verdict,
        if &*d.policy == "default" {
            String::new()
        } else {
            d.policy.to_string()
        },
    )
}

fn sources(plan: &Plan) -> Vec<SourceRef> {
    let mut all: Vec<SourceRef> = plan
        .workloads()
        .iter()
        .map(|w| SourceRef::Workload(w.full_name.clone()))
        .collect();
    all.extend([SourceRef::Host, SourceRef::UnknownLocal]);
    let addresses = [
        "10.0.0.1",
        "10.0.0.3",
        "10.0.0.6",
        "192.168.1.1",
        "192.168.7.1",
        "192.168.7.200",
        "172.16.0.1",
        "fd00::1",
        "fd01::1",
        "fd02::1",
    ];
    all.extend(addresses.map(|a| SourceRef::Address(a.parse::<IpAddr>().unwrap())));
    all
}

const PORTS: [(u16, u8); 4] = [(80, 6), (8080, 6), (53, 17), (53, 6)];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_decide_as_the_model(spec in spec()) {
        let plan = plan_of(&spec);
        let store = fresh_store(&plan);
        let mut tables = Tables::empty();
        tables.lay_out(&plan).unwrap();
        let register = |w: &Workload| format!("{} {}", w.full_name, w.identity);
        let find = |w: &Workload| tables.names().find(NameKind::Workload, &register(w)).unwrap();
        let index = |name: &str| find(plan.workload(name).unwrap());
        for source in sources(&plan) {
            let who = plan.world.who(&source);
            for (port, proto) in PORTS {
                let subjects = |set| subjects(&store, &source, index, set);
                for w in plan.workloads() {
                    let same = matches!(&source, SourceRef::Workload(n) if *n == w.full_name);
                    let source_index = match &source {
                        SourceRef::Address(ip) => plan.workload_at(*ip).filter(|w| !w.local),
                        _ => None,
                    };
                    if same || source_index.is_some_and(|s| s.full_name == w.full_name) {
                        prop_assert_eq!(plan.world.decide_workload(w, &who, port, proto).verdict, Verdict::Allowed);
                        continue;
                    }
                    let table = store.word(maps::WORKLOADS, find(w)) as u32;
                    let expected = plain(plan.world.decide_workload(w, &who, port, proto));
                    let got = kernel(&store, table, port, proto, subjects);
                    prop_assert_eq!(got, expected, "{:?} to {} at {}/{}", source, w.full_name, port, proto);
                }
                for service in plan.services() {
                    for p in &service.ports {
                        let key = ServiceKey { ip: p.ip, port: p.port, proto: p.proto, pad: 0 };
                        let id = store.get(maps::SERVICE_IDS, bytes(&key)).unwrap();
                        let id: u64 = from_bytes(id).unwrap();
                        // Another service has the address.
                        if name(&store, NameKind::Service, id as u32) != *service.port_name(p) {
                            continue;
                        }
                        let word = ServiceWord(store.word(maps::SERVICES, id as u32));
                        let table = store.word(maps::SLOTS, word.offset() + 1) as u32;
                        let got = kernel(&store, table, port, proto, subjects);
                        let expected = plain(plan.world.decide_service(service, &who, port, proto));
                        prop_assert_eq!(got, expected, "{:?} to service {}", source, service.full_name);
                    }
                }
            }
        }
    }
}
