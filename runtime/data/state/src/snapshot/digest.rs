//! The canonical digest of keyed state: one number for the content of an operator.
//!
//! Equal content gives an equal digest on every backend, at every parallelism and after every history, because the bytes of
//! a key group are canonical and the digest leaves out who held which group.

use std::collections::BTreeMap;

use highwater_types::key::hash_bytes;
use highwater_types::{KeyGroup, Record};

use super::{GroupBlock, KeyedSnapshot};
use crate::descriptor::StateKind;

/// The digest of the keyed state of one operator, from the snapshots of all its subtasks.
pub fn canonical_digest(snapshots: &[KeyedSnapshot]) -> u64 {
    let mut parts: BTreeMap<(&str, KeyGroup), (&GroupBlock, StateKind, u64)> = BTreeMap::new();
    for state in snapshots.iter().flat_map(|snapshot| &snapshot.states) {
        let header = &state.header;
        let mut shape = Vec::new();
        header.schemas.key.fingerprint().0.encode(&mut shape);
        header.schemas.namespace.fingerprint().0.encode(&mut shape);
        for schema in &header.schemas.values {
            schema.fingerprint().0.encode(&mut shape);
        }
        shape.push(u8::from(header.timed));
        let shape = hash_bytes(&shape).0;
        for block in &state.groups {
            let key = (header.name.as_str(), block.group);
            parts.insert(key, (block, header.kind, shape));
        }
    }
    let mut text = Vec::new();
    for ((name, group), (block, kind, shape)) in parts {
        name.to_owned().encode(&mut text);
        group.0.encode(&mut text);
        text.push(kind.code());
        shape.encode(&mut text);
        block.count.encode(&mut text);
        block.checksum.encode(&mut text);
    }
    hash_bytes(&text).0
}
