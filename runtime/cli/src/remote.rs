//! The commands that speak to a running job: `status`, `savepoint`, `rescale`, `stop`, `operation`, `exceptions`, `hot-keys`, `config`,
//! `checkpoints history`.
//!
//! A running job notes where its status server is asked in `<run dir>/<job>.address`; the note goes when the job ends. A server off
//! loopback is called over TLS only, whoever wrote the note. A coordinator that stands by names the one that leads, which is asked then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use highwater_types::ErrorKind;
use highwater_web_api as api;
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::commands::{OperationArgs, RescaleArgs, json_text, say};
use crate::exit::{Code, Failure};
use crate::rest_client::{RestAnswer, RestBase, RestClient, RestError, parse_base};
use crate::settings::JobSettings;

mod page;

/// How long a running job may take to say that it runs.
const ANSWER_MAX: Duration = Duration::from_secs(1);

fn note_path(job: &JobSettings) -> PathBuf {
    job.run_dir.join(format!("{}.address", job.identity))
}

/// Where the status server of a running job is asked, for the other commands.
pub(crate) struct RunNote {
    path: PathBuf,
    text: String,
}

impl RunNote {
    /// Writes the note. It is whole or not there: a reader never sees half of it.
    pub(crate) fn write(job: &JobSettings, base: String) -> Result<Self, Failure> {
        let path = note_path(job);
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let write = || {
            std::fs::create_dir_all(&job.run_dir)?;
            std::fs::write(&draft, &base)?;
            std::fs::rename(&draft, &path)
        };
        match write() {
            Ok(()) => Ok(Self { path, text: base }),
            Err(error) => Err(Failure::new(
                Code::Usage,
                format!(
                    "cannot write {}: {error}; name another --run-dir",
                    path.display()
                ),
            )),
        }
    }

    /// Removes the note, unless a newer process has written its own.
    pub(crate) fn remove(self) {
        let is_own = std::fs::read_to_string(&self.path).is_ok_and(|text| text == self.text);
        if is_own && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "run note");
        }
    }
}

/// Where the job is asked.
fn base(job: &JobSettings) -> Result<RestBase, Failure> {
    let Some(url) = &job.rest.url else {
        return noted(job);
    };
    parse_base(url).ok_or_else(|| {
        let message = format!(
            "rest.url: `{url}` is no address of a status server; write https://HOST:PORT, or http://127.0.0.1:PORT on this machine"
        );
        Failure::new(Code::Usage, message)
    })
}

/// Where the job noted that it is asked.
fn noted(job: &JobSettings) -> Result<RestBase, Failure> {
    let path = note_path(job);
    let text = std::fs::read_to_string(&path).map_err(|_| {
        let message = format!(
            "job {} does not run here: there is no {}; start it with `run`, name it with --job and --run-dir, or say with --rest-url where it is asked",
            job.identity,
            path.display()
        );
        Failure::new(Code::NotRunning, message)
    })?;
    parse_base(&text).ok_or_else(|| {
        let message = format!(
            "{} names neither an address of loopback nor one of https; remove it",
            path.display()
        );
        Failure::new(Code::NotRunning, message)
    })
}

/// Refuses to start a job that answers at the noted address.
///
/// Two processes with one identity are safe, the newer fences the older; but nobody wants that by a slip of the hand. A
/// note that a killed process left behind, or one that hangs, does not answer in time and holds nobody up. Coordinators may be
/// several: only one of them leads.
pub(crate) async fn refuse_second(job: &JobSettings, role: &str) -> Result<(), Failure> {
    let Ok(base) = noted(job) else {
        return Ok(());
    };
    let client = match RestClient::new(job, base.clone()) {
        Ok(client) => client,
        Err(error) => {
            let note = note_path(job);
            tracing::warn!(%error, note = %note.display(), "whether the job runs here already cannot be asked");
            return Ok(());
        }
    };
    let asked = tokio::time::timeout(ANSWER_MAX, client.get("/v1/status")).await;
    let is_another = match asked {
        // Somebody does, and does not say who they are to a command that shows too little.
        Ok(
            Err(RestError::Unbelieved { .. })
            | Ok(RestAnswer {
                code: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            }),
        ) => role == "coordinator",
        // Nobody answers, or not in time.
        Ok(Err(_)) | Err(_) => true,
        Ok(Ok(RestAnswer { body: status, .. })) => {
            let is_other_coordinator = role == "coordinator" && status["role"] == role;
            status["job"] != job.identity.to_string() || is_other_coordinator
        }
    };
    if is_another {
        return Ok(());
    }
    let message = format!(
        "job {} runs here already and answers at {base}; end it with `stop`, or have this process own it with `run --take-over`",
        job.identity
    );
    Err(Failure::new(Code::Usage, message))
}

/// What is asked of a status server.
enum Ask {
    Get,
    Post(Value),
    Patch(Value),
}

/// Asks the job, and the coordinator that leads it where the one that is noted stands by.
fn call<T: DeserializeOwned>(job: &JobSettings, path: &str, ask: &Ask) -> Result<T, Failure> {
    let mut base = base(job)?;
    crate::run::runtime()?.block_on(async move {
        let mut answer = send(job, base.clone(), path, ask).await?;
        if let Some(leader) = leader(&base, &answer) {
            base = leader;
            answer = send(job, base.clone(), path, ask).await?;
        }
        let RestAnswer { code, body } = answer;
        if code.is_success() {
            return serde_json::from_value(body).map_err(|error| {
                let message = format!(
                    "{base}{path} answers what this version does not know: {error}; use the program of the job that runs"
                );
                Failure::new(Code::Other, message)
            });
        }
        let problem: api::Problem = serde_json::from_value(body).unwrap_or_default();
        let reason = if problem.error.is_empty() {
            format!("{base}{path} answers {code} and no reason")
        } else {
            problem.error
        };
        let kind = problem.kind.unwrap_or_default();
        Err(Failure::new(refused_code(code.as_u16(), &kind), reason))
    })
}

async fn send(
    job: &JobSettings,
    base: RestBase,
    path: &str,
    ask: &Ask,
) -> Result<RestAnswer, Failure> {
    let client = RestClient::new(job, base)?;
    let answer = match ask {
        Ask::Get => client.get(path).await,
        Ask::Post(body) => client.post(path, body).await,
        Ask::Patch(body) => client.patch(path, body).await,
    };
    Ok(answer?)
}

/// The leader that a refusal or the status points to, if it may be called. Who was asked over TLS points to nobody in the clear.
fn leader(base: &RestBase, answer: &RestAnswer) -> Option<RestBase> {
    let leader = answer.body.get("leader")?.as_str().and_then(parse_base)?;
    (leader.is_tls() || !base.is_tls()).then_some(leader)
}

fn body_of(request: &impl serde::Serialize) -> Result<Value, Failure> {
    let body = serde_json::to_value(request);
    body.map_err(|error| Failure::new(Code::Other, error.to_string()))
}

fn say_json(told: &impl serde::Serialize) -> Result<(), Failure> {
    say(&json_text(told)?);
    Ok(())
}

/// The exit code of a refusal: a call that can never be granted is to be mended, a job that is gone does not run, and
/// every other kind has the code that it has everywhere.
fn refused_code(status: u16, kind: &str) -> Code {
    /// Nobody is left to ask; another job answers there.
    const GONE: [u16; 2] = [410, 421];
    let kinds = [
        ErrorKind::Transient,
        ErrorKind::Fenced,
        ErrorKind::Corrupt,
        ErrorKind::Exhausted,
    ];
    let known = kinds.into_iter().find(|known| known.to_string() == kind);
    match (status, known) {
        (code, _) if GONE.contains(&code) => Code::NotRunning,
        (_, Some(kind)) => Code::of(kind),
        (400..=499, None) => Code::Usage,
        _ => Code::Other,
    }
}

/// Shows the status.
pub fn status(job: &JobSettings, json: bool) -> Result<(), Failure> {
    let status: Value = call(job, "/v1/status", &Ask::Get)?;
    if json {
        return say_json(&status);
    }
    let tasks: Value = call(job, "/v1/tasks", &Ask::Get)?;
    say(&page::status(&status, &tasks));
    Ok(())
}

/// Takes a savepoint.
pub fn savepoint(job: &JobSettings, name: &str, of: &OperationArgs) -> Result<(), Failure> {
    let request = api::SavepointRequest {
        name: name.to_owned(),
        operation: of.operation.clone(),
        wait: Some(!of.detach),
    };
    let told: api::Operation = call(job, "/v1/savepoints", &Ask::Post(body_of(&request)?))?;
    tell(&told, of.json)?;
    refused(told)
}

/// Has the job go on at another parallelism.
pub fn rescale(job: &JobSettings, wanted: &RescaleArgs) -> Result<(), Failure> {
    let of = &wanted.of;
    let request = api::RescaleRequest {
        parallelism: wanted.to.parallelism,
        operators: by_uid(&wanted.to.operators)?,
        slots_within_ms: wanted.slots_within.map(|span| span.as_millis() as u64),
        operation: of.operation.clone(),
        wait: Some(!of.detach),
    };
    let told: api::Operation = call(job, "/v1/rescale", &Ask::Post(body_of(&request)?))?;
    tell(&told, of.json)?;
    refused(told)
}

/// The parallelism of each operator that the command line names.
fn by_uid(given: &[(String, u32)]) -> Result<BTreeMap<String, u32>, Failure> {
    let mut operators = BTreeMap::new();
    for (uid, parallelism) in given {
        if operators.insert(uid.clone(), *parallelism).is_some() {
            let message = format!("--operator: `{uid}` is named twice; name it once");
            return Err(Failure::new(Code::Usage, message));
        }
    }
    Ok(operators)
}

/// Stops the job.
pub fn stop(
    job: &JobSettings,
    drain: bool,
    savepoint: Option<&str>,
    of: &OperationArgs,
) -> Result<(), Failure> {
    let request = api::StopRequest {
        mode: if drain {
            api::StopMode::Drain
        } else {
            api::StopMode::Suspend
        },
        savepoint: savepoint.map(str::to_owned),
        operation: of.operation.clone(),
        wait: Some(!of.detach),
    };
    let told: api::Operation = call(job, "/v1/stop", &Ask::Post(body_of(&request)?))?;
    tell(&told, of.json)?;
    refused(told)
}

/// Shows what came of an operation. One that was refused ends in a failure, like the command that asked for it.
pub fn operation(job: &JobSettings, id: &str, json: bool) -> Result<(), Failure> {
    let told: api::Operation = call(job, &format!("/v1/operations/{id}"), &Ask::Get)?;
    tell(&told, json)?;
    refused(told)
}

/// The end of a command whose operation was refused.
fn refused(told: api::Operation) -> Result<(), Failure> {
    match told.problem {
        None => Ok(()),
        Some(problem) => {
            let kind = problem.kind.unwrap_or_default();
            Err(Failure::new(refused_code(UNTOLD, &kind), problem.error))
        }
    }
}

/// A refusal whose code is not told any more.
const UNTOLD: u16 = 409;

/// Says how far an operation is.
fn tell(told: &api::Operation, json: bool) -> Result<(), Failure> {
    if json {
        return say_json(told);
    }
    say(&page::operation(told));
    Ok(())
}

/// Shows the last failures.
pub fn exceptions(job: &JobSettings, json: bool) -> Result<(), Failure> {
    let told: Vec<api::Failure> = call(job, "/v1/exceptions", &Ask::Get)?;
    if json {
        return say_json(&told);
    }
    say(&page::exceptions(&told));
    Ok(())
}

/// Shows the keys that take many of the records of their subtasks.
pub fn hot_keys(job: &JobSettings, json: bool) -> Result<(), Failure> {
    let told: Vec<api::HotKeys> = call(job, "/v1/hot-keys", &Ask::Get)?;
    if json {
        return say_json(&told);
    }
    say(&page::hot_keys(&told));
    Ok(())
}

/// Shows the last checkpoints of the running coordinator, or one with its tasks.
pub fn history(job: &JobSettings, number: Option<u64>, json: bool) -> Result<(), Failure> {
    let Some(number) = number else {
        let told: api::Checkpoints = call(job, "/v1/checkpoints", &Ask::Get)?;
        if json {
            return say_json(&told.history);
        }
        say(&page::history(&told.history));
        return Ok(());
    };
    let told: api::CheckpointDetails = call(job, &format!("/v1/checkpoints/{number}"), &Ask::Get)?;
    if json {
        return say_json(&told);
    }
    say(&page::checkpoint(&told));
    Ok(())
}

/// Shows the settings of the running process, and changes those that may change.
pub fn config(job: &JobSettings, changes: &[(String, String)], json: bool) -> Result<(), Failure> {
    let ask = if changes.is_empty() {
        Ask::Get
    } else {
        let settings = changes.iter().cloned().collect();
        Ask::Patch(body_of(&api::ConfigRequest { settings })?)
    };
    let told: Vec<api::Setting> = call(job, "/v1/config", &ask)?;
    if json {
        return say_json(&told);
    }
    say(&page::config(&told));
    Ok(())
}

#[cfg(test)]
mod refusals {
    use super::*;

    #[test]
    fn an_operator_has_one_parallelism() {
        let given = [("count".to_owned(), 8), ("sum".to_owned(), 2)];
        let read = by_uid(&given).unwrap();
        assert_eq!(read, BTreeMap::from(given.clone()));
        let twice = [given[0].clone(), ("count".to_owned(), 8)];
        let refused = by_uid(&twice).unwrap_err();
        assert_eq!(refused.code, Code::Usage);
        assert!(refused.message.contains("`count`"), "{}", refused.message);
    }

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        let codes = [
            (400, "invalid", Code::Usage),
            (409, "invalid", Code::Usage),
            (409, "transient", Code::JobFailed),
            (503, "transient", Code::JobFailed),
            (500, "corrupt", Code::Corrupt),
            (500, "bug", Code::Other),
            (410, "transient", Code::NotRunning),
            (404, "", Code::Usage),
            (421, "", Code::NotRunning),
        ];
        for (status, kind, code) in codes {
            assert_eq!(refused_code(status, kind), code, "{status} {kind}");
        }
    }
}
