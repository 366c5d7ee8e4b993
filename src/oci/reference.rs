//! oci/reference
