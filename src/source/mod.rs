//! Where bytes come from.

pub mod archive;
pub mod context;
pub mod contexts;
pub mod http;
pub mod ignore;
pub mod registry;
pub mod secret;
pub mod statcache;
