//! The parser of patterns: no text makes it panic, and what it takes costs no more than it may.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncue_fuzz::pattern::{COST_MAX, Json, Pattern, explain};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match Pattern::parse(&text) {
        Ok(pattern) => {
            assert!((1..=COST_MAX).contains(&pattern.cost()));
            let event = Json::parse(br#"{"a":[{"b":"ab"},{"b":1,"c":null}],"type":"abc"}"#).expect("JSON");
            let explained = explain(&text, &event).expect("it is a pattern");
            assert_eq!(explained.matches, pattern.matches(&event));
        }
        Err(error) => assert!(!error.to_string().contains(|c: char| c.is_control())),
    }
});
