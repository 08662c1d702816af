//! Decoding a change feed: what one row of seven columns and 170 bytes costs from message to event.
//!
//! `cargo bench --bench pgoutput`. Pure computation on one thread: no server, no rule, no function.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use oncue::lsn::Lsn;
use oncue::pgtype::Types;
use oncue::triggers::postgres::change::{Change, Origin, Table, Transaction};
use oncue::triggers::postgres::pgoutput::{Identity, Message, Relation, RelationColumn, decode};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Each column's type, name and value.
const ROW: [(u32, &str, &str); 7] = [
    (20, "id", "1234567"),
    (25, "email", "someone.somewhere@example.com"),
    (25, "name", "Someone Somewhere"),
    (1700, "balance", "1234.56"),
    (1184, "created_at", "2026-01-31 12:00:00.123456+00"),
    (3802, "meta", "{\"plan\": \"free\", \"tags\": [\"a\", \"b\"]}"),
    (16, "active", "t"),
];
const ROUNDS: u32 = 300_000;
const REPEATS: u32 = 5;

fn main() -> Result<()> {
    let table = Table::new(&relation(), &Types::new(), &["id".to_owned()]);
    let origin = Origin::new("7423849234234234234", "shop");
    let transaction = Transaction::new(742, Lsn(0x16_B374_D848), 823_176_000_500_000);
    let insert = [b"I\0\0\0\x01N".as_slice(), &row()?].concat();
    let update = [b"U\0\0\0\x01O".as_slice(), &row()?, b"N", &row()?].concat();

    let message = |message: &[u8]| -> Result<()> {
        black_box(decode(black_box(message))?);
        Ok(())
    };
    let event = |message: &[u8], ordinal: u32| -> Result<()> {
        let change = match decode(black_box(message))? {
            Message::Insert { new, .. } => Change::Insert(new),
            Message::Update { old, new, .. } => Change::Update { old, new },
            _ => bail!("a message of this benchmark is a change of a row"),
        };
        black_box(table.event(&change, &transaction, ordinal, &origin)?);
        Ok(())
    };
    say(&format!("a message of {} bytes, best of {REPEATS} times {ROUNDS}", insert.len()));
    say(&format!("an insert, decoded:                 {:5} ns", nanos(|_| message(&insert))?));
    say(&format!("an insert, as an event:             {:5} ns (aim: about 1000)", nanos(|n| event(&insert, n))?));
    say(&format!("an update with its old row, too:    {:5} ns", nanos(|n| event(&update, n))?));
    Ok(())
}

/// What one round takes in the best of several runs.
fn nanos(mut round: impl FnMut(u32) -> Result<()>) -> Result<u128> {
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let began = Instant::now();
        for n in 0..ROUNDS {
            round(n)?;
        }
        best = best.min(began.elapsed());
    }
    Ok(best.as_nanos() / u128::from(ROUNDS))
}

fn relation() -> Relation<'static> {
    let column = |(ty, name, _): &(u32, &'static str, &str)| RelationColumn {
        identity: *name == "id",
        name: (*name).into(),
        ty: *ty,
        modifier: -1,
    };
    let columns = ROW.iter().map(column).collect();
    Relation { oid: 1, schema: "public".into(), name: "users".into(), identity: Identity::Full, columns }
}

/// The row as a message holds it.
fn row() -> Result<Vec<u8>> {
    let mut bytes = u16::try_from(ROW.len())?.to_be_bytes().to_vec();
    for (_, _, value) in ROW {
        bytes.push(b't');
        bytes.extend_from_slice(&u32::try_from(value.len()).context("a short value")?.to_be_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    Ok(bytes)
}

#[allow(clippy::print_stdout, reason = "a benchmark's data")]
fn say(line: &str) {
    println!("{line}");
}
