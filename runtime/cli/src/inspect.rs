//! `checkpoints list`, `inspect` and `verify`: read the store of a job, whether it runs or not; change nothing.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use highwater_coordinator::store::JobStore;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::ManifestRef;
use highwater_protocol::head_write::Versioned;
use highwater_protocol::manifest::{FilePart, KeyedFile, Manifest, OperatorState, SlotOutput};
use highwater_protocol::paths::{JobPaths, RelativePath};
use highwater_protocol::rescale::Rescaled;
use highwater_storage::Location;
use highwater_worker::files::{JobFiles, RestoreError};

use crate::commands::say;
use crate::exit::{Code, Failure};
use crate::run::{runtime, storage};
use crate::settings::JobSettings;

struct Opened {
    store: JobStore,
    files: JobFiles,
    head: Versioned,
}

async fn opened(job: &JobSettings) -> Result<Opened, Failure> {
    let absent = || {
        let message = format!(
            "job {} has no checkpoints in {}; name the job by --job, the place by --state-dir",
            job.identity, job.state_dir
        );
        Failure::new(Code::Usage, message)
    };
    // Opening a local store makes its folder, and who only looks leaves nothing behind.
    if let Location::Local(folder) = &job.state_dir
        && !folder.exists()
    {
        return Err(absent());
    }
    let storage = storage(job)?;
    let paths = JobPaths::new(job.identity.clone());
    let store = JobStore::new(Arc::clone(&storage), paths.clone());
    let head = store
        .read_head()
        .await
        .map_err(|error| Failure::of(&error))?;
    let head = head.ok_or_else(absent)?;
    Ok(Opened {
        store,
        files: JobFiles::new(storage, paths),
        head,
    })
}

/// The manifests that are kept, the newest first.
async fn chain(opened: &Opened) -> Result<Vec<(ManifestRef, Manifest)>, Failure> {
    let mut chain = Vec::new();
    let mut next = Some(opened.head.head.manifest);
    while let Some(reference) = next {
        match opened.store.manifest(&reference).await {
            Ok(manifest) => {
                next = manifest.parent;
                chain.push((reference, manifest));
            }
            // Older ones were collected; the newest must be there.
            Err(error) if chain.is_empty() => return Err(Failure::of(&error)),
            Err(_) => next = None,
        }
    }
    Ok(chain)
}

/// Appends to a text.
pub(crate) fn append(text: &mut String, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("a String takes everything");
}

fn bytes_of(manifest: &Manifest) -> u64 {
    manifest.files.values().map(|file| file.length).sum()
}

fn pending(manifest: &Manifest) -> usize {
    let outputs = manifest.sinks.values().flat_map(|sink| sink.slots.values());
    outputs
        .filter(|output| matches!(output, SlotOutput::Log(_)))
        .count()
}

/// Lists the checkpoints that are kept.
pub fn list(job: &JobSettings) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let opened = opened(job).await?;
        let confirmed = opened.head.head.confirmed;
        // The line that tells the owner of output files which folder is the current one.
        let mut text = format!("lineage {}\n", opened.head.head.lineage);
        append(
            &mut text,
            format_args!(
                "{:>10} {:>6} {:>12} {:>6}  output\n",
                "number", "epoch", "bytes", "files"
            ),
        );
        for (_, manifest) in chain(&opened).await? {
            let output = match (pending(&manifest), manifest.id.number <= confirmed) {
                (0, _) => "none".to_owned(),
                (slots, true) => format!("{slots} slots, confirmed"),
                (slots, false) => format!("{slots} slots, confirmed by the next checkpoint or run"),
            };
            append(
                &mut text,
                format_args!(
                    "{:>10} {:>6} {:>12} {:>6}  {output}\n",
                    manifest.id.number,
                    manifest.id.epoch.0,
                    bytes_of(&manifest),
                    manifest.files.len(),
                ),
            );
        }
        say(&text);
        Ok(())
    })
}

/// Shows one checkpoint.
pub fn inspect(job: &JobSettings, number: Option<u64>) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let opened = opened(job).await?;
        let chain = chain(&opened).await?;
        let wanted = number.unwrap_or(opened.head.head.number);
        let found = chain
            .iter()
            .find(|(_, manifest)| manifest.id.number == wanted);
        let Some((reference, manifest)) = found else {
            let message =
                format!("checkpoint {wanted} is not kept; `checkpoints list` shows those that are");
            return Err(Failure::new(Code::Usage, message));
        };
        say(&describe(reference, manifest));
        Ok(())
    })
}

fn describe(reference: &ManifestRef, manifest: &Manifest) -> String {
    let bytes = manifest.state_bytes();
    let mut text = format!(
        "checkpoint {} of lineage {}\nmanifest   {} (hash {})\ngraph      {}\nfiles      {}, {} bytes: {} new, {} by \
         reference\n",
        manifest.id,
        manifest.lineage,
        reference.name,
        reference.hash,
        manifest.graph,
        manifest.files.len(),
        bytes_of(manifest),
        bytes.new,
        bytes.referenced,
    );
    if manifest.drained {
        text.push_str("drained    every window has fired; the job ends when it is started\n");
    }
    if let Some(savepoint) = &manifest.savepoint {
        append(&mut text, format_args!("savepoint  {savepoint}\n"));
    }
    if let Some(changed) = manifest.rescaled.as_ref().and_then(changed) {
        append(&mut text, format_args!("rescaled   {changed}\n"));
    }
    for (uid, operator) in manifest
        .operators
        .iter()
        .filter(|(_, operator)| operator.has_state())
    {
        append(
            &mut text,
            format_args!(
                "operator   {uid}: {} keyed files{}, {} lists, parallelism {} of {}\n",
                operator.keyed.len(),
                of_stores(operator),
                operator.lists.len(),
                operator.parallelism,
                operator.max_parallelism,
            ),
        );
    }
    for (uid, source) in &manifest.sources {
        append(
            &mut text,
            format_args!("source     {uid}: {} splits\n", source.splits.len()),
        );
    }
    for (uid, sink) in &manifest.sinks {
        let logs = sink.slots.values().filter(|output| output.is_log()).count();
        append(
            &mut text,
            format_args!(
                "sink       {uid}: {} slots, {logs} with output, writes to {}\n",
                sink.slots.len(),
                sink.external.cluster,
            ),
        );
    }
    text
}

/// What a job that goes on from there runs at in place of what it is configured to; `None` = nothing else.
fn changed(rescaled: &Rescaled) -> Option<String> {
    let each = rescaled.to.iter().filter_map(|(uid, to)| {
        let configured = rescaled.configured.get(uid)?;
        (configured != to).then(|| format!("{uid} at {to} in place of {configured}"))
    });
    let each: Vec<_> = each.collect();
    (!each.is_empty()).then(|| each.join(", "))
}

/// Compares the files of local stores that lie in an object.
fn parts_verified(manifest: &Manifest, path: &RelativePath, object: &[u8]) -> Result<(), Failure> {
    let operators = manifest.operators.values();
    let files = operators.flat_map(|operator| &operator.keyed);
    let is_whole = |part: &FilePart| {
        let (from, until) = (part.offset as usize, (part.offset + part.length) as usize);
        ContentHash::of(&object[from..until]) == part.checksum
    };
    let mut parts = files
        .flat_map(KeyedFile::parts)
        .filter(|part| part.path == *path);
    match parts.find(|part| !is_whole(part)) {
        None => Ok(()),
        Some(part) => {
            let error = RestoreError::Part {
                name: part.name.clone(),
                path: path.clone(),
            };
            Err(Failure::of(&error))
        }
    }
}

/// The files of local stores, in words: nothing if there are none.
fn of_stores(operator: &OperatorState) -> String {
    let stores = operator.keyed.iter().filter_map(|file| file.store.as_ref());
    let mut by_name = BTreeMap::<&str, (usize, u64)>::new();
    for store in stores {
        let (count, bytes) = by_name.entry(&store.store).or_default();
        *count += store.parts.len();
        *bytes += store.parts.iter().map(|part| part.length).sum::<u64>();
    }
    let texts = by_name.into_iter();
    let texts =
        texts.map(|(name, (count, bytes))| format!(" with {count} files of {name}, {bytes} bytes"));
    texts.collect()
}

/// Reads every file of the last checkpoint and compares length and checksum.
pub fn verify(job: &JobSettings) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let opened = opened(job).await?;
        let manifest = opened.store.manifest(&opened.head.head.manifest).await;
        let manifest = manifest.map_err(|error| Failure::of(&error))?;
        let mut bytes = 0;
        for (path, entry) in &manifest.files {
            let fetched = opened.files.fetch(path, *entry).await;
            let fetched = fetched.map_err(|error| Failure::of(&error))?;
            parts_verified(&manifest, path, &fetched)?;
            bytes += fetched.len();
        }
        let (id, files, of) = (manifest.id, manifest.files.len(), manifest.state_bytes());
        say(&format!(
            "checkpoint {id} is whole: {files} files, {bytes} bytes: {} new, {} by reference\n",
            of.new, of.referenced
        ));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use highwater_types::{OperatorUid, Parallelism, Parallelisms};

    use super::*;

    fn at(given: [(&str, u32); 2]) -> Parallelisms {
        let each = given.map(|(uid, count)| {
            let uid = OperatorUid::parse(uid).unwrap();
            (uid, Parallelism(count))
        });
        each.into()
    }

    #[test]
    fn a_rescale_is_told_by_what_it_changed() {
        let configured = at([("count", 4), ("sum", 1)]);
        let rescaled = |to| Rescaled {
            configured: configured.clone(),
            to,
        };
        assert_eq!(changed(&rescaled(configured.clone())), None);
        let told = changed(&rescaled(at([("count", 8), ("sum", 1)])));
        assert_eq!(told.as_deref(), Some("count at 8 in place of 4"));
    }
}
