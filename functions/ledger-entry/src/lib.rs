//! Books a payment: an entry and the new balance of its account, exactly once, and one `ledger.booked` event.
//!
//! It reads the account at once, and writes when the delivery is settled: nothing that it writes can be seen by it, and
//! between the read and the writes somebody else may have written. So the balance is changed by the statement itself, and
//! a constraint of the table keeps it above zero.

mod arena;

wit_bindgen::generate!({ path: "../wit", world: "function", generate_all });

use exports::oncue::function::handler::{Error, Event, Guest};
use oncue::function::context;
use oncue::function::sql::{self, Value};
use serde::{Deserialize, Serialize};

/// How long a payment to a frozen account waits.
const FROZEN_MS: u64 = 60_000;

struct LedgerEntry;

export!(LedgerEntry);

impl Guest for LedgerEntry {
    fn handle(event: Event) -> Result<Vec<Event>, Error> {
        let payment: Payment = serde_json::from_slice(&event.data)
            .map_err(|error| Error::Reject(format!("data is not a payment: {error}")))?;
        let account = account(&payment.account)?;
        if account.frozen {
            return Err(Error::RetryAfter((FROZEN_MS, format!("account {} is frozen", payment.account))));
        }
        let delivery = context::get().delivery_id;
        let id = || Value::Text(payment.account.clone());
        let amount = || Value::Integer(payment.amount);
        execute(
            "insert into entries (delivery, account, amount) values ($1::uuid, $2, $3)",
            &[Value::Text(delivery.clone()), id(), amount()],
        )?;
        execute("update accounts set balance = balance + $2 where id = $1", &[id(), amount()])?;
        let booked = Booked { account: &payment.account, amount: payment.amount, balance_before: account.balance };
        Ok(vec![booked.into_event()?])
    }
}

#[derive(Deserialize)]
struct Payment {
    account: String,
    /// In the smallest unit of its currency; negative for money that leaves.
    amount: i64,
}

#[derive(Deserialize)]
struct Account {
    balance: i64,
    frozen: bool,
}

/// The account as it is now. A database that cannot be read heals; an account that is not there does not.
fn account(id: &str) -> Result<Account, Error> {
    let rows = sql::query("select balance, frozen from accounts where id = $1", &[Value::Text(id.into())]);
    let rows = rows.map_err(|error| Error::Retry(format!("reading account {id}: {error}")))?;
    let row = rows.first().ok_or_else(|| Error::Reject(format!("there is no account {id}")))?;
    serde_json::from_str(row).map_err(|error| Error::Reject(format!("reading account {id}: {error}")))
}

/// Refused here is only what no grant or limit allows. What the database refuses fails the delivery later.
fn execute(statement: &str, values: &[Value]) -> Result<(), Error> {
    sql::execute(statement, values).map_err(Error::Reject)
}

#[derive(Serialize)]
struct Booked<'a> {
    account: &'a str,
    amount: i64,
    balance_before: i64,
}

impl Booked<'_> {
    /// It is published after the entry is committed. `id` and `source` stay empty: the host fills them in.
    fn into_event(self) -> Result<Event, Error> {
        let data = serde_json::to_vec(&self).map_err(|error| Error::Reject(format!("writing the event: {error}")))?;
        Ok(Event {
            id: String::new(),
            source: String::new(),
            type_: "ledger.booked".into(),
            subject: None,
            time: None,
            content_type: Some("application/json".into()),
            extensions: Vec::new(),
            data,
        })
    }
}
