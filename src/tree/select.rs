//! tree/select
