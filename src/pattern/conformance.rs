//! The recorded cases of another engine's test suite, replayed.
//!
//! Invariant: every case agrees, for the evaluator and for the index, or is listed with its reason in `tests/data/conformance-differences.jsonl`, and every
//! listed case does differ. The cases themselves are not part of the project: where they are absent, the test says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::{Index, Json, Pattern, Scratch};

fn cases_path() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/ruler.jsonl");
    std::env::var_os("ONCUE_CONFORMANCE").map_or_else(beside, PathBuf::from)
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).expect("each line is a JSON object")).collect()
}

fn field<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().expect("a text")
}

/// What we say of the case, against what was recorded.
fn agrees(case: &Value) -> bool {
    let pattern = Pattern::parse(field(case, "pattern"));
    match case.get("match").and_then(Value::as_bool) {
        None => Some(pattern.is_ok()) == case["valid"].as_bool(),
        Some(wanted) => match (pattern, Json::parse(field(case, "event").as_bytes())) {
            (Ok(pattern), Ok(parsed)) => {
                let index = Index::new([(7, Arc::new(pattern.clone()))]);
                let mut found = Vec::new();
                let told = index.find_in_json(field(case, "event").as_bytes(), &mut Scratch::default(), &mut found);
                told.is_ok() && found == if wanted { &[7][..] } else { &[] } && pattern.matches(&parsed) == wanted
            }
            _ => false,
        },
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that is not run has to say so")]
fn every_recorded_case_agrees_or_is_listed_with_a_reason() {
    let path = cases_path();
    let Ok(cases) = std::fs::read_to_string(&path) else {
        println!("conformance: not run: {} absent", path.display());
        return;
    };
    let listed = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/conformance-differences.jsonl"));
    let mut listed: BTreeMap<String, String> =
        lines(listed).iter().map(|line| (field(line, "id").to_owned(), field(line, "reason").to_owned())).collect();
    let (mut agreed, mut differ, mut failed) = (0, 0, Vec::new());
    for case in lines(&cases) {
        match (agrees(&case), listed.remove(field(&case, "id"))) {
            (true, None) => agreed += 1,
            (false, Some(_)) => differ += 1,
            (true, Some(reason)) => failed.push(format!("listed ({reason}) yet agrees: {case}")),
            (false, None) => failed.push(format!("differs: {case}")),
        }
    }
    failed.extend(listed.keys().map(|id| format!("listed, but no such case: {id}")));
    println!("conformance: {agreed} agree, {differ} differ on purpose, {} fail", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(agreed > 0, "{} holds no case", path.display());
}
