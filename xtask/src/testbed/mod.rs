//! `cargo xtask testbed up|down|status [kafka|s3]`: the real servers of the testbed, for a shell.
//!
//! Reads the command line and prints; starting and stopping lies in `highwater-testkit`, which tests use directly.
//! `up` prints `NAME=value` lines for `eval` or `export`; without a service each command means all of them.

use anyhow::{Result, bail};
use highwater_testkit::{Cache, Resident, Service};

/// What the command line asks for, in one line.
pub(crate) const USAGE: &str = "cargo xtask testbed up|down|status [kafka|s3]...";

/// Runs `testbed` with the words behind it.
///
/// # Errors
/// A word that is not understood, a missing tool with the line that installs it, or a server that does not start.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut words = arguments.iter().map(String::as_str);
    let Some(command) = words.next() else {
        bail!("say what to do: {USAGE}");
    };
    let named: Vec<Service> = words.map(Service::parse).collect::<Result<_, _>>()?;
    let services = if named.is_empty() {
        Service::ALL.to_vec()
    } else {
        named
    };
    let cache = Cache::of_user()?;
    for service in services {
        match command {
            "up" => up(service, &cache)?,
            "down" => down(service, &cache)?,
            "status" => status(service, &cache)?,
            other => bail!("`{other}` is not understood: {USAGE}"),
        }
    }
    Ok(())
}

fn up(service: Service, cache: &Cache) -> Result<()> {
    eprintln!(
        "starting {}; the first start fetches it into {}",
        service.name(),
        cache.root().display()
    );
    let resident = Resident::up(service, cache)?;
    for variable in resident.variables() {
        println!("{variable}");
    }
    Ok(())
}

fn down(service: Service, cache: &Cache) -> Result<()> {
    let name = service.name();
    if Resident::down(service, cache)? {
        eprintln!("{name} is stopped and its data removed");
    } else {
        eprintln!("{name} was not running");
    }
    Ok(())
}

fn status(service: Service, cache: &Cache) -> Result<()> {
    let name = service.name();
    match Resident::running(service, cache)? {
        None => println!("{name}: down"),
        Some(resident) => println!(
            "{name}: up, process {}, folder {}, {}",
            resident.key.pid,
            resident.folder.display(),
            resident.variables()[0]
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_wrong_command_line_shows_the_right_one() {
        for (line, part) in [
            ("", USAGE),
            ("start kafka", "`start`"),
            ("up redis", "`redis`"),
        ] {
            let error = run(&words(line)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
