//! The byte forms of the simulated job: state files, positions and sink logs.
//!
//! Plain little-endian numbers. Decoding checks lengths, since files may rot.

use std::collections::BTreeMap;

use crate::kafka::Value;
use crate::workload::KeyState;

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

pub(crate) fn encode_group<'a>(states: impl Iterator<Item = (&'a u32, &'a KeyState)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (&key, state) in states {
        let head = [u64::from(key), state.count, state.sum as u64, state.seq];
        put(&mut out, &head);
        put(
            &mut out,
            &[u64::from(state.split), state.timers.len() as u64],
        );
        for (&due, &offset) in &state.timers {
            put(&mut out, &[due as u64, offset]);
        }
    }
    out
}

pub(crate) fn decode_group(bytes: &[u8]) -> Option<BTreeMap<u32, KeyState>> {
    let mut reader = Reader(bytes);
    let mut states = BTreeMap::new();
    while !reader.0.is_empty() {
        let key = reader.number()? as u32;
        let mut state = KeyState {
            count: reader.number()?,
            sum: reader.number()? as i64,
            seq: reader.number()?,
            split: reader.number()? as u32,
            timers: BTreeMap::new(),
        };
        for _ in 0..reader.number()? {
            state
                .timers
                .insert(reader.number()? as i64, reader.number()?);
        }
        states.insert(key, state);
    }
    Some(states)
}

pub(crate) fn encode_position(offset: u64) -> Vec<u8> {
    offset.to_le_bytes().to_vec()
}

pub(crate) fn decode_position(bytes: &[u8]) -> u64 {
    Reader(bytes)
        .number()
        .expect("positions are written by the simulator")
}

pub(crate) fn encode_log<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        match value {
            Value::Out {
                split,
                offset,
                key,
                count,
                sum,
            } => {
                put(&mut out, &[0, u64::from(*split), *offset]);
                put(&mut out, &[u64::from(*key), *count, *sum as u64]);
            }
            Value::Timer {
                split,
                offset,
                key,
                due,
            } => {
                put(&mut out, &[1, u64::from(*split), *offset]);
                put(&mut out, &[u64::from(*key), *due as u64]);
            }
            Value::Marker { .. } | Value::Sync => unreachable!("only output is logged"),
        }
    }
    out
}

pub(crate) fn decode_log(bytes: &[u8]) -> Option<Vec<Value>> {
    let mut reader = Reader(bytes);
    let mut values = Vec::new();
    while !reader.0.is_empty() {
        let kind = reader.number()?;
        let (split, offset) = (reader.number()? as u32, reader.number()?);
        let key = reader.number()? as u32;
        values.push(match kind {
            0 => {
                let (count, sum) = (reader.number()?, reader.number()? as i64);
                Value::Out {
                    split,
                    offset,
                    key,
                    count,
                    sum,
                }
            }
            1 => Value::Timer {
                split,
                offset,
                key,
                due: reader.number()? as i64,
            },
            _ => return None,
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_groups_round_trip_and_cuts_are_found() {
        let values = vec![
            Value::Out {
                split: 1,
                offset: 2,
                key: 3,
                count: 4,
                sum: -5,
            },
            Value::Timer {
                split: 1,
                offset: 2,
                key: 3,
                due: -7,
            },
        ];
        let bytes = encode_log(values.iter());
        assert_eq!(decode_log(&bytes), Some(values));
        assert_eq!(decode_log(&bytes[..bytes.len() - 1]), None);
        let timers = BTreeMap::from([(-3, 9)]);
        let state = KeyState {
            count: 1,
            sum: -2,
            seq: 3,
            split: 1,
            timers,
        };
        let states = BTreeMap::from([(4, state)]);
        assert_eq!(decode_group(&encode_group(states.iter())), Some(states));
    }
}
