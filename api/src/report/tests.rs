#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use proptest::prelude::*;

use super::*;

fn report(series: usize) -> Report {
    let series = (0..series).map(|n| Series {
        labels: Labels {
            source: "shop/web".into(),
            service: format!("shop/ledger-{n}:80"),
            ..Labels::default()
        },
        serial: 1,
        requests: n as u64,
        responses: vec![Responses {
            outcome: Outcome {
                method: Method::Get,
                status: 200,
                grpc: Some(0),
                code: 0,
                failure: false,
            },
            latency: Histogram {
                sum_ns: 7,
                ..Histogram::default()
            },
            duration: Histogram::default(),
        }],
    });
    Report {
        format: FORMAT,
        instance: u64::MAX,
        series: series.collect(),
        counters: BTreeMap::from([("requests".into(), 3)]),
    }
}

#[test]
fn what_is_written_is_read() {
    let mut sent = report(2);
    sent.series[1].responses[0].latency.counts[35] = 1;
    let mut left_out = 0;
    let bytes = sent.clone().to_bytes(10_000, &mut left_out).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#""method":"GET","status":200,"grpc":0,"code":0,"failure":false,"latency":[7,35,1],"duration":[0]"#), "{text}");
    sent.counters.insert("report_series_left_out".into(), 0);
    assert_eq!(Report::parse(&bytes).unwrap(), sent);
}

#[test]
fn what_does_not_fit_is_left_out_and_counted_the_most_used_stay() {
    let whole = serde_json::to_vec(&report(100)).unwrap().len();
    let mut left_out = 5;
    let bytes = report(100).to_bytes(whole / 3, &mut left_out).unwrap();
    assert!(bytes.len() <= whole / 3);
    let read = Report::parse(&bytes).unwrap();
    assert!(read.series.len() > 20, "{}", read.series.len());
    assert_eq!(left_out, 5 + 100 - read.series.len() as u64);
    assert_eq!(read.counters["report_series_left_out"], left_out);
    let least = read.series.iter().map(|s| s.requests).min().unwrap();
    assert_eq!(least, 100 - read.series.len() as u64);
    assert_eq!(report(1).to_bytes(10, &mut 0), None);
}

/// A report as JSON with something else in one place.
fn altered(from: &str, to: &str) -> Result<Report, Invalid> {
    let text = serde_json::to_string(&report(1)).unwrap();
    assert!(text.contains(from), "{text}");
    Report::parse(text.replacen(from, to, 1).as_bytes())
}

#[test]
fn hostile_reports_are_refused() {
    let long = format!(r#""source":"{}""#, "a".repeat(LABEL_BYTES + 1));
    let many = ["[]"; 5].join(",");
    for (from, to, why) in [
        (r#""format":1"#, r#""format":2"#, Invalid::Format(2)),
        (r#""source":"shop/web""#, &*long, Invalid::Text),
        (r#""shop/web""#, r#""a\nb""#, Invalid::Text),
        (r#""shop/web""#, r#""a\"b""#, Invalid::Text),
        (r#""shop/web""#, r#""ä""#, Invalid::Text),
        (r#""shop/web""#, r#""a b""#, Invalid::Text),
        (r#""requests":3"#, r#""Requests":3"#, Invalid::Text),
        (r#""requests":3"#, r#""":3"#, Invalid::Text),
        (r#""status":200"#, r#""status":600"#, Invalid::Value),
        (r#""status":200"#, r#""status":99"#, Invalid::Value),
        (r#""grpc":0"#, r#""grpc":17"#, Invalid::Value),
        (r#""grpc":0"#, r#""grpc":-1"#, Invalid::Form),
        (r#""GET""#, r#""get""#, Invalid::Form),
        (r#""outbound""#, r#""sideways""#, Invalid::Form),
        (r#""latency":[7]"#, r#""latency":[]"#, Invalid::Form),
        (r#""latency":[7]"#, r#""latency":[7,36,1]"#, Invalid::Form),
        (
            r#""latency":[7]"#,
            r#""latency":[7,3,1,3,1]"#,
            Invalid::Form,
        ),
        (r#""latency":[7]"#, r#""latency":[7,3]"#, Invalid::Form),
        (
            r#""latency":[7]"#,
            &*format!(r#""latency":[{many}]"#),
            Invalid::Form,
        ),
        (r#""instance":"#, r#""instance":-"#, Invalid::Form),
    ] {
        assert_eq!(altered(from, to).unwrap_err(), why, "{to}");
    }
    assert_eq!(Report::parse(b"").unwrap_err(), Invalid::Form);
    let deep = "[".repeat(100_000);
    assert_eq!(Report::parse(deep.as_bytes()).unwrap_err(), Invalid::Form);
    // A newer worker may say more.
    assert!(altered(r#""format":1"#, r#""format":1,"added":{}"#).is_ok());
}

#[test]
fn lists_are_bounded() {
    let bytes = |r: &Report| serde_json::to_vec(r).unwrap();
    assert!(Report::parse(&bytes(&report(SERIES_MAX))).is_ok());
    let too_many = Report::parse(&bytes(&report(SERIES_MAX + 1)));
    assert_eq!(too_many.unwrap_err(), Invalid::Form);

    let mut wide = report(RESPONSES_TOTAL / RESPONSES_MAX + 1);
    for series in &mut wide.series {
        series.responses = vec![series.responses[0].clone(); RESPONSES_MAX];
    }
    assert_eq!(Report::parse(&bytes(&wide)).unwrap_err(), Invalid::TooMany);
    wide.series.pop();
    assert!(Report::parse(&bytes(&wide)).is_ok());
    let one = wide.series[0].responses[0].clone();
    wide.series[0].responses.push(one);
    assert_eq!(Report::parse(&bytes(&wide)).unwrap_err(), Invalid::Form);

    let mut counters = report(0);
    counters.counters = (0..=COUNTERS_MAX).map(|n| (format!("c{n}"), 0)).collect();
    assert_eq!(Report::parse(&bytes(&counters)).unwrap_err(), Invalid::Form);
}

#[test]
fn responses_are_classified_as_linkerd_does() {
    for (status, grpc, failure) in [
        (200, None, false),
        (404, None, false),
        (499, None, false),
        (500, None, true),
        (599, None, true),
        (0, None, true),
        (200, Some(0), false),
        (200, Some(2), true),
        (200, Some(4), true),
        (200, Some(5), false),
        (200, Some(7), true),
        (200, Some(13), true),
        (200, Some(14), true),
        (200, Some(15), true),
        (200, Some(16), false),
        (503, Some(0), true),
    ] {
        assert_eq!(is_failure(status, grpc), failure, "{status} {grpc:?}");
    }
}

#[test]
fn methods_have_their_names() {
    for method in Method::ALL {
        assert_eq!(Method::of(method.name().as_bytes()), method);
        let json = serde_json::to_string(&method).unwrap();
        assert_eq!(json, format!("\"{}\"", method.name()));
    }
    assert_eq!(Method::of(b"get"), Method::Other);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Report::parse(&bytes);
    }

    #[test]
    fn a_report_with_any_byte_changed_is_read_or_refused(
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = serde_json::to_vec(&report(2)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(report) = Report::parse(&bytes) {
            prop_assert!(report.series.iter().all(|s| is_label(&s.labels.service)));
        }
    }
}
