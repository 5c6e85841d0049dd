//! Logs go to stderr, as text or as JSON lines. Every line names its job.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use highwater_types::JobIdentity;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, reload};

use crate::exit::{Code, Failure};
use crate::settings::RunSettings;
use crate::view::Screen;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Who changes what is logged does not make the log silent about who changes the job.
const ALWAYS: &str = "highwater_web::access=info";

/// What is logged, which may change while the job runs.
#[derive(Clone)]
pub struct LogLevels(Option<Arc<SetFilter>>);

/// Puts a filter in the place of the one before.
type SetFilter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

impl fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevels")
    }
}

impl LogLevels {
    /// Of a process that does not log.
    #[cfg(test)]
    pub(crate) const fn fixed() -> Self {
        Self(None)
    }

    /// Logs by these levels from now on.
    ///
    /// # Errors
    /// When they are none, or logging has ended.
    pub(crate) fn set(&self, levels: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(format!("{levels},{ALWAYS}"));
        let filter = filter.map_err(|error| format!("log.level: `{levels}`: {error}"))?;
        match &self.0 {
            Some(set) => set(filter).map_err(|error| format!("log.level: {error}")),
            None => Ok(()),
        }
    }
}

/// Starts logging. Lines go above the live view, where there is one.
pub(crate) fn start(
    settings: &RunSettings,
    job: &JobIdentity,
    screen: &Screen,
) -> Result<LogLevels, Failure> {
    let level = &settings.log_level;
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::new(Code::Usage, format!("--log-level {level}: {error}")))?;
    let lines = Lines {
        job: job.clone(),
        format: settings.log_format,
        screen: screen.clone(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && settings.log_format == LogFormat::Text)
        .with_writer(lines);
    let (started, levels) = match settings.log_format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter);
            (builder.try_init(), LogLevels(Some(Arc::new(set))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter);
            (builder.try_init(), LogLevels(Some(Arc::new(set))))
        }
    };
    started.map_err(|error| Failure::new(Code::Other, format!("logs: {error}")))?;
    Ok(levels)
}

/// Takes each line as it is formatted and adds the job: threads of the engine stand in no span that could carry it.
#[derive(Clone)]
struct Lines {
    job: JobIdentity,
    format: LogFormat,
    screen: Screen,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.screen.above(&marked(&self.job, self.format, bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A line with the name of its job. Identities hold no character that JSON would escape.
fn marked(job: &JobIdentity, format: LogFormat, line: &[u8]) -> Vec<u8> {
    match (format, line) {
        (LogFormat::Json, [b'{', rest @ ..]) => {
            [format!("{{\"job\":\"{job}\",").as_bytes(), rest].concat()
        }
        (LogFormat::Text, [rest @ .., b'\n']) => {
            [rest, format!(" job={job}\n").as_bytes()].concat()
        }
        _ => line.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_names_its_job() {
        let job = JobIdentity::parse("fleet").unwrap();
        let json = marked(&job, LogFormat::Json, b"{\"level\":\"INFO\"}\n");
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["job"], "fleet");
        assert_eq!(json["level"], "INFO");
        let text = marked(&job, LogFormat::Text, b"INFO started\n");
        assert_eq!(text, b"INFO started job=fleet\n");
        assert_eq!(marked(&job, LogFormat::Text, b"part"), b"part");
    }
}
