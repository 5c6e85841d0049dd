//! The runs as data: who asks, for what, and what schemathesis is told of it.
//!
//! Pure. The rule: a run says which answers it takes, and every check that can hold for it is made.

use std::fmt::Write as _;

/// The token that may only read: of a job that lives for a test, on loopback.
pub(super) const READS: &str = "fuzz-reads-0123456789";
/// The token that may also write.
pub(super) const WRITES: &str = "fuzz-writes-0123456789";

/// What ends a job.
const STOP: &str = "POST /v1/stop";
/// What spreads the job otherwise.
const RESCALE: &str = "POST /v1/rescale";
/// What takes the names of settings, which the document does not know.
const CONFIG: &str = "PATCH /v1/config";

/// Every run.
pub(super) const RUNS: &[Run] = &[
    Run::new("open", Caller::Anybody, Asks::Everything),
    Run::new("open-stop", Caller::Anybody, Asks::Stops),
    Run::new("write", Caller::Writer, Asks::Everything),
    Run::new("write-stop", Caller::Writer, Asks::Stops),
    Run::new("read", Caller::Reader, Asks::Everything),
    Run::new("none", Caller::Stranger, Asks::Everything),
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A program of this machine, of a job without authentication.
    Anybody,
    /// Somebody with a token that may write.
    Writer,
    /// Somebody with a token that may only read.
    Reader,
    /// Somebody without a token, or with one that is made up.
    Stranger,
}

impl Caller {
    /// Whether the job asks for a token.
    pub(super) const fn is_asked(self) -> bool {
        !matches!(self, Self::Anybody)
    }

    /// What is shown.
    pub(super) const fn token(self) -> Option<&'static str> {
        match self {
            Self::Anybody | Self::Stranger => None,
            Self::Writer => Some(WRITES),
            Self::Reader => Some(READS),
        }
    }

    const fn may_write(self) -> bool {
        matches!(self, Self::Anybody | Self::Writer)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Every operation. Whoever may stop the job asks for a stop in ways only that must be refused.
    Everything,
    /// Stops that are granted, of a job that is started again each time.
    Stops,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// What is drawn follows from it.
    pub(super) seed: u64,
    /// Requests drawn for each operation.
    pub(super) examples: u32,
    /// Whether stops at the edges of the document are left out.
    pub(super) is_quick: bool,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Its name.
    pub(super) name: &'static str,
    /// Who asks.
    pub(super) caller: Caller,
    /// What for.
    pub(super) asks: Asks,
}

/// What is told in every run. The cache of schemathesis would carry over what older runs have found.
const HEAD: &str = r#"hooks = "hooks.py"
continue-on-failure = true
request-timeout = 60
suppress-health-check = ["all"]

[cache]
enabled = false
"#;

/// The checks of every run. Left out are those of resources that are deleted or stay: there are none.
const CHECKS: &[&str] = &[
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
];

impl Run {
    const fn new(name: &'static str, caller: Caller, asks: Asks) -> Self {
        Self { name, caller, asks }
    }

    /// The arguments behind `run DOCUMENT`.
    pub(super) fn arguments(&self, amount: &Amount) -> Vec<String> {
        let (mode, phases) = match (self.asks, amount.is_quick) {
            (Asks::Everything, _) => ("all", "coverage,fuzzing,stateful"),
            (Asks::Stops, false) => ("positive", "coverage,fuzzing"),
            (Asks::Stops, true) => ("positive", "fuzzing"),
        };
        let (seed, examples) = (amount.seed.to_string(), amount.examples.to_string());
        let mut arguments = vec!["--mode", mode, "--phases", phases, "--seed", &seed];
        arguments.extend(["--max-examples", &examples]);
        if self.asks == Asks::Stops {
            // Each is a job that is started again, so nobody looks for a shorter one.
            arguments.extend(["--include-name", STOP, "--no-shrink"]);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// The settings of schemathesis.
    pub(super) fn settings(&self) -> String {
        let mut text = HEAD.to_owned();
        self.write(&mut text).expect("a String takes everything");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        if self.caller.token().is_some() {
            text.push_str("\n[headers]\nAuthorization = \"Bearer ${FUZZ_TOKEN}\"\n");
        }
        writeln!(text, "\n[generation]\ndatabase = \"none\"")?;
        // Only who has no token makes one up: elsewhere it would be sent with a request that is granted.
        let makes_up = self.caller == Caller::Stranger;
        writeln!(text, "with-security-parameters = {makes_up}")?;
        // No header can carry these, and a connection that does is refused before there is a request.
        write!(text, "exclude-header-characters = \"")?;
        for code in (0..=0x1f).chain([0x7f]).filter(|code| *code != 0x09) {
            write!(text, "\\u{code:04X}")?;
        }
        writeln!(text, "\"\n\n[checks]\nenabled = false")?;
        for check in CHECKS {
            writeln!(text, "{check}.enabled = true")?;
        }
        // What was granted is asked for again with less. After a stop nobody is left to ask.
        if self.caller.is_asked() && self.asks == Asks::Everything {
            writeln!(text, "ignored_auth.enabled = true")?;
        }
        writeln!(text, "\n[[operations]]\ninclude-name = \"{CONFIG}\"")?;
        writeln!(text, "checks.positive_data_acceptance.enabled = false")?;
        if self.caller.may_write() && self.asks == Asks::Everything {
            // A stop ends the job, and a rescale may want hundreds of subtasks: only what is refused is asked here.
            for name in [STOP, RESCALE] {
                writeln!(text, "\n[[operations]]\ninclude-name = \"{name}\"")?;
                writeln!(text, "generation.mode = \"negative\"")?;
                writeln!(text, "phases.stateful.enabled = false")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNT: Amount = Amount {
        seed: 7,
        examples: 3,
        is_quick: false,
    };

    fn run(name: &str) -> &'static Run {
        RUNS.iter().find(|run| run.name == name).unwrap()
    }

    #[test]
    fn a_job_is_stopped_only_where_it_is_started_again() {
        for run in RUNS {
            let settings = run.settings();
            let refused = settings
                .contains("include-name = \"POST /v1/stop\"\ngeneration.mode = \"negative\"");
            let is_kept = run.asks == Asks::Stops;
            assert_eq!(refused, run.caller.may_write() && !is_kept, "{}", run.name);
            let arguments = run.arguments(&AMOUNT).join(" ");
            assert_eq!(arguments.contains(STOP), is_kept, "{arguments}");
        }
    }

    #[test]
    fn no_token_stands_in_settings_or_arguments() {
        for run in RUNS {
            let text = run.settings() + &run.arguments(&AMOUNT).join(" ");
            assert!(!text.contains(READS) && !text.contains(WRITES), "{text}");
            let shows = text.contains("Bearer ${FUZZ_TOKEN}");
            assert_eq!(shows, run.caller.token().is_some(), "{}", run.name);
        }
    }

    #[test]
    fn who_has_a_token_is_looked_at_for_what_it_opens() {
        for (name, is_checked) in [
            ("open", false),
            ("write", true),
            ("write-stop", false),
            ("none", true),
        ] {
            let settings = run(name).settings();
            assert_eq!(
                settings.contains("ignored_auth.enabled = true"),
                is_checked,
                "{name}"
            );
            let makes_up = settings.contains("with-security-parameters = true");
            assert_eq!(makes_up, name == "none", "{name}");
        }
        assert!(run("none").settings().contains("\"\\u0000\\u0001"));
    }

    #[test]
    fn the_seed_and_the_number_of_requests_are_those_that_are_asked_for() {
        let arguments = run("open").arguments(&AMOUNT).join(" ");
        assert!(
            arguments.contains("--seed 7 --max-examples 3"),
            "{arguments}"
        );
        assert!(arguments.contains("stateful"), "{arguments}");
    }
}
