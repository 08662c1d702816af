//! The control plane: rules that nodes leave out, functions that nothing runs, triggers that do not read.
//!
//! Invariant: pure; it reads what nodes wrote into the rows and what this program makes of them.

use std::collections::{BTreeSet, HashMap};

use crate::rules::{RuleSet, Target};
use crate::store::control::ControlPlane;
use crate::triggers::spec::TriggerSpec;

use super::Findings;

pub(super) fn look(tables: &ControlPlane, findings: &mut Findings) {
    rules(tables, findings);
    functions(tables, findings);
    triggers(tables, findings);
}

fn rules(tables: &ControlPlane, findings: &mut Findings) {
    let current: HashMap<String, u32> =
        tables.functions.iter().filter(|f| f.current).map(|f| (f.function.clone(), f.version)).collect();
    let rules = tables.rules.iter().map(|r| r.rule.clone()).collect();
    let (set, refused) = RuleSet::compile(tables.version, rules, &current);
    let mut bad: Vec<(String, String)> = refused.into_iter().map(|(name, error)| (name, error.to_string())).collect();
    for row in tables.rules.iter().filter(|r| !bad.iter().any(|(name, _)| *name == r.rule.name)).collect::<Vec<_>>() {
        bad.extend(row.error.clone().map(|error| (row.rule.name.clone(), error)));
    }
    for (name, error) in &bad {
        let fix = format!("correct it in the manifest and `oncue apply`, or `oncue rule disable {name}`");
        findings.bad(format!("rule {name}"), format!("nodes leave it out: {error}"), fix);
    }
    let disabled = tables.rules.iter().filter(|r| !r.rule.enabled).count();
    match set.len() {
        0 => findings.warn("rules", "there is none that can match", "`oncue apply` writes those of the manifest"),
        active => findings.ok("rules", format!("{active} match, {disabled} are disabled")),
    }
}

fn functions(tables: &ControlPlane, findings: &mut Findings) {
    let run: BTreeSet<&str> = tables
        .rules
        .iter()
        .filter_map(|r| match &r.rule.target {
            Target::Run { function, .. } => Some(function.as_str()),
            Target::Publish { .. } => None,
        })
        .collect();
    let all: BTreeSet<&str> = tables.functions.iter().map(|f| f.function.as_str()).collect();
    for name in all.difference(&run) {
        let fix =
            format!("`oncue rule add NAME --run {name} …`, or `oncue apply --prune` if the manifest has it no more");
        findings.warn(format!("function {name}"), "no rule runs it", fix);
    }
    for (name, version, error) in &tables.unreadable {
        let fix = "a newer Oncue wrote it: upgrade this program, or deploy the function again";
        findings.bad(format!("function {name}@{version}"), format!("its row cannot be read: {error}"), fix);
    }
}

fn triggers(tables: &ControlPlane, findings: &mut Findings) {
    if tables.triggers.is_empty() {
        findings.warn("triggers", "there is none: no event comes in", "`oncue apply` writes those of the manifest");
    }
    for row in &tables.triggers {
        let (about, name) = (format!("trigger {}", row.name), &row.name);
        let error = row.error.as_deref().unwrap_or("no reason was written");
        match row.state.as_str() {
            "paused" => findings.warn(about, "it is paused", format!("`oncue trigger resume {name}`")),
            "gap" => {
                let mut fix = format!("find out what is missing, then `oncue trigger resume {name} --accept-gap`");
                if row.kind == "postgres" {
                    fix.push_str(", or --resnapshot, which also reads the tables again");
                }
                findings.bad(about, format!("it is halted, its source has a gap: {error}"), fix);
            }
            _ => {
                if let Err(error) = TriggerSpec::parse(&row.kind, &row.spec) {
                    findings.bad(about, error.to_string(), "correct it in the manifest and `oncue apply`");
                } else if row.error.is_some() {
                    findings.bad(about, format!("it cannot read: {error}"), "mend that; nodes try again by themselves");
                } else {
                    findings.ok(about, "active");
                }
            }
        }
    }
}
