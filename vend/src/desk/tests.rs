use proptest::prelude::*;

use super::*;

const HELLO: ToVendor = ToVendor::Hello { missing: 0 };

fn want(workload: u64) -> ToVendor {
    ToVendor::Want {
        workload,
        family: Family::V4,
        count: 2,
    }
}

/// A desk with workload 1, whose worker has said `Hello`.
fn ready(now: Instant) -> Desk {
    let mut desk = Desk::new("blue".into(), 1000, 0);
    desk.add(1, "blue/a".into());
    desk.adopt(9);
    desk.hear(now, &HELLO, 0);
    desk
}

#[test]
fn a_worker_gets_its_own_tenants_sockets_only() {
    let now = Instant::now();
    let mut desk = ready(now);
    let vend = |all: Vec<Do>| all.iter().any(|d| matches!(d, Do::Vend { .. }));
    assert!(vend(desk.hear(now, &want(1), 0)));
    for foreign in [0, 2, u64::MAX] {
        let refused = ToWorker::Refused {
            workload: foreign,
            code: code::NOT_YOUR_WORKLOAD,
        };
        assert_eq!(desk.hear(now, &want(foreign), 0), [Do::Tell(refused)]);
    }
    let mut told = now;
    let all = desk.tick(now + COUNTS_EVERY, &mut told);
    let counts = Report::Counts {
        id: u64::MAX,
        refused: 3,
        given: 0,
        failed: 0,
    };
    assert_eq!(all, [Do::Report(counts)]);
}

#[test]
fn nothing_is_given_before_hello_or_with_less_than_all_restrictions() {
    let now = Instant::now();
    let mut desk = Desk::new("blue".into(), 0, 1);
    desk.add(1, "a".into());
    desk.adopt(9);
    let all = desk.hear(now, &want(1), 0);
    assert!(matches!(
        all[..],
        [Do::Report(Report::Unruly { .. }), Do::HangUp]
    ));
    assert!(!desk.unattended(), "the process may live");
    desk.ended();
    desk.adopt(9);
    // The flag allows bit 1; bit 2 is what the kernel says, whatever the worker says.
    let all = desk.hear(now, &ToVendor::Hello { missing: 1 }, 2);
    let report = Report::Hello {
        pid: 9,
        missing: 2,
        allowed: 1,
    };
    assert_eq!(all, [Do::Report(report), Do::HangUp]);
    assert_eq!(desk.hear(now, &want(1), 0), []);
    desk.ended();
    desk.adopt(9);
    let all = desk.hear(now, &ToVendor::Hello { missing: 1 }, 0);
    assert!(
        matches!(all[1], Do::Tell(ToWorker::Welcome { .. })),
        "{all:?}"
    );
}

#[test]
fn a_new_worker_is_told_everything() {
    let now = Instant::now();
    let mut desk = Desk::new("blue".into(), 1000, 0);
    desk.add(1, "a".into());
    desk.may_listen(1, 80).unwrap();
    assert_eq!(desk.listens(1, 80), [Do::Report(Report::Done { id: 1 })]);
    assert!(desk.may_listen(1, 80).is_err() && desk.may_listen(2, 80).is_err());
    desk.adopt(9);
    let all = desk.hear(now, &HELLO, 0);
    let give = Do::Give {
        workload: 1,
        port: 80,
    };
    assert_eq!(all.last(), Some(&give));
    // And so is one that is there already.
    assert!(matches!(
        desk.add(2, "b".into())[0],
        Do::Tell(ToWorker::Workload { id: 2, .. })
    ));
    assert!(matches!(desk.listens(2, 81)[0], Do::Give { port: 81, .. }));
}

#[test]
fn what_ends_is_closed_in_time_or_the_worker_is_ended() {
    let now = Instant::now();
    let mut desk = ready(now);
    desk.add(2, "b".into());
    let mut told = now;
    let all = desk.remove(now, 1);
    let gone = Do::Tell(ToWorker::Gone { workload: 1 });
    assert_eq!(all, [Do::Close { workload: 1 }, gone]);
    // Not its to confirm.
    assert!(matches!(
        desk.hear(now, &ToVendor::GoneDone { workload: 2 }, 0)[..],
        [Do::Tell(ToWorker::Refused { workload: 2, .. })]
    ));
    let done = Do::Report(Report::Done { id: 1 });
    assert_eq!(
        desk.hear(now, &ToVendor::GoneDone { workload: 1 }, 0),
        [done]
    );
    // Another ends, and the worker says nothing.
    desk.remove(now, 2);
    assert!(!desk.tick(now, &mut told).contains(&Do::HangUp));
    let all = desk.tick(now + GONE_WITHIN, &mut told);
    assert!(all.contains(&Do::Report(Report::Silent { pid: 9 })) && all.contains(&Do::HangUp));
    assert_eq!(desk.ended(), [Do::Report(Report::Done { id: 2 })]);
    assert!(desk.unattended() && desk.deadline().is_none());
}

#[test]
fn a_workload_that_ends_while_the_worker_leaves_waits_for_its_end() {
    let now = Instant::now();
    let mut desk = ready(now);
    assert_eq!(
        desk.hear(now, &ToVendor::Leaving, 0),
        [Do::Report(Report::Leaving { pid: 9 }), Do::HangUp]
    );
    assert_eq!(desk.remove(now, 1), [Do::Close { workload: 1 }]);
    assert_eq!(desk.ended(), [Do::Report(Report::Done { id: 1 })]);
}

#[test]
fn a_pod_that_is_about_to_end_is_told_of_also_to_the_next_worker() {
    let now = Instant::now();
    let mut desk = ready(now);
    let drain = Do::Tell(ToWorker::Drain { workload: 1 });
    assert_eq!(desk.drain(1), std::slice::from_ref(&drain));
    assert_eq!(desk.drain(2), []);
    desk.ended();
    desk.adopt(9);
    assert_eq!(desk.hear(now, &HELLO, 0).last(), Some(&drain));
}

#[test]
fn bounds_hold() {
    let mut desk = Desk::new("blue".into(), 0, 0);
    for id in 0..WORKLOADS_MAX as u64 {
        assert!(matches!(
            desk.add(id, "x".into())[..],
            [Do::Report(Report::Done { .. })]
        ));
    }
    assert!(matches!(
        desk.add(u64::MAX, "x".into())[..],
        [Do::Report(Report::Failed { .. })]
    ));
    for port in 1..=LISTENERS_MAX as u16 {
        desk.may_listen(7, port).unwrap();
        desk.listens(7, port);
    }
    assert!(desk.may_listen(7, 1000).is_err());
}

fn applied(version: u64) -> ToVendor {
    let tenant = "blue".to_owned();
    ToVendor::Applied { tenant, version }
}

fn hand() -> Do {
    let tenant = "blue".to_owned();
    Do::Hand { tenant }
}

fn answer(version: u64, code: u16) -> Do {
    let (pid, tenant) = (9, "blue".to_owned());
    Do::Report(Report::Snapshot {
        pid,
        tenant,
        version,
        code,
    })
}

#[test]
fn a_worker_has_one_snapshot_to_answer_and_then_gets_the_newest() {
    let now = Instant::now();
    let mut desk = Desk::new("blue".into(), 0, 0);
    desk.add(1, "a".into());
    desk.listens(1, 80);
    assert_eq!(desk.snapshot(now, "blue".into(), 1), []);
    desk.adopt(9);
    assert_eq!(desk.snapshot(now, "blue".into(), 2), [], "no Hello yet");
    // A new worker has it before the first listener.
    let all = desk.hear(now, &HELLO, 0);
    let at = |what: &Do| all.iter().position(|d| d == what);
    let (workload, port) = (1, 80);
    assert!(at(&hand()).unwrap() < at(&Do::Give { workload, port }).unwrap());
    // Those that come before its answer wait, and only the last is sent.
    for version in 3..9 {
        assert_eq!(desk.snapshot(now, "blue".into(), version), []);
    }
    assert_eq!(desk.hear(now, &applied(2), 0), [answer(2, 0), hand()]);
    let rejected = ToVendor::Rejected {
        tenant: "blue".into(),
        version: 8,
        code: code::SNAPSHOT_FORMAT,
    };
    assert_eq!(
        desk.hear(now, &rejected, 0),
        [answer(8, code::SNAPSHOT_FORMAT)]
    );
    assert_eq!(desk.snapshot(now, "blue".into(), 8), [hand()]);
    // One that never answers is ended, and the next one gets it at once.
    let mut told = now;
    assert_eq!(desk.tick(now + ANSWER_WITHIN / 2, &mut told), []);
    let all = desk.tick(now + ANSWER_WITHIN, &mut told);
    assert_eq!(all, [Do::Report(Report::Silent { pid: 9 }), Do::HangUp]);
    desk.ended();
    assert_eq!(desk.deadline(), None);
    desk.adopt(9);
    assert!(desk.hear(now, &HELLO, 0).contains(&hand()));
    desk.ended();
    desk.forget("blue");
    desk.adopt(9);
    assert!(!desk.hear(now, &HELLO, 0).contains(&hand()));
}

#[test]
fn an_answer_to_what_was_not_handed_over_ends_the_worker() {
    let now = Instant::now();
    let other = ToVendor::Applied {
        tenant: "red".into(),
        version: 1,
    };
    let no_code = |code| ToVendor::Rejected {
        tenant: "blue".into(),
        version: 1,
        code,
    };
    for forged in [applied(2), applied(0), other, no_code(0), no_code(999)] {
        let mut desk = ready(now);
        desk.snapshot(now, "blue".into(), 1);
        let all = desk.hear(now, &forged, 0);
        assert!(
            matches!(
                all[..],
                [Do::Report(Report::Unruly { pid: 9, .. }), Do::HangUp]
            ),
            "{forged:?}: {all:?}"
        );
    }
    // Twice, or never handed one.
    let mut desk = ready(now);
    desk.snapshot(now, "blue".into(), 1);
    assert_eq!(desk.hear(now, &applied(1), 0), [answer(1, 0)]);
    let all = desk.hear(now, &applied(1), 0);
    assert!(all.contains(&Do::HangUp), "{all:?}");
    let all = ready(now).hear(now, &applied(1), 0);
    assert!(all.contains(&Do::HangUp), "{all:?}");
}

/// What a worker and the vendor may do to a desk.
#[derive(Clone, Debug)]
enum Step {
    Add(u64),
    Remove(u64),
    Adopt,
    Ended,
    Hear(ToVendor),
    Snapshot(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..6_u64;
    let said = prop_oneof![
        (0..2_u32).prop_map(|missing| ToVendor::Hello { missing }),
        id.clone().prop_map(want),
        id.clone()
            .prop_map(|workload| ToVendor::GoneDone { workload }),
        (0..4_u64).prop_map(applied),
        Just(ToVendor::Leaving),
    ];
    prop_oneof![
        id.clone().prop_map(Step::Add),
        id.prop_map(Step::Remove),
        Just(Step::Adopt),
        Just(Step::Ended),
        said.prop_map(Step::Hear),
        (0..4_u64).prop_map(Step::Snapshot),
        (0..2000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    // Whatever a worker says in whatever order: sockets are made only of workloads that are the tenant's
    // at that moment, each removal is reported exactly once, and never before its sockets can be closed.
    #[test]
    fn no_order_of_events_gives_a_foreign_socket(steps in prop::collection::vec(step(), 1..60)) {
        let mut now = Instant::now();
        let mut told = now;
        let mut desk = Desk::new("blue".into(), 0, 0);
        let mut mine = BTreeSet::new();
        let mut newest = 0;
        // What the worker has got of snapshots and not answered.
        let mut handed: Option<u64> = None;
        let mut owed: BTreeMap<u64, u32> = BTreeMap::new();
        for step in steps {
            let all = match step {
                // Ids are never used again; here they are only while nothing is owed of them.
                Step::Add(id) if owed.contains_key(&id) || mine.contains(&id) => continue,
                Step::Add(id) => {
                    mine.insert(id);
                    let all = desk.add(id, "x".into());
                    all.into_iter().filter(|d| !matches!(d, Do::Report(_))).collect()
                }
                Step::Remove(id) if !mine.remove(&id) => continue,
                Step::Remove(id) => {
                    owed.insert(id, 1);
                    desk.remove(now, id)
                }
                Step::Adopt => {
                    if !desk.unattended() { continue }
                    desk.adopt(9);
                    vec![]
                }
                Step::Ended => {
                    handed = None;
                    desk.ended()
                }
                Step::Snapshot(version) => {
                    newest = version;
                    desk.snapshot(now, "blue".into(), version)
                }
                Step::Hear(said) => desk.hear(now, &said, 0),
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    desk.tick(now, &mut told)
                }
            };
            for action in all {
                match action {
                    Do::Vend { workload, .. } | Do::Give { workload, .. } => {
                        prop_assert!(mine.contains(&workload), "gave {}", workload);
                    }
                    Do::Report(Report::Done { id }) => {
                        prop_assert_eq!(owed.remove(&id), Some(1), "{} reported twice", id);
                    }
                    Do::Hand { .. } => {
                        prop_assert_eq!(handed, None, "two at a time");
                        handed = Some(newest);
                    }
                    Do::Report(Report::Snapshot { version, .. }) => {
                        prop_assert_eq!(handed.take(), Some(version), "never handed over");
                    }
                    Do::HangUp => handed = None,
                    _ => {}
                }
            }
        }
        for action in desk.ended() {
            if let Do::Report(Report::Done { id }) = action {
                prop_assert_eq!(owed.remove(&id), Some(1));
            }
        }
        prop_assert!(owed.is_empty(), "never reported: {:?}", owed);
    }
}
