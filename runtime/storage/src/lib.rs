//! Object stores with conditional writes behind one trait.
