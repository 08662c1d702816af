//! This machine: swap, the port of health.
//!
//! Invariant: looks only; nothing here is bad, because a node runs all the same.

use crate::config::NodeSettings;
use crate::dev::ports::is_free;

use super::Findings;

pub(super) fn look(node: &NodeSettings, findings: &mut Findings) {
    match std::fs::read_to_string("/proc/swaps") {
        Ok(text) if text.lines().count() > 1 => findings.warn(
            "swap",
            "it is on: instances are reset without the kernel's help, which costs some microseconds a call",
            "`swapoff -a` on nodes",
        ),
        Ok(_) => findings.ok("swap", "off"),
        Err(_) => {}
    }
    let Some(address) = node.health else { return findings.ok("health", "not served: `health = \"off\"`") };
    if is_free(address.port()) {
        findings.ok("health", format!("{address} is free: no node serves it on this machine"));
    } else {
        findings.ok("health", format!("{address} is taken: `curl http://{address}/readyz` says whether by a node"));
    }
}
