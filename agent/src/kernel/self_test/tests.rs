use std::{borrow::Cow, fs, path::Path};

use super::*;
use crate::kernel::{KernelOptions, object, pins::Pins};

/// Runs `f` with a bench that has the verdict program or not.
fn with_bench(name: &str, verdict: bool, f: impl Fn(&Bench)) {
    let options = KernelOptions {
        pin_dir: format!("/sys/fs/bpf/underpass-{name}-{}", std::process::id()).into(),
        ..KernelOptions::default()
    };
    let kernel = btf::Btf::read(Path::new(btf::VMLINUX)).unwrap();
    let source = Source {
        object: Cow::Owned(object::bytes(&options).unwrap().into_owned()),
        offsets: btf::offsets(&kernel).unwrap(),
        shortcut: btf::shortcut_offsets(&kernel).unwrap(),
        pins: Pins::make(&options).unwrap(),
    };
    let _ = fs::remove_dir_all(&options.pin_dir);
    let mut bench = Bench::bare(&source, &kernel).unwrap();
    if verdict {
        bench.attach(program::SK_SKB, Attach::SK_SKB).unwrap();
    } else {
        bench.redirect |= switch::WITHOUT_VERDICT;
    }
    bench.attach(program::SK_MSG, Attach::SK_MSG).unwrap();
    f(&bench);
}

#[test]
fn this_kernel_passes() {
    with_bench("good", true, |bench| {
        for test in [queue_length, mixed_paths, end_of_file, memory] {
            assert_eq!(test(bench), Ok(()));
        }
    });
}

#[test]
fn a_reader_whose_queue_is_not_shared_fails() {
    with_bench("control", false, |bench| {
        let error = mixed_paths(bench).unwrap_err();
        assert!(error.contains("no edge while"), "{error}");
    });
}
