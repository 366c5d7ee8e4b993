//! tree/walk
