//! The table of settings: the one place that names them, with range, default and meaning.
//!
//! Flags, environment variables, the keys of a settings file, `--help` and `docs/settings.md` all come from here. The
//! rule: what a user may set stands in this table once; what is not in it is refused by name.

use super::kind::{DAY, GIB, Kind, MIB, TIB};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name as a settings file has it; flag and variable follow from it.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What holds where nobody says otherwise.
    pub default: Preset,
    /// Which commands read it.
    pub reach: Reach,
    /// Whether it may change while the job runs.
    pub live: bool,
    /// The version that brought it.
    pub since: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// What holds where nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// This text, read like any other.
    Value(&'static str),
    /// Nothing is set; these words say what that means.
    Unset(&'static str),
}

/// Which commands read a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    Every,
    /// `run` and `plan`.
    Run,
}

impl Setting {
    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.replace('.', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        let plain = self.name.replace(['.', '-'], "_").to_ascii_uppercase();
        format!("{PREFIX}{plain}")
    }
}

/// What all environment variables of Highwater begin with.
pub const PREFIX: &str = "HIGHWATER_";
/// The variable that names a settings file.
pub const CONFIG_VARIABLE: &str = "HIGHWATER_CONFIG";
/// The version that brought everything so far.
const FIRST: &str = "0.1";

const fn every(name: &'static str, kind: Kind, default: Preset, help: &'static str) -> Setting {
    Setting {
        name,
        kind,
        default,
        reach: Reach::Every,
        live: false,
        since: FIRST,
        help,
    }
}

const fn run(name: &'static str, kind: Kind, default: Preset, help: &'static str) -> Setting {
    Setting {
        name,
        kind,
        default,
        reach: Reach::Run,
        live: false,
        since: FIRST,
        help,
    }
}

/// One of a run that may change while the job runs.
const fn live(name: &'static str, kind: Kind, default: Preset, help: &'static str) -> Setting {
    Setting {
        live: true,
        ..run(name, kind, default, help)
    }
}

/// Every setting, in the order in which pages show them.
pub const SETTINGS: &[Setting] = &[
    every(
        "job",
        Kind::Name,
        Preset::Unset("the name of the program"),
        "Identity of the job: names its checkpoints, and what a later run goes on from.",
    ),
    run(
        "parallelism",
        Kind::count(1, 32_768),
        Preset::Unset("whole cores"),
        "Subtasks of operators that set none.",
    ),
    run(
        "max-parallelism",
        Kind::count(1, 32_768),
        Preset::Value("720"),
        "Key groups of operators that set none, which bound their parallelism; fixed once state exists.",
    ),
    run(
        "slots",
        Kind::count(1, 1_024),
        Preset::Unset("whole cores"),
        "Slot threads.",
    ),
    run(
        "allow-unmatched-state",
        Kind::Switch,
        Preset::Value("false"),
        "Drops stored state that this job does not take, whole operators or one state of an operator, instead of refusing to start.",
    ),
    every(
        "run.dir",
        Kind::Folder,
        Preset::Value(".highwater/run"),
        "Where running jobs note the address of their status server, for the other commands.",
    ),
    every(
        "state.dir",
        Kind::Location,
        Preset::Value("./.highwater/state"),
        "Where checkpoints and savepoints are kept: a directory, or `s3://bucket/prefix`.",
    ),
    run(
        "state.backend",
        Kind::Choice(&["heap", "rocksdb"]),
        Preset::Value("heap"),
        "Where keyed state rests: in memory, or on local disk with its working set in memory. Either reads the other's checkpoints.",
    ),
    run(
        "state.memory",
        Kind::size(MIB, 64 * TIB),
        Preset::Value("1GiB"),
        "Memory for keyed state, all slots together. `heap` refuses more state; `rocksdb` aims at it for tables, caches and write buffers (16MiB or more) and keeps the rest on local disk.",
    ),
    run(
        "state.local-dir",
        Kind::Folder,
        Preset::Value("./.highwater/local"),
        "Where `rocksdb` keeps its files: a fast local disk. A cache: it may be lost at any time, and then costs a longer restart.",
    ),
    run(
        "sink.spool",
        Kind::size(MIB, 64 * GIB),
        Preset::Value("64MiB"),
        "Unconfirmed output that one slot of an exactly-once sink may hold; a full spool is backpressure.",
    ),
    live(
        "checkpoint.interval",
        Kind::span(10, DAY),
        Preset::Value("10s"),
        "From the start of one checkpoint to the start of the next.",
    ),
    live(
        "checkpoint.min-pause",
        Kind::span(0, DAY),
        Preset::Value("0ms"),
        "Rest from the end of one checkpoint to the start of the next.",
    ),
    live(
        "checkpoint.timeout",
        Kind::span(10, DAY),
        Preset::Value("10m"),
        "A checkpoint that takes longer is given up.",
    ),
    run(
        "checkpoint.retained",
        Kind::count(1, 1_000),
        Preset::Value("3"),
        "Completed checkpoints that are kept; the one before the last always is, since a damaged one is given up for it.",
    ),
    live(
        "checkpoint.failures-max",
        Kind::count(0, 1_000_000),
        Preset::Unset("any number"),
        "Checkpoints that may fail in a row; one more fails the job.",
    ),
    live(
        "restart.strategy",
        Kind::Choice(&["exponential", "fixed", "failure-rate", "never"]),
        Preset::Value("exponential"),
        "When a failed attempt is tried again: after a delay that doubles with each failure in a row; after the same delay each time; the same as long as failures are rare; never. What fails three times in one way is not tried again by any of them.",
    ),
    live(
        "restart.first-delay",
        Kind::span(0, DAY),
        Preset::Value("1s"),
        "Delay before the first restart; with `fixed` and `failure-rate` before each.",
    ),
    live(
        "restart.max-delay",
        Kind::span(1, DAY),
        Preset::Value("30s"),
        "Longest delay of `exponential`; after ten times as long without a failure the delay is the first again.",
    ),
    live(
        "restart.attempts",
        Kind::count(1, 1_000_000),
        Preset::Unset("any number"),
        "Restarts, of which one more fails the job: in a row with `exponential`, since the process began with `fixed`, within restart.interval with `failure-rate`, which needs it.",
    ),
    live(
        "restart.interval",
        Kind::span(1, DAY),
        Preset::Value("1m"),
        "Interval of `failure-rate`.",
    ),
    run(
        "task.cancellation-timeout",
        Kind::span(1_000, DAY),
        Preset::Value("3m"),
        "An attempt that takes longer to end, since a function or a sink does not return, ends the process; its state is kept.",
    ),
    run(
        "rest.address",
        Kind::Listen,
        Preset::Value("127.0.0.1:0"),
        "Where the status server listens; port 0 is any free one. Off loopback it needs rest.authentication, and certificates (`tls.*`) or allow-clear-text.",
    ),
    run(
        "rest.advertised-address",
        Kind::Text,
        Preset::Unset("that of `rest.address`; of all addresses loopback"),
        "Where programs of other machines reach the status server: host and port. A coordinator that stands by points there.",
    ),
    run(
        "rest.authentication",
        Kind::Choice(&["none", "tokens", "certificates"]),
        Preset::Value("none"),
        "What somebody shows who asks the status server: nothing, on this machine only; a token of rest.tokens; or a certificate of tls.authority. With tokens or certificates the server speaks https where there is a tls.certificate.",
    ),
    run(
        "rest.tokens",
        Kind::File,
        Preset::Unset("none"),
        "File of the tokens that may ask, one a line: `read TOKEN` or `write TOKEN`, with a name for the log after it; read again when it changes.",
    ),
    every(
        "rest.url",
        Kind::Text,
        Preset::Unset("what the running job noted in `run.dir`"),
        "Where the other commands ask the job, such as `https://fleet.job:8081`; in the clear this machine only.",
    ),
    every(
        "rest.token",
        Kind::Secret,
        Preset::Unset("none"),
        "Token that the other commands show to the status server; without it they show tls.certificate, if there is one.",
    ),
    run(
        "metrics.address",
        Kind::Listen,
        Preset::Unset("nowhere"),
        "Where a `worker` shows its metrics, and nothing else, to whom `rest.authentication` lets in; port 0 is any free one. `run` and `coordinator` show theirs at rest.address. Workers that `run` starts do not listen.",
    ),
    run(
        "revision",
        Kind::Text,
        Preset::Unset("none"),
        "Tells revisions of the job apart: a coordinator takes workers of its own revision only.",
    ),
    run(
        "workers",
        Kind::count(1, 1_024),
        Preset::Unset("one, in the process of `run`"),
        "Worker processes that `run` starts on this machine, each with `slots`.",
    ),
    run(
        "worker.name",
        Kind::Text,
        Preset::Unset("host name and process id"),
        "Name of a worker; one that is started again under its name gets the subtasks back whose state lies on its disk.",
    ),
    run(
        "worker.leave-timeout",
        Kind::span(0, DAY),
        Preset::Value("30s"),
        "A `worker` that gets SIGTERM has its coordinator move its tasks to others behind a checkpoint, and ends then; after so long it ends anyway, and the job begins again from its last checkpoint. Shorter than what supervisors wait before they kill; 0s = it ends at once.",
    ),
    run(
        "control.listen",
        Kind::Listen,
        Preset::Value("127.0.0.1:6123"),
        "Where `coordinator` takes workers; port 0 is any free one.",
    ),
    run(
        "control.address",
        Kind::Text,
        Preset::Value("127.0.0.1:6123"),
        "Where `worker` finds its coordinator: host and port; with several coordinators all of theirs, separated by commas.",
    ),
    run(
        "coordinator.name",
        Kind::Text,
        Preset::Unset("host name and control address"),
        "Name of a `coordinator`, another for each of a job; one that is started again under its name leads at once if it led before.",
    ),
    run(
        "lease.duration",
        Kind::span(1_000, DAY),
        Preset::Value("10s"),
        "Another `coordinator` of the job leads when the one that does has not renewed its lease for so long; the same for all of a job.",
    ),
    run(
        "control.advertised-address",
        Kind::Text,
        Preset::Unset("that of `control.listen`"),
        "Where others reach this `coordinator`: host and port.",
    ),
    run(
        "data.listen",
        Kind::Listen,
        Preset::Value("127.0.0.1:0"),
        "Where `worker` takes records from other workers; port 0 is any free one.",
    ),
    run(
        "data.advertised-address",
        Kind::Text,
        Preset::Unset("that of `data.listen`"),
        "Where others reach this `worker` with records: host and port.",
    ),
    run(
        "data.compression",
        Kind::Choice(&["off", "lz4"]),
        Preset::Value("off"),
        "What `worker` does to rows that it sends to other workers: for networks that are slower than a processor compresses.",
    ),
    every(
        "tls.authority",
        Kind::File,
        Preset::Unset("none: connections are in the clear"),
        "File of the certificates, in PEM, that sign those of coordinators and workers; with it both sides of a connection must show one. The other commands need it for a status server that speaks https.",
    ),
    every(
        "tls.certificate",
        Kind::File,
        Preset::Unset("none"),
        "File of the certificate of this process, in PEM; read again when it changes.",
    ),
    every(
        "tls.key",
        Kind::File,
        Preset::Unset("none"),
        "File of the key of that certificate, in PEM.",
    ),
    every(
        "tls.peer-name",
        Kind::Text,
        Preset::Unset("none"),
        "Name that the certificates of all processes of this job have, such as `fleet.job`: an authority may sign for several jobs.",
    ),
    run(
        "allow-clear-text",
        Kind::Switch,
        Preset::Value("false"),
        "Lets `coordinator` and `worker` listen off loopback without certificates: anybody who reaches them reads and changes the job. Lets the status server take tokens in the clear there.",
    ),
    run(
        "heartbeat.interval",
        Kind::span(10, DAY),
        Preset::Value("500ms"),
        "Coordinator and workers say so often that they live; the same for all of a job.",
    ),
    run(
        "heartbeat.timeout",
        Kind::span(20, DAY),
        Preset::Value("5s"),
        "A worker or coordinator that says nothing for so long is given up; one whose process ends is noticed at once. The same for all of a job.",
    ),
    run(
        "takeover.timeout",
        Kind::span(0, DAY),
        Preset::Value("1m"),
        "A `worker` whose coordinator is gone goes on with its records for so long, until another leads; 0s = it ends the attempt at once.",
    ),
    run(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Preset::Value("text"),
        "How log lines look.",
    ),
    live(
        "log.level",
        Kind::Levels,
        Preset::Value("info"),
        "What is logged: a level, also by module, such as `info,highwater_worker=debug`.",
    ),
    every(
        "s3.endpoint",
        Kind::Text,
        Preset::Unset("that of Amazon for the region"),
        "Address of an S3-compatible store, such as `http://127.0.0.1:9000`.",
    ),
    every(
        "s3.region",
        Kind::Text,
        Preset::Unset("us-east-1"),
        "Region of the bucket.",
    ),
    every(
        "s3.access-key-id",
        Kind::Secret,
        Preset::Unset("the identity of the instance or pod"),
        "Access key of the store.",
    ),
    every(
        "s3.secret-access-key",
        Kind::Secret,
        Preset::Unset("the identity of the instance or pod"),
        "Secret of the access key.",
    ),
    every(
        "s3.session-token",
        Kind::Secret,
        Preset::Unset("none"),
        "Token of temporary keys.",
    ),
];

/// The setting of this name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_flags_and_variables_are_unique() {
        let unique =
            |text: fn(&Setting) -> String| SETTINGS.iter().map(text).collect::<BTreeSet<_>>().len();
        assert_eq!(unique(|setting| setting.name.to_owned()), SETTINGS.len());
        assert_eq!(unique(Setting::flag), SETTINGS.len());
        assert_eq!(unique(Setting::variable), SETTINGS.len());
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for setting in SETTINGS {
            if let Preset::Value(text) = setting.default {
                assert!(setting.kind.read(text).is_ok(), "{}", setting.name);
            }
        }
    }

    #[test]
    fn flag_and_variable_follow_from_the_name() {
        let interval = setting("checkpoint.min-pause").unwrap();
        assert_eq!(interval.flag(), "checkpoint-min-pause");
        assert_eq!(interval.variable(), "HIGHWATER_CHECKPOINT_MIN_PAUSE");
    }
}
