//! Settings of a job: by flag, else by environment, else the default. Each has a unit, a range and a reader.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use highwater_coordinator::{CoordinatorSettings, RestartStrategy};
use highwater_graph::PlanDefaults;
use highwater_graph::check::Checkpoints;
use highwater_protocol::checkpoint::CheckpointSettings;
use highwater_protocol::gc::Retention;
use highwater_protocol::recovery::{RestoreOptions, UnmatchedState};
use highwater_types::{JobIdentity, MaxParallelism, Parallelism};

use crate::exit::{Code, Failure};
use crate::logs::LogFormat;

/// Which job, and where its state is. Every command needs these.
#[derive(Args, Clone, Debug)]
pub struct JobArgs {
    /// Name of the job: 1 to 63 lower-case letters, digits, `-`, `_`. Names its checkpoints [default: the program's name]
    #[arg(long, env = "HIGHWATER_JOB", global = true)]
    pub job: Option<String>,
    /// Where checkpoints and savepoints are kept: a directory, or s3://bucket/prefix
    #[arg(
        long,
        env = "HIGHWATER_STATE_DIR",
        default_value = ".highwater/state",
        global = true
    )]
    pub state_dir: String,
    /// Where running jobs note the address of their status server
    #[arg(
        long,
        env = "HIGHWATER_RUN_DIR",
        default_value = ".highwater/run",
        global = true
    )]
    pub run_dir: PathBuf,
}

impl JobArgs {
    /// The job's identity.
    pub fn identity(&self) -> Result<JobIdentity, Failure> {
        let program = std::env::current_exe().ok();
        let program = program
            .as_deref()
            .and_then(|path| path.file_stem()?.to_str());
        let name = self.job.as_deref().or(program).unwrap_or("job");
        JobIdentity::parse(name).map_err(|error| Failure::of(&error))
    }
}

/// How a job runs.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Subtasks of operators that set none [default: whole cores]
    #[arg(long, env = "HIGHWATER_PARALLELISM")]
    pub parallelism: Option<u32>,
    /// Key groups of operators that set none, 1 to 32768; fixed once state exists
    #[arg(long, env = "HIGHWATER_MAX_PARALLELISM", default_value_t = 720)]
    pub max_parallelism: u32,
    /// Slot threads [default: whole cores]
    #[arg(long, env = "HIGHWATER_SLOTS")]
    pub slots: Option<u32>,
    /// From the start of one checkpoint to the start of the next: 10ms to 1d, such as 500ms, 10s, 5m
    #[arg(long, env = "HIGHWATER_CHECKPOINT_INTERVAL", default_value = "10s", value_parser = duration)]
    pub checkpoint_interval: Duration,
    /// Rest between two checkpoints, 0ms to 1d
    #[arg(long, env = "HIGHWATER_CHECKPOINT_MIN_PAUSE", default_value = "0ms", value_parser = duration)]
    pub checkpoint_min_pause: Duration,
    /// A checkpoint that takes longer is given up
    #[arg(long, env = "HIGHWATER_CHECKPOINT_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub checkpoint_timeout: Duration,
    /// Completed checkpoints that are kept, at least 1
    #[arg(long, env = "HIGHWATER_CHECKPOINT_RETAINED", default_value_t = 3)]
    pub checkpoint_retained: u32,
    /// Checkpoints that may fail in a row before the job fails [default: any number]
    #[arg(long, env = "HIGHWATER_CHECKPOINT_FAILURES_MAX")]
    pub checkpoint_failures_max: Option<u32>,
    /// MiB of keyed state that the job may hold, at least 1
    #[arg(long, env = "HIGHWATER_STATE_MEMORY_MIB", default_value_t = 1_024)]
    pub state_memory_mib: u64,
    /// MiB of unconfirmed output that one sink slot may hold, at least 1
    #[arg(long, env = "HIGHWATER_SINK_SPOOL_MIB", default_value_t = 64)]
    pub sink_spool_mib: u64,
    /// Delay before the first restart after a failure; doubles with each failure in a row
    #[arg(long, env = "HIGHWATER_RESTART_FIRST_DELAY", default_value = "1s", value_parser = duration)]
    pub restart_first_delay: Duration,
    /// Longest delay before a restart
    #[arg(long, env = "HIGHWATER_RESTART_MAX_DELAY", default_value = "30s", value_parser = duration)]
    pub restart_max_delay: Duration,
    /// Restarts in a row before the job fails; 0 = never restart [default: any number]
    #[arg(long, env = "HIGHWATER_RESTARTS_MAX")]
    pub restarts_max: Option<u32>,
    /// A parameter that the job's function reads: name=value; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// Begin a new lineage and leave the state of the old one behind
    #[arg(long)]
    pub fresh: bool,
    /// Drop stored state that no operator of this job takes
    #[arg(long, env = "HIGHWATER_ALLOW_UNMATCHED_STATE")]
    pub allow_unmatched_state: bool,
    /// No live view, also on a terminal
    #[arg(long, short)]
    pub quiet: bool,
    /// How log lines look
    #[arg(long, env = "HIGHWATER_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log level, also by module: error, warn, info, debug, trace, or such as info,highwater_worker=debug
    #[arg(long, env = "HIGHWATER_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Loopback port of the status server; 0 = any free one
    #[arg(long, env = "HIGHWATER_REST_PORT", default_value_t = 0)]
    pub rest_port: u16,
}

/// Reads a parameter `name=value`.
pub fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no parameter; write name=value")),
    }
}

/// Reads a duration such as `500ms`, `10s`, `5m`, `2h` or `1d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => {
            return Err(format!(
                "`{text}` has no unit; write 500ms, 10s, 5m, 2h or 1d"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` does not begin with a number"))?;
    let millis = number
        .checked_mul(millis)
        .filter(|millis| *millis <= 366 * 86_400_000);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is longer than a year"))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Code::Invalid, message)
}

const fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl RunArgs {
    /// Whole cores, at least 1.
    fn cores() -> u32 {
        std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
    }

    /// The number of slot threads.
    pub fn slots(&self) -> Result<u32, Failure> {
        match self.slots {
            Some(0) => Err(invalid("--slots 0 runs nothing; use 1 or more")),
            Some(slots) => Ok(slots),
            None => Ok(Self::cores()),
        }
    }

    /// What holds where the job's function set nothing.
    pub fn plan_defaults(&self) -> Result<PlanDefaults, Failure> {
        let max = MaxParallelism::try_new(self.max_parallelism);
        Ok(PlanDefaults {
            parallelism: Parallelism(self.parallelism.unwrap_or_else(Self::cores)),
            max_parallelism: max.map_err(|error| Failure::of(&error))?,
            checkpoints: Checkpoints::On,
        })
    }

    /// The settings of the coordinator.
    pub fn coordinator(&self) -> Result<CoordinatorSettings, Failure> {
        if self.checkpoint_interval < Duration::from_millis(10) {
            return Err(invalid(
                "--checkpoint-interval is shorter than 10ms; use 10ms or more",
            ));
        }
        if self.checkpoint_timeout < self.checkpoint_interval {
            return Err(invalid(
                "--checkpoint-timeout is shorter than --checkpoint-interval; give a checkpoint at least that long",
            ));
        }
        let retention = Retention::try_new(self.checkpoint_retained);
        let unmatched = if self.allow_unmatched_state {
            UnmatchedState::Drop
        } else {
            UnmatchedState::Refuse
        };
        let restart = match self.restarts_max {
            Some(0) => RestartStrategy::Never,
            restarts_max => RestartStrategy::Exponential {
                first: self.restart_first_delay,
                most: self.restart_max_delay,
                reset_after: self.restart_max_delay * 10,
                restarts_max,
            },
        };
        Ok(CoordinatorSettings {
            checkpoint: CheckpointSettings {
                interval_ms: millis(self.checkpoint_interval),
                min_pause_ms: millis(self.checkpoint_min_pause),
                timeout_ms: millis(self.checkpoint_timeout),
                commit_retry_ms: 1_000,
                failures_max: self.checkpoint_failures_max,
            },
            retention: retention.map_err(|error| invalid(error.to_string()))?,
            restart,
            restore: RestoreOptions {
                unmatched,
                readable: std::collections::BTreeSet::new(),
            },
            savepoints: "savepoints".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_say_which() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("5m").unwrap(), Duration::from_mins(5));
        assert!(duration("10").unwrap_err().contains("no unit"));
        assert!(duration("10 secs").unwrap_err().contains("no unit"));
        assert!(duration("s").unwrap_err().contains("number"));
        assert!(duration("400d").unwrap_err().contains("year"));
    }
}
