//! Filters, and the command line as a whole.

use clap::CommandFactory as _;
use underpass_api::v1alpha1::ConnectionFilter;

use super::*;
use crate::error::CliError;

fn conns(args: &[&str]) -> Result<(ConnectionFilter, ServiceFilter), CliError> {
    let all = ["underpass", "conns"].iter().chain(args);
    match Options::try_parse_from(all).expect("flags are known").verb {
        Verb::Conns(conns) => conns.filter(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Options::command().debug_assert();
}

#[test]
fn planned_verbs_are_in_the_help() {
    let help = Options::command().render_long_help().to_string();
    for verb in PLANNED {
        assert!(help.contains(verb), "{verb}");
        assert!(
            Options::command().find_subcommand(verb).is_none(),
            "{verb} is built"
        );
    }
}

#[test]
fn every_form_of_a_peer_is_taken() {
    for peer in [
        "shop/web", "shop/", "web", "host", "outside", "10.0.0.1", "fd00::1", "",
    ] {
        let (filter, _) = conns(&["--from", peer, "--to", peer]).expect(peer);
        assert_eq!((filter.from.as_str(), filter.to.as_str()), (peer, peer));
    }
}

#[test]
fn what_is_no_filter_is_refused_with_its_code() {
    for args in [
        ["--from", "shop/web/1"],
        ["--from", "Shop"],
        ["--to", "/web"],
        ["--to", "10.0.0.1:80"],
        ["--service", "shop/"],
        ["--service", "ledger:http"],
        ["--verdict", "maybe"],
        ["--state", "Open"],
        ["--namespace", "shop/web"],
    ] {
        let error = conns(&args).expect_err(args[1]);
        assert!(
            error.to_string().starts_with("UP0501 BAD_FILTER: "),
            "{error}"
        );
        assert!(error.to_string().contains(args[1]), "{error}");
        assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
    }
}

#[test]
fn a_service_is_taken_as_the_table_prints_it() {
    let (filter, service) = conns(&["--service", "shop/ledger:8080"]).expect("a service");
    assert_eq!(filter.service, "shop/ledger");
    assert!(service.matches("shop/ledger:8080") && !service.matches("shop/ledger:80"));
    assert!(service.matches("shop/ledger:8080/tcp"));
    assert!(ServiceFilter::default().matches("anything"));
}

#[test]
fn a_namespace_fits_either_end() {
    let namespace = Namespace {
        namespace: Some("shop".into()),
        all_namespaces: false,
    };
    assert!(namespace.matches(["host", "shop/web"]));
    assert!(!namespace.matches(["host", "shopping/web", "shop"]));
}
