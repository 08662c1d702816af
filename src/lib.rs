//! Oncue: functions that run on cue.
//!
//! Triggers subscribe to buses, every event is matched against the rules in Postgres, and the matched functions run,
//! each in a fresh sandbox. The modules in reading order, lowest layer first; a module imports only from those above
//! it in this list (`ARCHITECTURE.md`).

// 0: pure, import nothing of ours
pub mod drain;
pub mod event;
pub mod lsn;
pub mod printable;
pub mod retry;
pub mod sqlstate;
pub mod telemetry;
pub mod watermark;

// 1: pure
pub mod delivery;
pub mod function;
pub mod pattern;
pub mod pgtype;
pub mod rules;
pub mod transform;

// 2: effects
pub mod bus;
pub mod runtime;
pub mod store;

// 3: flow
pub mod dispatch;
pub mod settle;

// 4: edges
pub mod health;
pub mod outputs;
pub mod triggers;

// 5: assembly
pub mod config;
pub mod node;

// 6: shell
pub mod cli;
pub mod dev;
