//! `demo`, `sim`, `acceptance`, `soak` and `bench`: the programs behind the door, as data.
//!
//! The door builds a program, hands its arguments over and says its verdict; what is done and judged lies in the
//! program. Each of them ends with its own `VERDICT` line. A name stands in a list only while the source that serves
//! it exists: what is not there is refused by name.

use anyhow::{Result, bail};

use crate::project::Project;
use crate::run::Invocation;
use crate::verdict::Verdict;

/// A program of the workspace that a command starts.
pub(crate) struct Program {
    /// The name after the command; for `demo` and `sim` the command itself.
    pub(crate) name: &'static str,
    /// What it shows, in a line.
    what: &'static str,
    /// The package that builds it.
    package: &'static str,
    /// The program's file name.
    binary: &'static str,
    /// The module that serves the name, without `.rs`.
    source: &'static str,
    /// Cargo's arguments beside the package.
    build: &'static [&'static str],
    /// The program's arguments before those of the person.
    arguments: &'static [&'static str],
}

/// The demo.
pub(crate) const DEMO: Program = Program {
    name: "demo",
    what: "Harbor Fleet with embedded defaults: a crash in the middle, and every alert once",
    package: "harbor-fleet",
    binary: "harbor-fleet",
    source: "examples/harbor-fleet/src/demo",
    build: &["--no-default-features"],
    arguments: &["demo"],
};

/// The simulator.
pub(crate) const SIM: Program = Program {
    name: "sim",
    what: "the whole cluster in one thread from a seed, with faults and oracles",
    package: "highwater-sim",
    binary: "highwater-sim",
    source: "runtime/sim/src/main",
    build: &["--features", "mutants"],
    arguments: &[],
};

/// The drills of Harbor Fleet.
pub(crate) const DRILLS: Program = Program {
    name: "harbor-fleet",
    what: "the drills of the payment fraud scorer, killed at every step",
    package: "harbor-fleet",
    binary: "harbor-fleet",
    source: "examples/harbor-fleet/src/acceptance",
    build: &[],
    arguments: &["acceptance"],
};

/// The long run of Harbor Fleet.
const SOAK: Program = Program {
    name: "soak",
    what: "the payment fraud scorer for long, with more state than memory, killed again and again",
    package: "harbor-fleet",
    binary: "harbor-fleet",
    source: "examples/harbor-fleet/src/acceptance/soak",
    build: &[],
    arguments: &["soak"],
};

const ACCEPTANCE: &[Program] = &[
    DRILLS,
    Program {
        name: "cluster",
        what: "two coordinators and three workers on machines of their own, which are killed, frozen and cut off; needs root",
        package: "harbor-fleet",
        binary: "harbor-fleet",
        source: "examples/harbor-fleet/src/acceptance/faults",
        build: &[],
        arguments: &["cluster"],
    },
    Program {
        name: "backend",
        what: "the contract suite and the model test of every backend of keyed state, at full size",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/backend",
        build: &[],
        arguments: &["backend"],
    },
    Program {
        name: "rest",
        what: "the OpenAPI document against a real job: schemathesis asks for all that it allows and does not allow",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/rest",
        build: &[],
        arguments: &["rest"],
    },
];

const BENCH: &[Program] = &[
    Program {
        name: "keyed-count",
        what: "count by key over a million keys, in events per CPU-second",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/keyed_count",
        build: &[],
        arguments: &["keyed-count"],
    },
    Program {
        name: "state",
        what: "state in cache and state that outgrows memory, against Flink on RocksDB in one memory limit",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/state",
        build: &[],
        arguments: &["state"],
    },
    Program {
        name: "checkpoints",
        what: "bytes and seconds of checkpoints by what changed, pauses, restores",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/checkpoints",
        build: &[],
        arguments: &["checkpoints"],
    },
    Program {
        name: "cluster",
        what: "several processes: cost of the wire, latency, recovery, takeover, rescale, memory, deployment",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/cluster",
        build: &[],
        arguments: &["cluster"],
    },
    Program {
        name: "instructions",
        what: "instructions of a record through a whole slice, against the checked-in number",
        package: "highwater-bench",
        binary: "highwater-bench",
        source: "runtime/bench/src/instructions",
        build: &[],
        arguments: &["instructions"],
    },
];

impl Program {
    /// Whether the source that serves it is there.
    pub(crate) fn exists(&self, project: &Project) -> bool {
        let file = project.root.join(format!("{}.rs", self.source));
        let folder = project.root.join(self.source).join("mod.rs");
        project.has_binary(self.package, self.binary) && (file.exists() || folder.exists())
    }

    /// Runs it as `cargo build --workspace --bins` left it: the profile and the features of the tests.
    pub(crate) fn run_as_tested(&self, project: &Project, more: &[&str]) -> Result<Verdict> {
        let path = project.target.join("debug").join(self.binary);
        let invocation = Invocation::new(path, self.arguments.iter().chain(more).copied());
        Ok(invocation.run(project)?.verdict_due(&invocation.shown()))
    }

    /// Builds it in release and runs it.
    fn run(&self, project: &Project, arguments: &[String]) -> Result<Verdict> {
        if !self.exists(project) {
            bail!(
                "`{}` is not there yet: nothing in `{}` serves it",
                self.name,
                self.source
            );
        }
        let fixed = [
            "run",
            "--release",
            "--package",
            self.package,
            "--bin",
            self.binary,
        ];
        let fixed = fixed
            .iter()
            .chain(self.build)
            .chain(&["--"])
            .chain(self.arguments);
        let invocation = Invocation::cargo(fixed.copied()).and(arguments);
        Ok(invocation.run(project)?.verdict_due(&invocation.shown()))
    }
}

/// Runs the demo.
pub(crate) fn demo(project: &Project, arguments: &[String]) -> Result<Verdict> {
    DEMO.run(project, arguments)
}

/// Runs the simulator.
pub(crate) fn sim(project: &Project, arguments: &[String]) -> Result<Verdict> {
    SIM.run(project, arguments)
}

/// Runs the soak.
pub(crate) fn soak(project: &Project, arguments: &[String]) -> Result<Verdict> {
    SOAK.run(project, arguments)
}

/// Runs the acceptance test called `name`, or lists them.
pub(crate) fn acceptance(
    project: &Project,
    name: Option<&str>,
    arguments: &[String],
) -> Result<Verdict> {
    dispatch(project, "acceptance test", ACCEPTANCE, (name, arguments))
}

/// Runs the benchmark called `name`, or lists them.
pub(crate) fn bench(
    project: &Project,
    name: Option<&str>,
    arguments: &[String],
) -> Result<Verdict> {
    dispatch(project, "benchmark", BENCH, (name, arguments))
}

fn dispatch(
    project: &Project,
    kind: &str,
    programs: &'static [Program],
    (name, arguments): (Option<&str>, &[String]),
) -> Result<Verdict> {
    let there = programs
        .iter()
        .filter(|program| program.exists(project))
        .collect::<Vec<_>>();
    let names = there
        .iter()
        .map(|program| program.name)
        .collect::<Vec<_>>()
        .join(", ");
    let known = if there.is_empty() {
        format!("there is no {kind} yet")
    } else {
        format!("there is: {names}")
    };
    let Some(name) = name else {
        for program in &there {
            println!("{:<16} {}", program.name, program.what);
        }
        return Ok(Verdict::Usage(format!("name one {kind}; {known}")));
    };
    match there.iter().find(|program| program.name == name) {
        Some(program) => program.run(project, arguments),
        None => Ok(Verdict::Usage(format!(
            "no {kind} is called `{name}`; {known}"
        ))),
    }
}
