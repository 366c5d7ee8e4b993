//! The verbs of the local image store.
