//! Makes the machines of a run, and takes them away again: at the end, after an error, and where an earlier run of this test died.
//!
//! The rule: only namespaces of these names are touched, and of another process only where that is dead. Whatever runs in a
//! namespace ends before its name goes: without the name nobody would find it.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use highwater_testkit::process::ProcessKey;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::machine::{Machine, NAMESPACES, Names};
use crate::verdict::say;

/// Runs `ip` with these words.
fn ip(line: &str) -> anyhow::Result<String> {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.context("ip, of iproute2")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`ip {line}` failed: {}", said.trim());
    }
    String::from_utf8(output.stdout).context("what ip says")
}

/// Moves this thread, and those that it starts from now on, to another machine.
pub(super) fn enter(namespace: &Path) -> anyhow::Result<()> {
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering {}", namespace.display()))
}

/// Ends what runs in a namespace.
fn clear(namespace: &str) -> anyhow::Result<()> {
    let listed = ip(&format!("netns pids {namespace}"))?;
    let members = listed
        .lines()
        .filter_map(|line| line.trim().parse::<u32>().ok());
    for member in members.filter(|member| *member != std::process::id()) {
        if let Some(member) = ProcessKey::of(member) {
            member.kill()?;
        }
    }
    Ok(())
}

fn is_alive(process: u32) -> bool {
    process != std::process::id() && Path::new("/proc").join(process.to_string()).exists()
}

/// Takes away what runs of this test have left that are dead, and returns the names of it.
pub(super) fn sweep() -> anyhow::Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        // Nobody has ever made one here.
        return Ok(Vec::new());
    };
    let mut swept = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left = Names::of_namespace(&name).is_some_and(|(names, _)| !is_alive(names.process));
        if is_left {
            clear(&name)?;
            ip(&format!("netns del {name}"))?;
            swept.push(name);
        }
    }
    Ok(swept)
}

/// Takes a namespace away that was made, and says what could not be: a failure while cleaning up must not hide the failure of the test
/// itself.
fn take_away(namespace: &str, cleared: anyhow::Result<()>) {
    if !Path::new(NAMESPACES).join(namespace).exists() {
        return;
    }
    let gone = cleared.and_then(|()| ip(&format!("netns del {namespace}")));
    if let Err(error) = gone {
        say(&format!("{namespace} is left behind: {error:#}\n"));
    }
}

/// The machine that all others hang on, and that this program is on as well. Gone when it is dropped.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) names: Names,
}

impl Hub {
    /// Makes it, and moves this thread there. Called before any other thread is started.
    pub(super) fn open() -> anyhow::Result<Self> {
        let names = Names {
            process: std::process::id(),
        };
        let hub = Self { names };
        for line in names.hub() {
            ip(&line)?;
        }
        enter(&names.path(Machine::Hub))?;
        Ok(hub)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // This program is in it: the name goes now, the rest with the program.
        take_away(&self.names.namespace(Machine::Hub), Ok(()));
    }
}

/// The other machines of a run. Gone when they are dropped, with whatever runs there.
#[derive(Debug)]
pub(super) struct Machines {
    names: Names,
    made: Vec<Machine>,
}

impl Machines {
    /// Makes them.
    pub(super) fn make(names: Names, wanted: &[Machine]) -> anyhow::Result<Self> {
        let mut machines = Self {
            names,
            made: Vec::new(),
        };
        for &machine in wanted {
            // Noted before it is whole: half a machine is taken away as well.
            machines.made.push(machine);
            for line in names.machine(machine) {
                ip(&line)?;
            }
        }
        Ok(machines)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in &self.made {
            let namespace = self.names.namespace(*machine);
            // The kernel takes its time with a namespace, and with a cable whose end is in it: the next machine has the same name.
            let cleared = clear(&namespace).and_then(|()| ip(&self.names.unplug(*machine)));
            take_away(&namespace, cleared.map(drop));
        }
    }
}
