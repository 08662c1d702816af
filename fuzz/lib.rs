//! The pattern language by itself, and patterns and events made of a fuzzer's bytes.

// Its own path, because a module that is named by a path looks for its parts beside itself.
#[path = "../src"]
mod src {
    pub mod pattern;
}

pub use src::pattern;

use arbitrary::{Result, Unstructured};

const KEYS: [&str; 8] = ["a", "b", "a.b", "c", "type", "$or", "", "é"];

const SCALARS: [&str; 20] = [
    "null", "true", "false", "0", "-0", "1", "1.0", "10e-1", "1e400", "123456789012345678901234567890123456789012345.5",
    "\"\"", "\"a\"", "\"ab\"", "\"abcabcab\"", "\"ABC\"", "\"Straße\"", "\"10.0.0.1\"", "\"fe80::1\"", "\"a\\u0062\"",
    "\"\\ud83d\\ude00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\"",
];

const TEXTS: [&str; 12] =
    ["", "a", "b", "ab", "abc", "cab", "abcabcab", "STRASSE", "straße", "aaaaaaaaaaaaaaaaaaaaaaaa", "😀", "b\\\\*a"];

fn json_text(text: &str) -> String {
    // The texts hold no quotes, and their backslashes are those of a pattern.
    format!("\"{text}\"")
}

/// What a field may be asked to be.
fn value(bytes: &mut Unstructured<'_>) -> Result<String> {
    let text = |bytes: &mut Unstructured<'_>| bytes.choose(&TEXTS).map(|text| json_text(text));
    let number = |bytes: &mut Unstructured<'_>| bytes.choose(&["-1", "0", "1.0", "2", "1e3", "1e-300"]).copied();
    Ok(match bytes.int_in_range(0..=12)? {
        0..=2 => (*bytes.choose(&SCALARS)?).to_owned(),
        3 => format!("{{\"prefix\":{}}}", text(bytes)?),
        4 => format!("{{\"suffix\":{}}}", text(bytes)?),
        5 => format!("{{\"equals-ignore-case\":{}}}", text(bytes)?),
        6 => format!("{{\"prefix\":{{\"equals-ignore-case\":{}}}}}", text(bytes)?),
        7 => {
            let [first, middle, last] = [bytes.choose(&TEXTS)?, bytes.choose(&TEXTS)?, bytes.choose(&TEXTS)?];
            let middle = if middle.is_empty() { "*".to_owned() } else { format!("*{middle}*") };
            format!("{{\"wildcard\":{}}}", json_text(&format!("{first}{middle}{last}")))
        }
        8 => format!("{{\"numeric\":[\"{}\",{}]}}", bytes.choose(&["=", "<", "<=", ">", ">="])?, number(bytes)?),
        9 => format!("{{\"numeric\":[\">=\",{},\"<\",{}]}}", number(bytes)?, number(bytes)?),
        10 => format!("{{\"exists\":{}}}", bytes.arbitrary::<bool>()?),
        11 => format!("{{\"cidr\":\"{}\"}}", bytes.choose(&["10.0.0.0/8", "10.0.0.1", "::/0", "0.0.0.0/0", "fe80::/10"])?),
        _ => format!("{{\"anything-but\":[{}]}}", bytes.choose(&SCALARS)?),
    })
}

/// A pattern, mostly a sound one.
pub fn any_pattern(bytes: &mut Unstructured<'_>, depth: u32) -> Result<String> {
    let mut members = Vec::new();
    for _ in 0..bytes.int_in_range(1..=3)? {
        let key = *bytes.choose(&KEYS)?;
        let inside = match bytes.int_in_range(0..=3)? {
            _ if key == "$or" && depth > 0 => {
                format!("[{},{}]", any_pattern(bytes, depth - 1)?, any_pattern(bytes, depth - 1)?)
            }
            0 if depth > 0 => any_pattern(bytes, depth - 1)?,
            _ => {
                let mut values = Vec::new();
                for _ in 0..bytes.int_in_range(1..=3)? {
                    values.push(value(bytes)?);
                }
                format!("[{}]", values.join(","))
            }
        };
        members.push(format!("\"{key}\":{inside}"));
    }
    Ok(format!("{{{}}}", members.join(",")))
}

/// A JSON value.
pub fn any_event(bytes: &mut Unstructured<'_>, depth: u32) -> Result<String> {
    let kind = if depth == 0 { 0 } else { bytes.int_in_range(0..=3)? };
    let count = if kind == 0 { 0 } else { bytes.int_in_range(0..=4)? };
    let mut inside = Vec::new();
    for _ in 0..count {
        let value = any_event(bytes, depth - 1)?;
        inside.push(if kind == 1 { value } else { format!("\"{}\": {value}", bytes.choose(&KEYS)?) });
    }
    Ok(match kind {
        0 => (*bytes.choose(&SCALARS)?).to_owned(),
        1 => format!("[{}]", inside.join(", ")),
        _ => format!("{{{}}}", inside.join(" ,")),
    })
}
