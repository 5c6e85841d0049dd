//! Tests of local directories: who owns what, what is reused, what is removed.

use std::os::unix::fs::MetadataExt;

use super::*;

fn job() -> JobIdentity {
    JobIdentity::parse("fleet").unwrap()
}

fn open(root: &Path, nonce: u128) -> LocalDirs {
    LocalDirs::open(root, &job(), Nonce(nonce)).unwrap()
}

/// What a process that was killed leaves: its directory, and a lock that nobody holds.
fn dead(root: &Path, nonce: u128, files: &[(&str, &[u8])]) -> PathBuf {
    let path = root.join("fleet").join(Nonce(nonce).to_string());
    for (name, bytes) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    std::fs::write(lock_of(&path), b"").unwrap();
    path
}

fn offered(dirs: &LocalDirs) -> Vec<String> {
    let mut index = LocalIndex::default();
    dirs.offer(&mut index);
    index.0.into_keys().map(|(name, _)| name).collect()
}

fn wanted<'a>(name: &'a str, bytes: &[u8]) -> (&'a str, u64, ContentHash) {
    (name, bytes.len() as u64, ContentHash::of(bytes))
}

#[test]
fn what_a_dead_process_left_is_offered_and_then_removed() {
    let root = tempfile::tempdir().unwrap();
    let left = dead(
        root.path(),
        1,
        &[("db/count.0/1.sst", b"rows"), ("CURRENT", b"x")],
    );
    let dirs = open(root.path(), 2);
    assert_eq!(offered(&dirs), ["1.sst", "CURRENT"]);
    dirs.remove_leftovers();
    assert!(!left.exists() && !lock_of(&left).exists());
    assert!(offered(&dirs).is_empty());
    assert!(dirs.path().exists());
}

#[test]
fn the_directory_of_a_living_process_is_never_taken() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path(), 1);
    std::fs::write(first.path().join("1.sst"), b"rows").unwrap();
    let second = open(root.path(), 2);
    assert!(offered(&second).is_empty());
    second.remove_leftovers();
    assert!(first.path().join("1.sst").exists());
}

#[test]
fn of_two_processes_one_gets_what_is_left() {
    let root = tempfile::tempdir().unwrap();
    dead(root.path(), 1, &[("1.sst", b"rows")]);
    let (first, second) = (open(root.path(), 2), open(root.path(), 3));
    assert_eq!(offered(&first), ["1.sst"]);
    assert!(offered(&second).is_empty());
}

#[test]
fn a_directory_without_its_lock_file_is_left_over_too() {
    let root = tempfile::tempdir().unwrap();
    let left = dead(root.path(), 1, &[("1.sst", b"rows")]);
    std::fs::remove_file(lock_of(&left)).unwrap();
    let dirs = open(root.path(), 2);
    assert_eq!(offered(&dirs), ["1.sst"]);
}

#[test]
fn the_own_directory_goes_with_its_lock_and_nothing_else_does() {
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("fleet/notes");
    std::fs::create_dir_all(&foreign).unwrap();
    let dirs = open(root.path(), 1);
    let fresh = dirs.fresh("restored").unwrap();
    std::fs::write(fresh.path().join("1.sst"), b"rows").unwrap();
    let other = dirs.fresh("restored").unwrap();
    assert_ne!(fresh.path(), other.path());
    let path = dirs.path().to_owned();
    drop(dirs);
    assert!(!path.exists() && !lock_of(&path).exists());
    // The last owner of a directory inside finds it gone, which is no failure.
    drop((fresh, other));
    assert!(foreign.exists());
}

#[test]
fn a_root_that_cannot_be_written_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let refused = LocalDirs::open(&file, &job(), Nonce(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let text = refused.to_string();
    assert!(
        text.contains("state.local-dir") && text.contains("file"),
        "{text}"
    );
}

#[test]
fn a_file_is_taken_only_with_its_very_bytes() {
    let root = tempfile::tempdir().unwrap();
    dead(
        root.path(),
        1,
        &[
            ("a/1.sst", b"rowz"),
            ("b/1.sst", b"rows"),
            ("CURRENT", b"five5"),
        ],
    );
    let dirs = open(root.path(), 2);
    let mut index = LocalIndex::default();
    dirs.offer(&mut index);
    let to = dirs.path().join("taken");
    assert!(
        !index.take(wanted("1.sst", b"nope"), true, &to),
        "other bytes"
    );
    assert!(
        !index.take(wanted("1.sst", b"row"), true, &to),
        "another length"
    );
    assert!(
        !index.take(wanted("2.sst", b"rows"), true, &to),
        "another name"
    );
    assert!(!to.exists(), "what does not match leaves nothing");
    assert!(index.take(wanted("1.sst", b"rows"), true, &to));
    assert_eq!(std::fs::read(&to).unwrap(), b"rows");
    let links = |path: &Path| std::fs::metadata(path).unwrap().nlink();
    assert_eq!(links(&to), 2, "an unchangeable file is linked");
    let copy = dirs.path().join("copy");
    assert!(index.take(wanted("CURRENT", b"five5"), false, &copy));
    assert_eq!(links(&copy), 1, "a changeable one is copied");
}
