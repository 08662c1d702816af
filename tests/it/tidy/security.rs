//! What SECURITY.md says is held by tests that are there.

use std::collections::BTreeSet;
use std::path::Path;

/// The names in the last column of a row of one of the tables.
fn named(text: &str) -> BTreeSet<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|') && line.ends_with('|'));
    let last = rows.filter_map(|row| row.trim_end_matches('|').rsplit_once('|')).map(|(_, last)| last.trim());
    let cells = last.filter(|cell| cell.starts_with('`'));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn what_security_md_says_is_held_by_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).expect("it is there");
    let names = named(&text);
    assert!(names.len() > 15, "{names:?}");
    let is_held = |name: &&&str| match **name {
        "runtime" => root.join("src/runtime/tests.rs").exists(),
        name if name.contains('/') => root.join(name).exists(),
        name => {
            let file = std::fs::read_to_string(root.join(format!("tests/it/{name}.rs"))).unwrap_or_default();
            file.contains("#[test]") || file.contains("#[tokio::test")
        }
    };
    let missing: Vec<&&str> = names.iter().filter(|name| !is_held(name)).collect();
    assert!(missing.is_empty(), "no tests in tests/it/NAME.rs: {missing:?}");
}

#[test]
fn names_are_those_of_the_last_column() {
    let text = "| can | cannot | held by |\n|---|---|---|\n| see `a` | | `one`, `scripts/two` |\n| x | y | |\n`three`";
    assert_eq!(named(text), BTreeSet::from(["one", "scripts/two"]));
}
