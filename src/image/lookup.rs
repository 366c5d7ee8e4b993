//! Which image of the store a text means.
