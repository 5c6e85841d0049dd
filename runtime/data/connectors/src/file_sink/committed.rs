//! Reads what a file sink has committed. Staged and void files are not seen.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use highwater_types::{Lineage, OperatorUid, SubtaskIndex};

use super::names::SlotDirectory;
use crate::error::ConnectorError;
use crate::sink::{Marker, MarkerKind};

/// The committed output of one slot and checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedFile {
    /// The lineage of the job that wrote it.
    pub lineage: Lineage,
    /// The sink.
    pub uid: OperatorUid,
    /// The slot.
    pub slot: SubtaskIndex,
    /// The checkpoint and who committed it.
    pub marker: Marker,
    /// Where it lies.
    pub path: PathBuf,
}

impl CommittedFile {
    /// The values in the order in which they were sent.
    ///
    /// # Errors
    /// `Transient` when the file cannot be read.
    pub fn lines(&self) -> Result<Vec<Vec<u8>>, ConnectorError> {
        let bytes = fs::read(&self.path);
        let bytes = bytes.map_err(ConnectorError::io(self.path.display(), "reading"))?;
        let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(lines
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect())
    }
}

/// The committed files of all sinks in `directory`, by lineage and sink, then by checkpoint, then by slot.
///
/// A directory that is not there yet holds none.
///
/// # Errors
/// `Transient` when a directory cannot be listed; `Corrupt` when a slot holds two outputs of one checkpoint.
pub fn committed_files(directory: &Path) -> Result<Vec<CommittedFile>, ConnectorError> {
    let listed = list(directory).map_err(ConnectorError::io(directory.display(), "listing"));
    let mut files = listed?;
    files.sort_by(|a, b| {
        let key = |file: &CommittedFile| (file.lineage, file.marker.number, file.slot);
        (key(a).0, &a.uid, key(a)).cmp(&(key(b).0, &b.uid, key(b)))
    });
    let mut seen = BTreeSet::new();
    for file in &files {
        if !seen.insert((file.lineage, &file.uid, file.slot, file.marker.number)) {
            return Err(ConnectorError::State {
                object: file.path.display().to_string(),
                reason: format!("checkpoint {} is there twice", file.marker.number),
            });
        }
    }
    Ok(files)
}

fn list(directory: &Path) -> io::Result<Vec<CommittedFile>> {
    let mut files = Vec::new();
    for (lineage, path) in children(directory)? {
        let Ok(lineage) = Lineage::try_from(lineage) else {
            continue;
        };
        for (uid, path) in children(&path)? {
            let Ok(uid) = OperatorUid::parse(&uid) else {
                continue;
            };
            for (slot, _) in children(&path)? {
                if let Ok(slot) = slot.parse().map(SubtaskIndex) {
                    let in_slot = SlotDirectory::new(directory, lineage, &uid, slot);
                    let markers = in_slot.markers()?.into_iter();
                    let outputs = markers.filter(|(marker, _)| marker.kind == MarkerKind::Output);
                    files.extend(outputs.map(|(marker, path)| CommittedFile {
                        lineage,
                        uid: uid.clone(),
                        slot,
                        marker,
                        path,
                    }));
                }
            }
        }
    }
    Ok(files)
}

/// The directories in a directory, with their names.
fn children(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(name) = entry.file_name().to_str()
        {
            children.push((name.to_owned(), entry.path()));
        }
    }
    Ok(children)
}
