//! Postgres change feeds.

pub mod change;
pub mod pgoutput;
