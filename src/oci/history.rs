//! oci/history
