//! Prints `deploy/observability/dashboard.json`. `cargo xtask tidy --write` runs it; nobody else needs to.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(highwater_metrics::dashboard().as_bytes())
}
