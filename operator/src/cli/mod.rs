//! The command line.

#[cfg(test)]
pub(crate) mod fixture;
pub mod words;
