//! One real Apache Kafka 4.2.0: broker and controller in one process (KRaft), on loopback or at another address of this
//! machine.
//!
//! A test holds a [`Kafka`]; the broker ends with the handle, or with the test process. Topics are never made by accident:
//! automatic creation is off. Transactions may ask for up to seven days, so that tests choose their own timeout.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cache::{Cache, run_logged};
use crate::error::TestbedError;
use crate::port;
use crate::process::{ProcessKey, Server, Warden};
use crate::tool;

const VERSION: &str = "kafka-4.2.0";
const POM: &str = include_str!("kafka/pom.xml");
const LOGGING: &str = include_str!("kafka/log4j2.xml");
const LOG: &str = "broker.log";
const READY_LINE: &str = "Kafka Server started";
/// A restart after `kill -9` waits until the registration of the killed broker has run out; a busy machine adds to it.
const START_PATIENCE: Duration = Duration::from_mins(2);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// What a test wants otherwise than the default broker.
#[derive(Clone, Debug, Default)]
pub struct KafkaOptions {
    /// Broker properties that are added to, or replace, those of the testbed.
    pub properties: Vec<(String, String)>,
}

/// A broker that this process started.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    remove_folder: bool,
    jars: PathBuf,
    options: KafkaOptions,
    host: Ipv4Addr,
    port: u16,
    server: Option<Server>,
    warden: Option<Warden>,
}

impl Kafka {
    /// Starts a broker with its data in `folder`, which must be empty or missing. It ends with the handle or the process.
    ///
    /// # Errors
    /// `Missing` without Java or, before the first fetch, Maven; `Step` when the broker does not start.
    pub fn start(folder: &Path, options: &KafkaOptions) -> Result<Self, TestbedError> {
        let cache = Cache::of_user()?;
        let mut kafka = Self::prepare(Ipv4Addr::LOCALHOST, folder, options, &cache)?;
        kafka.run_first()?;
        kafka.watch()?;
        Ok(kafka)
    }

    /// Starts a broker in a temporary folder of its own, removed with it.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_temporary(options: &KafkaOptions) -> Result<Self, TestbedError> {
        Self::start_temporary_at(Ipv4Addr::LOCALHOST, options)
    }

    /// As [`Kafka::start_temporary`], but listening at `host`, an address of this machine that others reach.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_temporary_at(
        host: Ipv4Addr,
        options: &KafkaOptions,
    ) -> Result<Self, TestbedError> {
        let folder = temporary_folder("kafka")?;
        let prepared = Self::prepare(host, &folder, options, &Cache::of_user()?);
        let mut kafka = removing_on_failure(&folder, prepared)?;
        kafka.remove_folder = true;
        kafka.run_first()?;
        kafka.watch()?;
        Ok(kafka)
    }

    /// Fetches what a start needs: one that follows needs no way to other machines.
    ///
    /// # Errors
    /// `Missing` without Java or, before the first fetch, Maven; `Step` when it cannot be fetched.
    pub fn prefetch() -> Result<(), TestbedError> {
        tool::java()?;
        Cache::of_user()?.folder(VERSION, fetch).map(drop)
    }

    /// Starts a broker that stays after this process. The caller keeps its key to stop it.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub(crate) fn start_resident(
        folder: &Path,
        cache: &Cache,
    ) -> Result<(ProcessKey, String), TestbedError> {
        let options = KafkaOptions::default();
        let mut kafka = Self::prepare(Ipv4Addr::LOCALHOST, folder, &options, cache)?;
        kafka.run_first()?;
        let key = kafka
            .key()
            .ok_or_else(|| TestbedError::State("the broker is gone".to_owned()))?;
        // The handle ends here and the broker stays: nobody watches it.
        kafka.server = None;
        Ok((key, kafka.bootstrap()))
    }

    /// Address for clients, such as `127.0.0.1:18123`. The same for the whole life of the handle.
    pub fn bootstrap(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The folder with configuration, data and `broker.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The broker process, while it runs.
    pub fn key(&self) -> Option<ProcessKey> {
        self.server.as_ref().map(Server::key)
    }

    /// Stops the broker gently; data stays for [`Kafka::restart`].
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop(&mut self) -> Result<(), TestbedError> {
        self.unwatch()?;
        match self.server.take() {
            Some(mut server) => server.stop(STOP_PATIENCE),
            None => Ok(()),
        }
    }

    /// Ends the broker with `kill -9`; data stays for [`Kafka::restart`].
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<(), TestbedError> {
        self.unwatch()?;
        match self.server.take() {
            Some(mut server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Starts the broker again on the same port and data. Takes 6 to 15 s after a kill.
    ///
    /// # Errors
    /// `Step` when it does not get ready.
    pub fn restart(&mut self) -> Result<(), TestbedError> {
        if self.server.is_some() {
            self.stop()?;
        }
        self.run()?;
        self.watch()
    }

    fn prepare(
        host: Ipv4Addr,
        folder: &Path,
        options: &KafkaOptions,
        cache: &Cache,
    ) -> Result<Self, TestbedError> {
        tool::java()?;
        let jars = cache.folder(VERSION, fetch)?.join("lib");
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(TestbedError::io("create", &data))?;
        let mut kafka = Self {
            folder: folder.to_owned(),
            remove_folder: false,
            jars,
            options: options.clone(),
            host,
            port: 0,
            server: None,
            warden: None,
        };
        kafka.choose_ports()?;
        let logging = folder.join("log4j2.xml");
        fs::write(&logging, LOGGING).map_err(TestbedError::io("write", &logging))?;
        let mut format = kafka.java("kafka.tools.StorageTool");
        format.args(["format", "-t", &cluster_id(), "-c"]);
        format.arg(folder.join("server.properties"));
        run_logged(
            "format of the broker's folder",
            &mut format,
            &folder.join("format.log"),
        )?;
        Ok(kafka)
    }

    fn choose_ports(&mut self) -> Result<(), TestbedError> {
        self.port = port::free()?;
        let data = self.folder.join("data");
        let at = (self.host, self.port);
        let text = properties(at, port::free()?, &data, &self.options);
        let path = self.folder.join("server.properties");
        fs::write(&path, text).map_err(TestbedError::io("write", &path))
    }

    /// The first start: on other ports when somebody else was faster to take them.
    fn run_first(&mut self) -> Result<(), TestbedError> {
        for _ in 1..port::TRIES {
            match self.run() {
                Err(TestbedError::Step { .. }) if port::was_taken(&self.folder.join(LOG)) => {
                    self.choose_ports()?;
                }
                other => return other,
            }
        }
        self.run()
    }

    fn java(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command.args([
            "-Xms128m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-Djava.awt.headless=true",
        ]);
        let logging = self.folder.join("log4j2.xml");
        command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        command.arg("-cp").arg(self.jars.join("*")).arg(class);
        command
    }

    fn run(&mut self) -> Result<(), TestbedError> {
        let log = self.folder.join(LOG);
        if log.exists() {
            // The ready line of the run before would be taken for this one's.
            let old = self.folder.join("broker.log.old");
            fs::rename(&log, &old).map_err(TestbedError::io("rename", &log))?;
        }
        let mut command = self.java("kafka.Kafka");
        command.arg(self.folder.join("server.properties"));
        let mut server = Server::start(&mut command, &log)?;
        let ready = server.wait_ready("start of the Kafka broker", START_PATIENCE, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains(READY_LINE))
        });
        if ready.is_err() {
            server.kill()?;
        }
        ready?;
        self.server = Some(server);
        Ok(())
    }

    fn watch(&mut self) -> Result<(), TestbedError> {
        let folder = self.remove_folder.then_some(self.folder.as_path());
        self.warden = match self.key() {
            Some(key) => Some(Warden::over(key, folder)?),
            None => None,
        };
        Ok(())
    }

    fn unwatch(&mut self) -> Result<(), TestbedError> {
        self.warden.take().map_or(Ok(()), Warden::dismiss)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // A failure while cleaning up must not hide the failure of the test itself.
        drop(self.kill());
        if self.remove_folder {
            drop(fs::remove_dir_all(&self.folder));
        }
    }
}

/// A folder that was made for a server goes when the server does not come.
pub(crate) fn removing_on_failure<T>(
    folder: &Path,
    prepared: Result<T, TestbedError>,
) -> Result<T, TestbedError> {
    if prepared.is_err() {
        fs::remove_dir_all(folder).map_err(TestbedError::io("remove", folder))?;
    }
    prepared
}

pub(crate) fn temporary_folder(service: &str) -> Result<PathBuf, TestbedError> {
    let prefix = format!("highwater-{service}-");
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
    let folder = folder.map_err(TestbedError::io("create", &std::env::temp_dir()))?;
    Ok(folder.keep())
}

fn fetch(staging: &Path) -> Result<(), TestbedError> {
    tool::maven()?;
    let pom = staging.join("pom.xml");
    fs::write(&pom, POM).map_err(TestbedError::io("write", &pom))?;
    let mut command = Command::new("mvn");
    command
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies");
    command.arg("-DincludeScope=runtime");
    command.arg(format!(
        "-DoutputDirectory={}",
        staging.join("lib").display()
    ));
    run_logged(
        "fetch of Apache Kafka with Maven",
        &mut command,
        &staging.join("fetch.log"),
    )
}

/// 16 bytes in URL-safe base64: different for every broker, so that clients can tell clusters apart.
fn cluster_id() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let unique = since.as_nanos() as u64 ^ (u64::from(std::process::id()) << 40);
    format!("HW{unique:019}A")
}

fn properties(
    (host, port): (Ipv4Addr, u16),
    controller: u16,
    data: &Path,
    options: &KafkaOptions,
) -> String {
    let data = data.display().to_string();
    let one = "1".to_owned();
    let few = "4".to_owned();
    let mut all: Vec<(&str, String)> = vec![
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", one.clone()),
        (
            "controller.quorum.voters",
            format!("1@127.0.0.1:{controller}"),
        ),
        (
            "listeners",
            format!("PLAINTEXT://{host}:{port},CONTROLLER://127.0.0.1:{controller}"),
        ),
        ("advertised.listeners", format!("PLAINTEXT://{host}:{port}")),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        ),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", data),
        ("auto.create.topics.enable", "false".to_owned()),
        // Tests write records of any time: retention would delete those that are older than a week within minutes.
        ("log.retention.ms", "-1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("transaction.max.timeout.ms", "604800000".to_owned()),
        (
            "transaction.abort.timed.out.transaction.cleanup.interval.ms",
            "1000".to_owned(),
        ),
        // A broker killed with -9 may register again only when its old session has run out.
        ("broker.session.timeout.ms", "3000".to_owned()),
        ("broker.heartbeat.interval.ms", "500".to_owned()),
        ("offsets.topic.num.partitions", few.clone()),
        ("transaction.state.log.num.partitions", few),
    ];
    // One node: every internal topic has one replica.
    for name in [
        "default.replication.factor",
        "min.insync.replicas",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.replication.factor",
        "share.coordinator.state.topic.min.isr",
    ] {
        all.push((name, one.clone()));
    }
    for (name, value) in &options.properties {
        all.retain(|(known, _)| known != name);
        all.push((name, value.clone()));
    }
    let lines = all.iter().map(|(name, value)| format!("{name}={value}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_properties_of_the_testbed() {
        let options = KafkaOptions {
            properties: vec![("transaction.max.timeout.ms".to_owned(), "900000".to_owned())],
        };
        let at = (Ipv4Addr::LOCALHOST, 1);
        let text = properties(at, 2, Path::new("/data"), &options);
        assert_eq!(text.matches("transaction.max.timeout.ms").count(), 1);
        assert!(text.contains("transaction.max.timeout.ms=900000\n"));
    }

    #[test]
    fn clients_are_told_the_address_that_they_reach() {
        let at = (Ipv4Addr::new(10, 0, 0, 1), 9_092);
        let text = properties(at, 2, Path::new("/data"), &KafkaOptions::default());
        assert!(text.contains("advertised.listeners=PLAINTEXT://10.0.0.1:9092\n"));
        assert!(text.contains("CONTROLLER://127.0.0.1:2\n"), "{text}");
    }

    #[test]
    fn cluster_ids_have_the_form_of_sixteen_bytes() {
        let id = cluster_id();
        assert_eq!(id.len(), 22);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
