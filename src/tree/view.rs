//! tree/view
