//! A source file as the rules of the house see it: without comments, texts and tests.
//!
//! Invariant: line numbers stay those of the file. This is no parser: it knows comments, texts, characters and braces,
//! which is enough for code that `rustfmt` wrote.

/// A file of `src/`.
pub struct Source {
    /// From the project's directory, for example `src/store/settle.rs`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments, texts and characters blanked, test modules emptied.
    pub code: String,
    /// The modules that exist for tests only: `#[cfg(test)] mod name;`.
    pub test_modules: Vec<String>,
}

impl Source {
    /// Reads `text`.
    pub fn new(path: &str, text: &str) -> Self {
        let (code, test_modules) = without_tests(&blank(text));
        Self { path: path.to_owned(), text: text.to_owned(), code, test_modules }
    }

    /// The module at the top of `crate`: `store` for `src/store/settle.rs`.
    pub fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = inside.split('/').next().unwrap_or(inside);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines of code with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    /// Lines of the file that are not part of a test module.
    pub fn length(&self) -> usize {
        match self.code.find(EMPTIED) {
            Some(at) => self.code[..at].lines().count(),
            None => self.code.lines().count(),
        }
    }

    /// Functions: line, name and number of lines, from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<(usize, String, usize)> {
        let starts = self.code.match_indices("fn ").filter(|(at, _)| {
            !self.code[..*at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
        });
        starts.filter_map(|(at, _)| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<(usize, String, usize)> {
        let rest = &self.code[at + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // A declaration without a body, and the type of a function, have none.
        let open = rest.find(['{', ';'])?;
        if name.is_empty() || rest.as_bytes()[open] != b'{' {
            return None;
        }
        let end = open + matching(&rest[open..])?;
        let line = self.code[..at].matches('\n').count() + 1;
        Some((line, name, rest[..end].matches('\n').count() + 1))
    }
}

/// What stands where a test module was.
const EMPTIED: &str = "/*tests*/";

/// The place of the brace that closes the first one.
fn matching(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// `text` with comments, texts and characters replaced by blanks of the same lines.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = token(rest);
        let token = &rest[..length];
        if length > c.len_utf8()
            && (token.starts_with(['/', '"', '\'']) || token.starts_with("r\"") || token.starts_with("r#"))
        {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(token);
        }
        rest = &rest[length..];
    }
    out
}

/// The length of the comment, text, character or single character at the start of `rest`.
fn token(rest: &str) -> usize {
    let until = |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    if rest.starts_with("r\"") {
        return until(2, "\"");
    }
    if let Some(raw) = rest.strip_prefix("r#") {
        let hashes = 1 + raw.chars().take_while(|c| *c == '#').count();
        if raw[hashes - 1..].starts_with('"') {
            return until(hashes + 2, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    // A whole word at once, so that an `r` at its end is not taken for a raw text.
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest.chars().skip(1);
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 1,
    }
}

/// `code` with `#[cfg(test)]` modules emptied, and the names of those that are files.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut out = code.to_owned();
    let mut files = Vec::new();
    while let Some(at) = out.find("#[cfg(test)]") {
        let rest = &out[at..];
        let item = rest.find("mod ").map(|m| m + 4);
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let (length, emptied) = match item.filter(|m| *m < end) {
            Some(name) if rest.as_bytes().get(end) == Some(&b';') => {
                files.push(rest[name..end].trim().to_owned());
                (end, String::new())
            }
            Some(_) => {
                let close = matching(&rest[end..]).map_or(rest.len(), |close| end + close + 1);
                let lines = rest[..close].matches('\n').count();
                (close, format!("{EMPTIED}{}", "\n".repeat(lines)))
            }
            // An item that is no module: only its mark goes.
            None => ("#[cfg(test)]".len(), String::new()),
        };
        out.replace_range(at..at + length, &emptied);
    }
    (out, files)
}
