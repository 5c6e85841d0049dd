//! Asks the status server of a job, on loopback: one request, one answer, in a few lines.
//!
//! Used by the benchmarks and acceptance tests that read metrics and status while a job runs. The rule: an answer other than 200
//! is an error.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(5);

/// A status server at an address, and the token that it is shown.
#[derive(Clone, Debug)]
pub(crate) struct StatusServer {
    address: SocketAddr,
    token: Option<&'static str>,
}

impl StatusServer {
    /// The server at `address`, shown `token`.
    pub(crate) const fn at(address: SocketAddr, token: Option<&'static str>) -> Self {
        Self { address, token }
    }

    /// What the job answers to GET `path`, within seconds.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.ask("GET", path, "", PATIENCE)
    }

    /// What the job answers to POST `path` with a body of JSON, or with none, however long it takes up to `patience`.
    pub(crate) fn post(&self, path: &str, json: &str, patience: Duration) -> Result<String> {
        self.ask("POST", path, json, patience)
    }

    fn ask(&self, method: &str, path: &str, json: &str, patience: Duration) -> Result<String> {
        let address = self.address;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(patience))?;
        let shown = self.token.map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{shown}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        body(&answer).map(str::to_owned)
    }
}

/// Where a job notes the address of its status server.
#[derive(Clone, Debug)]
pub(crate) struct Note(PathBuf);

impl Note {
    /// The note of `job` below its run directory.
    pub(crate) fn of(run_dir: &Path, job: &str) -> Self {
        Self(run_dir.join(format!("{job}.address")))
    }

    /// What the job answers to GET `path`, within seconds.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.server()?.get(path)
    }

    /// What the job answers to POST `path` with a body of JSON, or with none, however long it takes up to `patience`.
    pub(crate) fn post(&self, path: &str, json: &str, patience: Duration) -> Result<String> {
        self.server()?.post(path, json, patience)
    }

    fn server(&self) -> Result<StatusServer> {
        let base = std::fs::read_to_string(&self.0)?;
        let address = base.trim().strip_prefix("http://");
        let address = address
            .unwrap_or_default()
            .parse()
            .context("the note of the job")?;
        Ok(StatusServer::at(address, None))
    }
}

fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let first = head.lines().next().unwrap_or_default();
    ensure!(first.contains(" 200 "), "the job answers: {first}: {body}");
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    ensure!(!chunked, "the answer comes in pieces");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body("HTTP/1.1 200 OK\r\na: b\r\n\r\nx\n").unwrap(), "x\n");
        let error = body("HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
        assert!(body("HTTP/1.1 200 OK\r\n").is_err());
    }
}
