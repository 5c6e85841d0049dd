//! What can go wrong with a server of the testbed. A missing tool is named with the line that installs it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the testbed.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// A program is needed that is not there.
    #[error("install {tool}: {install}{}", found.as_ref().map_or(String::new(), |found| format!(" (found {found})")))]
    Missing {
        /// The program, with its version.
        tool: &'static str,
        /// The command that installs it.
        install: &'static str,
        /// What was found instead.
        found: Option<String>,
    },
    /// A program ended badly or did not get ready.
    #[error("{step} failed; the end of its log:\n{log}")]
    Step {
        /// What was attempted.
        step: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// A server is asked for that is already there, or is not.
    #[error("{0}")]
    State(String),
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl TestbedError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
