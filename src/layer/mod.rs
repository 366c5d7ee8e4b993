//! Index and bytes ⇄ tar.

pub mod compress;
pub mod graft;
pub mod read;
pub mod write;
