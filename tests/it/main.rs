//! The integration suite: whole nodes against private servers, one file for each promise that is shown.
//!
//! Invariant: a test owns everything that it touches (servers, directories, processes) and all of it ends with the
//! test. Nothing sleeps to synchronise: `support::eventually` waits for a condition, up to a deadline.

mod rule_changes;
mod rule_checks;
mod support;

mod auth;
mod backtest;
mod bad_input;
mod bounds;
mod churn;
mod cli;
mod drain;
mod effects;
mod effects_kill;
mod examples;
mod explain;
mod failures;
mod feed;
mod feed_auth;
mod feed_bad_input;
mod feed_bus;
mod feed_chaos;
mod feed_cli;
mod feed_ddl;
mod feed_faults;
mod feed_gaps;
mod feed_guard;
mod feed_outputs;
mod feed_publish;
mod feed_snapshot;
mod feed_types;
mod feed_volume;
mod hostile;
mod hot_reload;
mod kafka_back_pressure;
mod kafka_bad_input;
mod kafka_broker;
mod kafka_doctor;
mod kafka_drain;
mod kafka_failures;
mod kafka_faults;
mod kafka_gaps;
mod kafka_group;
mod kafka_login;
mod kafka_order;
mod kafka_outage;
mod kafka_publish;
mod kafka_transactions;
mod kafka_trigger;
mod kill;
mod main_path;
mod migrations;
mod ordering;
mod outages;
mod record;
mod settle;
mod tidy;
mod unmatched;
mod wall_sql;
mod wall_sql_leftovers;
mod wall_sql_weight;
mod wall_forged;
mod wall_cache;
mod wall_compile;
