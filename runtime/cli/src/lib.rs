//! Composition root: commands, settings, wiring.
