//! Schemathesis 4.32.5: asks a server what its OpenAPI document allows and what it does not, and judges the answers.
//!
//! A program in Python, in a virtual environment of the cache with each of its packages pinned. Whoever calls it gives the
//! arguments and reads its report; nothing of the user's own Python is seen or changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, run_logged};
use crate::error::TestbedError;
use crate::tool;

const VERSION: &str = "schemathesis-4.32.5";
const REQUIREMENTS: &str = include_str!("schemathesis/requirements.txt");

/// Schemathesis, fetched.
#[derive(Clone, Debug)]
pub struct Schemathesis {
    python: PathBuf,
}

impl Schemathesis {
    /// What is in the cache of this user; the first call fetches it.
    ///
    /// # Errors
    /// `Missing` without Python, before the first fetch; `Step` when a package cannot be fetched.
    pub fn fetch() -> Result<Self, TestbedError> {
        Self::of(&Cache::of_user()?)
    }

    fn of(cache: &Cache) -> Result<Self, TestbedError> {
        let environment = cache.folder(VERSION, fill)?;
        Ok(Self {
            python: python_of(&environment),
        })
    }

    /// Its version.
    pub const fn version() -> &'static str {
        VERSION
    }

    /// The command `schemathesis`, before its arguments. The same seed draws the same values each time.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        // By module: the scripts of an environment name the folder that it was made in, which was another.
        command.args(["-P", "-m", "schemathesis.cli"]);
        command
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONUTF8", "1")
            .env_remove("PYTHONPATH")
            .env_remove("PYTHONHOME");
        command
    }
}

fn python_of(environment: &Path) -> PathBuf {
    environment.join("bin").join("python")
}

fn fill(staging: &Path) -> Result<(), TestbedError> {
    tool::python()?;
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(staging);
    let log = staging.join("environment.log");
    run_logged("making of a virtual environment of Python", &mut make, &log)?;
    let requirements = staging.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(TestbedError::io("write", &requirements))?;
    let mut fetch = Command::new(python_of(staging));
    fetch.args(["-m", "pip", "install", "--no-deps", "--no-input"]);
    fetch.args(["--only-binary", ":all:", "--disable-pip-version-check"]);
    fetch.arg("--requirement").arg(&requirements);
    run_logged(
        "fetch of schemathesis with pip",
        &mut fetch,
        &staging.join("fetch.log"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned_and_the_version_is_that_of_the_folder() {
        let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
        let pins: Vec<_> = lines.map(|line| line.split_once("==").unwrap()).collect();
        assert!(pins.iter().all(|(_, version)| !version.is_empty()));
        let own = pins.iter().find(|(name, _)| *name == "schemathesis");
        let (name, version) = own.unwrap();
        assert_eq!(format!("{name}-{version}"), Schemathesis::version());
    }
}
