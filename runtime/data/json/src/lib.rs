//! JSON to typed records and back, directed by the schema.
