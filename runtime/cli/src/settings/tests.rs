//! Settings as a whole: from what was given to what runs.

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Environment(variables.iter().map(owned).collect())
}

fn settings(flags: &[(&'static str, &str)], variables: &[(&str, &str)]) -> Settings {
    let run = RunArgs {
        flags: RunFlags(
            flags
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
        ),
        ..RunArgs::default()
    };
    Settings::read(&JobArgs::default(), Some(&run), environment(variables)).unwrap()
}

#[test]
fn the_defaults_run() {
    let settings = settings(&[], &[]);
    let job = settings.job("fleet").unwrap();
    assert_eq!(job.identity.as_str(), "fleet");
    assert_eq!(
        job.state_dir,
        Location::Local(PathBuf::from("./.highwater/state"))
    );
    let run = settings.run(&[], 6).unwrap();
    assert_eq!(run.plan.parallelism, Parallelism(6));
    assert_eq!(run.plan.max_parallelism, MaxParallelism::DEFAULT);
    assert_eq!(run.worker.slots, 6);
    assert_eq!(run.worker.state_bytes_max, 1 << 30);
    assert_eq!(run.coordinator.checkpoint.interval_ms, 10_000);
    assert_eq!(run.coordinator.retention, Retention::DEFAULT);
    assert_eq!(run.cluster.leave_max, Duration::from_secs(30));
    assert_eq!(run.rest.address.to_string(), "127.0.0.1:0");
    assert_eq!(run.rest.authentication, Authentication::None);
    assert_eq!(run.metrics_address, None);
    assert_eq!(job.rest, RestCredentials::default());
}

#[test]
fn a_worker_shows_its_metrics_where_it_is_told_to() {
    let given: &[(&'static str, &str)] = &[("metrics.address", "127.0.0.1:9400")];
    let run = settings(given, &[]).run(&[], 1).unwrap();
    let address = run.metrics_address.map(|address| address.to_string());
    assert_eq!(address.as_deref(), Some("127.0.0.1:9400"));
}

#[test]
fn a_local_store_shares_the_memory_for_state_with_the_tables_and_leaves_a_part_free() {
    // Tables, store, files on their way. With little memory the process itself takes a larger part of it.
    for (memory, expected) in [
        ("1GiB", (576, 256, 64)),
        ("512MiB", (288, 128, 32)),
        ("256MiB", (128, 64, 16)),
        ("64MiB", (24, 16, 4)),
    ] {
        let given: &[(&'static str, &str)] =
            &[("state.backend", "rocksdb"), ("state.memory", memory)];
        let run = settings(given, &[]).run(&[], 6).unwrap();
        let mib = |bytes: u64| bytes >> 20;
        let found = (
            mib(run.worker.state_bytes_max),
            mib(run.worker.store_bytes_max),
            mib(run.state.moving_bytes_max),
        );
        assert_eq!(found, expected, "{memory}");
    }
}

#[test]
fn restarts_follow_their_strategy() {
    let restart = |flags: &[(&'static str, &str)]| {
        settings(flags, &[])
            .run(&[], 1)
            .map(|run| run.coordinator.restart)
    };
    assert_eq!(
        restart(&[("restart.strategy", "never")]),
        Ok(RestartStrategy::Never)
    );
    let flags = [
        ("restart.first-delay", "5s"),
        ("restart.max-delay", "9s"),
        ("restart.attempts", "4"),
    ];
    let expected = RestartStrategy::Exponential {
        first: Duration::from_secs(5),
        most: Duration::from_secs(9),
        reset_after: Duration::from_secs(90),
        restarts_max: Some(4),
    };
    assert_eq!(restart(&flags), Ok(expected));
    let fixed = [
        ("restart.strategy", "fixed"),
        ("restart.first-delay", "50s"),
    ];
    let expected = RestartStrategy::Fixed {
        delay: Duration::from_secs(50),
        restarts_max: None,
    };
    assert_eq!(restart(&fixed), Ok(expected));
    let rate = ("restart.strategy", "failure-rate");
    let expected = RestartStrategy::FailureRate {
        delay: Duration::from_secs(1),
        restarts_max: 3,
        interval: Duration::from_mins(1),
    };
    assert_eq!(restart(&[rate, ("restart.attempts", "3")]), Ok(expected));
    let boundless = restart(&[rate]).unwrap_err().to_string();
    assert!(boundless.contains("restart.attempts"), "{boundless}");
    let reversed = restart(&[("restart.first-delay", "50s")]).unwrap_err();
    assert!(reversed.to_string().contains("restart.max-delay"));
}

#[test]
fn a_worker_may_be_told_of_several_coordinators() {
    let addresses = |text| {
        let flags = [("control.address", text), ("allow-clear-text", "true")];
        let run = settings(&flags, &[]).run(&[], 1);
        run.map(|run| run.cluster.control_addresses)
    };
    assert_eq!(
        addresses("a:1, b:2"),
        Ok(vec!["a:1".to_owned(), "b:2".to_owned()])
    );
    assert!(addresses("a:1,").is_err());
}

#[test]
fn what_others_reach_has_certificates_or_the_users_word() {
    let refusal = |flags: &[(&'static str, &str)]| {
        let run = settings(flags, &[]).run(&[], 1);
        run.map_or_else(|error| error.to_string(), |_| String::new())
    };
    let open = ("data.listen", "10.0.0.1:7000");
    assert!(refusal(&[open]).contains("allow-clear-text"));
    assert_eq!(refusal(&[open, ("allow-clear-text", "true")]), "");
    let files = [
        ("tls.authority", "a.pem"),
        ("tls.certificate", "c.pem"),
        ("tls.key", "k.pem"),
        ("tls.peer-name", "fleet.job"),
    ];
    assert_eq!(refusal(&[open, files[0], files[1], files[2], files[3]]), "");
    let status = ("rest.address", "10.0.0.1:8081");
    assert!(refusal(&[status, files[0], files[1], files[2], files[3]]).contains("rest.auth"));
    assert!(refusal(&[status, ("allow-clear-text", "true")]).contains("rest.auth"));
    assert!(refusal(&files[..3]).contains("belong together"));
    let leaves = ("control.address", "127.0.0.1:1,leader:6123");
    assert!(refusal(&[leaves]).contains("control.address"));
    let all = ("control.listen", "0.0.0.0:6123");
    let with = |more| refusal(&[all, ("allow-clear-text", "true"), more]);
    assert!(with(("slots", "1")).contains("control.advertised-address"));
    assert_eq!(with(("control.advertised-address", "leader:6123")), "");
}

#[test]
fn one_late_heartbeat_must_not_end_an_attempt() {
    let flags = |interval, timeout| {
        let flags = [
            ("heartbeat.interval", interval),
            ("heartbeat.timeout", timeout),
        ];
        let run = settings(&flags, &[]).run(&[], 1);
        run.map(|run| run.cluster.connection.silent_max)
    };
    assert_eq!(flags("1s", "2s"), Ok(Duration::from_secs(2)));
    let refused = flags("1s", "1999ms").unwrap_err().to_string();
    assert!(refused.contains("heartbeat.interval"), "{refused}");
}

#[test]
fn a_program_name_that_can_be_no_identity_asks_for_one() {
    let failure = settings(&[], &[]).job("Fleet").unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    assert!(failure.message.contains("--job"), "{}", failure.message);
    let named = settings(&[], &[("HIGHWATER_JOB", "fleet")]);
    assert_eq!(named.job("Fleet").unwrap().identity.as_str(), "fleet");
}

#[test]
fn keys_of_a_store_come_from_the_environment() {
    let variables = [
        ("HIGHWATER_STATE_DIR", "s3://bucket/jobs"),
        ("HIGHWATER_S3_ACCESS_KEY_ID", "id"),
        ("HIGHWATER_S3_SECRET_ACCESS_KEY", "hush"),
        ("AWS_ROLE_ARN", "role"),
    ];
    let job = settings(&[], &variables).job("fleet").unwrap();
    assert_eq!(job.state_dir.to_string(), "s3://bucket/jobs");
    assert_eq!(job.s3.secret_access_key, Some(Secret::new("hush")));
    assert_eq!(job.s3.role_arn.as_deref(), Some("role"));
    assert!(!format!("{job:?}").contains("hush"));
}

#[test]
fn parameters_of_the_command_line_go_before_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    let text = "slots: 3\nparameters:\n  input: file\n  output: file\n";
    std::fs::write(&path, text).unwrap();
    let variables = [(CONFIG_VARIABLE, path.to_str().unwrap())];
    let settings = Settings::read(&JobArgs::default(), None, environment(&variables)).unwrap();
    let line = [("input".to_owned(), "line".to_owned())];
    let run = settings.run(&line, 1).unwrap();
    assert_eq!(run.worker.slots, 3);
    assert_eq!(run.parameters["input"], "line");
    assert_eq!(run.parameters["output"], "file");
}

#[test]
fn a_parameter_that_is_given_twice_is_refused_by_name() {
    let twice = ["in", "out"].map(|value| ("input".to_owned(), value.to_owned()));
    let error = settings(&[], &[]).run(&twice, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--param: `input=out` gives `input` a second time; keep one of them"
    );
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_setting() {
    let job = JobArgs {
        config: Some(PathBuf::from("no/such/job.yaml")),
        ..JobArgs::default()
    };
    let error = Settings::read(&job, None, environment(&[])).unwrap_err();
    let text = error.to_string();
    let expected = "--config: the settings file no/such/job.yaml cannot be read: ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(Failure::from(error).code, Code::Usage);

    let variables = [(CONFIG_VARIABLE, "no/such/job.yaml")];
    let error = Settings::read(&JobArgs::default(), None, environment(&variables)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("HIGHWATER_CONFIG: "), "{text}");
}
