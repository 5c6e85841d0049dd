//! The pure machines of checkpoint, recovery and sink commit.
