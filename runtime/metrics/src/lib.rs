//! Every metric: name, unit, type and help in one place.
