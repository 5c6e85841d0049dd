//! `status`, `savepoint` and `stop`: speak to a running job through its status server on loopback.
//!
//! A running job notes the server's address in `<run dir>/<job>.address`; the note goes when the job ends. An address
//! that is not on loopback is not called, whoever wrote it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::commands::say;
use crate::exit::{Code, Failure};
use crate::settings::JobSettings;

mod page;

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
            Code::Other,
            format!("{} names no loopback address; remove it", path.display()),
        )),
    }
}

fn call(job: &JobSettings, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let url = format!("{}{path}", base(job)?);
    crate::run::runtime()?.block_on(async move {
        // No proxy of the environment: the address is on this machine.
        let client = reqwest::Client::builder().no_proxy().build();
        let client =
            client.map_err(|error| Failure::new(Code::Other, format!("no client: {error}")))?;
        let request = match &body {
            None => client.get(&url),
            Some(body) => client.post(&url).json(body),
        };
        let answer = request.send().await.map_err(|_| {
            let message =
                format!("the job does not answer at {url}; it may have ended without cleaning up");
            Failure::new(Code::NotRunning, message)
        })?;
        let is_success = answer.status().is_success();
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
        Err(Failure::new(Code::Other, reason))
    })
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
