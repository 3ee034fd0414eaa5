//! What the shortcut learns of connections that end after a few messages.

use underpass_abi::{
    plain,
    shortcut::{learn, switch},
};
use underpass_agent::{kernel::shortcut::set_switches, sys::maps::Put};
use underpass_tests::{
    Result,
    ends::{Ends, counter, learnt, pins},
    lab::{Proc, cli::text},
    rpc::{Rpc, row, shortcut},
    scene::Scene,
};

#[test]
fn short_connections_keep_the_next_out() -> Result<()> {
    let scene = Scene::new("lrnshort", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    // Nothing sent; a reset; a close by either end.
    for line in ["ask 0 0 0", "push 1 100", "ask 3 100 1"] {
        for end in ["hang", "drop"] {
            ends.say("dial")?;
            ends.say(line)?;
            ends.say(end)?;
        }
    }
    let by_tcp = (0, "SHORTCUT_SHORT".to_owned());
    ends.short(learn::SHORTS - 6 - 1)?;
    assert_eq!(ends.tried(501)?, (1002, String::new()));
    assert_eq!(ends.tried(502)?, by_tcp);
    assert_eq!(ends.tried(503)?, by_tcp);
    assert_eq!(counter(&scene, "shortcut_short")?, 2);
    // Others are not concerned.
    let before = counter(&scene, "shortcut_taken")?;
    Ends::of(&scene, &scene.other)?.short(1)?;
    assert_eq!(counter(&scene, "shortcut_taken")?, before + 6);
    // As after ten minutes: the pair is judged anew.
    let (map, entries) = learnt(&scene)?;
    for (key, value) in entries.iter().filter(|(_, value)| value >> 32 != 0) {
        let over = value & 0xffff_ffff | 1 << 32;
        map.put(plain::bytes(key), plain::bytes(&over), Put::Any)?;
    }
    assert_eq!(entries.len(), 2);
    ends.short(learn::SHORTS - 1)?;
    assert_eq!(ends.tried(504)?, (1008, String::new()));
    assert_eq!(ends.tried(505)?, by_tcp);
    Ok(())
}

#[test]
fn one_long_connection_in_between_begins_the_count_anew() -> Result<()> {
    let scene = Scene::new("lrnlong", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    let (messages, bytes) = (learn::SHORT_NEAR / 2, learn::SHORT_BYTES_NEAR);
    // One end may send it all.
    let long = [
        format!("ask {messages} 100 1"),
        format!("push {} 100", learn::SHORT_NEAR),
        format!("push 1 {bytes}"),
    ];
    for line in &long {
        ends.short(learn::SHORTS - 1)?;
        ends.say("dial")?;
        ends.say(line)?;
        ends.say("drain")?;
        ends.say("hang")?;
    }
    ends.short(learn::SHORTS - 1)?;
    assert_eq!(counter(&scene, "shortcut_short")?, 0);
    assert_eq!(ends.tried(501)?, (1002, String::new()));
    assert_eq!(ends.tried(502)?, (0, "SHORTCUT_SHORT".to_owned()));
    Ok(())
}

#[test]
fn connections_that_end_while_redirection_is_off_say_nothing() -> Result<()> {
    let scene = Scene::new("lrnoff", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    let dir = pins(&scene);
    set_switches(&dir, switch::INSERT | switch::NODE_ON)?;
    ends.short(learn::SHORTS + 1)?;
    assert!(learnt(&scene)?.1.is_empty());
    set_switches(&dir, switch::INSERT | switch::REDIRECT | switch::NODE_ON)?;
    assert_eq!(ends.tried(501)?, (1002, String::new()));
    assert_eq!(learnt(&scene)?.1.len(), 1);
    Ok(())
}

/// Between two namespaces less makes up for what entering costs.
#[test]
fn connections_between_two_namespaces_are_short_below_other_marks() -> Result<()> {
    let scene = Scene::new("lrnfar", &["--shortcut", "on"])?;
    let known = || -> Result<Vec<u64>> { Ok(learnt(&scene)?.1.iter().map(|(_, v)| *v).collect()) };
    let count = |n: u64| vec![n << learn::SHORTS_SHIFT];
    let end = |mut rpc: Rpc, requests, size| -> Result<Proc> {
        rpc.ask(requests, size)?;
        rpc.client.kill9()?;
        Ok(rpc.server)
    };
    let mut server = end(Rpc::start(&scene, &[], &[])?, 1, 1_000)?;
    assert_eq!(known()?, count(1));
    for (requests, size) in [(3, 1_000), (1, 9_000)] {
        server = end(Rpc::again(&scene, server)?, requests, size)?;
        assert_eq!(known()?, count(0));
        server = end(Rpc::again(&scene, server)?, 2, 1_000)?;
        assert_eq!(known()?, count(1));
    }
    for _ in 1..learn::SHORTS {
        server = end(Rpc::again(&scene, server)?, 1, 1_000)?;
    }
    let mut rpc = Rpc::again(&scene, server)?;
    let sent = rpc.ask(3, 1_000)?;
    let by_tcp = row(&scene, "established", sent)?;
    assert_eq!(text(&by_tcp, "/shortcut_reason"), "SHORTCUT_SHORT");
    assert_eq!(shortcut(&by_tcp), 0);
    rpc.end(&scene, &by_tcp)
}
