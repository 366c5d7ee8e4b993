//! tree/diff
