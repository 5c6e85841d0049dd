//! Window assigners and the rules of firing.
