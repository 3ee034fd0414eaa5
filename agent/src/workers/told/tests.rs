use underpass_abi::reason::code;

use super::*;

fn door_of(tenant: &str, cookie: u64) -> Door {
    Door {
        tenant: tenant.into(),
        netns: format!("/run/netns/{cookie}").into(),
        cookie,
    }
}

fn wanted(doors: &[(&str, Door)]) -> Wanted {
    let snapshot = |tenant: &Str| Snapshot {
        tenant: tenant.clone(),
        ..Snapshot::default()
    };
    let doors: BTreeMap<Str, Door> = doors
        .iter()
        .map(|(n, d)| ((*n).into(), d.clone()))
        .collect();
    let snapshots = doors
        .values()
        .map(|d| (d.tenant.clone(), Arc::new(snapshot(&d.tenant))));
    Wanted {
        snapshots: snapshots.collect(),
        doors,
    }
}

fn all_done(told: &mut Told, wanted: &Wanted) {
    for step in told.steps(wanted, Instant::now()) {
        assert!(told.may(&step, wanted), "{step:?}");
        told.did(&step, wanted);
    }
    assert_eq!(told.steps(wanted, Instant::now()), []);
}

#[test]
fn a_snapshot_comes_after_the_workload_and_before_its_listeners() {
    let wanted = wanted(&[("shop/a", door_of("shop", 1))]);
    let mut told = Told::default();
    let steps = told.steps(&wanted, Instant::now());
    let name: Str = "shop/a".into();
    assert_eq!(
        steps,
        [
            Step::Add(name.clone()),
            Step::Snapshot("shop".into()),
            Step::Listen(name.clone(), 15_001),
            Step::Listen(name.clone(), 15_006),
        ]
    );
    assert!(!told.may(&steps[1], &wanted) && !told.may(&steps[2], &wanted));
    told.did(&steps[0], &wanted);
    assert!(told.may(&steps[1], &wanted) && !told.may(&steps[2], &wanted));
    told.did(&steps[1], &wanted);
    told.did(&steps[2], &wanted);
    assert!(told.open(&wanted).is_empty(), "one listener is missing");
    told.did(&steps[3], &wanted);
    assert_eq!(told.open(&wanted), BTreeSet::from([name]));
}

#[test]
fn only_what_differs_is_said() {
    let mut told = Told::default();
    let mut first = wanted(&[("shop/a", door_of("shop", 1)), ("b/b", door_of("b", 2))]);
    all_done(&mut told, &first);
    let newer = Snapshot {
        tenant: "b".into(),
        services: Vec::new(),
        format: 9,
        ..Snapshot::default()
    };
    first.snapshots.insert("b".into(), newer.into());
    assert_eq!(
        told.steps(&first, Instant::now()),
        [Step::Snapshot("b".into())]
    );
    // Another path to the same namespace.
    let mut moved = door_of("shop", 1);
    moved.netns = "/proc/9/ns/net".into();
    first.doors.insert("shop/a".into(), moved);
    assert_eq!(told.steps(&first, Instant::now()).len(), 1);
}

#[test]
fn another_namespace_of_the_same_name_is_another_workload() {
    let mut told = Told::default();
    all_done(&mut told, &wanted(&[("shop/a", door_of("shop", 1))]));
    let next = wanted(&[("shop/a", door_of("shop", 2))]);
    assert!(told.open(&next).is_empty());
    let steps = told.steps(&next, Instant::now());
    assert_eq!(steps[0], Step::Gone("shop/a".into()));
    assert!(steps.contains(&Step::Add("shop/a".into())));
    assert!(steps.contains(&Step::Listen("shop/a".into(), 15_001)));
    all_done(&mut told, &next);
    assert_eq!(told.open(&next).len(), 1);
    all_done(&mut told, &Wanted::default());
    assert!(told.tenants().is_empty());
}

#[test]
fn a_refusal_rests_and_concerns_its_listener_alone() {
    let mut told = Told::default();
    let wanted = wanted(&[("shop/a", door_of("shop", 1))]);
    let now = Instant::now();
    for step in told.steps(&wanted, now) {
        if step == Step::Listen("shop/a".into(), 15_001) {
            let why = Problem::error(code::LISTENER_REFUSED, "taken", "shop/a");
            told.failed(&step, why, now);
        } else {
            told.did(&step, &wanted);
        }
    }
    assert!(told.open(&wanted).is_empty());
    assert_eq!(told.problems().count(), 1);
    assert_eq!(told.steps(&wanted, now), []);
    let later = told.retry_at().unwrap();
    let again = Step::Listen("shop/a".into(), 15_001);
    assert_eq!(told.steps(&wanted, later), std::slice::from_ref(&again));
    told.did(&again, &wanted);
    assert_eq!((told.problems().count(), told.open(&wanted).len()), (0, 1));
}

#[test]
fn in_doubt_all_is_asked_again_and_stays_open() {
    let mut told = Told::default();
    let wanted = wanted(&[("shop/a", door_of("shop", 1))]);
    all_done(&mut told, &wanted);
    told.doubt();
    let steps = told.steps(&wanted, Instant::now());
    assert_eq!(
        steps,
        [
            Step::Add("shop/a".into()),
            Step::Listen("shop/a".into(), 15_001),
            Step::Listen("shop/a".into(), 15_006),
        ]
    );
    assert_eq!(told.open(&wanted).len(), 1);
    let why = Problem::error(code::LISTENER_REFUSED, "taken", "shop/a");
    told.failed(&steps[1], why, Instant::now());
    assert!(told.open(&wanted).is_empty());
}
