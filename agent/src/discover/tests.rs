use super::*;

/// A directory that stands for the cgroup root, removed with the test.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("up-discover-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
    fn make(&self, path: &str) -> u64 {
        fs::create_dir_all(self.0.join(path)).unwrap();
        fs::metadata(self.0.join(path)).unwrap().ino()
    }
    fn discovery(&self) -> Discovery {
        let host = Host {
            cookie: 1,
            file: (0, 0),
        };
        Discovery::new(&self.0, 0, host).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn cgroup(path: &str) -> BTreeMap<Str, Spec> {
    BTreeMap::from([("shop/web".into(), Spec::Cgroup(path.into()))])
}

fn ids(discovery: &Discovery) -> Vec<(u64, u32)> {
    let places = discovery.places();
    places
        .values()
        .flat_map(|p| &p.cgroups)
        .map(|c| (c.id, c.level))
        .collect()
}

#[test]
fn a_cgroup_joins_when_it_appears_and_leaves_when_it_goes() {
    let root = Root::new("appears");
    let mut discovery = root.discovery();
    assert!(!discovery.want(cgroup("a/b/c")));
    assert_eq!(discovery.problems()[0].code, code::CGROUP_MISSING);
    for part in ["a", "a/b"] {
        root.make(part);
        assert!(!discovery.changes(), "{part} is only on the way");
    }
    let id = root.make("a/b/c");
    assert!(discovery.changes());
    assert_eq!(ids(&discovery), [(id, 3)]);
    assert!(discovery.problems().is_empty());
    fs::remove_dir(root.0.join("a/b/c")).unwrap();
    assert!(discovery.changes());
    assert_eq!(ids(&discovery), []);
}

#[test]
fn a_cgroup_that_is_made_again_has_a_new_id() {
    let root = Root::new("again");
    let old = root.make("w");
    let mut discovery = root.discovery();
    assert!(discovery.want(cgroup("w")));
    // Kept, so that the new directory cannot be given the old inode.
    fs::rename(root.0.join("w"), root.0.join("old")).unwrap();
    let new = root.make("w");
    assert_ne!(old, new);
    assert!(discovery.changes());
    assert_eq!(ids(&discovery), [(new, 1)]);
}

#[test]
fn the_sweep_finds_what_no_event_told() {
    let root = Root::new("sweep");
    let mut discovery = root.discovery();
    discovery.want(cgroup("w"));
    let id = root.make("w");
    discovery.drain();
    assert!(discovery.sweep(false));
    assert_eq!(ids(&discovery), [(id, 1)]);
    assert!(!discovery.sweep(false));
}

#[test]
fn a_unit_is_found_in_its_slice_or_by_its_name() {
    let root = Root::new("unit");
    let usual = root.make("system.slice/web.service");
    let nested = root.make("system.slice/system-db.slice/db@1.service");
    let mut discovery = root.discovery();
    let unit = |name: &str| Spec::Unit(name.into());
    discovery.want(BTreeMap::from([
        ("a/db".into(), unit("db@1.service")),
        ("a/web".into(), unit("web.service")),
        ("a/x".into(), unit("x.service")),
    ]));
    assert_eq!(ids(&discovery), [(nested, 3), (usual, 2)]);
    assert_eq!(discovery.problems()[0].code, code::UNIT_MISSING);
    assert_eq!(
        discovery.found_by("a/web"),
        Some(Some("unit web.service".into()))
    );
    assert_eq!(
        (discovery.found_by("a/x"), discovery.found_by("a/y")),
        (Some(None), None)
    );
}

#[test]
fn what_is_below_a_workload_belongs_to_the_deepest_one() {
    let root = Root::new("owners");
    let (outer, inner) = (root.make("w"), root.make("w/x"));
    let deep = root.make("w/x/y");
    let mut discovery = root.discovery();
    discovery.want(BTreeMap::from([
        ("a/inner".into(), Spec::Cgroup("w/x".into())),
        ("a/outer".into(), Spec::Cgroup("w".into())),
    ]));
    let owners = discovery.cgroup_owners();
    let owner = |id| owners.get(&id).map(|n| &**n);
    assert_eq!(
        [owner(outer), owner(inner), owner(deep)],
        [Some("a/outer"), Some("a/inner"), Some("a/inner")]
    );
}

#[test]
fn a_workload_that_is_no_longer_wanted_is_forgotten() {
    let root = Root::new("forget");
    root.make("w");
    let mut discovery = root.discovery();
    discovery.want(cgroup("w"));
    assert!(discovery.want(BTreeMap::new()));
    assert!(discovery.watches.is_empty() && discovery.places().is_empty());
    assert!(!discovery.want(cgroup("../../etc/x")), "nothing there");
}
