//! What a miss does.
