//! The simulated broker: topics, transactions, fencing, timeouts and the last stable offset.
//!
//! One transaction coordinator keeps a producer id and epoch per transactional id. Ending a transaction is decided at
//! once and becomes visible partition by partition a little later, as with real brokers; until then a new session is
//! refused as concurrent. A request to end a transaction may arrive twice, the copy late. An open transaction holds back
//! the last stable offset, which bounds every read.

use std::collections::BTreeMap;

use highwater_protocol::sink_slot::{Marker, MarkerKind, MarkerReading};
use highwater_protocol::stop::SlotKey;

/// The marker topic's single partition; the partitions of sinks follow it.
pub(crate) const MARKERS: usize = 0;
/// The id of the marker topic.
pub(crate) const MARKER_TOPIC: &str = "markers-1";

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// Sink `x`: one for each input record.
    Out {
        split: u32,
        offset: u64,
        key: u32,
        count: u64,
        sum: i64,
    },
    /// Sink `y`: one for each timer.
    Timer {
        split: u32,
        offset: u64,
        key: u32,
        due: i64,
    },
    /// A marker.
    Marker {
        slot: SlotKey,
        number: u64,
        kind: MarkerKind,
    },
    /// A sync record.
    Sync,
}

/// A producer id and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Producer {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum KafkaOp {
    Init {
        tid: String,
    },
    Produce {
        tid: String,
        producer: Producer,
        values: Vec<(usize, Value)>,
    },
    End {
        tid: String,
        producer: Producer,
        commit: bool,
    },
    Plain {
        value: Value,
    },
    Read {
        slot: SlotKey,
        from: u64,
        upto: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum KafkaAnswer {
    Opened(Producer),
    Produced,
    Ended {
        marker_offset: u64,
    },
    Written(u64),
    Read(MarkerReading),
    /// Try again: a transaction is being ended, or the last stable offset has not passed.
    NotYet,
    /// Fenced, invalid state, unknown producer: never clears up for this session.
    Refused,
    /// No answer.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) txn: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    /// `None` = a control record.
    pub(crate) log: Vec<Option<Entry>>,
    open: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, bool>,
}

impl SimKafka {
    /// Where each partition ends.
    pub(crate) fn ends(&self) -> Vec<u64> {
        let partitions = self.partitions.iter();
        partitions
            .map(|partition| partition.log.len() as u64)
            .collect()
    }
}

impl Partition {
    /// The last stable offset.
    pub(crate) fn stable(&self) -> u64 {
        self.open
            .values()
            .min()
            .copied()
            .unwrap_or(self.log.len() as u64)
    }

    fn is_visible(&self, entry: &Entry) -> bool {
        entry
            .txn
            .is_none_or(|txn| self.committed.get(&txn) == Some(&true))
    }

    /// What a `read_committed` reader sees from `from` up to the last stable offset.
    pub(crate) fn read(&self, from: u64) -> impl Iterator<Item = &Value> {
        let stable = self.stable() as usize;
        let log = self
            .log
            .get(from as usize..stable.max(from as usize))
            .unwrap_or_default();
        log.iter()
            .flatten()
            .filter(|entry| self.is_visible(entry))
            .map(|entry| &entry.value)
    }
}

#[derive(Clone, Debug)]
enum TxnState {
    Empty {
        last_commit: bool,
    },
    Ongoing {
        txn: u64,
        partitions: Vec<usize>,
        since: u64,
    },
    Ending {
        txn: u64,
        partitions: Vec<usize>,
        commit: bool,
    },
}

#[derive(Clone, Debug)]
struct Coordinated {
    producer: Producer,
    state: TxnState,
}

/// What a transaction did, for the oracle of visibility.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) tid: String,
    pub(crate) values: Vec<Value>,
}

pub(crate) struct SimKafka {
    pub(crate) partitions: Vec<Partition>,
    ids: BTreeMap<String, Coordinated>,
    txns: u64,
    pub(crate) timeout: u64,
    pub(crate) outage_until: u64,
    /// Transactions whose commit was decided since the oracle looked.
    pub(crate) committed: Vec<Ended>,
}

impl SimKafka {
    pub(crate) fn new(partitions: usize, timeout: u64) -> Self {
        Self {
            partitions: vec![Partition::default(); partitions],
            ids: BTreeMap::new(),
            txns: 0,
            timeout,
            outage_until: 0,
            committed: Vec::new(),
        }
    }

    /// Handles a request that arrives at `now`. The second part lists transactional ids whose end is to be finished.
    pub(crate) fn handle(&mut self, op: &KafkaOp, now: u64) -> (KafkaAnswer, Option<String>) {
        if now < self.outage_until {
            return (KafkaAnswer::Lost, None);
        }
        match op {
            KafkaOp::Init { tid } => self.init(tid),
            KafkaOp::Produce {
                tid,
                producer,
                values,
            } => (self.produce(tid, *producer, values, now), None),
            KafkaOp::End {
                tid,
                producer,
                commit,
            } => self.end(tid, *producer, *commit),
            KafkaOp::Plain { value } => {
                let log = &mut self.partitions[MARKERS].log;
                log.push(Some(Entry {
                    value: value.clone(),
                    txn: None,
                }));
                (KafkaAnswer::Written(log.len() as u64 - 1), None)
            }
            KafkaOp::Read { slot, from, upto } => (self.read(slot, *from, *upto), None),
        }
    }

    fn init(&mut self, tid: &str) -> (KafkaAnswer, Option<String>) {
        let fresh = Coordinated {
            producer: Producer {
                id: self.ids.len() as u64 + 1,
                epoch: 0,
            },
            state: TxnState::Empty { last_commit: false },
        };
        let known = self.ids.entry(tid.to_owned()).or_insert(fresh);
        match known.state.clone() {
            TxnState::Ending { .. } => (KafkaAnswer::NotYet, None),
            TxnState::Ongoing {
                txn, partitions, ..
            } => {
                known.producer.epoch += 1;
                known.state = TxnState::Ending {
                    txn,
                    partitions,
                    commit: false,
                };
                (KafkaAnswer::NotYet, Some(tid.to_owned()))
            }
            TxnState::Empty { .. } => {
                known.producer.epoch += 1;
                known.state = TxnState::Empty { last_commit: false };
                (KafkaAnswer::Opened(known.producer), None)
            }
        }
    }

    fn produce(
        &mut self,
        tid: &str,
        producer: Producer,
        values: &[(usize, Value)],
        now: u64,
    ) -> KafkaAnswer {
        let Some(known) = self.ids.get_mut(tid) else {
            return KafkaAnswer::Refused;
        };
        if known.producer != producer {
            return KafkaAnswer::Refused;
        }
        if let TxnState::Empty { .. } = known.state {
            self.txns += 1;
            known.state = TxnState::Ongoing {
                txn: self.txns,
                partitions: Vec::new(),
                since: now,
            };
        }
        let TxnState::Ongoing {
            txn, partitions, ..
        } = &mut known.state
        else {
            return KafkaAnswer::Refused;
        };
        for (at, value) in values {
            let partition = &mut self.partitions[*at];
            if !partitions.contains(at) {
                partitions.push(*at);
                partition.open.insert(*txn, partition.log.len() as u64);
            }
            partition.log.push(Some(Entry {
                value: value.clone(),
                txn: Some(*txn),
            }));
        }
        KafkaAnswer::Produced
    }

    fn end(
        &mut self,
        tid: &str,
        producer: Producer,
        commit: bool,
    ) -> (KafkaAnswer, Option<String>) {
        let marker_offset = self.partitions[MARKERS].log.len() as u64;
        let Some(known) = self.ids.get_mut(tid) else {
            return (KafkaAnswer::Refused, None);
        };
        if known.producer != producer {
            return (KafkaAnswer::Refused, None);
        }
        match known.state.clone() {
            TxnState::Ongoing {
                txn, partitions, ..
            } => {
                if commit {
                    let ended = Ended {
                        tid: tid.to_owned(),
                        values: self.values(txn, &partitions),
                    };
                    self.committed.push(ended);
                }
                let known = self.ids.get_mut(tid).expect("the id was just found");
                known.state = TxnState::Ending {
                    txn,
                    partitions,
                    commit,
                };
                (KafkaAnswer::Ended { marker_offset }, Some(tid.to_owned()))
            }
            TxnState::Empty { last_commit } if last_commit == commit && commit => {
                (KafkaAnswer::Ended { marker_offset }, None)
            }
            TxnState::Ending { commit: found, .. } if found == commit => {
                (KafkaAnswer::Ended { marker_offset }, None)
            }
            _ => (KafkaAnswer::Refused, None),
        }
    }

    fn values(&self, txn: u64, partitions: &[usize]) -> Vec<Value> {
        let entries = partitions
            .iter()
            .flat_map(|&at| self.partitions[at].log.iter().flatten());
        entries
            .filter(|entry| entry.txn == Some(txn))
            .map(|entry| entry.value.clone())
            .collect()
    }

    /// Writes the control records of an ending transaction: now it is visible or gone.
    pub(crate) fn finish(&mut self, tid: &str) {
        let Some(known) = self.ids.get_mut(tid) else {
            return;
        };
        let TxnState::Ending {
            txn,
            partitions,
            commit,
        } = known.state.clone()
        else {
            return;
        };
        known.state = TxnState::Empty {
            last_commit: commit,
        };
        for at in partitions {
            let partition = &mut self.partitions[at];
            partition.open.remove(&txn);
            partition.committed.insert(txn, commit);
            partition.log.push(None);
        }
    }

    /// Aborts transactions that are older than the timeout and fences their producers.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<String> {
        let mut expired = Vec::new();
        for (tid, known) in &mut self.ids {
            if let TxnState::Ongoing {
                txn,
                partitions,
                since,
            } = known.state.clone()
                && now >= since + self.timeout
            {
                known.producer.epoch += 1;
                known.state = TxnState::Ending {
                    txn,
                    partitions,
                    commit: false,
                };
                expired.push(tid.clone());
            }
        }
        expired
    }

    fn read(&self, slot: &SlotKey, from: u64, upto: u64) -> KafkaAnswer {
        let partition = &self.partitions[MARKERS];
        if partition.stable() <= upto {
            return KafkaAnswer::NotYet;
        }
        let range = from.min(upto) as usize..upto as usize;
        let entries = partition.log[range].iter().flatten();
        let markers = entries.filter(|entry| partition.is_visible(entry));
        let markers = markers.filter_map(|entry| match &entry.value {
            Value::Marker {
                slot: of,
                number,
                kind,
            } if of == slot => Some(Marker {
                number: *number,
                kind: *kind,
            }),
            _ => None,
        });
        KafkaAnswer::Read(MarkerReading {
            topic: MARKER_TOPIC.to_owned(),
            start: 0,
            end: upto,
            markers: markers.collect(),
        })
    }

    /// Whether any transaction is open or ending.
    pub(crate) fn has_open_transactions(&self) -> bool {
        self.ids
            .values()
            .any(|known| !matches!(known.state, TxnState::Empty { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(kafka: &mut SimKafka, tid: &str) -> Producer {
        let op = KafkaOp::Init {
            tid: tid.to_owned(),
        };
        loop {
            match kafka.handle(&op, 0) {
                (KafkaAnswer::Opened(producer), _) => return producer,
                (KafkaAnswer::NotYet, _) => kafka.finish(tid),
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(kafka: &mut SimKafka, producer: Producer) -> KafkaAnswer {
        let values = vec![(1, Value::Sync)];
        kafka
            .handle(
                &KafkaOp::Produce {
                    tid: "t".to_owned(),
                    producer,
                    values,
                },
                0,
            )
            .0
    }

    fn commit(kafka: &mut SimKafka, producer: Producer) -> KafkaAnswer {
        kafka
            .handle(
                &KafkaOp::End {
                    tid: "t".to_owned(),
                    producer,
                    commit: true,
                },
                0,
            )
            .0
    }

    #[test]
    fn a_session_fences_and_aborts_older_ones() {
        let mut kafka = SimKafka::new(2, 100);
        let old = open(&mut kafka, "t");
        send(&mut kafka, old);
        let new = open(&mut kafka, "t");
        assert!(matches!(send(&mut kafka, old), KafkaAnswer::Refused));
        assert!(matches!(commit(&mut kafka, old), KafkaAnswer::Refused));
        assert_eq!(kafka.partitions[1].read(0).count(), 0);
        send(&mut kafka, new);
        commit(&mut kafka, new);
        kafka.finish("t");
        assert_eq!(kafka.partitions[1].read(0).count(), 1);
        assert!(!kafka.has_open_transactions());
    }

    #[test]
    fn schedule_3_an_open_transaction_holds_back_the_readers() {
        let mut kafka = SimKafka::new(2, 100);
        let producer = open(&mut kafka, "t");
        send(&mut kafka, producer);
        kafka.partitions[1].log.push(Some(Entry {
            value: Value::Sync,
            txn: None,
        }));
        assert_eq!(kafka.partitions[1].stable(), 0);
        assert_eq!(kafka.partitions[1].read(0).count(), 0);
        assert_eq!(kafka.expire(100), ["t"]);
        kafka.finish("t");
        assert_eq!(
            kafka.partitions[1].read(0).count(),
            1,
            "aborted records are skipped"
        );
    }

    #[test]
    fn schedule_5_a_late_copy_of_the_end_commits_the_next_transaction_of_the_same_epoch() {
        let mut kafka = SimKafka::new(2, 100);
        let producer = open(&mut kafka, "t");
        send(&mut kafka, producer);
        commit(&mut kafka, producer);
        kafka.finish("t");
        send(&mut kafka, producer);
        commit(&mut kafka, producer);
        kafka.finish("t");
        assert_eq!(kafka.partitions[1].read(0).count(), 2, "that is the danger");
    }
}
