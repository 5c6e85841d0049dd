//! Keys that take many of the records of one subtask of a keyed operator. One writer: its slot thread, which looks at a few records of each
//! chunk.
//!
//! A key is data, so no label says what it is: its rank tells it from the others, and its group leads to it.

use crate::labels::RankLabels;

scope! {
    /// A key with many records.
    HotKeyScope, "hot key", RankLabels;
    SHARE: Gauge<Ratio> = "highwater_operator_hot_key_ratio",
        "Share of the last records of the subtask that one key has, by a sample; rank 1 is the key with most. Keys with less than 1 % are not told.", "";
    GROUP: Gauge<Count> = "highwater_operator_hot_key_group",
        "The key group of that key.", "";
}
