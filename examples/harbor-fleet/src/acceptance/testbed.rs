//! The servers that all runs share: one broker, one S3 store, one blocklist with faults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use harbor_fleet::blocklist::{Faults, serve};
use highwater::json::clock;
use highwater_connectors::Clock;
use highwater_testkit::{Kafka, KafkaOptions, S3};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;

use super::args::Backing;

/// The servers, and where runs keep their logs.
pub(super) struct Testbed {
    kafka: Kafka,
    s3: S3,
    blocklist: SocketAddr,
    runtime: Runtime,
    /// Below it every run has a directory of its own.
    pub(super) root: PathBuf,
    /// Where jobs keep their state.
    pub(super) backing: Backing,
    /// The worker processes of each job; `None` = its tasks run in its own.
    pub(super) workers: Option<u32>,
    /// Time.
    pub(super) clock: Arc<dyn Clock>,
    _servers: JoinSet<std::io::Result<()>>,
}

impl Testbed {
    /// Starts everything.
    pub(super) fn start(
        root: PathBuf,
        backing: Backing,
        workers: Option<u32>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut servers = JoinSet::new();
        let faults = Faults {
            unavailable_percent: 5,
            slow_percent: 5,
        };
        let blocklist = runtime.block_on(serve(faults, &mut servers))?;
        Ok(Self {
            kafka: Kafka::start_temporary(&KafkaOptions::default()).context("the Kafka broker")?,
            s3: S3::start_temporary().context("the S3 server")?,
            blocklist,
            runtime,
            root,
            backing,
            workers,
            clock: clock()?,
            _servers: servers,
        })
    }

    pub(super) fn bootstrap(&self) -> String {
        self.kafka.bootstrap()
    }

    pub(super) fn s3_endpoint(&self) -> String {
        self.s3.endpoint()
    }

    pub(super) const fn blocklist(&self) -> SocketAddr {
        self.blocklist
    }

    pub(super) fn rim(&self) -> &Handle {
        self.runtime.handle()
    }
}
