//! Starts the example `endless-job` with a state folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A job with a folder for its state.
pub(crate) struct Job {
    folder: tempfile::TempDir,
}

/// A job that runs.
pub(crate) struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

/// The example stands beside the folder of this test program.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(|deps| deps.parent()).unwrap();
    let program = profile.join("examples").join("endless-job");
    assert!(
        program.exists(),
        "{} is missing; build it with `cargo test -p highwater-cli`",
        program.display()
    );
    program
}

impl Job {
    /// A job that has never run.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The folder of its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .args(["--job", "numbers", "--run-dir", "run", "--state-dir"])
            .arg(self.state());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command to its end with a variable of the environment.
    pub(crate) fn call_with(&self, variable: (&str, &str), arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.env(variable.0, variable.1).output().unwrap()
    }

    /// Starts the job and waits until records flow.
    pub(crate) fn start(&self) -> Running {
        self.start_with(&[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(&["run", "--checkpoint-interval", "50ms", "--slots", "1"]);
        command.args(["--parallelism", "1", "--log-format", "json"]);
        command.args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut running = Running { child, lines };
        running.wait_for("\"running\"");
        running
    }
}

impl Running {
    /// Reads log lines up to one that holds `text`.
    ///
    /// # Panics
    /// If the job ends before.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
        panic!("the job ended without `{text}`:\n{}", seen.join("\n"));
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Reads the rest of the log and waits for the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        while let Some(Ok(_)) = self.lines.next() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed half-way leaves no process behind.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a command wrote to stdout.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command wrote to stderr.
pub(crate) fn complained(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
