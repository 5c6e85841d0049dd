//! The links of a worker with another one. One writer: the data plane, by reads and writes of the connections.

use crate::labels::PeerLabels;

scope! {
    /// The links with another worker.
    LinkScope, "link", PeerLabels;
    SENT: Counter<Bytes> = "highwater_link_sent_bytes_total",
        "Bytes that went to this worker since the attempt opened its links: records for it, and credit for those that came from it.", "numBytesOut";
    RECEIVED: Counter<Bytes> = "highwater_link_received_bytes_total",
        "Bytes that came from this worker since the attempt opened its links: records, and credit for those that went to it.", "numBytesIn";
}
