//! Keyed and operator state: the backend trait, the heap backend, the contract suite.
