//! The coordinator: drives deployment, checkpoints and recovery.
