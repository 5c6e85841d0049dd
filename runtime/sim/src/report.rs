//! Text output of the simulator: one place that writes to standard output.

use std::io::Write;

/// Writes one line. A closed pipe ends the output, not the run.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}
