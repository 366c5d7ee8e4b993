//! sandbox/sys
