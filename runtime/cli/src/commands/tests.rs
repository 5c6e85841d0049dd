//! The command line: what is understood, and what the commands say.

use clap::CommandFactory as _;
use highwater_connectors::{BlackholeSink, ElementsSource};

use super::*;

fn job(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let name = env.parameter("name").map(str::to_owned);
    let name = name.ok_or("the parameter `name` is missing")?;
    let numbers = env.source(&name, ElementsSource::new([1_u64, 2, 3]));
    numbers.sink("nowhere", BlackholeSink::new().0);
    Ok(())
}

fn settings(line: &[&str]) -> RunSettings {
    let cli = Cli::try_parse_from(["job"].iter().chain(line)).unwrap();
    let (Command::Run(args) | Command::Plan { run: args, .. }) = &cli.command else {
        panic!("a command that compiles the job");
    };
    let settings = Settings::read(&cli.job, Some(args), Environment::default()).unwrap();
    settings.run(&args.parameters, 2).unwrap()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_flag_for_the_version_says_what_the_command_says() {
    for flag in ["--version", "-V"] {
        let asked = Cli::try_parse_from(["job", flag]).err().unwrap();
        assert!(!asked.use_stderr(), "it is no error");
        assert_eq!(asked.to_string(), version());
    }
    // Behind a command too: no guess at the flag that is written alike.
    let asked = Cli::try_parse_from(["job", "run", "--version"]);
    assert!(!asked.err().unwrap().use_stderr(), "it is no error");
}

#[test]
fn flags_of_the_job_are_taken_before_and_behind_the_command() {
    for line in [["--job", "fleet", "status"], ["status", "--job", "fleet"]] {
        let cli = Cli::try_parse_from(["job"].iter().chain(&line)).unwrap();
        let settings = Settings::read(&cli.job, None, Environment::default()).unwrap();
        assert_eq!(settings.job("other").unwrap().identity.as_str(), "fleet");
    }
}

#[test]
fn a_bare_switch_means_yes_and_takes_no_command_for_its_value() {
    use highwater_protocol::recovery::UnmatchedState;

    let unmatched = |line: &[&str]| settings(line).coordinator.restore.unmatched;
    assert_eq!(unmatched(&["run"]), UnmatchedState::Refuse);
    let (bare, said) = ("--allow-unmatched-state", "--allow-unmatched-state=false");
    assert_eq!(unmatched(&["run", bare]), UnmatchedState::Drop);
    assert_eq!(unmatched(&["run", said]), UnmatchedState::Refuse);
}

#[test]
fn a_restore_that_is_refused_over_state_names_a_flag_of_run() {
    use highwater_protocol::recovery::Refusal;
    use highwater_types::OperatorUid;

    let uid = || OperatorUid::parse("count").unwrap();
    let (old, new) = (String::from("tumbling 60 s"), String::from("tumbling 5 s"));
    let refusals = [
        Refusal::MissingOperator {
            uid: uid(),
            number: 7,
        },
        Refusal::MissingState {
            uid: uid(),
            state: "sum".to_owned(),
        },
        Refusal::KeyChanged {
            uid: uid(),
            old: old.clone(),
            new: new.clone(),
        },
        Refusal::StateChanged {
            uid: uid(),
            state: "sum".to_owned(),
            old: old.clone(),
            new: new.clone(),
        },
        Refusal::FormChanged {
            uid: uid(),
            old,
            new,
        },
    ];
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for refusal in refusals {
        let text = refusal.to_string();
        let (_, flag) = text.split_once("--").unwrap();
        let known = run
            .get_arguments()
            .any(|argument| argument.get_long() == Some(flag));
        assert!(known, "no flag of `run`: {text}");
    }
}

#[test]
fn a_plan_is_shown_in_three_forms() {
    let settings = settings(&["plan", "--parallelism", "3", "--param", "name=cards"]);
    let text = plan(job, &settings, Format::Text).unwrap();
    assert!(text.contains("cards"), "{text}");
    assert!(text.contains("parallelism 3"), "{text}");
    let json = plan(job, &settings, Format::Json).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tasks"][0]["parallelism"], 3);
    assert_eq!(json["tasks"][0]["live"], serde_json::Value::Null);
    let dot = plan(job, &settings, Format::Dot).unwrap();
    assert!(dot.starts_with("digraph job {"), "{dot}");
}

#[test]
fn a_job_that_is_refused_ends_with_code_5() {
    let settings = settings(&["plan"]);
    let missing = plan(job, &settings, Format::Text).unwrap_err();
    assert_eq!(
        (missing.code as u8, missing.message.as_str()),
        (5, "the parameter `name` is missing")
    );
    let nothing = plan(|_| Ok(()), &settings, Format::Text).unwrap_err();
    assert_eq!(nothing.code as u8, 5);
    assert!(nothing.message.contains("no source"), "{}", nothing.message);
}

#[test]
fn a_parameter_that_does_not_parse_is_a_usage_error() {
    fn hot(env: &mut StreamEnvironment) -> Result<(), UserError> {
        let hot = env.parameter_or("hot", 90_i64)?;
        let name = env.parameter_or("name", "numbers".to_owned())?;
        let numbers = env.source(&name, ElementsSource::new([hot]));
        numbers.sink("nowhere", BlackholeSink::new().0);
        Ok(())
    }
    // The other parameter is right, though the job did not come to ask for it.
    let given = ["plan", "--param", "hot=abc", "--param", "name=cards"];
    let refused = plan(hot, &settings(&given), Format::Text).unwrap_err();
    assert_eq!(
        (refused.code as u8, refused.message.as_str()),
        (
            2,
            "--param: parameter hot: \"abc\" is no i64: invalid digit found in string"
        )
    );
    for given in [&["plan"][..], &["plan", "--param", "hot=7"]] {
        plan(hot, &settings(given), Format::Text).unwrap();
    }
}

#[test]
fn an_unknown_flag_is_a_usage_error_that_names_the_nearest() {
    let error = Cli::try_parse_from(["job", "run", "--checkpoint-intervall", "1s"]);
    let text = error.err().unwrap().to_string();
    assert!(text.contains("--checkpoint-interval"), "{text}");
}

fn rescale(line: &[&str]) -> Result<RescaleArgs, clap::Error> {
    let cli = Cli::try_parse_from(["job", "rescale"].iter().chain(line))?;
    let Command::Rescale(wanted) = cli.command else {
        panic!("a rescale");
    };
    Ok(wanted)
}

#[test]
fn a_rescale_says_the_parallelism_of_all_or_of_single_operators() {
    let all = rescale(&["--parallelism", "4"]).unwrap();
    assert_eq!(all.to.parallelism, Some(4));
    assert_eq!((all.to.operators.len(), all.slots_within), (0, None));
    assert!(!all.of.detach && !all.of.json);
    let single = rescale(&[
        "--operator",
        "count=8",
        "--operator=sum=2",
        "--slots-within",
        "5m",
        "--operation",
        "one",
        "--detach",
    ]);
    let single = single.unwrap();
    assert_eq!(single.to.parallelism, None);
    let operators = [("count".to_owned(), 8), ("sum".to_owned(), 2)];
    assert_eq!(single.to.operators, operators);
    assert_eq!(single.slots_within, Some(Duration::from_mins(5)));
    assert_eq!(single.of.operation.as_deref(), Some("one"));
    assert!(single.of.detach);
}

#[test]
fn a_rescale_that_says_no_parallelism_is_a_usage_error() {
    for (line, words) in [
        (
            &["--slots-within", "5m"][..],
            "--parallelism <N>|--operator <UID=N>",
        ),
        (&[], "--parallelism <N>|--operator <UID=N>"),
        (&["--parallelism", "0"], "from 1 to 32768"),
        (&["--parallelism", "32769"], "from 1 to 32768"),
        (&["--operator", "count"], "write UID=N"),
        (&["--operator", "=8"], "write UID=N"),
        (&["--operator", "count=0"], "from 1 to 32768"),
        (
            &["--parallelism", "4", "--slots-within", "5"],
            "has no unit",
        ),
    ] {
        let refused = rescale(line).unwrap_err();
        assert!(refused.use_stderr());
        let text = refused.to_string();
        assert!(text.contains(words), "{line:?}: {text}");
    }
}

#[test]
fn the_help_of_a_rescale_tells_what_happens_and_how_it_is_called() {
    let mut command = Cli::command();
    let rescale = command.find_subcommand_mut("rescale").unwrap();
    let help = rescale.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "a checkpoint behind which its sources wait",
        "as many slots as its largest parallelism",
        "holds for later runs too",
        "rescale --operator count=8 --operator sum=2",
        "without it not at all",
    ] {
        assert!(help.contains(words), "no `{words}` in {help}");
    }
}

#[test]
fn help_names_range_and_default_of_every_setting() {
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("default: ./.highwater/state"), "{help}");
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_help().to_string().replace('\n', " ");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[10ms to 1d; default: 10s]"), "{help}");
}
