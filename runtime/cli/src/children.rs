//! The worker processes of `run --workers`: the same program with the same arguments, as `worker`.
//!
//! They end with their parent, however that ends: each holds the reading end of a pipe whose writing end only the parent has. Ctrl-C at
//! its terminal reaches them too and is left to the parent, which stops the job; SIGTERM to one of them alone is a planned leave.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::exit::{Code, Failure};

/// How long workers may take to end once their job has.
const END_MAX: Duration = Duration::from_secs(10);

/// Workers that this process started.
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// None.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Starts `count` workers of the coordinator at `address`.
    pub(crate) fn start(count: u32, address: SocketAddr) -> Result<Self, Failure> {
        let program = std::env::current_exe();
        let failed = |error| Failure::new(Code::Other, format!("cannot start a worker: {error}"));
        let program = program.map_err(failed)?;
        let arguments = arguments(std::env::args_os().skip(1));
        let mut children = Vec::new();
        for number in 0..count {
            let mut command = Command::new(&program);
            command
                .args(&arguments)
                .args(["--control-address", &address.to_string()])
                .args(["--worker-name", &format!("worker-{number}")])
                .arg("--with-parent")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            children.push(command.spawn().map_err(failed)?);
        }
        Ok(Self(children))
    }

    /// Waits for their end; those that do not end in time are killed.
    pub(crate) async fn end(mut self) {
        for child in &mut self.0 {
            // They were told by the coordinator, and this tells them once more.
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            match timeout(END_MAX, child.wait()).await {
                Ok(Ok(status)) => tracing::debug!(%status, "a worker has ended"),
                Ok(Err(error)) => tracing::warn!(%error, "a worker"),
                Err(_) => {
                    tracing::warn!("a worker did not end and is killed; its state is kept");
                    if let Err(error) = child.kill().await {
                        tracing::warn!(%error, "a worker");
                    }
                }
            }
        }
    }
}

/// What a worker is started with in place of what `run` was: the command is another, and what only a leader reads is left out.
fn arguments(of_run: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut of_worker = Vec::new();
    let mut was_named = false;
    let mut arguments = of_run;
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let (flag, has_value) = text
            .split_once('=')
            .map_or_else(|| (text.as_ref(), false), |(flag, _)| (flag, true));
        match flag {
            "run" if !was_named => {
                was_named = true;
                of_worker.push("worker".into());
            }
            "--fresh" | "--take-over" | "--go-back" | "--fork" | "--again" | "--quiet" | "-q" => {}
            "--workers"
            | "--from-savepoint"
            | "--rest-address"
            | "--metrics-address"
            | "--control-address"
            | "--worker-name"
            | "--data-advertised-address" => {
                if !has_value {
                    arguments.next();
                }
            }
            _ => of_worker.push(argument),
        }
    }
    of_worker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gets_what_concerns_it() {
        let of = |text: &str| {
            let given = text.split(' ').map(OsString::from);
            let kept = arguments(given)
                .into_iter()
                .map(|one| one.into_string().unwrap());
            kept.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            of("--job fleet run --workers 2 --fresh -q --param run=run --slots=3"),
            "--job fleet worker --param run=run --slots=3"
        );
        assert_eq!(
            of(
                "run --from-savepoint before --go-back --rest-address=127.0.0.1:0 --metrics-address 127.0.0.1:9400 --state-memory 1GiB"
            ),
            "worker --state-memory 1GiB"
        );
    }
}
