//! `status`, `savepoint` and `stop`: speak to a running job through its status server on loopback.
//!
//! A running job notes the server's address in `<run dir>/<job>.address`; the note goes when the job ends. An address
//! that is not on loopback is not called, whoever wrote it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use highwater_types::ErrorKind;
use serde_json::{Value, json};

use crate::commands::say;
use crate::exit::{Code, Failure};
use crate::settings::JobSettings;

mod page;

/// How long a running job may take to say that it runs.
const ANSWER_MAX: Duration = Duration::from_secs(1);

fn note_path(job: &JobSettings) -> PathBuf {
    job.run_dir.join(format!("{}.address", job.identity))
}

/// Where the status server of a running job listens, for the other commands.
pub(crate) struct RunNote {
    path: PathBuf,
    text: String,
}

impl RunNote {
    /// Writes the note. It is whole or not there: a reader never sees half an address.
    pub(crate) fn write(job: &JobSettings, address: SocketAddr) -> Result<Self, Failure> {
        let (path, text) = (note_path(job), address.to_string());
        let draft = path.with_extension(format!("{}.draft", address.port()));
        let write = || {
            std::fs::create_dir_all(&job.run_dir)?;
            std::fs::write(&draft, &text)?;
            std::fs::rename(&draft, &path)
        };
        match write() {
            Ok(()) => Ok(Self { path, text }),
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

fn base(job: &JobSettings) -> Result<String, Failure> {
    let path = note_path(job);
    let text = std::fs::read_to_string(&path).map_err(|_| {
        let message = format!(
            "job {} does not run here: there is no {}; start it with `run`, or name it with --job and --run-dir",
            job.identity,
            path.display()
        );
        Failure::new(Code::NotRunning, message)
    })?;
    match text.trim().parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(format!("http://{address}")),
        _ => Err(Failure::new(
            Code::NotRunning,
            format!("{} names no loopback address; remove it", path.display()),
        )),
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    // No proxy of the environment: the address is on this machine.
    let client = reqwest::Client::builder().no_proxy().build();
    client.map_err(|error| Failure::new(Code::Other, format!("no client: {error}")))
}

/// Refuses to start a job that answers at the noted address.
///
/// Two processes with one identity are safe, the newer fences the older; but nobody wants that by a slip of the hand. A
/// note that a killed process left behind, or one that hangs, does not answer in time and holds nobody up. Coordinators may be
/// several: only one of them leads.
pub(crate) async fn refuse_second(job: &JobSettings, role: &str) -> Result<(), Failure> {
    let Ok(base) = base(job) else {
        return Ok(());
    };
    let asked = client()?
        .get(format!("{base}/v1/status"))
        .timeout(ANSWER_MAX);
    let Ok(answer) = asked.send().await else {
        return Ok(());
    };
    let status: Value = answer.json().await.unwrap_or_default();
    let is_other_coordinator = role == "coordinator" && status["role"] == role;
    if status["job"] != job.identity.to_string() || is_other_coordinator {
        return Ok(());
    }
    let message = format!(
        "job {} runs here already and answers at {base}; end it with `stop`, or have this process own it with `run --take-over`",
        job.identity
    );
    Err(Failure::new(Code::Usage, message))
}

fn call(job: &JobSettings, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let url = format!("{}{path}", base(job)?);
    crate::run::runtime()?.block_on(async move {
        let client = client()?;
        let request = match &body {
            None => client.get(&url),
            Some(body) => client.post(&url).json(body),
        };
        let answer = request.send().await.map_err(|_| {
            let message =
                format!("the job does not answer at {url}; it has ended without cleaning up, or hangs; `run` goes on from its last checkpoint");
            Failure::new(Code::NotRunning, message)
        })?;
        let code = answer.status();
        let is_success = code.is_success();
        let value: Value = answer
            .json()
            .await
            .map_err(|error| Failure::new(Code::Other, format!("{url}: {error}")))?;
        if is_success {
            return Ok(value);
        }
        let reason = value["error"]
            .as_str()
            .unwrap_or("no reason given")
            .to_owned();
        let kind = value["kind"].as_str().unwrap_or_default();
        Err(Failure::new(refused_code(code.as_u16(), kind), reason))
    })
}

/// The exit code of a refusal: a call that can never be granted is to be mended, a job that is gone does not run, and
/// every other kind has the code that it has everywhere.
fn refused_code(status: u16, kind: &str) -> Code {
    const GONE: u16 = 410;
    let kinds = [
        ErrorKind::Transient,
        ErrorKind::Fenced,
        ErrorKind::Corrupt,
        ErrorKind::Exhausted,
    ];
    let known = kinds.into_iter().find(|known| known.to_string() == kind);
    match (status, known) {
        (GONE, _) => Code::NotRunning,
        (_, Some(kind)) => Code::of(kind),
        (400..=499, None) => Code::Usage,
        _ => Code::Other,
    }
}

/// Shows the status.
pub fn status(job: &JobSettings, json: bool) -> Result<(), Failure> {
    let status = call(job, "/v1/status", None)?;
    if json {
        let text = serde_json::to_string_pretty(&status);
        let text = text.map_err(|error| Failure::new(Code::Other, error.to_string()))?;
        say(&format!("{text}\n"));
    } else {
        let tasks = call(job, "/v1/tasks", None)?;
        say(&page::status(&status, &tasks));
    }
    Ok(())
}

/// Takes a savepoint.
pub fn savepoint(job: &JobSettings, name: &str) -> Result<(), Failure> {
    let answer = call(job, "/v1/savepoints", Some(json!({ "name": name })))?;
    say(&format!(
        "savepoint {name}: checkpoint {}\n",
        answer["checkpoint"]
    ));
    Ok(())
}

/// Stops the job.
pub fn stop(job: &JobSettings, drain: bool, savepoint: Option<&str>) -> Result<(), Failure> {
    let mode = if drain { "drain" } else { "suspend" };
    let body = json!({ "mode": mode, "savepoint": savepoint });
    let answer = call(job, "/v1/stop", Some(body))?;
    say(&format!(
        "stopped with checkpoint {}\n",
        answer["checkpoint"]
    ));
    Ok(())
}

#[cfg(test)]
mod refusals {
    use super::*;

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
        ];
        for (status, kind, code) in codes {
            assert_eq!(refused_code(status, kind), code, "{status} {kind}");
        }
    }
}
