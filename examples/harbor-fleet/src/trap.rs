//! A panic on demand: how a test sees that a job outlives a bug of its own code.
//!
//! The job is told of a file by the parameter `trap`. While the file holds the name of a place, the next record that comes
//! there panics, once in all processes of the job: whoever removes the file is the one. Without the parameter nothing is
//! looked at.

use std::path::Path;
use std::sync::Arc;

use highwater::prelude::StreamEnvironment;

/// Where the job may be told to panic.
#[derive(Clone, Debug, Default)]
pub struct Trap(Option<Arc<Path>>);

impl Trap {
    /// The one that the parameter `trap` names, or none.
    pub fn of(env: &StreamEnvironment) -> Self {
        Self(env.parameter("trap").map(|file| Arc::from(Path::new(file))))
    }

    /// Goes on, unless the trap is set at `place`.
    ///
    /// # Panics
    /// If it is, once.
    pub fn spring(&self, place: &str) {
        let Some(file) = &self.0 else { return };
        let is_set = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == place);
        assert!(
            !(is_set && std::fs::remove_file(file).is_ok()),
            "the trap at {place} was sprung"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn springs(trap: &Trap, place: &str) -> bool {
        catch_unwind(AssertUnwindSafe(|| trap.spring(place))).is_err()
    }

    #[test]
    fn a_trap_springs_once_and_only_where_it_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trap");
        let trap = Trap(Some(Arc::from(file.as_path())));
        assert!(!springs(&trap, "operator"), "there is no file");
        std::fs::write(&file, "lookup\n").unwrap();
        assert!(!springs(&trap, "operator"));
        assert!(springs(&trap, "lookup"));
        assert!(!springs(&trap, "lookup"));
        assert!(!springs(&Trap::default(), "lookup"));
    }
}
