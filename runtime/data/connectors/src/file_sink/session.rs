//! Sessions of a slot: the fence of the file sink.
//!
//! A slot has exactly one session directory, `sessions/<k>`. Files are staged in it and published out of it by a rename
//! that names it. Opening a session renames the directory from `k` to `k + 1`: in one step the old session loses the
//! only path by which it can publish, and of two openers one wins and the other looks again. Numbers only grow and
//! there is one directory, so a number never comes back, however long an opener slept between looking and renaming.
//!
//! One gap is left: the kernel may have resolved `sessions/<k>` for a call just before the directory moved, and carry
//! the call out in the moved directory. A writer makes one call at a time, so it is one late call:
//!
//! - a publishing rename still looks for its file, and the opener empties the directory before it reads any marker:
//!   either the file is gone and the late rename fails, or it was published before and is read;
//! - a late creation or removal meets no file of the new session, because staged names hold the number of theirs.
//!
//! No lock is taken: a writer that is stopped at any point holds up nobody.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::names::SlotDirectory;
use crate::error::ConnectorError;

/// How often an opener that lost to another one looks again.
const TRIES: usize = 1_000;

/// The right to publish, until somebody opens the next session.
#[derive(Debug)]
pub(super) struct Session {
    path: PathBuf,
    number: u64,
    staged: u64,
}

impl Session {
    /// Opens the next session of the slot and ends every earlier one.
    ///
    /// # Errors
    /// `Fenced` when somebody else opened a session meanwhile; `Transient` when the operating system refuses.
    pub(super) fn open(slot: &SlotDirectory) -> Result<Self, ConnectorError> {
        let object = || slot.path().display().to_string();
        for _ in 0..TRIES {
            let claimed = claim(slot).map_err(ConnectorError::io(object(), "opening a session"))?;
            let Some(session) = claimed else {
                continue;
            };
            return match empty(&session.path) {
                Ok(()) => Ok(session),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(ConnectorError::Fenced { object: object() })
                }
                Err(error) => Err(ConnectorError::io(object(), "fencing")(error)),
            };
        }
        Err(ConnectorError::Unavailable {
            object: object(),
            reason: format!("other writers opened a session first, {TRIES} times"),
        })
    }

    /// The path of the next file to stage: no other file of any session has its name.
    pub(super) fn stage(&mut self) -> PathBuf {
        self.staged += 1;
        self.path.join(format!("{}-{}", self.number, self.staged))
    }
}

/// Tries to move on to the next session; `None` = somebody else was quicker.
fn claim(slot: &SlotDirectory) -> io::Result<Option<Session>> {
    let Some(number) = current(slot)? else {
        return Ok(None);
    };
    let session = Session {
        path: slot.session(number + 1),
        number: number + 1,
        staged: 0,
    };
    match fs::rename(slot.session(number), &session.path) {
        Ok(()) => Ok(Some(session)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of the session directory; `None` when it moved while being looked for. Creates a missing slot.
fn current(slot: &SlotDirectory) -> io::Result<Option<u64>> {
    let entries = match fs::read_dir(slot.sessions()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(slot)?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut newest = None;
    for entry in entries {
        let name = entry?.file_name();
        newest = newest.max(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(newest)
}

/// Makes the slot with its session 0 appear in one step. Does nothing when it is there.
///
/// Nobody else knows the prepared directory, so nothing can be created in it after it has become the slot.
fn create(slot: &SlotDirectory) -> io::Result<()> {
    let prepared = create_unused(slot)?;
    fs::create_dir_all(prepared.join("sessions").join("0"))?;
    match fs::rename(&prepared, slot.path()) {
        // A directory is never replaced by one while it holds anything, and a slot always holds its sessions.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&prepared),
        other => other,
    }
}

fn create_unused(slot: &SlotDirectory) -> io::Result<PathBuf> {
    let mut at = 0;
    loop {
        let path = slot.prepared(at);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => at += 1,
            made => return made.map(|()| path),
        }
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        match fs::remove_file(entry?.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use highwater_types::{Lineage, OperatorUid, SubtaskIndex};

    use super::*;

    fn slot(directory: &Path) -> SlotDirectory {
        let uid = OperatorUid::parse("out").unwrap();
        SlotDirectory::new(directory, Lineage(1), &uid, SubtaskIndex(0))
    }

    #[test]
    fn t23_a_new_session_takes_the_path_of_the_old_one_away() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let mut old = Session::open(&slot).unwrap();
        let staged = old.stage();
        fs::write(&staged, "x").unwrap();
        let new = Session::open(&slot).unwrap();
        assert!(fs::rename(staged, directory.path().join("a")).is_err());
        assert!(fs::write(old.stage(), "x").is_err());
        assert_eq!(fs::read_dir(&new.path).unwrap().count(), 0);
        assert_eq!(fs::read_dir(slot.sessions()).unwrap().count(), 1);
    }

    #[test]
    fn names_of_two_sessions_never_meet_in_the_moved_directory() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let mut old = Session::open(&slot).unwrap();
        let old_names: Vec<_> = (0..20).map(|_| old.stage()).collect();
        let mut new = Session::open(&slot).unwrap();
        for path in (0..20).map(|_| new.stage()) {
            assert!(
                old_names
                    .iter()
                    .all(|old| old.file_name() != path.file_name())
            );
        }
    }

    #[test]
    fn an_opener_that_looked_long_ago_does_not_get_an_old_number() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        drop(Session::open(&slot).unwrap());
        let looked = current(&slot).unwrap().unwrap();
        let mut newer = Session::open(&slot).unwrap();
        let late = fs::rename(slot.session(looked), slot.session(looked + 1));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(newer.stage(), "x").unwrap();
    }

    #[test]
    fn a_late_creation_of_the_slot_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let mut session = Session::open(&slot).unwrap();
        create(&slot).unwrap();
        assert!(!slot.prepared(0).exists());
        fs::write(session.stage(), "x").unwrap();
    }

    #[test]
    fn racing_openers_leave_one_session_and_it_is_the_last_one() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let slot = slot(directory.path());
            let open = || {
                let tries = (0..10).map(|_| Session::open(&slot));
                let lost = |error: &ConnectorError| matches!(error, ConnectorError::Fenced { .. });
                let opened = tries.filter(|opened| !opened.as_ref().is_err_and(lost));
                opened.collect::<Result<Vec<_>, _>>()
            };
            let opened: Vec<Session> = std::thread::scope(|scope| {
                let openers: Vec<_> = (0..3).map(|_| scope.spawn(open)).collect();
                let joined = openers.into_iter().map(|opener| opener.join().unwrap());
                joined.flat_map(Result::unwrap).collect()
            });
            let stage = |mut session: Session| fs::write(session.stage(), "x").is_ok();
            let live = opened
                .into_iter()
                .filter_map(|session| stage(session).then_some(()));
            assert_eq!(live.count(), 1);
            let left = fs::read_dir(slot.sessions()).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["30"], "every opener moved the directory once");
        }
    }
}
