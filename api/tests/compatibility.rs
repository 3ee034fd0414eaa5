//! The descriptor may only grow: nothing that a released client could rely on is removed, renumbered
//! or retyped. After an addition: `UNDERPASS_UPDATE=1 cargo test -p underpass-api`.

use std::{collections::BTreeSet, path::PathBuf};

use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// One line per fact that a client may rely on.
fn listing(set: &[u8]) -> BTreeSet<String> {
    use prost::Message as _;
    let set = FileDescriptorSet::decode(set).expect("build.rs wrote it");
    let mut lines = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            message_lines(
                &mut lines,
                &format!("{package}.{}", message.name()),
                message,
            );
        }
        for service in &file.service {
            for method in &service.method {
                lines.insert(format!(
                    "rpc {package}.{}.{}({}{}) returns ({}{})",
                    service.name(),
                    method.name(),
                    if method.client_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    method.input_type(),
                    if method.server_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    method.output_type(),
                ));
            }
        }
        assert!(
            file.enum_type.is_empty(),
            "enums are not in the listing yet: add them"
        );
    }
    lines
}

fn message_lines(lines: &mut BTreeSet<String>, path: &str, message: &DescriptorProto) {
    for field in &message.field {
        let label = match field.label() {
            _ if field.proto3_optional() => "optional",
            Label::Repeated => "repeated",
            Label::Optional | Label::Required => "plain",
        };
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().to_owned(),
            scalar => scalar
                .as_str_name()
                .trim_start_matches("TYPE_")
                .to_lowercase(),
        };
        lines.insert(format!(
            "message {path} {:>3} {} {kind} {label}",
            field.number(),
            field.name()
        ));
    }
    for nested in &message.nested_type {
        message_lines(lines, &format!("{path}.{}", nested.name()), nested);
    }
}

/// What `committed` promises and `now` does not keep.
fn broken<'a>(committed: &'a BTreeSet<String>, now: &'a BTreeSet<String>) -> Vec<&'a String> {
    committed.difference(now).collect()
}

#[test]
fn descriptor_is_compatible_with_the_committed_one() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("descriptor.txt");
    let now = listing(underpass_api::FILE_DESCRIPTOR_SET);
    let committed: BTreeSet<String> = std::fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    let broken = broken(&committed, &now);
    assert!(
        broken.is_empty(),
        "removed, renumbered or retyped: {broken:#?}\n\
         Clients of a release rely on these. Before the first release only: delete them from {}.",
        path.display(),
    );
    if std::env::var_os("UNDERPASS_UPDATE").is_some() {
        let mut text = now.iter().cloned().collect::<Vec<_>>().join("\n");
        text.push('\n');
        std::fs::write(&path, text).expect("the source tree is writable");
        return;
    }
    let added: Vec<_> = now.difference(&committed).collect();
    assert!(
        added.is_empty(),
        "not in {}: {added:#?}\nRun UNDERPASS_UPDATE=1 cargo test -p underpass-api",
        path.display(),
    );
}

#[test]
fn a_renumbered_field_is_noticed() {
    let now = listing(underpass_api::FILE_DESCRIPTOR_SET);
    let line = now
        .iter()
        .find(|l| l.contains("Peer   1 workload"))
        .expect("Peer.workload is field 1");
    let mut committed = now.clone();
    committed.remove(line);
    let moved = line.replace("  1 workload", "  9 workload");
    committed.insert(moved.clone());
    assert_eq!(broken(&committed, &now), [&moved]);
}
