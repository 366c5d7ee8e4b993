//! source/statcache
