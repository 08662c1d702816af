//! `oncue dev`: everything of Oncue on one machine, from one command.

pub mod servers;
pub mod watch;
