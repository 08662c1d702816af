//! What a delivery does in the transaction that settles it. It runs where guests have their connections (`store/guest`).

use crate::function::sql::Statement;
use crate::store::outbox::OutboxRow;

/// Statements of a delivery, and what it publishes.
#[derive(Clone, Debug)]
pub struct Effects {
    /// The role that its statements run under.
    pub role: String,
    /// Its statements.
    pub statements: Vec<Statement>,
    /// What is published when it is committed.
    pub outbox: Vec<OutboxRow>,
}
