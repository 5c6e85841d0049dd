//! The payment fraud scorer as a program: the commands of every job, `demo`, `acceptance`, `cluster` and `soak`.

use std::process::ExitCode;

#[cfg(feature = "acceptance")]
mod acceptance;
mod demo;
mod verdict;

fn main() -> ExitCode {
    let command = std::env::args_os().nth(1);
    match command.as_ref().and_then(|command| command.to_str()) {
        Some("demo") => demo::main(),
        #[cfg(feature = "acceptance")]
        Some("acceptance") => acceptance::main(),
        #[cfg(feature = "acceptance")]
        Some("cluster") => acceptance::cluster(),
        #[cfg(feature = "acceptance")]
        Some("soak") => acceptance::soak(),
        _ => highwater::main(harbor_fleet::job::fraud_scorer),
    }
}
