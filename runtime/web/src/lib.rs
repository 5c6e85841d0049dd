//! Status REST and metrics on loopback.
