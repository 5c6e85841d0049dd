//! The processes of a job, each on a machine of its own: how they are started, looked at, frozen and killed.
//!
//! Each is this program again, as the job binary of production. It is entered into its machine with `nsenter`, which becomes the
//! program, so that the number of the process stays the same. The rule: a process ends with its handle, and with this program
//! however that ends.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use highwater_testkit::process::{ProcessKey, Warden};
use highwater_testkit::{ControlGroup, S3};

use super::certificates::Certificates;
use super::machine::{CONTROL_PORT, DATA_PORT, Machine, Names};
use crate::acceptance::args::Backing;

/// Variables by which a proxy of this host would be asked for machines that only we know.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What all processes of a job are told.
pub(super) struct Spec {
    pub(super) names: Names,
    /// The identity of the job.
    pub(super) job: String,
    /// Each machine has a folder of its own below it.
    pub(super) folder: PathBuf,
    /// Where checkpoints are.
    pub(super) state: String,
    pub(super) s3_endpoint: String,
    /// Parameters of the job.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// Settings that are the same everywhere, as arguments.
    pub(super) settings: Vec<String>,
    pub(super) backing: Backing,
    /// How many coordinators there may be.
    pub(super) coordinators: u8,
    /// What processes show each other; `None` = they speak in the clear.
    pub(super) certificates: Option<Certificates>,
}

fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}

/// The arguments that a machine's own role adds.
fn role(machine: Machine, coordinators: u8) -> Vec<String> {
    let address = machine.address();
    let own = match machine {
        Machine::Hub => return Vec::new(),
        Machine::Coordinator(_) => vec![
            ("--control-listen", format!("{address}:{CONTROL_PORT}")),
            ("--coordinator-name", machine.to_string()),
        ],
        Machine::Worker(_) => {
            let all = (1..=coordinators).map(|number| {
                let address = Machine::Coordinator(number).address();
                format!("{address}:{CONTROL_PORT}")
            });
            let all: Vec<_> = all.collect();
            vec![
                ("--control-address", all.join(",")),
                ("--data-listen", format!("{address}:{DATA_PORT}")),
                ("--worker-name", machine.to_string()),
            ]
        }
    };
    let name = match machine {
        Machine::Coordinator(_) => "coordinator",
        _ => "worker",
    };
    let flags = own
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    [name.to_owned(), "--quiet".to_owned()]
        .into_iter()
        .chain(flags)
        .collect()
}

impl Spec {
    /// The folder of a machine.
    pub(super) fn folder_of(&self, machine: Machine) -> PathBuf {
        self.folder.join(machine.to_string())
    }

    /// What the process of a machine writes.
    pub(super) fn log_of(&self, machine: Machine) -> PathBuf {
        self.folder_of(machine).join("log")
    }

    /// Where a coordinator notes its status server.
    pub(super) fn note_of(&self, machine: Machine) -> PathBuf {
        let run = self.folder_of(machine).join("run");
        run.join(format!("{}.address", self.job))
    }

    /// Gives processes that are started from now on another value for a setting.
    pub(super) fn set(&mut self, flag: &str, value: &str) {
        let at = self.settings.iter().position(|said| said == flag);
        if let Some(said) = at.and_then(|at| self.settings.get_mut(at + 1)) {
            value.clone_into(said);
        }
    }

    /// This program on a machine, with the arguments and variables of every command of the job.
    fn on(&self, machine: Machine, arguments: &[String]) -> anyhow::Result<Command> {
        let mut command = if machine == Machine::Hub {
            // This program is there already.
            Command::new(program()?)
        } else {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", self.names.path(machine).display()));
            command.arg(program()?);
            command
        };
        command.args(arguments);
        command.args(["--job", &self.job, "--state-dir", &self.state, "--run-dir"]);
        command.arg(self.folder_of(machine).join("run"));
        command
            .env("HIGHWATER_S3_ENDPOINT", &self.s3_endpoint)
            .env("HIGHWATER_S3_REGION", S3::REGION)
            .env("HIGHWATER_S3_ACCESS_KEY_ID", S3::ACCESS_KEY_ID)
            .env("HIGHWATER_S3_SECRET_ACCESS_KEY", S3::SECRET_ACCESS_KEY);
        for name in PROXIES {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// What every process is told, with its local files below `folder`.
    fn told(&self, folder: &Path) -> Vec<String> {
        let mut arguments = self.settings.clone();
        arguments.extend(self.backing.arguments(&folder.join("local")));
        for (name, value) in &self.parameters {
            arguments.extend(["--param".to_owned(), format!("{name}={value}")]);
        }
        arguments
    }

    /// The process of a machine: a coordinator or a worker.
    fn process(&self, machine: Machine) -> anyhow::Result<Command> {
        let mut arguments = role(machine, self.coordinators);
        arguments.extend(self.told(&self.folder_of(machine)));
        match &self.certificates {
            Some(certificates) => arguments.extend(certificates.arguments(machine)),
            None => arguments.push("--allow-clear-text".to_owned()),
        }
        self.on(machine, &arguments)
    }

    /// Starts the process of a machine, which stops at `stop_at`, in a group if it has one.
    pub(super) fn start(
        &self,
        machine: Machine,
        stop_at: Option<&str>,
        group: Option<&ControlGroup>,
    ) -> anyhow::Result<Process> {
        let mut command = self.process(machine)?;
        if let Some(stop_at) = stop_at {
            command.env("HIGHWATER_STOP_AT", stop_at);
        }
        if let Some(group) = group {
            command = group.around(&command);
        }
        fs::create_dir_all(self.folder_of(machine)).context("the folder of a machine")?;
        let started = Process::start(&mut command, &self.log_of(machine));
        started.with_context(|| format!("the process of {machine}"))
    }

    /// Starts a worker beside that of a machine, with other certificates and at another port.
    pub(super) fn start_stranger(
        &self,
        machine: Machine,
        certificates: &Certificates,
    ) -> anyhow::Result<Process> {
        let mut arguments = role(machine, self.coordinators);
        for argument in &mut arguments {
            if *argument == machine.to_string() {
                "stranger".clone_into(argument);
            }
            if argument.ends_with(&format!(":{DATA_PORT}")) {
                *argument = format!("{}:{}", machine.address(), DATA_PORT + 1);
            }
        }
        let folder = self.folder.join("stranger");
        fs::create_dir_all(&folder).context("the folder of the stranger")?;
        arguments.extend(self.told(&folder));
        arguments.extend(certificates.arguments(machine));
        let mut command = self.on(machine, &arguments)?;
        Process::start(&mut command, &folder.join("log")).context("the stranger")
    }

    /// Starts another command of the job on a machine, such as `stop`.
    pub(super) fn call(&self, machine: Machine, arguments: &[&str]) -> anyhow::Result<Process> {
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut command = self.on(machine, &arguments)?;
        let log = self.folder.join("commands.log");
        Process::start(&mut command, &log).with_context(|| format!("`{}`", arguments.join(" ")))
    }

    /// The end of what the process of a machine has written.
    pub(super) fn tail(&self, machine: Machine) -> String {
        const LINES: usize = 12;
        let text = fs::read(self.log_of(machine)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// A process, and what ends it with this program.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    key: ProcessKey,
    warden: Option<Warden>,
}

impl Process {
    /// Starts a command, with what it writes appended to a log.
    pub(super) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(log);
            file.with_context(|| log.display().to_string())
        };
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        // A group of its own: an interrupt at the terminal is for the test, which sees to the rest.
        let mut child = command.process_group(0).spawn().context("starting it")?;
        let Some(key) = ProcessKey::of(child.id()) else {
            let status = child.wait().context("waiting for it")?;
            bail!("it ended at once ({status})");
        };
        let mut process = Self {
            child,
            key,
            warden: None,
        };
        process.warden = Some(Warden::over(key, None)?);
        Ok(process)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking at a process")
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `STOP`.
    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        Ok(self.key.signal(signal)?)
    }

    /// Whether all of it is stopped.
    pub(super) fn is_frozen(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()));
        stat.is_ok_and(|stat| state_of(&stat) == Some('T'))
    }

    /// SIGKILL, and waits until it is gone.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing a process")?;
        self.child.wait().context("waiting for a killed process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and is waited for already.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(warden) = self.warden.take() {
            drop(warden.dismiss());
        }
    }
}

/// The state in what `/proc` says of a process: its name may hold anything, so what follows counts from its end.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use highwater_testkit::process::wait_until;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_coordinator_and_a_worker_listen_where_the_others_look_for_them() {
        let coordinator = role(Machine::Coordinator(2), 2).join(" ");
        assert_eq!(
            coordinator,
            "coordinator --quiet --control-listen 10.231.0.12:6123 --coordinator-name c2"
        );
        let worker = role(Machine::Worker(3), 2).join(" ");
        assert_eq!(
            worker,
            "worker --quiet --control-address 10.231.0.11:6123,10.231.0.12:6123 --data-listen 10.231.0.23:6124 \
             --worker-name w3"
        );
    }

    #[test]
    fn the_state_of_a_process_stands_behind_its_name() {
        assert_eq!(state_of("7 (a) b) T 1 7 7 0"), Some('T'));
        assert_eq!(state_of("7 (harbor-fleet) S 1 7"), Some('S'));
        assert_eq!(state_of(""), None);
    }

    #[test]
    fn a_process_that_was_stopped_is_frozen_until_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = Process::start(Command::new("sleep").arg("600"), &log).unwrap();
        assert!(process.ended().unwrap().is_none() && !process.is_frozen());
        process.signal("STOP").unwrap();
        assert!(wait_until(PATIENCE, || process.is_frozen()));
        process.kill().unwrap();
        assert!(process.ended().unwrap().is_some());
    }
}
