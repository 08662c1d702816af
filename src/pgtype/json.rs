//! JSON text: writing strings, and telling whether bytes are one JSON value.
//!
//! Invariant: what [`string`] appends is a JSON string of valid UTF-8 that reads back as its argument; [`is_value`]
//! looks at each byte once and keeps no more than one bit for each level of nesting. Nothing is parsed into a tree.

/// For each byte, whether it cannot stand in a JSON string as it is.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { break };
        escape(out, byte);
        rest = after;
    }
    out.push(b'"');
}

/// How many bytes of `text` can stand in a JSON string as they are, up to the first that cannot.
fn plain(text: &[u8]) -> usize {
    let (words, _) = text.as_chunks();
    let whole = 8 * words.iter().take_while(|word| !any_escaped(u64::from_ne_bytes(**word))).count();
    whole + text[whole..].iter().take_while(|byte| !ESCAPED[usize::from(**byte)]).count()
}

/// Whether one of the eight bytes of `word` is escaped: below a space, a quote or a backslash. Subtracting from all of
/// them at once sets the highest bit of a byte that was too small, and of others only above such a one.
fn any_escaped(word: u64) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = 0x80 * EACH;
    let any_below = |word: u64, limit: u64| word.wrapping_sub(limit * EACH) & !word & HIGHEST != 0;
    any_below(word, 0x20) || any_below(word ^ (0x22 * EACH), 1) || any_below(word ^ (0x5C * EACH), 1)
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Whether `text` is a JSON number, whole.
#[must_use]
pub fn is_number(text: &[u8]) -> bool {
    number(text) == Some(text.len())
}

/// The length of the JSON number that `text` begins with.
fn number(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        at += 1 + sign + exponent;
        if exponent == 0 {
            return None;
        }
    }
    Some(at)
}

/// Whether `text` is exactly one JSON value (RFC 8259), white space around it allowed, that nests at most `depth`
/// levels. An escaped half of a surrogate pair is refused: Postgres lets it into `json`, most readers do not.
#[must_use]
pub fn is_value(text: &str, depth: usize) -> bool {
    Scan { text: text.as_bytes(), at: 0 }.document(depth.min(MAX_LEVELS)).is_some()
}

/// As many levels as [`Open`] has bits.
const MAX_LEVELS: usize = 128;

/// The arrays (0) and objects (1) around a place, the innermost in the lowest bit.
#[derive(Default)]
struct Open {
    kinds: u128,
    levels: usize,
}

impl Open {
    fn push(&mut self, object: bool) {
        self.kinds = self.kinds << 1 | u128::from(object);
        self.levels += 1;
    }

    fn pop(&mut self) {
        self.kinds >>= 1;
        self.levels -= 1;
    }

    fn in_object(&self) -> bool {
        self.kinds & 1 == 1
    }
}

/// A place in a text. Each step is `None` where the text is no JSON.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn document(mut self, depth: usize) -> Option<()> {
        let mut open = Open::default();
        self.space();
        loop {
            // Here a value is due.
            if let Some(object) = self.opening() {
                if open.levels == depth {
                    return None;
                }
                open.push(object);
                self.space();
                let empty = self.take(if object { b'}' } else { b']' });
                if !empty {
                    if object {
                        self.key()?;
                    }
                    continue;
                }
                open.pop();
            } else {
                self.scalar()?;
            }
            // Here one has ended.
            loop {
                self.space();
                if open.levels == 0 {
                    return (self.at == self.text.len()).then_some(());
                }
                let object = open.in_object();
                if self.take(b',') {
                    self.space();
                    if object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if object { b'}' } else { b']' })?;
                open.pop();
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes the beginning of an array or object: whether of an object.
    fn opening(&mut self) -> Option<bool> {
        let object = match self.peek()? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        self.at += 1;
        Some(object)
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.expect(b':')?;
        self.space();
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        let word: &[u8] = match self.peek()? {
            b'"' => return self.string(),
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => {
                self.at += number(&self.text[self.at..])?;
                return Some(());
            }
        };
        self.at += self.text[self.at..].starts_with(word).then_some(word.len())?;
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.at += plain(&self.text[self.at..]) + 1;
            match self.text.get(self.at - 1)? {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        self.at += 1;
        match self.text.get(self.at - 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.unit()? {
                0xD800..=0xDBFF => {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    matches!(self.unit()?, 0xDC00..=0xDFFF).then_some(())
                }
                0xDC00..=0xDFFF => None,
                _ => Some(()),
            },
            _ => None,
        }
    }

    /// The four hexadecimal digits of a UTF-16 unit.
    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    }
}
