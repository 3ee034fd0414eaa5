//! Arguments, and golden text.

use super::*;

const PLAIN: Look = Look {
    headers: true,
    color: false,
};

fn fixed() -> Document {
    let item = |endpoint: &str, verdict: &str, policy: &str, reason: &str| api::Explanation {
        endpoint: endpoint.into(),
        verdict: verdict.into(),
        policy: policy.into(),
        reason: reason.into(),
        outbound_layer: "kernel".into(),
        outbound_reason: "NO_L7_NEEDED (Namespace shop)".into(),
        inbound_layer: "kernel".into(),
        inbound_reason: "AuthorizationPolicy shop/ledger".into(),
    };
    let answer = api::ExplainResponse {
        source: "shop/web".into(),
        destination: "shop/ledger:8080/tcp".into(),
        items: vec![
            item("shop/ledger-1", "allowed", "", ""),
            item(
                "shop/ledger-2",
                "denied",
                "AuthorizationPolicy shop/ledger",
                "POLICY_DENIED",
            ),
        ],
    };
    Document::new(answer, 8080, "tcp".into())
}

#[test]
fn text_names_what_caused_each_choice() {
    let expected = "\
shop/web → shop/ledger:8080/tcp

endpoint  shop/ledger-1
verdict   allowed
policy    -(NOTHING_TO_DECIDE)
outbound  kernel  NO_L7_NEEDED (no object asks for more than the kernel layer), by Namespace shop
inbound   kernel  AuthorizationPolicy shop/ledger

endpoint  shop/ledger-2
verdict   denied
policy    AuthorizationPolicy shop/ledger
reason    POLICY_DENIED (an authorization policy does not allow this source)
outbound  kernel  NO_L7_NEEDED (no object asks for more than the kernel layer), by Namespace shop
inbound   kernel  AuthorizationPolicy shop/ledger
";
    assert_eq!(text(&fixed(), false, PLAIN), expected);
}

#[test]
fn the_layer_http_names_what_asks_for_it_on_both_sides() {
    let answer = api::ExplainResponse {
        source: "shop/web".into(),
        destination: "shop/ledger:80/tcp".into(),
        items: vec![api::Explanation {
            endpoint: String::new(),
            verdict: "allowed".into(),
            policy: "AuthorizationPolicy shop/callers".into(),
            reason: String::new(),
            outbound_layer: "http".into(),
            outbound_reason: "ROUTE_ATTACHED (HTTPRoute shop/split)".into(),
            inbound_layer: "kernel".into(),
            inbound_reason: "NO_DOOR (AuthorizationPolicy shop/callers)".into(),
        }],
    };
    let document = Document::new(answer, 80, "tcp".into());
    let expected = "\
shop/web → shop/ledger:80/tcp

verdict   allowed
policy    AuthorizationPolicy shop/callers
outbound  http    ROUTE_ATTACHED (an HTTPRoute is attached to the service, so that a worker routes each request), by HTTPRoute shop/split
inbound   kernel  NO_DOOR (the layer Http is asked for, and no worker listens in the workload's network namespace (yet); rules about requests allow nothing meanwhile), by AuthorizationPolicy shop/callers
";
    assert_eq!(text(&document, false, PLAIN), expected);
    assert!(text(&document, true, PLAIN).contains("; try: is underpass-vend running?"));
    let json: serde_json::Value = serde_json::from_str(&render::json(&document)).expect("JSON");
    let side = &json["items"][0]["outbound"];
    assert_eq!(side["layer"], "http");
    assert_eq!(side["reason"], "ROUTE_ATTACHED (HTTPRoute shop/split)");
}

#[test]
fn the_header_has_the_port_once() {
    for (destination, protocol, shown) in [
        ("shop/ledger:80/tcp", "tcp", "shop/ledger:80/tcp"),
        ("shop/ledger:53", "udp", "shop/ledger:53/udp"),
        ("[fd00::7]:80", "tcp", "[fd00::7]:80/tcp"),
    ] {
        let answer = api::ExplainResponse {
            source: "host".into(),
            destination: destination.into(),
            items: vec![],
        };
        let document = Document::new(answer, 80, protocol.into());
        assert_eq!(text(&document, false, PLAIN), format!("host → {shown}\n"));
    }
}

#[test]
fn wide_says_what_to_do() {
    assert!(text(&fixed(), true, PLAIN).contains("; try: `underpass explain"));
}

#[test]
fn destinations_are_taken_apart() {
    for (text, name, port, protocol) in [
        ("shop/ledger:8080", "shop/ledger", 8080, "tcp"),
        ("ledger:80/tcp", "ledger", 80, "tcp"),
        ("10.0.0.7:53/udp", "10.0.0.7", 53, "udp"),
        ("[fd00::7]:80", "fd00::7", 80, "tcp"),
    ] {
        let request = request("host", text).expect(text);
        let got = (
            request.destination.as_str(),
            request.port,
            request.protocol.as_str(),
        );
        assert_eq!(got, (name, port, protocol));
    }
}

#[test]
fn what_is_no_destination_is_refused_with_its_code() {
    for text in [
        "shop/ledger",
        "ledger:0",
        "ledger:http",
        "fd00::7:80",
        ":80",
        "a/b/c:80",
        "[x]:1",
    ] {
        let error = request("host", text).expect_err(text);
        assert!(
            error.to_string().starts_with("UP0503 BAD_ARGUMENT: "),
            "{error}"
        );
        assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
    }
    assert!(request("shop/", "ledger:80").is_err());
    let error = request("outside", "ledger:80").expect_err("many");
    assert!(error.to_string().contains("name one address"), "{error}");
}
