//! What one large transaction adds to the node's resident memory.

use anyhow::Result;
use oncue::node::NodeConfig;

use crate::drain::Kind;
use crate::say;
use crate::server::Server;

/// What may be added to the budget.
const MORE: f64 = 128.0;

/// Commits one transaction of `rows` rows, once without and once with a rule for them, and prints the peaks.
pub async fn measure(server: &Server, rows: usize) -> Result<()> {
    let budget = NodeConfig::new("", "").budget_bytes as f64 / f64::from(1 << 20);
    say(&format!("memory: one transaction of {rows} rows; the budget is {budget:.0} MB"));
    for (kind, slot) in [(Kind::NoRule, "memory_none"), (Kind::OneRule, "memory_one")] {
        server.slot(slot).await?;
        let node = server.node().await?;
        server.feed(slot, &kind.rules()).await?;
        server.mark().await?;
        server.wait_for_runs("marker", 1).await?;
        let before = node.kilobytes("VmRSS:")? / 1024.0;
        node.forget_peak()?;
        server.insert(rows).await?;
        server.mark().await?;
        server.wait_for_runs("marker", 2).await?;
        if kind == Kind::OneRule {
            server.wait_for_runs("load", rows).await?;
        }
        let peak = node.kilobytes("VmHWM:")? / 1024.0;
        say(&format!(
            "{:8} resident {before:.0} MB before, {peak:.0} MB at most: {:.0} MB more (aim: at most {:.0} MB more)",
            kind.name(),
            peak - before,
            budget + MORE
        ));
        node.stop().await?;
        server.forget().await?;
        server.drop_slot(slot).await?;
    }
    Ok(())
}
