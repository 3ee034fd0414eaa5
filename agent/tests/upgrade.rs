//! Upgrades and half-able kernels: a changed BPF object under load, objects that lack programs, pins of
//! another shape, options that cannot work.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/node.rs"]
mod node;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use underpass_abi::{
    Ip, VERSION,
    reason::code,
    tables::{AliasSlot, Backend, ServiceKey, ServiceWord, SlotHeader, maps},
};
use underpass_agent::{
    kernel::{
        Kernel, KernelOptions, feature,
        feature::{SPLICE_GUARD, SPLICE_WATCH},
    },
    sys::bpf,
};
use underpass_mesh::{Change, Round};

use node::{Node, batch};

/// The built object with one name replaced by another of the same length.
struct Object(PathBuf);

impl Object {
    fn with(from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let built = std::env::var_os("UNDERPASS_BPF_OBJECT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/underpass.o"),
            PathBuf::from,
        );
        let mut bytes = fs::read(built).unwrap();
        let found: Vec<usize> = (0..bytes.len() - from.len())
            .filter(|at| bytes[*at..].starts_with(from.as_bytes()))
            .collect();
        assert!(!found.is_empty(), "{from} is in the object");
        for at in found {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        static OBJECTS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = OBJECTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("underpass-object-{}-{nth}.o", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn options(&self, node: &Node) -> KernelOptions {
        KernelOptions {
            object: Some(self.0.clone()),
            ..node.options.clone()
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const VIP: [u8; 4] = [10, 96, 7, 7];

/// One service at VIP:80 with one endpoint at 127.0.0.1:`port`.
fn one_service(port: u16) -> Change {
    let ip = |v4: [u8; 4]| Ip::from(std::net::IpAddr::from(v4));
    let key = ServiceKey {
        ip: ip(VIP),
        port: 80,
        proto: 6,
        pad: 0,
    };
    let backend = Backend {
        ip: ip([127, 0, 0, 1]),
        port,
        service: 1,
        ..Backend::default()
    };
    let table = [
        (8, SlotHeader::new(1, 0, false).0),
        (9, 0),
        (10, AliasSlot::new(1, 1, 0).0),
    ];
    let fresh = vec![
        batch(maps::BACKENDS, &[(1_u32, backend)]),
        batch(maps::SLOTS, &table.map(|(i, w)| (i as u32, w))),
        batch(maps::SERVICE_IDS, &[(key, 1_u64)]),
    ];
    let words = vec![batch(maps::SERVICES, &[(1_u32, ServiceWord::new(8, 1))])];
    Change {
        rounds: vec![Round {
            fresh,
            words,
            stale: vec![],
        }],
        writes: 6,
    }
}

/// The client of `upgrades_leave_no_gap`: connects to the service until its input ends.
fn client() {
    let (mut done, mut failed) = (0, 0);
    let stop = PathBuf::from(std::env::var_os("CLIENT_STOP").unwrap());
    while !stop.exists() {
        match TcpStream::connect((std::net::Ipv4Addr::from(VIP), 80)) {
            Ok(_) => done += 1,
            Err(_) => failed += 1,
        }
    }
    println!("connects {done} failed {failed}");
}

#[test]
fn upgrades_leave_no_gap() {
    if std::env::var_os("CLIENT_STOP").is_some() {
        return client();
    }
    let node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    node.open()
        .apply(&one_service(listener.local_addr().unwrap().port()))
        .unwrap();
    thread::spawn(move || while listener.accept().is_ok() {});
    let stop = std::env::temp_dir().join(format!("underpass-stop-{}", std::process::id()));
    let test = std::env::current_exe().unwrap();
    let mut client = node.run(&format!(
        "CLIENT_STOP={} exec {} --exact --nocapture upgrades_leave_no_gap",
        stop.display(),
        test.display()
    ));
    thread::sleep(Duration::from_millis(200));
    // The license string is part of the object but not of the code; the text differs, so each open
    // loads other bytes.
    let changed = Object::with("GPL v2\0", "GPL\0\0\0\0");
    for n in 0..6 {
        let options = if n % 2 == 0 {
            changed.options(&node)
        } else {
            node.options.clone()
        };
        drop(Kernel::open(&options));
        assert_eq!(node.attached(), [1; 10]);
    }
    fs::write(&stop, "").unwrap();
    let report = std::iter::repeat_with(|| client.line())
        .take(20)
        .find(|l| l.starts_with("connects"))
        .expect("the client reports");
    fs::remove_file(&stop).unwrap();
    println!("{report}");
    let numbers: Vec<u32> = report.split(' ').filter_map(|w| w.parse().ok()).collect();
    assert!(numbers[0] > 100 && numbers[1] == 0, "{report}");
}

#[test]
fn an_optional_program_that_fails_turns_its_feature_off_alone() {
    let node = Node::new();
    drop(node.open());
    // The earlier agent had the whole feature; with half of it missing all of it goes.
    let object = Object::with("up_recvmsg6", "xx_recvmsg6");
    let kernel = Kernel::open(&object.options(&node)).unwrap();
    for f in kernel.features().iter().filter(|f| f.name != SPLICE_GUARD) {
        // Nobody listens who could take the shortcut.
        let off = [feature::UDP, SPLICE_WATCH].contains(&f.name);
        assert_eq!(f.on, !off, "{f:?}");
    }
    let udp = kernel
        .features()
        .into_iter()
        .find(|f| f.name == feature::UDP)
        .unwrap();
    assert!(
        udp.code != 0 && udp.detail.contains("up_recvmsg6"),
        "{udp:?}"
    );
    assert_eq!(node.attached().iter().sum::<usize>(), 6);
    drop(kernel);
    let kernel = node.open();
    assert!(
        kernel
            .features()
            .iter()
            .all(|f| f.on || [SPLICE_WATCH, SPLICE_GUARD].contains(&f.name))
    );
    assert_eq!(node.attached(), [1; 10]);
}

#[test]
fn a_mandatory_program_that_fails_leaves_the_old_ones_in_force() {
    let node = Node::new();
    let object = Object::with("up_connect4", "xx_connect4");
    assert_eq!(
        Kernel::open(&object.options(&node)).err().unwrap().code,
        code::NO_OBJECT
    );
    assert_eq!(node.attached(), [0; 10], "nothing is attached by half");
    drop(node.open());
    let error = Kernel::open(&object.options(&node)).err().unwrap();
    assert!(error.detail.contains("up_connect4"), "{error}");
    assert_eq!(node.attached(), [1; 10]);
}

#[test]
fn pins_of_another_shape_are_refused() {
    let node = Node::new();
    drop(node.open());
    let dir = node.options.pin_dir.join(format!("v{VERSION}/maps"));
    let other = bpf::obj_get(&dir.join(maps::WORKLOADS)).unwrap();
    fs::remove_file(dir.join(maps::SETTINGS)).unwrap();
    bpf::obj_pin(&other, &dir.join(maps::SETTINGS)).unwrap();
    let error = Kernel::open(&node.options).err().unwrap();
    assert_eq!(error.code, code::PINS_INCOMPATIBLE, "{error}");
    assert_eq!(node.attached(), [1; 10]);
}

#[test]
fn what_cannot_work_is_refused_with_its_code() {
    let node = Node::new();
    let tmp = std::env::temp_dir().join(format!("underpass-pins-{}", std::process::id()));
    let base = &node.options;
    let cases = [
        (
            KernelOptions {
                pin_dir: tmp,
                ..base.clone()
            },
            code::NO_BPFFS,
        ),
        (
            KernelOptions {
                cgroup_root: Some("/tmp".into()),
                ..base.clone()
            },
            code::NO_CGROUP2,
        ),
        (
            KernelOptions {
                cgroup_root: Some("/nowhere".into()),
                ..base.clone()
            },
            code::NO_CGROUP2,
        ),
        (
            KernelOptions {
                object: Some("/nowhere.o".into()),
                ..base.clone()
            },
            code::NO_OBJECT,
        ),
        (
            KernelOptions {
                object: Some("/etc/passwd".into()),
                ..base.clone()
            },
            code::NO_OBJECT,
        ),
    ];
    for (options, code) in cases {
        let error = Kernel::open(&options).err().unwrap();
        assert_eq!(error.code, code, "{error}");
        println!("{error}");
    }
    assert_eq!(node.attached(), [0; 10]);
}
