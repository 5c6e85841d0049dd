//! The payment fraud scorer as a program: the commands of every job, and `demo`.

use std::process::ExitCode;

mod demo;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|command| command == "demo")
    {
        return demo::main();
    }
    highwater::main(harbor_fleet::job::fraud_scorer)
}
