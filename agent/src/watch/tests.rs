use std::os::unix::fs::symlink;

use super::*;

/// A directory of its own that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("up-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn content(name: &str, text: &str) -> FileChange {
    FileChange::Content {
        name: name.into(),
        text: text.into(),
    }
}

#[test]
fn reads_only_what_changed() {
    let dir = Dir::new("changed");
    dir.write("a.yaml", "1");
    dir.write("b.yml", "2");
    dir.write(".hidden.yaml", "x");
    dir.write("notes.txt", "x");
    let mut watch = Watch::open(&dir.0).unwrap();
    assert_eq!(
        watch.sweep(),
        [content("a.yaml", "1"), content("b.yml", "2")]
    );
    assert_eq!(watch.sweep(), []);
    dir.write("b.yml", "three");
    assert_eq!(watch.changes(), [content("b.yml", "three")]);
    assert_eq!(watch.changes(), []);
    fs::remove_file(dir.0.join("a.yaml")).unwrap();
    assert_eq!(
        watch.changes(),
        [FileChange::Removed {
            name: "a.yaml".into()
        }]
    );
}

#[test]
fn an_editors_rename_is_one_change() {
    let dir = Dir::new("rename");
    dir.write("a.yaml", "old");
    let mut watch = Watch::open(&dir.0).unwrap();
    watch.sweep();
    dir.write(".a.yaml.swp", "new");
    fs::rename(dir.0.join(".a.yaml.swp"), dir.0.join("a.yaml")).unwrap();
    assert_eq!(watch.changes(), [content("a.yaml", "new")]);
}

#[test]
fn a_config_map_swaps_its_data_link() {
    let dir = Dir::new("configmap");
    for (generation, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(dir.0.join(generation)).unwrap();
        dir.write(&format!("{generation}/mesh.yaml"), text);
    }
    symlink("..1", dir.0.join("..data")).unwrap();
    symlink("..data/mesh.yaml", dir.0.join("mesh.yaml")).unwrap();
    let mut watch = Watch::open(&dir.0).unwrap();
    assert_eq!(watch.sweep(), [content("mesh.yaml", "one")]);
    symlink("..2", dir.0.join("..data_tmp")).unwrap();
    fs::rename(dir.0.join("..data_tmp"), dir.0.join("..data")).unwrap();
    assert_eq!(watch.changes(), [content("mesh.yaml", "two")]);
}

#[test]
fn what_cannot_be_read_is_a_problem_and_changes_nothing() {
    let dir = Dir::new("problem");
    dir.write("a.yaml", "good");
    let mut watch = Watch::open(&dir.0).unwrap();
    watch.sweep();
    fs::write(dir.0.join("a.yaml"), [0xff, 0xfe]).unwrap();
    assert_eq!(watch.changes(), []);
    let problem = watch.problems().next().expect("one problem");
    assert_eq!(
        (problem.code, problem.place.as_str()),
        (code::UNREADABLE, "a.yaml")
    );
    let big = fs::File::create(dir.0.join("b.yaml")).unwrap();
    big.set_len(MAX_FILE + 1).unwrap();
    drop(big);
    assert_eq!(watch.changes(), []);
    assert!(
        watch
            .problems()
            .any(|p| p.code == code::TOO_LARGE && p.place == "b.yaml")
    );
    dir.write("a.yaml", "better");
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    assert_eq!(watch.changes(), [content("a.yaml", "better")]);
    assert_eq!(watch.problems().count(), 0);
}

#[test]
fn a_directory_that_vanishes_keeps_its_state_and_may_come_back() {
    let dir = Dir::new("vanish");
    dir.write("a.yaml", "1");
    let mut watch = Watch::open(&dir.0).unwrap();
    watch.sweep();
    let aside = dir.0.with_extension("aside");
    fs::rename(&dir.0, &aside).unwrap();
    assert_eq!(watch.changes(), []);
    assert_eq!(watch.problems().count(), 1);
    fs::create_dir(&dir.0).unwrap();
    dir.write("a.yaml", "2");
    assert_eq!(watch.sweep(), [content("a.yaml", "2")]);
    assert_eq!(watch.problems().count(), 0);
    dir.write("c.yaml", "3");
    assert_eq!(
        watch.changes(),
        [content("c.yaml", "3")],
        "the new directory is watched"
    );
    fs::remove_dir_all(aside).unwrap();
}
