use std::collections::BTreeMap;

use underpass_abi::{reason::code, sock::TcpCounts, tables::NameKind, verdict::Verdict};

use super::*;

type NoNames = BTreeMap<(NameKind, u32), String>;

fn open(cookie: u64, opened_ns: u64) -> SockState {
    SockState {
        cookie,
        opened_ns,
        established_ns: opened_ns,
        proto: 6,
        layer: 1,
        verdict: Verdict::Allowed as u8,
        tcp_state: 1,
        flags: flag::ACTIVE | flag::OPENED,
        ..SockState::default()
    }
}

fn take(table: &mut Table, kind: EventKind, sock: SockState, at_ns: u64) {
    let event = Event {
        kind: kind as u32,
        pid: 0,
        at_ns,
        sock,
    };
    table.take(&event, &NoNames::new(), &Node::default());
}

fn list(table: &mut Table, open: &[SockState], now_ns: u64) -> Vec<api::Connection> {
    table
        .list(open, 0, &NoNames::new(), &Node::default(), now_ns)
        .rows
}

fn ended(cookie: u64, flags: u32, sent: u64, delivered: u64) -> SockState {
    let s = open(cookie, 1);
    SockState {
        flags: s.flags | flags,
        closed_ns: 5,
        tcp_state: 7,
        tcp: TcpCounts {
            sent,
            delivered,
            ..TcpCounts::default()
        },
        ..s
    }
}

#[test]
fn one_connection_is_one_row_in_any_order_of_its_events() {
    let mut table = Table::default();
    // TCP ended first (a reset), then the application closed.
    let closed = SockState {
        reason: code::RESET_BY_PEER,
        ..ended(1, flag::CLOSED, 70, 60)
    };
    take(&mut table, EventKind::Closed, closed, 5);
    let rows = list(&mut table, &[closed], 6);
    assert_eq!(
        (rows.len(), rows[0].state.as_str()),
        (1, "closing"),
        "the application still has it"
    );
    let released = SockState {
        reason: code::RESET_BY_PEER,
        ..ended(1, flag::CLOSED | flag::RELEASED, 80, 60)
    };
    take(&mut table, EventKind::Released, released, 7);
    let rows = list(&mut table, &[closed], 8);
    assert_eq!((rows.len(), rows[0].state.as_str()), (1, "closed"));
    assert_eq!((rows[0].bytes_sent, rows[0].bytes_delivered), (80, 60));
    assert_eq!(rows[0].close_reason, "RESET_BY_PEER");
}

#[test]
fn numbers_of_the_last_close_and_of_tcps_end_are_both_final() {
    let mut table = Table::default();
    let released = SockState {
        reason: code::STILL_CLOSING,
        ..ended(1, flag::RELEASED, 100, 10)
    };
    take(&mut table, EventKind::Released, released, 5);
    let closed = SockState {
        reason: code::CLOSED_NORMALLY,
        ..ended(1, flag::CLOSED, 0, 100)
    };
    take(&mut table, EventKind::Closed, closed, 9);
    let rows = list(&mut table, &[], 10);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].bytes_sent, rows[0].bytes_delivered), (100, 100));
    assert_eq!(rows[0].close_reason, "CLOSED_NORMALLY");
}

#[test]
fn two_cpus_that_both_tell_the_whole_make_one_row() {
    let whole = ended(1, flag::CLOSED | flag::RELEASED, 70, 60);
    for kinds in [
        [EventKind::Closed, EventKind::Released],
        [EventKind::Released, EventKind::Closed],
    ] {
        let mut table = Table::default();
        for kind in kinds {
            take(&mut table, kind, whole, 5);
        }
        let rows = list(&mut table, &[], 6);
        assert_eq!((rows.len(), rows[0].bytes_sent), (1, 70), "{kinds:?}");
        assert!(table.open_ended.is_empty());
    }
}

#[test]
fn most_rows_are_in_no_index() {
    let mut table = Table::default();
    let whole = ended(1, flag::CLOSED | flag::RELEASED, 0, 0);
    take(&mut table, EventKind::Closed, whole, 5);
    assert!(table.open_ended.is_empty());
    // The kernel was asked before it ended.
    let rows = list(&mut table, &[open(1, 1)], 6);
    assert_eq!((rows.len(), rows[0].state.as_str()), (1, "closed"));
    // The same socket has dialed again since.
    let rows = list(&mut table, &[open(1, 6)], 7);
    let states: Vec<&str> = rows.iter().map(|r| r.state.as_str()).collect();
    assert_eq!(states, ["closed", "established"]);
}

#[test]
fn a_connection_that_was_never_accepted_is_closed() {
    let mut table = Table::default();
    take(
        &mut table,
        EventKind::Closed,
        ended(1, flag::CLOSED | flag::RELEASED, 0, 0),
        5,
    );
    assert_eq!(list(&mut table, &[], 6)[0].state, "closed");
}

#[test]
fn one_socket_may_be_refused_often_and_dial_again() {
    let mut table = Table::default();
    let refused = SockState {
        cookie: 0,
        verdict: Verdict::Denied as u8,
        ..open(0, 1)
    };
    take(&mut table, EventKind::Refused, refused, 1);
    take(&mut table, EventKind::Refused, refused, 2);
    let failed = |opened| SockState {
        opened_ns: opened,
        flags: flag::ACTIVE | flag::FAILED,
        ..open(9, 1)
    };
    take(&mut table, EventKind::Failed, failed(3), 3);
    take(&mut table, EventKind::Failed, failed(4), 4);
    let rows = list(&mut table, &[open(9, 5)], 6);
    let states: Vec<&str> = rows.iter().map(|r| r.state.as_str()).collect();
    assert_eq!(
        states,
        ["refused", "refused", "failed", "failed", "established"]
    );
    assert_ne!(rows[0].id, rows[1].id);
}

#[test]
fn rows_are_bounded_in_number_and_age() {
    let mut table = Table::default();
    for cookie in 1..=MAX_ROWS as u64 + 5 {
        take(
            &mut table,
            EventKind::Closed,
            ended(cookie, flag::CLOSED, 0, 0),
            5,
        );
    }
    assert_eq!((table.len(), table.dropped()), (MAX_ROWS, 5));
    assert_eq!(table.open_ended.len(), MAX_ROWS);
    // The index still finds rows after others left.
    let late = SockState {
        closed_ns: KEEP_NS + 4,
        ..ended(MAX_ROWS as u64, flag::CLOSED | flag::RELEASED, 44, 0)
    };
    take(&mut table, EventKind::Released, late, 6);
    assert_eq!((table.len(), table.dropped()), (MAX_ROWS, 5));
    assert_eq!(table.open_ended.len(), MAX_ROWS - 1, "told of in full");
    list(&mut table, &[], KEEP_NS + 6);
    assert!(
        table.is_empty() && table.open_ended.is_empty(),
        "{}",
        table.len()
    );
    assert_eq!(table.dropped(), 5, "age is no loss");
}

#[test]
fn a_second_look_gives_only_what_changed() {
    let mut table = Table::default();
    take(
        &mut table,
        EventKind::Closed,
        ended(1, flag::CLOSED | flag::RELEASED, 0, 0),
        5,
    );
    let first = table.list(&[], 0, &NoNames::new(), &Node::default(), 6);
    assert_eq!(first.rows.len(), 1);
    take(
        &mut table,
        EventKind::Closed,
        ended(2, flag::CLOSED | flag::RELEASED, 0, 0),
        7,
    );
    let second = table.list(&[], first.changes, &NoNames::new(), &Node::default(), 8);
    assert_eq!(second.rows.len(), 1);
    assert!(second.rows[0].id.ends_with("/2"));
}

#[test]
fn a_destroyed_connection_says_so() {
    let mut table = Table::default();
    let policy = Some("AuthorizationPolicy shop/new");
    table.destroying(1, code::POLICY_CHANGED, policy);
    let closed = SockState {
        reason: code::RESET_LOCALLY,
        ..ended(1, flag::CLOSED, 0, 0)
    };
    take(&mut table, EventKind::Closed, closed, 5);
    take(
        &mut table,
        EventKind::Released,
        ended(1, flag::RELEASED | flag::CLOSED, 0, 0),
        6,
    );
    let row = list(&mut table, &[], 7).remove(0);
    assert_eq!(
        (row.close_reason.as_str(), row.policy.as_str()),
        ("POLICY_CHANGED", "AuthorizationPolicy shop/new")
    );
}

#[test]
fn round_trip_times_are_kept_by_service() {
    let mut table = Table::default();
    let mut closed = ended(1, flag::CLOSED | flag::RELEASED, 0, 0);
    closed.tcp.srtt_us = 250;
    take(&mut table, EventKind::Closed, closed, 5);
    assert_eq!(table.srtt("-").unwrap().recent(5).values().sum::<u64>(), 1);
    assert!(table.srtt("shop/ledger:80").is_none());
}
