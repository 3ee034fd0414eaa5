//! Golden tables.

use super::*;
use crate::row::tests::fixed;

const PLAIN: Look = Look {
    headers: true,
    color: false,
};
const NOW: u64 = 1_795_230_257_007;

#[test]
fn allowed_rows_need_no_reasons() {
    let rows = &fixed()[..1];
    let expected = "\
SOURCE    DESTINATION  SERVICE           PROTO  ENDPOINT       LAYER   VERDICT  STATE          AGE    SENT  RECEIVED   SRTT  RETRANS
shop/web  shop/ledger  shop/ledger:8080  tcp    10.0.0.3:8080  kernel  allowed  established  12.0s  1.5KiB   50.0MiB  120µs        1
";
    assert_eq!(table(rows, Columns::Normal, PLAIN, NOW), expected);
}

#[test]
fn a_denied_row_names_the_policy() {
    let expected = "\
SOURCE                    DESTINATION  SERVICE           PROTO  ENDPOINT       LAYER        VERDICT  STATE          AGE    SENT  RECEIVED   SRTT  RETRANS  POLICY                           REASON
shop/web                  shop/ledger  shop/ledger:8080  tcp    10.0.0.3:8080  kernel       allowed  established  12.0s  1.5KiB   50.0MiB  120µs        1  AuthorizationPolicy shop/ledger  -
shop/intruder             shop/ledger  shop/ledger:8080  tcp    -              kernel       denied   refused       7.0s      0B        0B      -        0  AuthorizationPolicy shop/ledger  POLICY_DENIED
outside(192.0.2.7:51000)  shop/ledger  -                 tcp    10.0.0.3:8080  before-mesh  -        established      -  1.5KiB   50.0MiB  120µs        1  -                                BEFORE_MESH
";
    assert!(fixed().iter().any(explains));
    assert_eq!(table(&fixed(), Columns::Reasons, PLAIN, NOW), expected);
}

#[test]
fn wide_has_a_reason_in_every_empty_cell() {
    let expected = "\
SOURCE                    DESTINATION  SERVICE           PROTO  ENDPOINT          LAYER        VERDICT         STATE                   AGE    SENT  RECEIVED              SRTT  RETRANS  POLICY                           REASON         ID         SOURCE_ADDRESS   AUTHN           IDENTITIES                                                                                    CONNECT        DURATION  DIALED          DELIVERED              SHORTCUT  SEGS  CLOSE_REASON   OPENED_AT                 REPORTER     NODE
shop/web                  shop/ledger  shop/ledger:8080  tcp    10.0.0.3:8080     kernel       allowed         established           12.0s  1.5KiB   50.0MiB             120µs        1  AuthorizationPolicy shop/ledger  -              demo/4711  10.0.0.2:40000   cgroup          spiffe://cluster.local/ns/shop/sa/web→spiffe://cluster.local/ns/shop/sa/ledger                   85µs           12.0s  10.96.0.1:8080     1.5KiB                2.0KiB   200  -(STILL_OPEN)  2026-11-21T03:04:05.007Z  source       demo
shop/intruder             shop/ledger  shop/ledger:8080  tcp    -(POLICY_DENIED)  kernel       denied          refused                7.0s      0B        0B  -(POLICY_DENIED)        0  AuthorizationPolicy shop/ledger  POLICY_DENIED  demo/4712  10.0.0.9:0       cgroup          spiffe://cluster.local/ns/shop/sa/intruder→spiffe://cluster.local/ns/shop/sa/ledger  -(POLICY_DENIED)            <1ms  10.96.0.1:8080         0B  -(SHORTCUT_BLOCKING)     0  POLICY_DENIED  2026-11-21T03:04:10.000Z  source       demo
outside(192.0.2.7:51000)  shop/ledger  -(BEFORE_MESH)    tcp    10.0.0.3:8080     before-mesh  -(BEFORE_MESH)  established  -(BEFORE_MESH)  1.5KiB   50.0MiB             120µs        1  -(BEFORE_MESH)                   BEFORE_MESH    demo/17    192.0.2.7:51000  -(BEFORE_MESH)  -(NOT_A_WORKLOAD)→spiffe://cluster.local/ns/shop/sa/ledger                             -(BEFORE_MESH)  -(BEFORE_MESH)  -(BEFORE_MESH)     1.5KiB                    0B   200  -(STILL_OPEN)  -(BEFORE_MESH)            destination  demo
";
    assert_eq!(table(&fixed(), Columns::Wide, PLAIN, NOW), expected);
}

#[test]
fn every_reason_shown_is_registered() {
    let wide = table(&fixed(), Columns::Wide, PLAIN, NOW);
    for shown in wide.split("-(").skip(1) {
        let name = shown.split(')').next().expect("split gives one");
        let known = underpass_abi::reason::CODES.iter().any(|c| c.name == name);
        assert!(known, "{name}");
    }
}

#[test]
fn a_refusal_is_red_on_a_terminal() {
    let look = Look {
        headers: false,
        color: true,
    };
    let text = table(&fixed()[1..2], Columns::Reasons, look, NOW);
    assert!(text.contains("\x1b[31mdenied\x1b[0m"), "{text:?}");
}
