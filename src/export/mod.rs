//! Results out of the store.
