//! What is dialed, and by whom.

use super::*;

#[test]
fn a_service_or_an_address_is_named_with_its_port() {
    let parse = |text: &str| Named::parse(text).ok();
    let service = |name: &str, port| Some(Named::Service(name.to_owned(), port));
    assert_eq!(parse("shop/ledger:80"), service("shop/ledger", 80));
    assert_eq!(parse("ledger:80"), service("ledger", 80));
    let address = "10.0.0.7:80".parse().map(Named::Address).ok();
    assert_eq!(parse("10.0.0.7:80"), address);
    assert!(matches!(parse("[fd00::7]:80"), Some(Named::Address(_))));
    for bad in ["ledger", "shop/ledger", ":80", "a b:80", "ledger:http", ""] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn the_client_inside_is_the_services_neighbor_unless_told() {
    let who = |asked, service| identity(asked, service).ok();
    let of = |namespace: &str, account: &str| Some((namespace.to_owned(), account.to_owned()));
    assert_eq!(who(None, Some("shop/ledger")), of("shop", "default"));
    assert_eq!(
        who(Some("ops/probe"), Some("shop/ledger")),
        of("ops", "probe")
    );
    assert_eq!(who(None, None), None);
    assert_eq!(who(Some("probe"), Some("shop/ledger")), None);
}
