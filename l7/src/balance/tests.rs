//! Simulations with a clock of their own, and random sequences of calls against a plain account.

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap};

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0.5 to 1.5 of a time.
    fn about(&mut self, ns: u64) -> u64 {
        ns / 2 + self.next() % ns
    }
}

/// Open loop: a request each `every` ns, whatever happens to the others.
struct Lab {
    balancer: Balancer,
    random: Random,
    now: u64,
    /// Ends of requests: when, in which order they began, how.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    pending: Vec<Option<(Pending, Outcome)>>,
    counts: BTreeMap<EndpointId, u32>,
    most_under_way: BTreeMap<EndpointId, u32>,
}

impl Lab {
    fn new(seed: u64, endpoints: impl IntoIterator<Item = (EndpointId, u32)>) -> Self {
        let mut balancer = Balancer::new(Settings::default());
        balancer.set(endpoints);
        Self {
            balancer,
            random: Random(seed),
            now: SECOND,
            ends: BinaryHeap::new(),
            pending: Vec::new(),
            counts: BTreeMap::new(),
            most_under_way: BTreeMap::new(),
        }
    }

    fn end_until(&mut self, until: u64) {
        while let Some(Reverse((at, i))) = self.ends.peek().copied().filter(|e| e.0.0 <= until) {
            self.ends.pop();
            let (mut pending, outcome) = self.pending[i].take().expect("ends once");
            self.balancer.answered(&mut pending, at);
            self.balancer.end(pending, at, outcome);
        }
    }

    /// `serve` says how long an endpoint needs, and how it ends.
    fn run(&mut self, time: u64, every: u64, serve: impl Fn(EndpointId) -> (u64, Outcome)) {
        self.counts.clear();
        self.most_under_way.clear();
        let until = self.now + time;
        while self.now < until {
            self.now += every;
            self.end_until(self.now);
            let random = self.random.next();
            let pending = self
                .balancer
                .pick(self.now, random)
                .expect("there are endpoints");
            let id = pending.endpoint;
            *self.counts.entry(id).or_default() += 1;
            let most = self.most_under_way.entry(id).or_default();
            *most = self.balancer.under_way(id).max(*most);
            let (ns, outcome) = serve(id);
            let end = self.now + self.random.about(ns);
            self.ends.push(Reverse((end, self.pending.len())));
            self.pending.push(Some((pending, outcome)));
        }
    }

    fn share(&self, id: EndpointId) -> f64 {
        let all: u32 = self.counts.values().sum();
        f64::from(self.counts.get(&id).copied().unwrap_or(0)) / f64::from(all)
    }
}

fn equal(count: u64) -> impl Iterator<Item = (EndpointId, u32)> {
    (0..count).map(|id| (id, 1))
}

fn fine(ns: u64) -> (u64, Outcome) {
    (ns, Outcome::Done)
}

#[test]
fn equal_endpoints_share_evenly() {
    // From one request at a time to twenty for each endpoint.
    for every in [2 * MS, MS / 10, MS / 200] {
        for seed in 0..3 {
            let mut lab = Lab::new(seed, equal(10));
            lab.run(20_000 * every, every, |_| fine(MS));
            for id in 0..10 {
                let share = lab.share(id);
                assert!(
                    (0.07..0.13).contains(&share),
                    "every {every} ns: {id} has {share}"
                );
            }
        }
    }
}

#[test]
fn one_slow_endpoint_of_ten_gets_little() {
    for seed in 0..3 {
        let mut lab = Lab::new(seed, equal(10));
        let serve = |id| fine(if id == 3 { 200 * MS } else { 5 * MS });
        lab.run(SECOND, MS, serve);
        lab.run(30 * SECOND, MS, serve);
        assert!(lab.share(3) < 0.005, "{}", lab.share(3));
        assert!(lab.share(3) > 0.0, "it is tried again at times");
        // It gets its part again when it has mended.
        lab.run(60 * SECOND, MS, |_| fine(5 * MS));
        lab.run(30 * SECOND, MS, |_| fine(5 * MS));
        assert!(lab.share(3) > 0.05, "{}", lab.share(3));
    }
}

#[test]
fn an_endpoint_that_hangs_does_not_collect_requests() {
    let mut lab = Lab::new(1, equal(10));
    lab.run(SECOND, MS, |_| fine(5 * MS));
    lab.run(10 * SECOND, MS, |id| {
        fine(if id == 3 { 3600 * SECOND } else { 5 * MS })
    });
    assert!(lab.most_under_way[&3] < 100, "{:?}", lab.most_under_way);
}

#[test]
fn who_fails_fast_gets_little() {
    let mut lab = Lab::new(1, equal(10));
    let serve = |id| match id {
        3 => (MS / 100, Outcome::Failed),
        _ => fine(5 * MS),
    };
    lab.run(30 * SECOND, MS, serve);
    assert!(lab.share(3) < 0.005, "{}", lab.share(3));
}

#[test]
fn a_new_endpoint_is_tried_and_not_flooded() {
    let mut lab = Lab::new(1, equal(10));
    lab.run(SECOND, MS / 10, |_| fine(5 * MS));
    lab.balancer.set(equal(11));
    // Cold: its first answers take long, and meanwhile 5,000 requests come.
    lab.run(SECOND / 2, MS / 10, |id| {
        fine(if id == 10 { 2 * SECOND } else { 5 * MS })
    });
    assert_eq!(lab.counts[&10], 1);
    let mut lab = Lab::new(1, equal(10));
    lab.run(SECOND, MS / 10, |_| fine(5 * MS));
    lab.balancer.set(equal(11));
    lab.run(10 * SECOND, MS / 10, |_| fine(5 * MS));
    let most = lab.most_under_way.values().max().copied().unwrap();
    assert!(
        lab.most_under_way[&10] <= most && most < 30,
        "{:?}",
        lab.most_under_way
    );
    assert!((0.07..0.12).contains(&lab.share(10)), "{}", lab.share(10));
}

#[test]
fn shares_go_by_weight() {
    // Busy; and with a tenth of a request under way, where the lighter get somewhat more: what is seldom
    // used is remembered as faster than it was.
    for (every, least, most) in [(MS / 20, 0.95, 1.05), (10 * MS, 0.8, 1.7)] {
        for seed in 0..3 {
            let mut lab = Lab::new(seed, [(0, 10), (1, 30), (2, 60), (3, 0)]);
            lab.run(20_000 * every, every, |_| fine(MS));
            assert!(!lab.counts.contains_key(&3));
            for (id, weight) in [(0, 0.1), (1, 0.3), (2, 0.6)] {
                let ratio = lab.share(id) / weight;
                assert!(
                    (least..most).contains(&ratio),
                    "every {every} ns: {:?}",
                    lab.counts
                );
            }
        }
    }
}

#[test]
fn a_slow_heavy_endpoint_keeps_the_draws_against_itself() {
    let mut lab = Lab::new(1, [(0, 2), (1, 1), (2, 1)]);
    lab.run(30 * SECOND, MS, |id| {
        fine(if id == 0 { 50 * MS } else { MS })
    });
    assert!((0.2..0.27).contains(&lab.share(0)), "{:?}", lab.counts);
}

#[test]
fn without_an_endpoint_there_is_a_reason() {
    let mut balancer = Balancer::new(Settings::default());
    assert_eq!(balancer.pick(1, 1).err(), Some(Refusal::NoEndpoints));
    balancer.set([(1, 0)]);
    assert_eq!(balancer.pick(1, 1).err(), Some(Refusal::NoEndpoints));
    balancer.set([(1, 1)]);
    let pending = balancer.pick(1, 1).unwrap();
    balancer.set([]);
    assert_eq!(balancer.pick(1, 1).err(), Some(Refusal::NoEndpoints));
    balancer.end(pending, 2, Outcome::Done);
}

#[test]
fn what_stays_keeps_its_latency_and_what_comes_back_does_not() {
    let mut balancer = Balancer::new(Settings::default());
    let latency = |b: &Balancer, id| b.slots[b.by_id[&id]].latency.map(|a| a.ns);
    balancer.set([(1, 1)]);
    let mut pending = balancer.pick(0, 0).unwrap();
    balancer.answered(&mut pending, 5);
    // Only the first time counts.
    balancer.answered(&mut pending, 500);
    assert_eq!(latency(&balancer, 1), Some(5.0));
    balancer.set([(2, 1), (1, 3)]);
    assert_eq!(
        (latency(&balancer, 1), latency(&balancer, 2)),
        (Some(5.0), None)
    );
    assert_eq!(balancer.under_way(1), 1);
    balancer.set([(2, 1)]);
    balancer.set([(2, 1), (1, 1)]);
    assert_eq!((latency(&balancer, 1), balancer.under_way(1)), (None, 0));
    balancer.end(pending, 9, Outcome::Done);
    assert_eq!(latency(&balancer, 1), None);
}

#[test]
fn the_average_rises_at_once_and_falls_slowly() {
    let decay = 10 * SECOND;
    let mut slot = Slot {
        id: 1,
        burden: 1.0,
        under_way: 0,
        leaving: false,
        latency: None,
    };
    slot.learn(10 * MS, SECOND, decay);
    slot.learn(100 * MS, SECOND, decay);
    assert_eq!(slot.at(SECOND, decay), 100.0 * MS as f64);
    slot.learn(10 * MS, SECOND + MS, decay);
    assert!(slot.at(SECOND + MS, decay) > 99.9 * MS as f64);
    // After the time constant 1/e is left of what was above.
    slot.learn(10 * MS, SECOND + MS + decay, decay);
    let expected = 10.0 + 90.0 / std::f64::consts::E;
    assert!((slot.at(SECOND + MS + decay, decay) / MS as f64 - expected).abs() < 0.1);
    // A clock that went back changes nothing.
    assert_eq!(slot.at(0, decay), slot.at(SECOND + MS + decay, decay));
}

#[derive(Clone, Debug)]
enum Call {
    Set(BTreeMap<EndpointId, u32>),
    Pick(u64),
    /// One of those under way, and how it ends.
    End(prop::sample::Index, bool, bool),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        1 => prop::collection::btree_map(0..8u64, 0..4u32, 0..8).prop_map(Call::Set),
        6 => any::<u64>().prop_map(Call::Pick),
        4 => (any::<prop::sample::Index>(), any::<bool>(), any::<bool>())
            .prop_map(|(i, answered, failed)| Call::End(i, answered, failed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_ready_endpoints_are_picked_and_nothing_leaks(
        calls in prop::collection::vec((call(), 0..5 * SECOND), 1..120),
    ) {
        let mut balancer = Balancer::new(Settings::default());
        let mut set = BTreeMap::new();
        // With the number of its stay: an endpoint that came back has none of its old requests.
        let mut under_way: Vec<(Pending, u32)> = Vec::new();
        let mut stays: BTreeMap<EndpointId, u32> = BTreeMap::new();
        let mut now = 0;
        for (call, later) in calls {
            now += later;
            match call {
                Call::Set(new) => {
                    for id in new.keys().filter(|id| !set.contains_key(*id)) {
                        *stays.entry(*id).or_default() += 1;
                    }
                    balancer.set(new.iter().map(|(id, weight)| (*id, *weight)));
                    set = new;
                }
                Call::Pick(random) => match balancer.pick(now, random) {
                    Ok(pending) => {
                        prop_assert!(set.get(&pending.endpoint).is_some_and(|w| *w > 0));
                        let stay = stays[&pending.endpoint];
                        under_way.push((pending, stay));
                    }
                    Err(why) => {
                        prop_assert_eq!(why, Refusal::NoEndpoints);
                        prop_assert!(set.values().all(|w| *w == 0));
                    }
                },
                Call::End(index, answered, failed) if !under_way.is_empty() => {
                    let (mut pending, _) = under_way.swap_remove(index.index(under_way.len()));
                    if answered {
                        balancer.answered(&mut pending, now);
                    }
                    let outcome = if failed { Outcome::Failed } else { Outcome::Done };
                    balancer.end(pending, now, outcome);
                }
                Call::End(..) => {}
            }
            for id in 0..8 {
                let current = |(p, stay): &&(Pending, u32)| p.endpoint == id && *stay == stays[&id];
                let expected = match set.contains_key(&id) {
                    true => under_way.iter().filter(current).count(),
                    false => 0,
                };
                prop_assert_eq!(balancer.under_way(id) as usize, expected);
            }
            prop_assert!(balancer.slots.len() <= 8 + under_way.len() + balancer.free.len());
        }
        balancer.set([]);
        for (pending, _) in under_way {
            balancer.end(pending, now, Outcome::Done);
        }
        prop_assert_eq!(balancer.free.len(), balancer.slots.len());
    }
}
