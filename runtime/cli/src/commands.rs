//! The commands of a job binary.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use highwater_api::{JobProgram, ParameterError, StreamEnvironment};
use highwater_graph::{PlanFormat, explain};
use highwater_operators::UserError;
use highwater_types::MaxParallelism;
use highwater_web::graph;
use highwater_worker::slot::error_chain;
use serde::Serialize;

use crate::exit::{Code, Failure};
use crate::run::Crew;
use crate::settings::kind::patience;
use crate::settings::{
    Environment, JobArgs, JobSettings, RunArgs, RunSettings, Settings, cores, parameter,
    program_name,
};
use crate::{inspect, remote, run, worker};

/// A job: fills the environment with its streams.
pub type JobFunction = fn(&mut StreamEnvironment) -> Result<(), UserError>;

#[derive(Parser)]
#[command(
    about = "A Highwater stream job",
    long_about = "A Highwater stream job. `run` starts it, or goes on where its last run left off; `plan` shows what \
                  would run and touches nothing.",
    display_name = "highwater",
    version,
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    job: JobArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the job in this process: starts, or goes on from the last checkpoint
    Run(Box<RunArgs>),
    /// Lead the job and take workers that run its tasks; starts, or goes on from the last checkpoint
    Coordinator(Box<RunArgs>),
    /// Run tasks of the job for its coordinator; waits for one as long as none answers
    Worker(Box<RunArgs>),
    /// Show operators, tasks, exchanges and state; touches nothing
    Plan {
        /// How to show it
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        #[command(flatten)]
        run: Box<RunArgs>,
    },
    /// Show how the running job does
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Take a savepoint of the running job and go on
    Savepoint {
        /// Its name: 1 to 63 lower-case letters, digits, `-`, `_`
        name: String,
        #[command(flatten)]
        of: OperationArgs,
    },
    /// Have the running job go on at another parallelism; no record is lost and none counts twice
    ///
    /// The job takes a checkpoint behind which its sources wait. Once all output of it is confirmed, the tasks begin anew from it at
    /// the parallelism that is asked for. Processes stay, and so does what workers keep on local disk. If the checkpoint is given up,
    /// the job goes on as it was.
    ///
    /// --parallelism is for all operators whose author set none. --operator names a single one by the uid that `plan` shows, and goes
    /// before it. What neither names keeps the parallelism that it runs at.
    ///
    /// A job with workers needs as many slots as its largest parallelism. Without them nothing is begun and the command ends with code
    /// 3; with --slots-within it waits for them, and the job goes on meanwhile.
    ///
    /// What was asked for holds for later runs too, until the program or its settings say another parallelism than they do now.
    #[command(
        after_help = "Examples:\n  cargo run -- rescale --parallelism 4\n  cargo run -- rescale --operator count=8 --operator sum=2\n  \
                      cargo run -- rescale --parallelism 8 --slots-within 5m"
    )]
    Rescale(RescaleArgs),
    /// Stop the running job with all output confirmed; a later run goes on
    Stop {
        /// Let event time run to its end first, so that every window fires
        #[arg(long)]
        drain: bool,
        /// Leave a savepoint of this name
        #[arg(long)]
        savepoint: Option<String>,
        #[command(flatten)]
        of: OperationArgs,
    },
    /// Show what came of a savepoint, rescale or stop that was asked for under an id
    Operation {
        /// The id
        id: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the last failures of the running job
    Exceptions {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show which keys take many of the records of a keyed operator of the running job, by a sample
    #[command(after_help = "Examples:\n  cargo run -- hot-keys\n  cargo run -- hot-keys --json")]
    HotKeys {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the settings of the running job, or change those that may change while it runs
    Config {
        /// Changes: name=value
        #[arg(value_name = "NAME=VALUE", value_parser = parameter)]
        changes: Vec<(String, String)>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Look at checkpoints: those in the store, and what the running job did
    Checkpoints {
        #[command(subcommand)]
        command: CheckpointsCommand,
    },
    /// Show the version
    Version,
}

#[derive(Subcommand)]
enum CheckpointsCommand {
    /// List the checkpoints that are kept
    List,
    /// Show the last checkpoint, or the one of this number
    Inspect {
        /// Its number
        number: Option<u64>,
    },
    /// Read every file of the last checkpoint and compare length and checksum
    Verify,
    /// Show the last checkpoints of the running job with sizes, times and why some were given up
    History {
        /// Show this one with its tasks
        number: Option<u64>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// How something is asked of a running job.
#[derive(Args, Clone, Debug, Default)]
pub struct OperationArgs {
    /// Id of the request: asked for again under it, nothing is done twice
    #[arg(long, value_name = "ID")]
    pub operation: Option<String>,
    /// Do not wait for the end: `operation ID` shows what came of it
    #[arg(long)]
    pub detach: bool,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// What the command line says of a rescale.
#[derive(Args, Clone, Debug, Default)]
pub struct RescaleArgs {
    #[command(flatten)]
    pub(crate) to: ParallelismArgs,
    /// Wait so long, up to 1d, for slots that are missing, such as those of workers that start; without it not at all
    #[arg(long, value_name = "TIME", value_parser = patience)]
    pub slots_within: Option<Duration>,
    #[command(flatten)]
    pub(crate) of: OperationArgs,
}

/// The parallelism that a job is to go on at.
#[derive(Args, Clone, Debug, Default)]
#[group(required = true, multiple = true)]
pub struct ParallelismArgs {
    /// Subtasks of each operator whose author set no parallelism
    #[arg(long, value_name = "N", value_parser = subtasks)]
    pub parallelism: Option<u32>,
    /// Subtasks of the operator with this uid; may be repeated
    #[arg(long = "operator", value_name = "UID=N", value_parser = of_operator)]
    pub operators: Vec<(String, u32)>,
}

/// Reads a parallelism.
fn subtasks(text: &str) -> Result<u32, String> {
    let most = MaxParallelism::LIMIT;
    match text.parse::<u32>() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(format!("a parallelism is a number from 1 to {most}")),
    }
}

/// Reads the parallelism of one operator.
fn of_operator(text: &str) -> Result<(String, u32), String> {
    match text.split_once('=') {
        Some((uid, count)) if !uid.is_empty() => Ok((uid.to_owned(), subtasks(count)?)),
        _ => Err("write UID=N, such as count=8; `plan` shows the uids".to_owned()),
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For Graphviz
    Dot,
}

/// Runs the command that the command line asks for. Exit codes are in `docs/exit-codes.md`.
pub fn main(job: JobFunction) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                Code::Usage as u8
            } else {
                0
            };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(Code::Other as u8),
            };
        }
    };
    match dispatch(cli, job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say_error(&failure);
            failure.exit_code()
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a command belong on stderr"
)]
fn say_error(failure: &Failure) {
    eprintln!("error: {failure}");
}

/// Writes to stdout; a closed pipe is no error.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        // Nobody reads any more: there is nothing left to say and nobody to say it to.
    }
}

/// What a program reads of `told`.
pub(crate) fn json_text(told: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(told);
    let text = text.map_err(|error| Failure::new(Code::Other, error.to_string()))?;
    Ok(text + "\n")
}

/// What `version` and `--version` say.
fn version() -> String {
    format!("highwater {}\n", env!("CARGO_PKG_VERSION"))
}

fn dispatch(cli: Cli, job: JobFunction) -> Result<(), Failure> {
    let run_args = match &cli.command {
        Command::Version => {
            say(&version());
            return Ok(());
        }
        Command::Run(args)
        | Command::Coordinator(args)
        | Command::Worker(args)
        | Command::Plan { run: args, .. } => Some(args.as_ref()),
        _ => None,
    };
    let settings = Settings::read(&cli.job, run_args, Environment::read()?)?;
    let of_job = settings.job(&program_name())?;
    match cli.command {
        Command::Run(args) => {
            let of_run = settings.run(&args.parameters, cores())?;
            let program = compile(job, &of_run)?;
            let crew = of_run.cluster.workers.map_or(Crew::Own, Crew::Children);
            run::run(of_job, of_run, &args, (program, crew))
        }
        Command::Coordinator(args) => {
            let of_run = settings.run(&args.parameters, cores())?;
            let program = compile(job, &of_run)?;
            run::run(of_job, of_run, &args, (program, Crew::Fleet))
        }
        Command::Worker(args) => {
            let of_run = settings.run(&args.parameters, cores())?;
            let program = compile(job, &of_run)?;
            worker::run(of_job, of_run, &args, program)
        }
        Command::Plan { format, run } => {
            let of_run = settings.run(&run.parameters, cores())?;
            say(&plan(job, &of_run, format)?);
            Ok(())
        }
        command => look(command, &of_job),
    }
}

/// The commands that only need to know which job.
fn look(command: Command, job: &JobSettings) -> Result<(), Failure> {
    match command {
        Command::Status { json } => remote::status(job, json),
        Command::Savepoint { name, of } => remote::savepoint(job, &name, &of),
        Command::Rescale(wanted) => remote::rescale(job, &wanted),
        Command::Stop {
            drain,
            savepoint,
            of,
        } => remote::stop(job, drain, savepoint.as_deref(), &of),
        Command::Operation { id, json } => remote::operation(job, &id, json),
        Command::Exceptions { json } => remote::exceptions(job, json),
        Command::HotKeys { json } => remote::hot_keys(job, json),
        Command::Config { changes, json } => remote::config(job, &changes, json),
        Command::Checkpoints { command } => match command {
            CheckpointsCommand::List => inspect::list(job),
            CheckpointsCommand::Inspect { number } => inspect::inspect(job, number),
            CheckpointsCommand::Verify => inspect::verify(job),
            CheckpointsCommand::History { number, json } => remote::history(job, number, json),
        },
        Command::Run(_)
        | Command::Coordinator(_)
        | Command::Worker(_)
        | Command::Plan { .. }
        | Command::Version => {
            unreachable!("handled before")
        }
    }
}

fn plan(job: JobFunction, settings: &RunSettings, format: Format) -> Result<String, Failure> {
    let program = compile(job, settings)?;
    match format {
        Format::Text => Ok(explain(program.plan(), PlanFormat::Text)),
        Format::Json => json_text(&graph::planned(program.plan())),
        Format::Dot => Ok(explain(program.plan(), PlanFormat::Dot)),
    }
}

fn compile(job: JobFunction, settings: &RunSettings) -> Result<JobProgram, Failure> {
    let mut env = StreamEnvironment::with_parameters(settings.parameters.clone());
    let built = job(&mut env);
    if let Err(error) = &built {
        // Before the names that nobody asked for: the job stopped here and would have asked for more.
        refuse_value(error.as_ref())?;
    }
    // Before the job's own error: a name that is misspelt is missed under its right one.
    refuse_unread(&env)?;
    built.map_err(|error| Failure::new(Code::Invalid, error_chain(error.as_ref())))?;
    env.compile(settings.plan)
        .map_err(|errors| Failure::of(&errors))
}

/// Refuses the value of a parameter that does not parse, also where the job has wrapped the error.
fn refuse_value(error: &(dyn Error + 'static)) -> Result<(), Failure> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<ParameterError>() {
            return Err(Failure::new(Code::Usage, format!("--param: {refused}")));
        }
        cause = error.source();
    }
    Ok(())
}

/// Refuses parameters that the job does not read.
fn refuse_unread(env: &StreamEnvironment) -> Result<(), Failure> {
    let Some(unread) = env.unread_parameters().first().copied() else {
        return Ok(());
    };
    let asked = env.asked_parameters();
    let known = if asked.is_empty() {
        "it reads none".to_owned()
    } else {
        format!("it reads {}", asked.join(", "))
    };
    let message = format!("--param: the job reads no parameter `{unread}`; {known}");
    Err(Failure::new(Code::Usage, message))
}

#[cfg(test)]
mod tests;
