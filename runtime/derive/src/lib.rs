//! The derive macro of records.
