//! What all runs share: the hub with Kafka, the S3 server and the blocklist, a clock, and the wish to end.
//!
//! The servers listen at the address of the hub, which every machine reaches. The rule: nothing is started before this program is on
//! the hub, and nothing is fetched afterwards, because no way leads out of it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use harbor_fleet::blocklist::{Faults, serve_at};
use highwater::json::clock;
use highwater_connectors::Clock;
use highwater_testkit::{Kafka, KafkaOptions, S3};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::machine::{Machine, Names};
use super::network::{Hub, sweep};
use crate::acceptance::cluster::Cluster;
use crate::verdict::say;

/// The largest record that the broker takes.
const RECORD_BYTES: &str = "16777216";

/// The servers, and where runs keep their logs.
pub(super) struct Ground {
    /// Asks the broker from outside.
    pub(super) cluster: Cluster,
    kafka: Kafka,
    s3: S3,
    blocklist: SocketAddr,
    runtime: Runtime,
    /// Below it every run has a directory of its own.
    pub(super) root: PathBuf,
    /// Time.
    pub(super) clock: Arc<dyn Clock>,
    interrupted: Arc<AtomicBool>,
    _tasks: JoinSet<io::Result<()>>,
    // Dropped last: what listens there is gone by then.
    hub: Hub,
}

impl Ground {
    /// Takes away what dead runs have left, makes the hub and starts everything there. Called before any other thread is started.
    pub(super) fn start(root: PathBuf) -> anyhow::Result<Self> {
        for name in sweep().context("what earlier runs have left")? {
            say(&format!(
                "swept {name}, which a run that is dead had left\n"
            ));
        }
        Kafka::prefetch().context("the Kafka broker")?;
        S3::prefetch().context("the S3 server")?;
        let hub = Hub::open().context("the hub")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (mut tasks, interrupted) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        tasks.spawn_on(watch(Arc::clone(&interrupted)), runtime.handle());
        let faults = Faults {
            unavailable_percent: 5,
            slow_percent: 5,
        };
        let host = Machine::Hub.address();
        let blocklist = runtime.block_on(serve_at(host, faults, &mut tasks))?;
        let properties = ["message.max.bytes", "replica.fetch.max.bytes"];
        let options = KafkaOptions {
            properties: properties
                .map(|name| (name.to_owned(), RECORD_BYTES.to_owned()))
                .into(),
        };
        let kafka = Kafka::start_temporary_at(host, &options).context("the Kafka broker")?;
        Ok(Self {
            cluster: Cluster::at(&kafka.bootstrap())?,
            kafka,
            s3: S3::start_temporary_at(host).context("the S3 server")?,
            blocklist,
            runtime,
            root,
            clock: clock()?,
            interrupted,
            _tasks: tasks,
            hub,
        })
    }

    /// The names of the machines.
    pub(super) const fn names(&self) -> Names {
        self.hub.names
    }

    /// Whether somebody wants the test to end.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(super) fn s3_endpoint(&self) -> String {
        self.s3.endpoint()
    }

    pub(super) fn rim(&self) -> &Handle {
        self.runtime.handle()
    }

    /// The parameters by which a job finds the servers.
    pub(super) fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("kafka", self.kafka.bootstrap()),
            ("blocklist", self.blocklist.to_string()),
        ]
    }

    /// The port of the broker.
    pub(super) fn kafka_port(&self) -> anyhow::Result<u16> {
        port_of(&self.kafka.bootstrap())
    }

    /// The port of the S3 server.
    pub(super) fn s3_port(&self) -> anyhow::Result<u16> {
        port_of(&self.s3.endpoint())
    }
}

/// The port at the end of an address.
fn port_of(address: &str) -> anyhow::Result<u16> {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse());
    port.with_context(|| format!("{address} has no port"))?
        .with_context(|| format!("the port of {address}"))
}

/// Waits for Ctrl-C, or for whoever ends this program gently.
async fn watch(interrupted: Arc<AtomicBool>) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Both arms are cancel-safe: after the first of them nothing else is waited for.
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    interrupted.store(true, Ordering::Relaxed);
    say("ends as soon as everything is taken away\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stands_at_the_end_of_an_address() {
        assert_eq!(port_of("10.231.0.1:18123").unwrap(), 18_123);
        assert_eq!(port_of("http://10.231.0.1:9000").unwrap(), 9_000);
        assert!(port_of("nowhere").is_err() && port_of("a:b").is_err());
    }
}
