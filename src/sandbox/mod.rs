//! One isolated process.

pub mod sys;
