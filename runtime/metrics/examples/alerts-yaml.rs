//! Prints `deploy/observability/alerts.yaml`. `cargo xtask tidy --write` runs it; nobody else needs to.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(highwater_metrics::alerts().as_bytes())
}
