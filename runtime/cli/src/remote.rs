//! `status`, `savepoint` and `stop`: speak to a running job through its status server on loopback.
//!
//! A running job notes the server's address in `<run dir>/<job>.address`; the note goes when the job ends.

use std::path::PathBuf;

use highwater_types::JobIdentity;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::commands::say;
use crate::exit::{Code, Failure};
use crate::settings::JobArgs;

fn note_path(args: &JobArgs, job: &JobIdentity) -> PathBuf {
    args.run_dir.join(format!("{job}.address"))
}

/// Notes where the status server listens.
pub(crate) fn write_note(
    args: &JobArgs,
    job: &JobIdentity,
    listener: &TcpListener,
) -> Result<PathBuf, Failure> {
    let path = note_path(args, job);
    let write = || {
        std::fs::create_dir_all(&args.run_dir)?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "status server");
        std::fs::write(&path, address.to_string())
    };
    write().map_err(|error: std::io::Error| {
        Failure::new(
            Code::Invalid,
            format!("cannot write {}: {error}", path.display()),
        )
    })?;
    Ok(path)
}

fn base(args: &JobArgs) -> Result<String, Failure> {
    let job = args.identity()?;
    let path = note_path(args, &job);
    let address = std::fs::read_to_string(&path).map_err(|_| {
        let message = format!(
            "job {job} does not run here: there is no {}; start it with `run`, or name it with --job and --run-dir",
            path.display()
        );
        Failure::new(Code::Invalid, message)
    })?;
    Ok(format!("http://{}", address.trim()))
}

fn call(args: &JobArgs, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let url = format!("{}{path}", base(args)?);
    crate::run::runtime()?.block_on(async move {
        let client = reqwest::Client::new();
        let request = match &body {
            None => client.get(&url),
            Some(body) => client.post(&url).json(body),
        };
        let answer = request.send().await.map_err(|_| {
            let message =
                format!("the job does not answer at {url}; it may have ended without cleaning up");
            Failure::new(Code::JobFailed, message)
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
        Err(Failure::new(Code::JobFailed, reason))
    })
}

fn show(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Other, error.to_string()))?;
    say(&format!("{text}\n"));
    Ok(())
}

/// Shows the status as JSON.
pub fn status(args: &JobArgs) -> Result<(), Failure> {
    show(&call(args, "/v1/status", None)?)
}

/// Takes a savepoint.
pub fn savepoint(args: &JobArgs, name: &str) -> Result<(), Failure> {
    show(&call(
        args,
        "/v1/savepoints",
        Some(json!({ "name": name })),
    )?)
}

/// Stops the job.
pub fn stop(args: &JobArgs, drain: bool, savepoint: Option<&str>) -> Result<(), Failure> {
    let body = json!({ "drain": drain, "savepoint": savepoint });
    show(&call(args, "/v1/stop", Some(body))?)
}
