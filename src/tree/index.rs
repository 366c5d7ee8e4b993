//! tree/index
