//! Operators, one a file, and the contract they are chained by.
