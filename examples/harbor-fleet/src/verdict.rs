//! How `demo` and `acceptance` speak: lines on standard output, and one verdict as the last of them.

use std::io::Write as _;
use std::process::ExitCode;

/// Writes to standard output; a closed pipe is no error.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        // Nobody reads any more.
    }
}

/// Says the verdict, in the form that scripts read, and gives its exit code.
pub(crate) fn conclude(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(summary) => {
            say(&format!("VERDICT pass: {summary}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("VERDICT fail: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
