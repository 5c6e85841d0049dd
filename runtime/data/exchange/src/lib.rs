//! Partitioners, channels and credits between tasks.
