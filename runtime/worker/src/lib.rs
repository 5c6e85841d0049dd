//! Slot threads and the tasks they run.
