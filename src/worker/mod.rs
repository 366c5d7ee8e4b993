//! The process inside the namespace.
