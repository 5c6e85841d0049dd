//! Programs that the testbed needs from the machine, and the line that installs each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::TestbedError;

/// The oldest Java that runs the broker.
const JAVA_MIN: u32 = 17;

/// Checks that Java 17 or newer is there.
///
/// # Errors
/// `Missing`, with the line to run.
pub fn java() -> Result<(), TestbedError> {
    let missing = |found| TestbedError::Missing {
        tool: "java 17",
        install: "apt-get install openjdk-17-jre-headless",
        found,
    };
    let output = Command::new("java").arg("-version").output();
    let text = output.map_err(|_| missing(None))?.stderr;
    let text = String::from_utf8_lossy(&text);
    match java_major(&text) {
        Some(major) if major >= JAVA_MIN => Ok(()),
        _ => Err(missing(text.lines().next().map(str::to_owned))),
    }
}

/// The major version in what `java -version` says, such as `openjdk version "17.0.15" 2025-04-15`.
fn java_major(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    let digits = |part: &str| {
        part.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let mut parts = version.split('.');
    match digits(parts.next()?)? {
        // Versions up to 8 were written 1.8.
        1 => digits(parts.next()?),
        major => Some(major),
    }
}

/// Checks that Maven is there: it fetches the broker once.
///
/// # Errors
/// `Missing`, with the line to run.
pub fn maven() -> Result<(), TestbedError> {
    runs("mvn", "--version").ok_or(TestbedError::Missing {
        tool: "maven",
        install: "apt-get install maven",
        found: None,
    })
}

/// The shared library of jemalloc, to be loaded before a program that has no allocator of its own.
///
/// # Errors
/// `Missing`, with the line to run.
pub fn jemalloc() -> Result<PathBuf, TestbedError> {
    let folder = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [folder.as_str(), "/usr/lib64", "/usr/lib"];
    let files = folders.map(|folder| Path::new(folder).join("libjemalloc.so.2"));
    let found = files.into_iter().find(|file| file.exists());
    found.ok_or(TestbedError::Missing {
        tool: "jemalloc",
        install: "apt-get install libjemalloc2",
        found: None,
    })
}

/// Checks that Go is there: it builds the S3 server once.
///
/// # Errors
/// `Missing`, with the line to run.
pub fn go() -> Result<(), TestbedError> {
    runs("go", "version").ok_or(TestbedError::Missing {
        tool: "go 1.24 or newer",
        install: "see https://go.dev/doc/install",
        found: None,
    })
}

/// The oldest Python that runs schemathesis.
const PYTHON_MIN: (u32, u32) = (3, 11);
/// Prints the version, if virtual environments can be made.
const PYTHON_VERSION: &str = "import ensurepip, sys; print(*sys.version_info[:2])";

/// Checks that Python 3.11 or newer is there, with what makes virtual environments.
///
/// # Errors
/// `Missing`, with the line to run.
pub fn python() -> Result<(), TestbedError> {
    let missing = |found| TestbedError::Missing {
        tool: "python 3.11 with venv",
        install: "apt-get install python3 python3-venv",
        found,
    };
    let output = Command::new("python3")
        .args(["-c", PYTHON_VERSION])
        .output();
    let output = output.map_err(|_| missing(None))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match python_version(&said) {
        Some(version) if version >= PYTHON_MIN => Ok(()),
        Some((major, minor)) => Err(missing(Some(format!("{major}.{minor}")))),
        None => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            Err(missing(complaint.lines().last().map(str::to_owned)))
        }
    }
}

/// The version in what [`PYTHON_VERSION`] prints, such as `3 11`.
fn python_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace();
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn runs(program: &str, argument: &str) -> Option<()> {
    let mut command = Command::new(program);
    command
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().ok()?.success().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_old_and_new_are_understood() {
        assert_eq!(
            java_major("openjdk version \"17.0.15\" 2025-04-15"),
            Some(17)
        );
        assert_eq!(java_major("java version \"1.8.0_292\""), Some(8));
        assert_eq!(java_major("openjdk version \"21-ea\" 2023-09-19"), Some(21));
        assert_eq!(java_major("command not found"), None);
    }

    #[test]
    fn versions_of_python_are_compared_by_number() {
        assert_eq!(python_version("3 11\n"), Some(PYTHON_MIN));
        assert!(python_version("3 9\n").unwrap() < PYTHON_MIN);
        assert_eq!(python_version(""), None);
    }

    #[test]
    fn a_missing_tool_is_named_with_the_line_that_installs_it() {
        let error = TestbedError::Missing {
            tool: "java 17",
            install: "apt-get install openjdk-17-jre-headless",
            found: None,
        };
        assert_eq!(
            error.to_string(),
            "install java 17: apt-get install openjdk-17-jre-headless"
        );
    }
}
