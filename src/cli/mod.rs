//! The command line: the only part that reads arguments, environment and terminal, and the only one that prints.
