//! A server process: started with its log in a file, found again by process id and start time, stopped gently or hard.
//!
//! A process id alone may belong to somebody else by now; the pair of id and kernel start time never does.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::TestbedError;

const LOG_LINES_SHOWN: usize = 25;
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Names one process for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessKey {
    /// The process id.
    pub pid: u32,
    /// The start time in clock ticks since the machine booted.
    pub start: u64,
}

impl ProcessKey {
    /// The process that has this id now.
    pub fn of(pid: u32) -> Option<Self> {
        let (start, state) = facts(pid)?;
        (state != 'Z').then_some(Self { pid, start })
    }

    /// Whether the process still runs. One that ended and was not yet collected by its parent does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal such as `TERM`, when the process still runs.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(self, signal: &str) -> Result<(), TestbedError> {
        if !self.is_alive() {
            return Ok(());
        }
        let program = Path::new("kill");
        let mut command = Command::new(program);
        command.arg(format!("-{signal}")).arg(self.pid.to_string());
        let status = command.stderr(Stdio::null()).status();
        let sent = status.map_err(TestbedError::io("run", program))?.success();
        if sent || !self.is_alive() {
            return Ok(());
        }
        Err(TestbedError::State(format!(
            "signal {signal} to process {} was refused",
            self.pid
        )))
    }

    /// Ends the process: `TERM`, and `KILL` when it is not gone after `patience`.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(self, patience: Duration) -> Result<(), TestbedError> {
        self.signal("TERM")?;
        if wait_until(patience, || !self.is_alive()) {
            return Ok(());
        }
        self.kill()
    }

    /// Ends the process at once.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(self) -> Result<(), TestbedError> {
        self.signal("KILL")?;
        if wait_until(Duration::from_secs(10), || !self.is_alive()) {
            return Ok(());
        }
        Err(TestbedError::State(format!(
            "process {} does not end",
            self.pid
        )))
    }
}

/// Start time and state letter from `/proc`.
fn facts(pid: u32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields count from the last one on.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((start, state))
}

/// Looks at `done` until it holds, at most `patience`. Whether it held.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The last lines of a log.
pub(crate) fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// A server that this process started.
#[derive(Debug)]
pub struct Server {
    key: ProcessKey,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` in a process group of its own, with its output appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, TestbedError> {
        let open = || File::options().create(true).append(true).open(log);
        let out = open().map_err(TestbedError::io("open", log))?;
        let err = open().map_err(TestbedError::io("open", log))?;
        // A group of its own: an interrupt at the terminal stops the test, and the test stops the server.
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(TestbedError::io("run", &program))?;
        let key = ProcessKey::of(child.id()).ok_or_else(|| TestbedError::Step {
            step: format!("start of {}", program.display()),
            log: log_tail(log),
        })?;
        Ok(Self {
            key,
            child,
            log: log.to_owned(),
        })
    }

    /// Its name among processes.
    pub const fn key(&self) -> ProcessKey {
        self.key
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// `Step` with the end of the log when the process ends first or `patience` is over.
    pub fn wait_ready(
        &self,
        step: &str,
        patience: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), TestbedError> {
        let mut is_ready = false;
        wait_until(patience, || {
            is_ready = ready();
            is_ready || !self.key.is_alive()
        });
        if is_ready {
            return Ok(());
        }
        Err(TestbedError::Step {
            step: step.to_owned(),
            log: log_tail(&self.log),
        })
    }

    /// Ends the process, gently first.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(&mut self, patience: Duration) -> Result<(), TestbedError> {
        self.key.stop(patience)?;
        self.collect()
    }

    /// Ends the process at once, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(&mut self) -> Result<(), TestbedError> {
        self.key.kill()?;
        self.collect()
    }

    fn collect(&mut self) -> Result<(), TestbedError> {
        let waited = self.child.wait();
        waited
            .map(drop)
            .map_err(TestbedError::io("wait for", &self.log))
    }
}

/// Ends a server and removes its folder when the process that started it is gone, however it went.
///
/// A shared server of a test binary lives in a static, which is never dropped, and a test may be killed: so a small
/// shell waits for the end of a pipe that only the test process holds open.
#[derive(Debug)]
pub struct Warden {
    shell: Child,
    pipe: Option<ChildStdin>,
}

const WARDEN_SCRIPT: &str = r#"
read -r ignored
alive() { [ "$(sed 's/.*) //; s/^Z.*//' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20)" = "$2" ]; }
if alive "$1" "$2"; then kill -KILL "$1"; fi
tries=100
while alive "$1" "$2" && [ "$tries" -gt 0 ]; do sleep 0.05; tries=$((tries - 1)); done
[ -z "$3" ] || rm -rf -- "$3"
"#;

impl Warden {
    /// Watches over `server`; `folder` is removed with it.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn over(server: ProcessKey, folder: Option<&Path>) -> Result<Self, TestbedError> {
        let program = Path::new("sh");
        let mut command = Command::new(program);
        command.args(["-c", WARDEN_SCRIPT, "warden"]);
        command
            .arg(server.pid.to_string())
            .arg(server.start.to_string());
        command.arg(folder.unwrap_or_else(|| Path::new("")));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut shell = command
            .process_group(0)
            .spawn()
            .map_err(TestbedError::io("run", program))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Stops watching; the server is left alone.
    ///
    /// # Errors
    /// When the shell cannot be ended.
    pub fn dismiss(mut self) -> Result<(), TestbedError> {
        let program = Path::new("sh");
        self.shell
            .kill()
            .map_err(TestbedError::io("end", program))?;
        self.shell
            .wait()
            .map_err(TestbedError::io("wait for", program))?;
        drop(self.pipe.take());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(root: &Path) -> Server {
        Server::start(Command::new("sleep").arg("600"), &root.join("log")).unwrap()
    }

    #[test]
    fn a_server_is_alive_until_it_is_stopped() {
        let root = tempfile::tempdir().unwrap();
        let mut server = sleeper(root.path());
        assert!(server.key().is_alive());
        server.stop(Duration::from_secs(5)).unwrap();
        assert!(!server.key().is_alive());
        server.key().signal("TERM").unwrap();
    }

    #[test]
    fn a_reused_process_id_is_somebody_else() {
        let me = ProcessKey::of(std::process::id()).unwrap();
        let other = ProcessKey {
            start: me.start + 1,
            ..me
        };
        assert!(me.is_alive() && !other.is_alive());
        other.signal("KILL").unwrap();
    }

    #[test]
    fn a_warden_ends_the_server_when_its_pipe_closes() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run");
        fs::create_dir(&folder).unwrap();
        let mut server = sleeper(root.path());
        let mut warden = Warden::over(server.key(), Some(&folder)).unwrap();
        drop(warden.pipe.take());
        assert!(warden.shell.wait().unwrap().success());
        assert!(wait_until(Duration::from_secs(5), || !server
            .key()
            .is_alive()));
        assert!(!folder.exists());
        server.kill().unwrap();
    }

    #[test]
    fn a_dismissed_warden_leaves_the_server_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut server = sleeper(root.path());
        Warden::over(server.key(), None).unwrap().dismiss().unwrap();
        assert!(server.key().is_alive());
        server.kill().unwrap();
    }

    #[test]
    fn a_server_that_dies_early_shows_its_log() {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no memory; sleep 0.2; exit 1"]);
        let server = Server::start(&mut command, &root.path().join("log")).unwrap();
        let error = server
            .wait_ready("the server", Duration::from_secs(20), || false)
            .unwrap_err();
        assert!(error.to_string().contains("no memory"), "{error}");
    }
}
