//! The last good version of each manifest, kept in the state directory: if a file is broken when the
//! agent starts, what it said before stays in force.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use underpass_abi::reason::code;

use crate::{log, problem::Problem};

/// One mesh directory's files.
#[derive(Debug)]
pub struct LastGood {
    dir: PathBuf,
}

impl LastGood {
    /// `mesh` tells apart agents that share a state directory.
    pub fn open(state: &Path, mesh: &Path) -> Result<Self, Problem> {
        let mesh = mesh.canonicalize().unwrap_or_else(|_| mesh.to_owned());
        let dir = state
            .join("last-good")
            .join(mesh.to_string_lossy().replace(['/', '\0'], "_"));
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(|e| Problem::error(code::STATE_DIR, format!("{}: {e}", dir.display()), ""))?;
        Ok(Self { dir })
    }

    /// Name and text of each file.
    pub fn load(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match fs::read_to_string(entry.path()) {
                // An empty file is what a crash can leave; a manifest without objects says nothing.
                Ok(text) if !name.starts_with('.') && !text.is_empty() => files.push((name, text)),
                _ => {}
            }
        }
        files.sort_unstable();
        files
    }

    pub fn keep(&self, name: &str, text: &str) {
        let write = || {
            let new = self.dir.join(format!(".{name}.new"));
            fs::write(&new, text)?;
            fs::rename(new, self.dir.join(name))
        };
        self.warn(write());
    }

    pub fn forget(&self, name: &str) {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.warn(Err(error)),
            _ => {}
        }
    }

    fn warn(&self, result: io::Result<()>) {
        if let Err(error) = result {
            let text = format!("{}: {error}", self.dir.display());
            log::warn(
                code::STATE_DIR,
                &Problem::error(code::STATE_DIR, text, "").to_string(),
            );
        }
    }
}

/// Removes everything that agents kept below `state`. True if there was something.
pub fn remove(state: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(state.join("last-good")) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_replaces_and_forgets() {
        let state = std::env::temp_dir().join(format!("up-last-good-{}", std::process::id()));
        let kept = LastGood::open(&state, Path::new("/etc/mesh")).unwrap();
        kept.keep("a.yaml", "one");
        kept.keep("b.yaml", "two");
        kept.keep("a.yaml", "three");
        kept.forget("b.yaml");
        kept.forget("never.yaml");
        let other = LastGood::open(&state, Path::new("/etc/other")).unwrap();
        assert_eq!(other.load(), []);
        let again = LastGood::open(&state, Path::new("/etc/mesh")).unwrap();
        assert_eq!(again.load(), [("a.yaml".to_owned(), "three".to_owned())]);
        assert!(remove(&state).unwrap());
        assert!(!remove(&state).unwrap());
        fs::remove_dir_all(state).unwrap();
    }
}
