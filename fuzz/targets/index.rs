//! The index finds what the evaluator says, whatever was added, deleted and merged before.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use oncue_fuzz::pattern::{Index, Json, Pattern, Scratch};
use oncue_fuzz::{any_event, any_pattern};

fn run(bytes: &mut Unstructured<'_>) -> Result<()> {
    let (mut index, mut patterns, mut scratch) = (Index::default(), BTreeMap::new(), Scratch::default());
    while !bytes.is_empty() {
        match bytes.int_in_range(0..=7)? {
            0..=3 => {
                let id = bytes.int_in_range(0..=70_u32)?;
                let Ok(pattern) = Pattern::parse(&any_pattern(bytes, 2)?).map(Arc::new) else { continue };
                index = index.with([(id, Some(Arc::clone(&pattern)))]);
                patterns.insert(id, pattern);
            }
            4 => {
                let id = bytes.int_in_range(0..=70_u32)?;
                index = index.with([(id, None)]);
                patterns.remove(&id);
            }
            5 => index = index.merged(),
            _ => {
                let text = any_event(bytes, 4)?;
                let event = Json::parse(text.as_bytes()).expect("it is made as JSON");
                let mut found = Vec::new();
                index.find_in_json(text.as_bytes(), &mut scratch, &mut found).expect("it is JSON");
                let wanted = patterns.iter().filter(|(_, pattern)| pattern.matches(&event)).map(|(id, _)| *id);
                assert_eq!(found, wanted.collect::<Vec<u32>>(), "{text}");
            }
        }
    }
    assert_eq!(index.len(), patterns.len());
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(&mut Unstructured::new(bytes));
});
