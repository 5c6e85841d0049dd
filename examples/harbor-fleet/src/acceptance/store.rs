//! The checkpoints of one job in S3, read beside the job: `head`, source positions, orphans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use highwater_coordinator::LeaseStore as _;
use highwater_coordinator::housekeeping::{collect, delete};
use highwater_coordinator::store::JobStore;
use highwater_protocol::election::{LeaseRead, LeaseState};
use highwater_protocol::gc::{Gc, GcEnd, Reach, Retention};
use highwater_protocol::head::Head;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::{JobPaths, ObjectName, RelativePath, manifest as manifest_path};
use highwater_storage::{Location, S3Options, Secret, open};
use highwater_testkit::S3;
use highwater_types::{JobIdentity, Record};
use tokio::runtime::Handle;

/// The store of one job.
pub(super) struct Store {
    store: JobStore,
    rim: Handle,
}

impl Store {
    /// The store of `job` below `location`, on the server at `endpoint`.
    pub(super) fn open(
        location: &str,
        endpoint: &str,
        job: &str,
        rim: &Handle,
    ) -> anyhow::Result<Self> {
        let options = S3Options {
            endpoint: Some(endpoint.to_owned()),
            region: Some(S3::REGION.to_owned()),
            access_key_id: Some(S3::ACCESS_KEY_ID.to_owned()),
            secret_access_key: Some(Secret::new(S3::SECRET_ACCESS_KEY)),
            ..S3Options::default()
        };
        let _inside = rim.enter();
        let storage = open(&Location::parse(location)?, &options)?;
        let paths = JobPaths::new(JobIdentity::parse(job)?);
        Ok(Self {
            store: JobStore::new(Arc::clone(&storage), paths),
            rim: rim.clone(),
        })
    }

    /// `head`, if there is one yet.
    pub(super) fn head(&self) -> anyhow::Result<Option<Head>> {
        let found = self.rim.block_on(self.store.read_head());
        Ok(found.context("the head object")?.map(|found| found.head))
    }

    /// Where the coordinator that holds the lease takes workers, if one holds it.
    pub(super) fn leader(&self) -> Option<String> {
        match self.rim.block_on(self.store.read()) {
            LeaseRead::Found(lease, _) if lease.state == LeaseState::Held => Some(lease.address),
            _ => None,
        }
    }

    /// The last completed checkpoint.
    pub(super) fn last(&self) -> anyhow::Result<(Head, Manifest)> {
        let head = self.head()?.context("there is no head object")?;
        let manifest = self.rim.block_on(self.store.manifest(&head.manifest));
        Ok((head, manifest.context("the last manifest")?))
    }

    /// Collects garbage as the next leader would, and returns what is left that nothing reaches.
    pub(super) fn orphans(&self) -> anyhow::Result<Vec<String>> {
        let (head, _) = self.last()?;
        let (gc, first) = Gc::start(&head, Retention::DEFAULT, head.number + 1);
        let end = self.rim.block_on(collect(self.store.clone(), gc, first));
        if !matches!(end.end, GcEnd::Clean { .. }) {
            bail!("the collection of garbage ended with {end:?}");
        }
        let kept = self.reachable(&head)?;
        let left = self.rim.block_on(self.store.list())?;
        let orphans = left.iter().filter(|path| {
            let is_overwritten = matches!(
                ObjectName::parse(path),
                Some(ObjectName::Head | ObjectName::Lease)
            );
            !kept.contains(*path) && !is_overwritten
        });
        Ok(orphans.map(ToString::to_string).collect())
    }

    fn reachable(&self, head: &Head) -> anyhow::Result<BTreeSet<RelativePath>> {
        let mut kept = BTreeSet::new();
        let mut next = Some(head.manifest);
        let listed: BTreeSet<_> = self.rim.block_on(self.store.list())?.into_iter().collect();
        while let Some(wanted) = next {
            let path = manifest_path(&wanted.name);
            if !listed.contains(&path) {
                break;
            }
            let manifest = self.rim.block_on(self.store.manifest(&wanted))?;
            let reach = Reach::of(&manifest);
            kept.insert(path);
            kept.extend(reach.files);
            if wanted == head.manifest {
                kept.extend(reach.logs);
            }
            next = reach.parent;
        }
        Ok(kept)
    }

    /// Removes every object of the job.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        self.rim.block_on(async {
            let all = self.store.list().await?;
            delete(&self.store, &all).await
        })?;
        Ok(())
    }
}

/// The source positions in a manifest: partition to next offset.
pub(super) fn positions(manifest: &Manifest) -> anyhow::Result<BTreeMap<i32, i64>> {
    let mut positions = BTreeMap::new();
    for source in manifest.sources.values() {
        for (split, bytes) in &source.splits {
            let partition = split.rsplit_once('/').map(|(_, number)| number.parse());
            let partition: i32 = partition.context("a split without partition")??;
            // Format, next offset, end of a bounded source.
            let mut rest = bytes.0.as_slice();
            let decoded = <(u8, i64, Option<i64>)>::decode(&mut rest);
            let (_, offset, _) =
                decoded.map_err(|error| anyhow::anyhow!("split {split}: {error}"))?;
            positions.insert(partition, offset);
        }
    }
    Ok(positions)
}
