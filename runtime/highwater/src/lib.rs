//! The facade for job authors.
