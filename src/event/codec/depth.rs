//! How deep JSON is nested, found without parsing it.
//!
//! Invariant: constant memory and no recursion, so a million brackets cost a million steps and no stack. It does not
//! validate: it stops at the first byte that no JSON text has at that place and lets the parser say what is wrong.

/// Whether `bytes`, read as JSON, nest more than `limit` arrays and objects.
pub(super) fn exceeds(bytes: &[u8], limit: usize) -> bool {
    // Nearly every payload has fewer brackets than the limit; this count is one pass that the compiler vectorises.
    if bytes.iter().filter(|b| matches!(b, b'[' | b'{')).count() <= limit {
        return false;
    }
    let mut depth = 0_usize;
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if depth == 0 => return false,
            b']' | b'}' => depth -= 1,
            b'"' => skip_string(&mut rest),
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => {}
            // Numbers, true, false and null.
            b'0'..=b'9' | b'+' | b'-' | b'.' | b'a'..=b'z' | b'E' => {}
            _ => return false,
        }
    }
    false
}

fn skip_string(rest: &mut std::slice::Iter<'_, u8>) {
    while let Some(&byte) = rest.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                rest.next();
            }
            _ => {}
        }
    }
}
