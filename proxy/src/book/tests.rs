#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use underpass_l7::{
    Refusal,
    head::{Request, Version},
    inbound::Denied,
    limit::{Limits, check},
};
use underpass_mesh::snapshot::{FORMAT, Snapshot};

use super::*;
use crate::{
    plan::Picked,
    shard::{Settings, Shard},
};

fn text() -> &'static str {
    r#"{"format":1,"version":3,"tenant":"shop",
    "workloads":[{"name":"shop/web","identity":"spiffe://m/ns/shop/sa/web","addresses":["10.0.0.1"],
        "inbound":[{"port":8080,"protocol":"Http1","service":"shop/web","rate":null,"allow":null}]}],
    "services":[{"name":"shop/api","port":80,"addresses":["10.9.0.1","fd00::1"],"protocol":"Detect","routes":[]}],
    "backends":[{"service":"shop/api","port":80,"protocol":"Http1","endpoints":[
        {"address":"10.0.0.2","port":8080,"weight":1,"workload":"shop/api-1","identity":"spiffe://m/ns/shop/sa/api","same_worker":false}]}]}"#
}

fn snapshot() -> Snapshot {
    serde_json::from_str(text()).unwrap()
}

fn take(shard: &Shard, snapshot: Snapshot) {
    shard.set_draft(&Draft::new(snapshot).unwrap());
}

fn arrive(shard: &Shard, side: Side, original: &str) -> Arrived {
    Arrived {
        workload: shard.workload(4, "shop/web"),
        side,
        original: original.parse().unwrap(),
        who: Who::Unknown,
    }
}

fn shard() -> Rc<Shard> {
    Shard::new(Settings::default(), crate::connector::Connector::Own)
}

fn pick(shard: &Shard, plan: &Plan) -> Result<Picked, Denied> {
    let fields: [(&str, &str); 1] = [("host", "api")];
    let head = Request::http1(Version::Http11, b"GET", b"/", fields.as_slice());
    let limits = Limits::default();
    let accepted = check(&head, &limits).unwrap();
    plan.pick(&head, &accepted, || shard.random(), shard.start())
}

#[tokio::test]
async fn what_arrives_finds_its_plan_by_where_it_was_going() {
    let shard = shard();
    let there = arrive(&shard, Side::Outbound, "10.9.0.1:80");
    assert_eq!(shard.plan(&there).unwrap_err(), Refusal::NoSnapshot);
    take(&shard, snapshot());
    let plan = shard.plan(&there).unwrap();
    assert_eq!((plan.workload, plan.authority.as_str()), (4, "10.9.0.1:80"));
    assert!(Rc::ptr_eq(&plan, &shard.plan(&there).unwrap()));
    let picked = pick(&shard, &plan).unwrap();
    assert_eq!(picked.endpoint.address, "10.0.0.2:8080".parse().unwrap());
    assert_eq!(picked.protocol, Protocol::Http1);
    let v6 = shard.plan(&arrive(&shard, Side::Outbound, "[fd00::1]:80"));
    assert_eq!(v6.unwrap().authority, "[fd00::1]:80");

    // A port of its own leads to itself.
    let own = shard
        .plan(&arrive(&shard, Side::Inbound, "10.0.0.1:8080"))
        .unwrap();
    let picked = pick(&shard, &own).unwrap();
    assert_eq!(picked.endpoint.address, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(picked.key.source, picked.key.destination);
    assert!(own.inbound.is_some());

    for (side, original) in [
        (Side::Outbound, "10.9.0.1:81"),
        (Side::Outbound, "10.0.0.1:8080"),
        (Side::Inbound, "10.0.0.1:8081"),
        (Side::Inbound, "10.0.0.9:8080"),
        (Side::Inbound, "10.9.0.1:80"),
    ] {
        let why = shard.plan(&arrive(&shard, side, original)).unwrap_err();
        assert_eq!(why, Refusal::UnknownDestination, "{original}");
    }
    let mut other = there;
    other.workload = shard.workload(5, "shop/other");
    assert_eq!(shard.plan(&other).unwrap_err(), Refusal::NoSnapshot);
}

#[tokio::test]
async fn what_is_known_of_endpoints_that_stay_stays() {
    let shard = shard();
    take(&shard, snapshot());
    let there = arrive(&shard, Side::Outbound, "10.9.0.1:80");
    let before = shard.plan(&there).unwrap();
    let request = pick(&shard, &before).unwrap();

    let mut next = snapshot();
    next.version = 4;
    let mut another = next.backends[0].endpoints[0].clone();
    another.address = "10.0.0.3".parse().unwrap();
    next.backends[0].endpoints.push(another);
    take(&shard, next.clone());
    let after = shard.plan(&there).unwrap();
    assert!(!Rc::ptr_eq(&before, &after));
    let backend = &after.backends[&after.default];
    assert_eq!(backend.under_way(request.key.endpoint), 1);
    let book = |shard: &Shard| shard.book("shop").unwrap();
    let workload = Some(&there.workload);
    assert!(book(&shard).wants(&request.key, workload));

    // The same address with another workload behind it is another endpoint.
    next.backends[0].endpoints[0].workload = Some("shop/api-9".into());
    take(&shard, next.clone());
    assert!(!book(&shard).wants(&request.key, workload));
    let after = shard.plan(&there).unwrap();
    assert_eq!(
        after.backends[&after.default].under_way(request.key.endpoint),
        0
    );
    drop(request);

    // And so is a source with another identity.
    let key = pick(&shard, &after).unwrap().key;
    assert!(book(&shard).wants(&key, workload));
    next.workloads[0].identity = "spiffe://m/ns/shop/sa/other".into();
    take(&shard, next.clone());
    assert!(!book(&shard).wants(&key, workload));
    next.workloads.clear();
    take(&shard, next);
    assert_eq!(shard.plan(&there).unwrap_err(), Refusal::NoSnapshot);
}

#[tokio::test]
async fn numbers_of_what_is_gone_are_forgotten_and_not_used_again() {
    let mut numbers = Numbers::default();
    let draft = Draft::new(snapshot()).unwrap();
    let first = Book::new(&draft, &Book::default(), &mut numbers, Rc::default(), 1);
    let ids = first.endpoints.clone();
    numbers.keep([&first].into_iter());
    let again = Book::new(&draft, &first, &mut numbers, Rc::default(), 1);
    assert_eq!(again.endpoints, ids);
    numbers.keep([&Book::default()].into_iter());
    assert!(numbers.endpoints.numbers.is_empty() && numbers.identities.numbers.is_empty());
    let later = Book::new(&draft, &again, &mut numbers, Rc::default(), 1);
    assert!(later.endpoints.is_disjoint(&ids));
}

#[test]
fn another_format_or_no_snapshot_is_rejected() {
    use underpass_mesh::reason::code;
    assert_eq!(Draft::read(text().as_bytes()).unwrap().snapshot, snapshot());
    let format = format!("\"format\":{}", FORMAT + 1);
    let rejected = |text: &str| Draft::read(text.as_bytes()).unwrap_err().code;
    assert_eq!(
        rejected(&text().replace("\"format\":1", &format)),
        code::SNAPSHOT_FORMAT
    );
    for bad in [
        "",
        "{}",
        "[1]",
        &text()[..200],
        &text().replace("10.0.0.2", "10.0.0.256"),
    ] {
        assert_eq!(rejected(bad), code::SNAPSHOT_UNREADABLE, "{bad}");
    }
}
