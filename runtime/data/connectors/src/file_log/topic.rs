//! The directory of a file log: one folder for a topic, one file for a partition, and a marker when no more will come.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::ConnectorError;

/// The file that says that no partition will grow any more.
const END_MARKER: &str = "_end";
const EXTENSION: &str = "jsonl";

/// Where a topic lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicDirectory {
    path: PathBuf,
    name: String,
}

impl TopicDirectory {
    pub(super) fn new(root: &Path, topic: &str) -> Self {
        Self {
            path: root.join(topic),
            name: topic.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn partition(&self, partition: u32) -> PathBuf {
        self.path.join(format!("{partition}.{EXTENSION}"))
    }

    pub(super) fn end_marker(&self) -> PathBuf {
        self.path.join(END_MARKER)
    }

    pub(super) fn has_ended(&self) -> Result<bool, ConnectorError> {
        let marker = self.end_marker();
        marker
            .try_exists()
            .map_err(ConnectorError::io(marker.display(), "look-up"))
    }

    /// The partitions of a log that is there as a whole, in order: at least one, and no file that was meant to be one.
    pub(super) fn whole_partitions(&self) -> Result<Vec<u32>, ConnectorError> {
        let partitions = self.partitions()?;
        let refused = |what: String| ConnectorError::Configuration {
            connector: format!("file log topic {}", self.name),
            reason: format!(
                "{} {what}; its partitions are files `0.jsonl`, `1.jsonl` and so on",
                self.path.display()
            ),
        };
        let listed = || -> std::io::Result<Option<String>> {
            for entry in fs::read_dir(&self.path)? {
                let name = PathBuf::from(entry?.file_name());
                if name
                    .extension()
                    .is_some_and(|extension| extension == EXTENSION)
                    && partition_of(&name).is_none()
                {
                    return Ok(Some(name.display().to_string()));
                }
            }
            Ok(None)
        };
        let stranger = listed().map_err(ConnectorError::io(self.path.display(), "listing"))?;
        match stranger {
            Some(name) => Err(refused(format!("holds `{name}`, which is no partition"))),
            None if partitions.is_empty() => Err(refused("is empty".to_owned())),
            None => Ok(partitions),
        }
    }

    /// The partitions that exist, in order.
    pub(super) fn partitions(&self) -> Result<Vec<u32>, ConnectorError> {
        let object = self.path.display();
        if !self.path.is_dir() {
            return Err(ConnectorError::Configuration {
                connector: format!("file log topic {}", self.name),
                reason: format!("{object} is no directory; create it or correct the name"),
            });
        }
        let list = || -> std::io::Result<Vec<u32>> {
            let mut partitions = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                partitions.extend(partition_of(Path::new(&entry?.file_name())));
            }
            partitions.sort_unstable();
            Ok(partitions)
        };
        list().map_err(ConnectorError::io(object, "listing"))
    }
}

/// The partition that a file name stands for. Only the form that the writer uses counts, so no two names mean one.
fn partition_of(name: &Path) -> Option<u32> {
    if name.extension()? != EXTENSION {
        return None;
    }
    let stem = name.file_stem()?.to_str()?;
    let number: u32 = stem.parse().ok()?;
    (number.to_string() == stem).then_some(number)
}

/// The offset behind the last newline of the file.
pub(super) fn end_of_whole_lines(file: &mut (impl Read + Seek)) -> std::io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        block.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn only_the_writers_own_names_are_partitions() {
        let of = |name| partition_of(Path::new(name));
        assert_eq!((of("0.jsonl"), of("31.jsonl")), (Some(0), Some(31)));
        for name in [
            "01.jsonl",
            "+1.jsonl",
            "x.jsonl",
            "1.json",
            "_end",
            "1.jsonl.tmp",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn the_torn_tail_is_left_out_however_long_it_is() {
        let end = |content: &str| end_of_whole_lines(&mut Cursor::new(content)).unwrap();
        assert_eq!(
            (end(""), end("ab"), end("ab\n"), end("ab\nc")),
            (0, 0, 3, 3)
        );
        assert_eq!(end(&format!("ab\n{}", "c".repeat(200_000))), 3);
    }
}
