//! build(): every hop of a build on one page.
