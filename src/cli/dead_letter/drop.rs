//! `oncue dead-letter drop`: gives dead letters up.
//!
//! Invariant: nothing is dropped without `--yes` or a person's answer; nobody is asked where no terminal is.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use crate::cli::Context;
use crate::store::Store;

use super::Selection;

/// What may be typed after `oncue dead-letter drop`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    selection: Selection,
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

pub(super) async fn run(store: &Store, args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let ids: Vec<uuid::Uuid> = args.selection.read(store).await?.iter().map(|r| r.id).collect();
    if !ids.is_empty() && !args.selection.yes && !asked(ids.len())? {
        bail!("nothing was dropped");
    }
    let dropped = store.drop_dead_letters(&ids).await?;
    context.output.one(&Dropped { dropped }, |d| format!("dropped {} dead letters", d.dropped))?;
    Ok(ExitCode::SUCCESS)
}

fn asked(count: usize) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{count} dead letters would be dropped: add --yes to do it");
    }
    let mut err = std::io::stderr().lock();
    write!(err, "drop {count} dead letters? their bytes are removed by retention [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
