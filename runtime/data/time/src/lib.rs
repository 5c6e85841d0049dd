//! Watermarks, idleness, timers and lateness.
