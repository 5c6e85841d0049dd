//! The tokens that may ask: a file, and what is kept of it.
//!
//! A line for each token: `read TOKEN` or `write TOKEN`, and a name after it for the log. Lines that are empty or begin with `#` say nothing.
//! Read at the start, and again once the file has changed: tokens are renewed under a running process. The rule: of a token only its digest is
//! kept, and no error shows a line, only its number. What cannot be read at the start is an error; what cannot be read later leaves in use what
//! was read before, and says so once.
//!
//! Who may read the file is not looked at. A secret that a platform mounts is owned by root and readable by all in a folder that only the
//! container sees: a refusal by mode would refuse the usual case, and the file of a careless owner is theirs to protect.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_types::{Classified, ErrorKind};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::time::Instant;

use super::Scope;

/// The largest file.
const FILE_BYTES_MAX: u64 = 256 * 1_024;
/// The shortest token.
const TOKEN_BYTES_MIN: usize = 16;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 512;
/// The longest name: shorter than any token, so that a token in the wrong place never comes into a log as a name.
const NAME_BYTES_MAX: usize = TOKEN_BYTES_MIN - 1;
/// The file is looked at no more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a file gives no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("tokens {}: {reason}; name a file of tokens by rest.tokens", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A line says something else.
    #[error(
        "tokens {}: line {line} {reason}; write `read TOKEN` or `write TOKEN`, with a name after it if you like",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong, without any of it.
        reason: &'static str,
    },
    /// It holds no token.
    #[error(
        "tokens {}: there is none, so nobody could ask; write `read TOKEN` or `write TOKEN`",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Classified for TokensError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

type Digest = [u8; SHA256_OUTPUT_LEN];

/// What is kept of a token.
struct Known {
    digest: Digest,
    scope: Scope,
    name: Arc<str>,
}

/// What the file was when it was read: inode, length and time of the last change, which no copy keeps.
type Stamp = (u64, u64, i64, i64);

/// What was read, and when the file was looked at.
struct Held {
    stamp: Option<Stamp>,
    looked_at: Instant,
    known: Arc<[Known]>,
    /// Somebody was told that what lies there cannot be used.
    was_told: bool,
}

/// The tokens of a file, as it is now.
pub struct TokenFile {
    path: PathBuf,
    look_every: Duration,
    held: Mutex<Held>,
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or holds anything but tokens, or none.
    pub fn open(path: PathBuf) -> Result<Self, TokensError> {
        Self::open_and_look(path, LOOK_EVERY)
    }

    fn open_and_look(path: PathBuf, look_every: Duration) -> Result<Self, TokensError> {
        let stamp = stamp_of(&path);
        let known = read(&path)?;
        Ok(Self {
            path,
            look_every,
            held: Mutex::new(Held {
                stamp,
                looked_at: Instant::now(),
                known,
                was_told: false,
            }),
        })
    }

    /// What a token may do, and its name.
    pub(super) fn find(&self, shown: &[u8]) -> Option<(Scope, Arc<str>)> {
        let shown = digest_of(shown);
        let known = self.current();
        // Every digest is looked at, so that the time does not tell which one was found.
        let found = known.iter().fold(None, |found, one| {
            if is_same(&one.digest, &shown) {
                Some(one)
            } else {
                found
            }
        });
        found.map(|one| (one.scope, Arc::clone(&one.name)))
    }

    /// What the file holds now. Looks at it if that was not just done, and reads it if it has changed.
    fn current(&self) -> Arc<[Known]> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked_at.elapsed() < self.look_every {
            return Arc::clone(&held.known);
        }
        held.looked_at = Instant::now();
        let stamp = stamp_of(&self.path);
        if stamp != held.stamp {
            match read(&self.path) {
                Ok(known) => {
                    tracing::info!(tokens = %self.path.display(), "tokens were renewed");
                    held.stamp = stamp;
                    held.known = known;
                    held.was_told = false;
                }
                Err(error) => {
                    // What was read is not read again before it changes. What could not be is: a token that was taken out must go.
                    if !matches!(error, TokensError::Unreadable { .. }) {
                        held.stamp = stamp;
                        held.was_told = false;
                    }
                    if !std::mem::replace(&mut held.was_told, true) {
                        tracing::error!(%error, "tokens have changed and cannot be used; the old ones stay in use");
                    }
                }
            }
        }
        Arc::clone(&held.known)
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
}

fn read(path: &Path) -> Result<Arc<[Known]>, TokensError> {
    let unreadable = |reason: String| TokensError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let mut text = String::new();
    // Nobody waits here for the other end of a pipe.
    let found = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !found.is_file() {
        return Err(unreadable("it is no file".to_owned()));
    }
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let length = read.map_err(|error| unreadable(error.to_string()))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(unreadable("it is larger than 256 KiB".to_owned()));
    }
    let known = parse(path, &text)?;
    if known.is_empty() {
        return Err(TokensError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(known.into())
}

fn parse(path: &Path, text: &str) -> Result<Vec<Known>, TokensError> {
    let (mut all, mut digests) = (Vec::new(), BTreeSet::new());
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let wrong = |reason| TokensError::Line {
            path: path.to_owned(),
            line,
            reason,
        };
        let (scope, token, name) = parts(text).map_err(wrong)?;
        let digest = digest_of(token.as_bytes());
        if !digests.insert(digest) {
            return Err(wrong("has a token that an earlier line has too"));
        }
        let name = name.map_or_else(|| format!("line {line}"), str::to_owned);
        all.push(Known {
            digest,
            scope,
            name: name.into(),
        });
    }
    Ok(all)
}

/// Scope, token and name of a line.
fn parts(line: &str) -> Result<(Scope, &str, Option<&str>), &'static str> {
    let mut words = line.split_ascii_whitespace();
    let scope = match words.next() {
        Some("read") => Scope::Read,
        Some("write") => Scope::Write,
        _ => return Err("begins with neither `read` nor `write`"),
    };
    let (token, name) = (words.next().unwrap_or_default(), words.next());
    if words.next().is_some() {
        return Err("has more than a scope, a token and a name");
    }
    let is_visible = |word: &str| word.bytes().all(|byte| byte.is_ascii_graphic());
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) || !is_visible(token) {
        return Err("has no token of 16 to 512 visible ASCII characters");
    }
    if name.is_some_and(|name| name.len() > NAME_BYTES_MAX || !is_visible(name)) {
        return Err("has a name that is not of 1 to 15 visible ASCII characters");
    }
    Ok((scope, token, name))
}

fn digest_of(token: &[u8]) -> Digest {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// Whether two digests are the same, in a time that does not tell where they differ.
fn is_same(left: &Digest, right: &Digest) -> bool {
    let pairs = left.iter().zip(right);
    let differing = pairs.fold(0, |differing, (left, right)| {
        black_box(differing | (left ^ right))
    });
    differing == 0
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const READS: &str = "read-read-read-read-read";
    const WRITES: &str = "write-write-write-write";

    fn written(text: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn refusal(text: &str) -> String {
        let (_folder, path) = written(text);
        let error = TokenFile::open(path).unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        error.to_string()
    }

    #[test]
    fn a_token_has_its_scope_and_its_name() {
        let text = format!("# who may ask\n\nread {READS}\r\n  write\t{WRITES}  operator\n");
        let (_folder, path) = written(&text);
        let file = TokenFile::open(path).unwrap();
        let find = |token: &str| file.find(token.as_bytes());
        assert_eq!(find(READS), Some((Scope::Read, "line 3".into())));
        assert_eq!(find(WRITES), Some((Scope::Write, "operator".into())));
        assert_eq!(find("read-read-read-read-rea"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn a_line_that_is_no_token_is_refused_by_its_number() {
        let long = format!("read {}", "secret".repeat(90));
        for (line, part) in [
            ("secret-secret-secret", "neither `read` nor `write`"),
            ("Write secret-secret-secret", "neither `read` nor `write`"),
            ("read", "no token of 16 to 512"),
            ("read secret", "no token of 16 to 512"),
            ("read sécret-sécret-sécret", "no token of 16 to 512"),
            (long.as_str(), "no token of 16 to 512"),
            ("read secret-secret-secret a b", "more than"),
            (
                "write operator-of-fleet secret-secret-secret",
                "a name that is not of 1 to 15",
            ),
        ] {
            let text = refusal(&format!("write {WRITES}\n{line}\n"));
            assert!(text.contains("line 2 ") && text.contains(part), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        let twice = refusal(&format!("write {WRITES}\n\nread {WRITES}\n"));
        assert!(
            twice.contains("line 3 ") && twice.contains("earlier"),
            "{twice}"
        );
    }

    #[test]
    fn a_file_that_lets_nobody_ask_is_refused() {
        assert!(refusal("# nobody\n").contains("there is none"));
        let large = format!("write {WRITES}\n{}", "#".repeat(300_000));
        assert!(refusal(&large).contains("256 KiB"));
        let missing = TokenFile::open(PathBuf::from("no/such/tokens")).unwrap_err();
        assert!(missing.to_string().contains("no/such/tokens"), "{missing}");
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_breaks_is_not() {
        let (_folder, path) = written(&format!("write {WRITES}\n"));
        let file = TokenFile::open_and_look(path.clone(), Duration::ZERO).unwrap();
        let find = |token: &str| file.find(token.as_bytes()).map(|(scope, _)| scope);
        std::fs::write(&path, format!("read {WRITES}\nread {READS}\n")).unwrap();
        assert_eq!(
            (find(WRITES), find(READS)),
            (Some(Scope::Read), Some(Scope::Read))
        );
        std::fs::write(&path, "half a li").unwrap();
        assert_eq!(find(READS), Some(Scope::Read));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(find(READS), Some(Scope::Read));
        std::fs::write(&path, format!("write {READS}\n")).unwrap();
        assert_eq!((find(WRITES), find(READS)), (None, Some(Scope::Write)));
    }

    #[test]
    fn a_file_is_not_looked_at_for_each_request() {
        let (_folder, path) = written(&format!("write {WRITES}\n"));
        let file = TokenFile::open_and_look(path.clone(), Duration::from_hours(1)).unwrap();
        std::fs::write(&path, format!("read {READS}\n")).unwrap();
        assert!(file.find(WRITES.as_bytes()).is_some());
        assert!(file.find(READS.as_bytes()).is_none());
    }

    #[test]
    fn nothing_of_a_token_is_kept_or_shown() {
        let (_folder, path) = written(&format!("write {WRITES}\n"));
        let file = TokenFile::open(path).unwrap();
        assert!(!format!("{file:?}").contains(&WRITES[..5]), "{file:?}");
    }
}
