//! The JSON front end takes what the parser takes, and finds in it what the evaluator does.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use oncue_fuzz::pattern::{Index, Json, Pattern, Scratch};

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let texts = [
        r#"{"a":[{"exists":true}]}"#,
        r#"{"a":{"b":["ab",1,null,{"prefix":"a"}]}}"#,
        r#"{"a.b":[{"anything-but":"ab"}],"c":[{"exists":false}]}"#,
        r#"{"c":[{"numeric":[">",0]},{"wildcard":"*é*"}]}"#,
    ];
    texts.map(|text| Pattern::parse(text).expect("a pattern")).into()
});

fuzz_target!(|bytes: &[u8]| {
    let index = Index::new((0..).zip(PATTERNS.iter().cloned().map(Arc::new)));
    let mut found = Vec::new();
    let taken = index.find_in_json(bytes, &mut Scratch::default(), &mut found);
    let parsed = Json::parse(bytes);
    assert_eq!(taken.is_ok(), parsed.is_ok(), "{parsed:?}");
    if let Ok(event) = parsed {
        let wanted = (0..).zip(PATTERNS.iter()).filter(|(_, pattern)| pattern.matches(&event)).map(|(id, _)| id);
        assert_eq!(found, wanted.collect::<Vec<u32>>());
    }
});
