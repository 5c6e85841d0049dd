//! The source and sink contracts, and the connectors that need no client library.
