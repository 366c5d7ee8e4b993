//! Where bytes come from.

pub mod agent;
pub mod archive;
pub mod cdi;
pub mod context;
pub mod contexts;
pub mod git;
pub mod http;
pub mod ignore;
pub mod registry;
pub mod secret;
mod seldom;
pub mod statcache;
