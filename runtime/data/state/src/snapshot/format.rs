//! The bytes of a keyed snapshot, version 2. Version 1, which knows no store, is read as well.
//!
//! ```text
//! "HWKS"  version u16  length of header u32  header  XXH3-64 of all before  key groups, back to back
//! header:     uid text, max parallelism u32, first group u16, end group u16, checkpoint u64 + epoch u64, states
//! state:      name text, kind u8, timed u8, place u8, key schema, namespace schema, value schemas, groups
//!             (place 0: its key groups follow; 1: its rows lie in the files of a local store. Version 1 has no place.)
//! key group:  group u16, rows u64, offset u64, length u64, checksum u64   (offset from the first key group)
//! ```
//!
//! Integers are little-endian, lists and text begin with a LEB128 length. The header comes first and gives offsets, so a
//! restore may read the header and then only the key groups that it wants. Checksums of key groups are checked where the
//! bytes are used ([`GroupBlock::verified`]).

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use highwater_types::key::hash_bytes;
use highwater_types::record::{encode_length, take};
use highwater_types::{
    CheckpointId, DecodeError, Epoch, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid, Record,
};

use super::block::{GroupBlock, SnapshotBytes};
use super::schema_bytes::{read_many, read_schema, read_text, write_schema, write_text};
use super::{KeyedSnapshot, RowOrder, RowsPlace, StateBlock, StateHeader};
use crate::descriptor::{StateKind, StateSchemas};
use crate::error::StateError;

const MAGIC: &[u8; 4] = b"HWKS";
const VERSION: u16 = 2;
const VERSIONS: RangeInclusive<u16> = 1..=VERSION;
const PREFIX_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 8;

impl KeyedSnapshot {
    /// The bytes of the snapshot. Equal content gives equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = Vec::new();
        self.write_header(&mut header);
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        VERSION.encode(&mut out);
        (header.len() as u32).encode(&mut out);
        out.extend_from_slice(&header);
        hash_bytes(&out).0.encode(&mut out);
        for block in self.states.iter().flat_map(|state| &state.groups) {
            out.extend_from_slice(block.held());
        }
        out
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        write_text(self.uid.as_str(), out);
        self.max_parallelism.get().encode(out);
        self.range.start.encode(out);
        self.range.end.encode(out);
        self.checkpoint.number.encode(out);
        self.checkpoint.epoch.0.encode(out);
        encode_length(self.states.len() as u64, out);
        let mut offset = 0u64;
        for state in &self.states {
            write_state(state, &mut offset, out);
        }
    }

    /// Reads a snapshot. Key groups are not copied and not yet checked.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are no snapshot of a known version, or the header is damaged.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, StateError> {
        Self::from_shared(&Arc::new(bytes))
    }

    /// Reads a snapshot out of bytes that others hold too.
    ///
    /// # Errors
    /// As [`KeyedSnapshot::from_bytes`].
    pub fn from_shared(bytes: &Arc<Vec<u8>>) -> Result<Self, StateError> {
        let prefix = read_prefix(bytes)?;
        let end = PREFIX_BYTES + prefix.header + CHECKSUM_BYTES;
        let head = bytes.get(..end.min(bytes.len())).unwrap_or_default();
        Self::read(
            &prefix,
            head,
            bytes.len(),
            &SnapshotBytes::Memory(Arc::clone(bytes)),
        )
    }

    /// Reads a snapshot out of a file on local disk: the header now, key groups when they are wanted.
    ///
    /// # Errors
    /// As [`KeyedSnapshot::from_bytes`]; `Transient` when the file cannot be read.
    pub fn from_file(file: File) -> Result<Self, StateError> {
        let refuse = |source| StateError::LocalFile {
            what: "the header of a keyed snapshot".to_owned(),
            source,
        };
        let length = file.metadata().map_err(refuse)?.len() as usize;
        let mut start = vec![0; PREFIX_BYTES.min(length)];
        file.read_exact_at(&mut start, 0).map_err(refuse)?;
        let prefix = read_prefix(&start)?;
        let end = PREFIX_BYTES + prefix.header + CHECKSUM_BYTES;
        let mut head = vec![0; end.min(length)];
        file.read_exact_at(&mut head, 0).map_err(refuse)?;
        Self::read(&prefix, &head, length, &SnapshotBytes::File(Arc::new(file)))
    }

    fn read(
        prefix: &Prefix,
        head: &[u8],
        length: usize,
        source: &SnapshotBytes,
    ) -> Result<Self, StateError> {
        let data = check_header(prefix, head)?;
        let mut input = &head[PREFIX_BYTES..PREFIX_BYTES + prefix.header];
        let parsed = Header::read(&mut input, prefix.version);
        let parsed = parsed.map_err(|source| StateError::Decode {
            what: "the header of a keyed snapshot".to_owned(),
            source,
        })?;
        let mut states = Vec::with_capacity(parsed.states.len());
        for state in parsed.states {
            let groups = state.groups.into_iter();
            let groups = groups.map(|group| group.place(source, data, length));
            states.push(StateBlock {
                header: state.header,
                place: state.place,
                groups: groups.collect::<Result<_, _>>()?,
            });
        }
        Ok(Self {
            uid: parsed.uid,
            max_parallelism: parsed.max_parallelism,
            range: parsed.range,
            checkpoint: parsed.checkpoint,
            states,
        })
    }
}

fn write_state(state: &StateBlock, offset: &mut u64, out: &mut Vec<u8>) {
    write_text(&state.header.name, out);
    out.push(state.header.kind.code());
    out.push(u8::from(state.header.timed));
    out.push(match state.place {
        RowsPlace::Here => 0,
        RowsPlace::InStore(RowOrder::Key) => 1,
        RowsPlace::InStore(RowOrder::Namespace) => 2,
        RowsPlace::InStore(RowOrder::Time) => 3,
    });
    write_schema(&state.header.schemas.key, out);
    write_schema(&state.header.schemas.namespace, out);
    encode_length(state.header.schemas.values.len() as u64, out);
    for schema in &state.header.schemas.values {
        write_schema(schema, out);
    }
    encode_length(state.groups.len() as u64, out);
    for block in &state.groups {
        let length = block.length();
        block.group.0.encode(out);
        block.count.encode(out);
        offset.encode(out);
        length.encode(out);
        block.checksum.encode(out);
        *offset += length;
    }
}

/// What the first bytes of a snapshot say.
struct Prefix {
    version: u16,
    /// Bytes of the header.
    header: usize,
}

fn refuse(reason: String) -> StateError {
    StateError::Format {
        at: "the prefix",
        reason,
    }
}

/// Checks magic and version.
fn read_prefix(bytes: &[u8]) -> Result<Prefix, StateError> {
    if bytes.len() < PREFIX_BYTES || &bytes[..4] != MAGIC {
        return Err(refuse(
            "it does not begin as a keyed snapshot does".to_owned(),
        ));
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if !VERSIONS.contains(&version) {
        return Err(refuse(format!(
            "it has version {version}, this program reads versions {} to {}",
            VERSIONS.start(),
            VERSIONS.end(),
        )));
    }
    Ok(Prefix {
        version,
        header: u32::from_le_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]) as usize,
    })
}

/// Checks the checksum of the header. Returns where the data begins.
fn check_header(prefix: &Prefix, bytes: &[u8]) -> Result<usize, StateError> {
    let end = PREFIX_BYTES + prefix.header;
    let Some(mut stored) = bytes.get(end..end + CHECKSUM_BYTES) else {
        return Err(refuse(format!(
            "it ends after {} bytes, inside its header",
            bytes.len()
        )));
    };
    let expected = u64::decode(&mut stored).map_err(|source| StateError::Decode {
        what: "the checksum of a snapshot header".to_owned(),
        source,
    })?;
    let found = hash_bytes(&bytes[..end]).0;
    if found != expected {
        return Err(StateError::Checksum {
            what: "the header of a keyed snapshot".to_owned(),
            expected,
            found,
        });
    }
    Ok(end + CHECKSUM_BYTES)
}

/// One line of the table of key groups.
struct GroupLine {
    group: KeyGroup,
    count: u64,
    offset: u64,
    length: u64,
    checksum: u64,
}

impl GroupLine {
    fn read(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            group: KeyGroup(u16::decode(input)?),
            count: u64::decode(input)?,
            offset: u64::decode(input)?,
            length: u64::decode(input)?,
            checksum: u64::decode(input)?,
        })
    }

    fn place(
        self,
        source: &SnapshotBytes,
        data: usize,
        length: usize,
    ) -> Result<GroupBlock, StateError> {
        let start = data.saturating_add(self.offset as usize);
        let end = start.saturating_add(self.length as usize);
        if end > length {
            return Err(StateError::Format {
                at: "the table of key groups",
                reason: format!(
                    "key group {} lies at {start}..{end} of {length} bytes; the file is cut short",
                    self.group,
                ),
            });
        }
        let summed = (self.group, self.count, self.checksum);
        Ok(GroupBlock::inside(summed, source.clone(), start..end))
    }
}

/// One state of the header.
struct StateLine {
    header: StateHeader,
    place: RowsPlace,
    groups: Vec<GroupLine>,
}

struct Header {
    uid: OperatorUid,
    max_parallelism: MaxParallelism,
    range: KeyGroupRange,
    checkpoint: CheckpointId,
    states: Vec<StateLine>,
}

impl Header {
    fn read(input: &mut &[u8], version: u16) -> Result<Self, DecodeError> {
        let uid = OperatorUid::parse(&read_text(input)?).map_err(|_| DecodeError::Value {
            what: "operator uid",
            value: 0,
        })?;
        let groups = u32::decode(input)?;
        let max_parallelism = MaxParallelism::try_new(groups).map_err(|_| DecodeError::Value {
            what: "max parallelism",
            value: u64::from(groups),
        })?;
        let range = KeyGroupRange {
            start: u16::decode(input)?,
            end: u16::decode(input)?,
        };
        let checkpoint = CheckpointId {
            number: u64::decode(input)?,
            epoch: Epoch(u64::decode(input)?),
        };
        let states = read_many(input, |input| read_state(input, version))?;
        Ok(Self {
            uid,
            max_parallelism,
            range,
            checkpoint,
            states,
        })
    }
}

fn read_state(input: &mut &[u8], version: u16) -> Result<StateLine, DecodeError> {
    let name = read_text(input)?;
    let code = take(input, 1, "state kind")?[0];
    let kind = StateKind::from_code(code).ok_or_else(|| DecodeError::Value {
        what: "state kind",
        value: u64::from(code),
    })?;
    let timed = bool::decode(input)?;
    let place = if version > 1 {
        read_place(input)?
    } else {
        RowsPlace::Here
    };
    let schemas = StateSchemas {
        key: read_schema(input)?,
        namespace: read_schema(input)?,
        values: read_many(input, read_schema)?,
    };
    let groups = read_many(input, GroupLine::read)?;
    let header = StateHeader {
        name,
        kind,
        timed,
        schemas,
    };
    Ok(StateLine {
        header,
        place,
        groups,
    })
}

fn read_place(input: &mut &[u8]) -> Result<RowsPlace, DecodeError> {
    match take(input, 1, "place of rows")?[0] {
        0 => Ok(RowsPlace::Here),
        1 => Ok(RowsPlace::InStore(RowOrder::Key)),
        2 => Ok(RowsPlace::InStore(RowOrder::Namespace)),
        3 => Ok(RowsPlace::InStore(RowOrder::Time)),
        other => Err(DecodeError::Value {
            what: "place of rows",
            value: u64::from(other),
        }),
    }
}
