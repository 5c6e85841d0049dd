//! Settings of a job: read once at the start, checked against the table, typed from there on.
//!
//! In reading order: the table, what values look like, the settings file, where values come from, flags, those of the status server, the
//! page. Only [`Environment::read`] looks at the environment of the process.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use highwater_coordinator::{CoordinatorSettings, RestartStrategy};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_network::{Compression, LinkSettings};
use highwater_protocol::checkpoint::CheckpointSettings;
use highwater_protocol::gc::Retention;
use highwater_protocol::recovery::{RestoreOptions, UnmatchedState};
use highwater_rpc::ConnectionSettings;
use highwater_storage::{Location, S3Options, Secret};
use highwater_tls::{IdentityFiles, Wire};
use highwater_types::{JobIdentity, MaxParallelism, Parallelism};
use highwater_worker::WorkerSettings;

use crate::exit::{Code, Failure};
use crate::logs::LogFormat;

pub mod file;
pub mod flags;
pub mod kind;
pub mod live;
mod nearest;
mod page;
pub mod rest;
pub mod source;
pub mod table;

pub use file::SettingsFile;
pub use flags::{JobFlags, RunFlags};
pub use live::LiveConfig;
pub use page::page;
pub use rest::{Authentication, RestCredentials, RestSettings};
pub use source::{Given, Resolved, SettingError};

use table::{CONFIG_VARIABLE, PREFIX};

/// A commit order that is not confirmed is repeated after this many milliseconds.
const COMMIT_RETRY_MS: u64 = 1_000;
/// The folder of savepoints inside the store.
pub(crate) const SAVEPOINTS: &str = "savepoints";

/// What the command line gives to every command.
#[derive(Args, Clone, Debug, Default)]
pub struct JobArgs {
    /// Settings file in YAML; flags and environment go before it (also HIGHWATER_CONFIG)
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) flags: JobFlags,
}

/// What the command line gives to `run` and `plan`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    #[command(flatten)]
    pub(crate) flags: RunFlags,
    /// A parameter that the job's function reads: name=value; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// Begin a new lineage and leave the state of the old one behind
    #[arg(long, conflicts_with = "from_savepoint")]
    pub fresh: bool,
    /// Begin also when the job answers here already: the newer process owns it, the older ends by itself
    #[arg(long)]
    pub take_over: bool,
    #[command(flatten)]
    pub(crate) savepoint: SavepointArgs,
    /// No live view, also on a terminal
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub(crate) child: ChildArgs,
}

/// How `run --workers` starts its workers.
#[derive(Args, Clone, Debug, Default)]
pub struct ChildArgs {
    /// End when standard input does
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Which savepoint a run starts from, and what is said about the state that the job has.
#[derive(Args, Clone, Debug, Default)]
pub struct SavepointArgs {
    /// Start from a savepoint of the store: its name, or the path of its folder below the state directory
    #[arg(long, value_name = "NAME|PATH")]
    pub from_savepoint: Option<String>,
    /// Go back to the savepoint in a job that has newer state: output after it appears again
    #[arg(long, requires = "from_savepoint", conflicts_with = "fork")]
    pub go_back: bool,
    /// Begin a new lineage from the savepoint in a job that has state, which is left behind
    #[arg(long, requires = "from_savepoint")]
    pub fork: bool,
    /// Take a savepoint anew that was taken before; each start with this flag goes back to it
    #[arg(long, requires = "from_savepoint")]
    pub again: bool,
}

/// Reads a parameter `name=value`.
pub fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no parameter; write name=value")),
    }
}

/// What the environment of the process says.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    /// Without values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// Reads the variables of Highwater, and the two by which a platform tells a pod its identity.
    ///
    /// # Errors
    /// When a value is no text.
    pub fn read() -> Result<Self, SettingError> {
        let mut variables = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if name.starts_with(PREFIX) || [ROLE_VARIABLE, TOKEN_VARIABLE].contains(&name.as_str())
            {
                let value = value.into_string().map_err(|_| SettingError::Value {
                    place: name.clone(),
                    // It may be a secret.
                    value: "***".to_owned(),
                    reason: "is no UTF-8 text".to_owned(),
                })?;
                variables.insert(name, value);
            }
        }
        Ok(Self(variables))
    }

    /// A variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The role of a pod identity.
const ROLE_VARIABLE: &str = "AWS_ROLE_ARN";
/// The token file of a pod identity.
const TOKEN_VARIABLE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// Which job, and where its state is.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// The job.
    pub identity: JobIdentity,
    /// Where checkpoints and savepoints are kept.
    pub state_dir: Location,
    /// How an S3 store is reached.
    pub s3: S3Options,
    /// Where running jobs note the address of their status server.
    pub run_dir: PathBuf,
    /// What the other commands show to the status server.
    pub rest: RestCredentials,
}

/// Where keyed state rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateBackend {
    /// In memory.
    Heap,
    /// On local disk, with the working set in memory.
    RocksDb,
}

/// What keeps keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// Where it rests.
    pub backend: StateBackend,
    /// Where a local store keeps its files.
    pub local_dir: PathBuf,
    /// Bytes of files that may be in memory on their way to and from the object store.
    pub moving_bytes_max: u64,
}

/// How the processes of a job find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Tells revisions of the job apart; empty = nobody said.
    pub revision: String,
    /// Worker processes that `run` starts; `None` = the tasks run in its own.
    pub workers: Option<u32>,
    /// The name of a worker.
    pub worker_name: Option<String>,
    /// Where a coordinator takes workers.
    pub control_listen: SocketAddr,
    /// Where a worker finds its coordinator: one address or more.
    pub control_addresses: Vec<String>,
    /// The name of a coordinator.
    pub coordinator_name: Option<String>,
    /// After how long without a renewal another coordinator leads.
    pub lease_duration: Duration,
    /// Where a worker takes records from others.
    pub data_listen: SocketAddr,
    /// Where others reach a coordinator, where that is not where it listens.
    pub control_advertised: Option<String>,
    /// Where others reach a worker with records, where that is not where it listens.
    pub data_advertised: Option<String>,
    /// How rows go to other workers.
    pub link: LinkSettings,
    /// How the two notice that the other is gone.
    pub connection: ConnectionSettings,
    /// How long a worker goes on without a coordinator.
    pub takeover_max: Duration,
    /// How long a worker that is told to end waits until its tasks run elsewhere.
    pub leave_max: Duration,
    /// The certificate of the process; `None` = connections are in the clear.
    pub tls: Option<IdentityFiles>,
}

impl ClusterSettings {
    /// How the processes of the job are connected.
    ///
    /// # Errors
    /// When the files of the certificate are none.
    pub fn wire(&self) -> Result<Wire, Failure> {
        let wire = self.tls.clone().map_or(Ok(Wire::Clear), Wire::tls);
        wire.map_err(|error| Failure::new(Code::Usage, error.to_string()))
    }
}

/// How a job runs.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// What holds where the job's function set nothing.
    pub plan: PlanDefaults,
    /// The worker.
    pub worker: WorkerSettings,
    /// Where keyed state rests.
    pub state: StateSettings,
    /// The coordinator.
    pub coordinator: CoordinatorSettings,
    /// Where the status server listens, and who may ask it.
    pub rest: RestSettings,
    /// Where a worker shows its metrics; `None` = nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// How processes of the job find each other.
    pub cluster: ClusterSettings,
    /// All of them as they were given, for those who ask.
    pub given: Settings,
    /// Parameters of the job.
    pub parameters: BTreeMap<String, String>,
    /// The protocol step at which a test build stops.
    pub stop_at: Option<String>,
}

/// Whether an address `host:port` is of this machine only, as far as it says so itself.
fn is_loopback(address: &str) -> bool {
    let is_name = address
        .rsplit_once(':')
        .is_some_and(|(host, _)| host == "localhost");
    let parsed = address.parse::<SocketAddr>();
    is_name || parsed.is_ok_and(|address| address.ip().is_loopback())
}

/// One part in so many of the memory for state goes to a local store: blocks, indexes, filters, write buffers. The tables
/// answer most reads, and a block that holds one row that is wanted holds many that are not.
const STORE_SHARE: u64 = 4;

/// So many sixteenths of the memory for state are kept free with a local store: for files on their way to and from the object
/// store, for the process itself, and for what an allocator loses.
const FREE_SIXTEENTHS: u64 = 3;

/// What the process takes for itself beside a local store, however little memory there is for state: threads, their buffers, code. Measured:
/// 0.84 times the memory for state and 69 MiB, of which 3 sixteenths cover enough from 400 MiB on.
const PROCESS_BYTES: u64 = 48 << 20;

/// What is kept free of the memory for state with a local store: never more than three eighths.
fn free_of(memory: u64) -> u64 {
    let own = PROCESS_BYTES + memory / 16;
    (memory / 16 * FREE_SIXTEENTHS).max(own.min(memory / 8 * 3))
}

/// Bytes of files on their way at once: at most, and without a local store.
const MOVING_MAX: u64 = 64 << 20;

/// Everything that was given, and what follows from it.
#[derive(Clone)]
pub struct Settings {
    given: Given,
    resolved: Resolved,
    environment: Environment,
}

impl fmt::Debug for Settings {
    /// Without values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the settings file, if one is named, and decides every setting.
    ///
    /// # Errors
    /// The first thing that is refused, by name.
    pub fn read(
        job: &JobArgs,
        run: Option<&RunArgs>,
        environment: Environment,
    ) -> Result<Self, SettingError> {
        let variable = environment.get(CONFIG_VARIABLE).map(Path::new);
        let file = match (job.config.as_deref(), variable) {
            (Some(path), _) => SettingsFile::read(path, "--config")?,
            (None, Some(path)) => SettingsFile::read(path, CONFIG_VARIABLE)?,
            (None, None) => SettingsFile::default(),
        };
        let mut flags = job.flags.0.clone();
        flags.extend(run.iter().flat_map(|run| run.flags.0.clone()));
        let given = Given {
            flags,
            environment: environment.0.clone(),
            file,
            changes: BTreeMap::new(),
        };
        let resolved = given.resolve()?;
        Ok(Self {
            given,
            resolved,
            environment,
        })
    }

    /// Which job. `program` names it where nothing else does.
    ///
    /// # Errors
    /// When the program's name can be no identity.
    pub fn job(&self, program: &str) -> Result<JobSettings, Failure> {
        let name = self.resolved.text("job");
        let identity = JobIdentity::parse(name.as_deref().unwrap_or(program));
        let identity = identity
            .map_err(|error| Failure::new(Code::Usage, format!("{error}; or name it by --job")))?;
        let location = Location::parse(&self.known_text("state.dir"));
        let secret = |name| self.resolved.text(name).map(Secret::new);
        let variable = |name| self.environment.get(name).map(str::to_owned);
        Ok(JobSettings {
            identity,
            state_dir: location.map_err(|error| Failure::new(Code::Usage, error.to_string()))?,
            s3: S3Options {
                endpoint: self.resolved.text("s3.endpoint"),
                region: self.resolved.text("s3.region"),
                access_key_id: self.resolved.text("s3.access-key-id"),
                secret_access_key: secret("s3.secret-access-key"),
                session_token: secret("s3.session-token"),
                role_arn: variable(ROLE_VARIABLE),
                web_identity_token_file: variable(TOKEN_VARIABLE),
            },
            run_dir: PathBuf::from(self.known_text("run.dir")),
            rest: RestCredentials::of(&self.resolved)?,
        })
    }

    /// How the job runs on a machine with this many whole cores. `parameters` come from the command line.
    ///
    /// # Errors
    /// When settings contradict each other.
    pub fn run(
        &self,
        parameters: &[(String, String)],
        cores: u32,
    ) -> Result<RunSettings, SettingError> {
        let count = |name| self.resolved.count(name).map(|count| count as u32);
        let max = MaxParallelism::try_new(self.known_count("max-parallelism"));
        let mut all = self.given.file.parameters.clone();
        for (at, (name, value)) in parameters.iter().enumerate() {
            if parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(SettingError::Value {
                    place: "--param".to_owned(),
                    value: format!("{name}={value}"),
                    reason: format!("gives `{name}` a second time; keep one of them"),
                });
            }
            all.insert(name.clone(), value.clone());
        }
        let log_format = match self.known_text("log.format").as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let cluster = self.cluster()?;
        let stop_at = self.environment.get(source::STOP_VARIABLE);
        let memory = self.known_size("state.memory");
        let backend = match self.known_text("state.backend").as_str() {
            "rocksdb" => StateBackend::RocksDb,
            _ => StateBackend::Heap,
        };
        let (store_bytes_max, free_bytes, moving_bytes_max) = match backend {
            StateBackend::Heap => (0, 0, MOVING_MAX),
            StateBackend::RocksDb => {
                let moving = (memory / 16).min(MOVING_MAX);
                (memory / STORE_SHARE, free_of(memory), moving)
            }
        };
        Ok(RunSettings {
            plan: PlanDefaults {
                parallelism: Parallelism(count("parallelism").unwrap_or(cores)),
                max_parallelism: max.expect("the table bounds it"),
                checkpoints: Checkpoints::On,
            },
            worker: WorkerSettings {
                slots: count("slots").unwrap_or(cores),
                state_bytes_max: memory - store_bytes_max - free_bytes,
                store_bytes_max,
                spool_bytes_max: self.known_size("sink.spool"),
            },
            state: StateSettings {
                backend,
                local_dir: PathBuf::from(self.known_text("state.local-dir")),
                moving_bytes_max,
            },
            coordinator: self.coordinator()?,
            rest: RestSettings::of(&self.resolved, cluster.tls.as_ref())?,
            metrics_address: self.resolved.address("metrics.address"),
            log_format,
            log_level: self.known_text("log.level"),
            cluster,
            given: self.clone(),
            parameters: all,
            stop_at: stop_at.map(str::to_owned),
        })
    }

    fn cluster(&self) -> Result<ClusterSettings, SettingError> {
        let address = |name| {
            self.resolved
                .address(name)
                .expect("the table has a default")
        };
        let connection = ConnectionSettings {
            alive_every: Duration::from_millis(self.known_millis("heartbeat.interval")),
            silent_max: Duration::from_millis(self.known_millis("heartbeat.timeout")),
        };
        if connection.silent_max < 2 * connection.alive_every {
            return Err(SettingError::Contradiction(
                "heartbeat.timeout is shorter than two of heartbeat.interval, so one that is late would end an attempt; make the one \
                 longer or the other shorter",
            ));
        }
        let tls = self.tls()?;
        let (control_listen, data_listen) = (address("control.listen"), address("data.listen"));
        let is_exposed = |address: SocketAddr| !address.ip().is_loopback();
        let allows_clear = self.resolved.switch("allow-clear-text") == Some(true);
        let control_addresses = self.control_addresses()?;
        let leaves = control_addresses
            .iter()
            .any(|address| !is_loopback(address));
        let is_open = leaves || is_exposed(control_listen) || is_exposed(data_listen);
        if is_open && tls.is_none() && !allows_clear {
            return Err(SettingError::Contradiction(
                "control.listen, data.listen or control.address is not on loopback and there are no certificates; give tls.authority, \
                 tls.certificate, tls.key and tls.peer-name, or allow-clear-text in a network that nobody else reaches",
            ));
        }
        let compression = match self.known_text("data.compression").as_str() {
            "lz4" => Compression::Lz4,
            _ => Compression::Off,
        };
        Ok(ClusterSettings {
            link: LinkSettings {
                compression,
                ..LinkSettings::default()
            },
            control_advertised: self.advertised("control.advertised-address", control_listen)?,
            data_advertised: self.advertised("data.advertised-address", data_listen)?,
            tls,
            revision: self.resolved.text("revision").unwrap_or_default(),
            workers: self.resolved.count("workers").map(|count| count as u32),
            worker_name: self.resolved.text("worker.name"),
            control_listen,
            control_addresses,
            coordinator_name: self.resolved.text("coordinator.name"),
            lease_duration: Duration::from_millis(self.known_millis("lease.duration")),
            data_listen,
            connection,
            takeover_max: Duration::from_millis(self.known_millis("takeover.timeout")),
            leave_max: Duration::from_millis(self.known_millis("worker.leave-timeout")),
        })
    }

    /// Where others reach what listens at `listen`.
    fn advertised(
        &self,
        name: &'static str,
        listen: SocketAddr,
    ) -> Result<Option<String>, SettingError> {
        let advertised = self.resolved.text(name);
        if advertised.is_none() && listen.ip().is_unspecified() {
            return Err(SettingError::Contradiction(
                "control.listen or data.listen is on all addresses of the machine, which nobody can connect to; say with \
                 control.advertised-address or data.advertised-address where others reach it",
            ));
        }
        Ok(advertised)
    }

    fn tls(&self) -> Result<Option<IdentityFiles>, SettingError> {
        let given = [
            "tls.authority",
            "tls.certificate",
            "tls.key",
            "tls.peer-name",
        ]
        .map(|name| self.resolved.text(name));
        match given {
            [None, None, None, None] => Ok(None),
            [
                Some(authority),
                Some(certificate),
                Some(key),
                Some(peer_name),
            ] => Ok(Some(IdentityFiles {
                authority: authority.into(),
                certificate: certificate.into(),
                key: key.into(),
                peer_name,
            })),
            _ => Err(SettingError::Contradiction(
                "tls.authority, tls.certificate, tls.key and tls.peer-name belong together; give all of them or none",
            )),
        }
    }

    fn control_addresses(&self) -> Result<Vec<String>, SettingError> {
        let text = self.known_text("control.address");
        let addresses: Vec<_> = text
            .split(',')
            .map(|address| address.trim().to_owned())
            .collect();
        if addresses.iter().any(String::is_empty) {
            return Err(SettingError::Contradiction(
                "control.address holds an empty address; write host:port, several of them separated by commas",
            ));
        }
        Ok(addresses)
    }

    fn coordinator(&self) -> Result<CoordinatorSettings, SettingError> {
        let switch = self.resolved.switch("allow-unmatched-state");
        let unmatched = if switch == Some(true) {
            UnmatchedState::Drop
        } else {
            UnmatchedState::Refuse
        };
        let retention = Retention::try_new(self.known_count("checkpoint.retained"));
        let failures_max = self.resolved.count("checkpoint.failures-max");
        Ok(CoordinatorSettings {
            checkpoint: CheckpointSettings {
                interval_ms: self.known_millis("checkpoint.interval"),
                min_pause_ms: self.known_millis("checkpoint.min-pause"),
                timeout_ms: self.known_millis("checkpoint.timeout"),
                commit_retry_ms: COMMIT_RETRY_MS,
                failures_max: failures_max.map(|count| count as u32),
            },
            retention: retention.expect("the table bounds it"),
            restart: self.restart()?,
            cancellation_timeout: Duration::from_millis(
                self.known_millis("task.cancellation-timeout"),
            ),
            restore: RestoreOptions {
                unmatched,
                readable: std::collections::BTreeSet::new(),
            },
            savepoints: SAVEPOINTS.to_owned(),
        })
    }

    fn restart(&self) -> Result<RestartStrategy, SettingError> {
        let first = Duration::from_millis(self.known_millis("restart.first-delay"));
        let restarts_max = self.resolved.count("restart.attempts");
        let restarts_max = restarts_max.map(|count| count as u32);
        match self.known_text("restart.strategy").as_str() {
            "never" => return Ok(RestartStrategy::Never),
            "fixed" => {
                return Ok(RestartStrategy::Fixed {
                    delay: first,
                    restarts_max,
                });
            }
            "failure-rate" => {
                let restarts_max = restarts_max.ok_or(SettingError::Contradiction(
                    "restart.strategy is `failure-rate`, which needs restart.attempts: so many restarts within restart.interval",
                ))?;
                return Ok(RestartStrategy::FailureRate {
                    delay: first,
                    restarts_max,
                    interval: Duration::from_millis(self.known_millis("restart.interval")),
                });
            }
            _ => {}
        }
        let most = Duration::from_millis(self.known_millis("restart.max-delay"));
        if first > most {
            return Err(SettingError::Contradiction(
                "restart.first-delay is longer than restart.max-delay; make the one shorter or the other longer",
            ));
        }
        Ok(RestartStrategy::Exponential {
            first,
            most,
            reset_after: most * 10,
            restarts_max,
        })
    }

    fn known_text(&self, name: &str) -> String {
        self.resolved.text(name).expect("the table has a default")
    }

    fn known_count(&self, name: &str) -> u32 {
        self.resolved.count(name).expect("the table has a default") as u32
    }

    fn known_size(&self, name: &str) -> u64 {
        self.resolved.size(name).expect("the table has a default")
    }

    fn known_millis(&self, name: &str) -> u64 {
        let span = self.resolved.span(name).expect("the table has a default");
        span.as_millis() as u64
    }
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        Self::new(Code::Usage, error.to_string())
    }
}

/// Whole cores of this machine, at least 1.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// The name of this program, without folder and ending.
pub(crate) fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program
        .as_deref()
        .and_then(|path| path.file_stem()?.to_str());
    name.unwrap_or("job").to_owned()
}

#[cfg(test)]
mod tests;
