//! `oncue match`: matches events against rules without a database, for people who test their rules in CI.
//!
//! Invariant: the verdicts are those of a node: the same pattern language over the same document. Events stream; only
//! the rules are held.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use memchr::memmem;
use serde::Serialize;

use crate::pattern::{Index, Json, Pattern, Scratch};
use crate::printable::printable_json;
use crate::rules;

use super::{Context, sample};

/// What may be typed after `oncue match`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rules, one JSON object a line: {"rule": NAME, "pattern": an object or JSON text}; `name` or `id` do for `rule`
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Events, one JSON object a line; one with `specversion` is a CloudEvent, another is matched as it stands; - for stdin
    #[arg(long, value_name = "FILE", required_unless_present = "validate")]
    events: Option<PathBuf>,
    /// Print the verdict on each pattern first, and leave out those that are not valid
    #[arg(long)]
    validate: bool,
}

pub(super) struct RuleLine {
    pub(super) name: String,
    pub(super) pattern: Result<Arc<Pattern>, String>,
    pub(super) line: usize,
}

#[derive(Serialize)]
struct Verdict<'a> {
    rule: &'a str,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Matched<'a> {
    event: usize,
    rules: Vec<&'a str>,
}

/// Matches.
///
/// # Errors
/// A line that is not what it should be, with the file and the line; without --validate, a pattern that is not valid.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let rules = read_rules(&args.rules)?;
    let mut out = context.output.stream();
    if args.validate {
        print_verdicts(&rules, &mut out)?;
    } else if let Some((rule, error)) = rules.iter().find_map(|r| Some((r, r.pattern.as_ref().err()?))) {
        bail!("{}:{}: the pattern of \"{}\" is not valid: {error}", args.rules.display(), rule.line, rule.name);
    }
    if let Some(events) = &args.events {
        match_events(&rules, events, &mut out)?;
    }
    out.flush()?;
    let invalid = rules.iter().filter(|r| r.pattern.is_err()).count();
    if invalid > 0 {
        context.output.note(&format!("{invalid} of {} patterns are not valid", rules.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_verdicts(rules: &[RuleLine], out: &mut impl Write) -> io::Result<()> {
    for rule in rules {
        let error = rule.pattern.as_ref().err().map(String::as_str);
        print_line(out, &Verdict { rule: &rule.name, valid: error.is_none(), error })?;
    }
    Ok(())
}

fn match_events(rules: &[RuleLine], path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let index = index(rules);
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    each_line(path, |number, line| {
        find(&index, line, &mut scratch, &mut found)?;
        let matching = found.iter().filter_map(|number| rules.get(*number as usize));
        print_line(out, &Matched { event: number, rules: matching.map(|rule| rule.name.as_str()).collect() })?;
        Ok(())
    })
}

/// The patterns that are valid, each by its place.
fn index(rules: &[RuleLine]) -> Index {
    Index::new((0..).zip(rules).filter_map(|(number, rule)| Some((number, Arc::clone(rule.pattern.as_ref().ok()?)))))
}

/// Makes `found` the places of the rules that the event matches.
fn find(index: &Index, line: &[u8], scratch: &mut Scratch, found: &mut Vec<u32>) -> anyhow::Result<()> {
    // Only a line that may have the member is parsed to see whether it does; a key may be written with escapes.
    let may_be_event = ["specversion", "\\u"].iter().any(|part| memmem::find(line, part.as_bytes()).is_some());
    if !may_be_event && index.find_in_json(line, scratch, found).is_ok() {
        return Ok(());
    }
    let json = Json::parse(line).context("the event is not JSON")?;
    if json.get("specversion").is_some() {
        let event = sample::decode(line).context("the event is no CloudEvent")?;
        index.find(|fill| rules::tell(&event, fill), scratch, found);
        return Ok(());
    }
    index.find_in_json(line, scratch, found).map_err(|_| anyhow!("the event is not JSON"))
}

fn print_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(printable_json(&serde_json::to_string(value)?).as_bytes())?;
    out.write_all(b"\n")
}

pub(super) fn read_rules(path: &Path) -> anyhow::Result<Vec<RuleLine>> {
    let mut rules = Vec::new();
    each_line(path, |number, line| {
        rules.push(rule(line, number + 1)?);
        Ok(())
    })?;
    Ok(rules)
}

fn rule(text: &[u8], line: usize) -> anyhow::Result<RuleLine> {
    let json = Json::parse(text).context("the rule is not JSON")?;
    let name = ["rule", "name", "id"].iter().find_map(|key| json.get(key));
    let name = match name {
        Some(Json::String(name)) => name.clone(),
        Some(Json::Number(number)) => number.clone(),
        _ => bail!("the rule has no name: a line is {{\"rule\": \"NAME\", \"pattern\": {{…}}}}"),
    };
    let pattern = match json.get("pattern") {
        Some(Json::String(text)) => Pattern::parse(text),
        Some(other) => {
            let mut text = Vec::new();
            other.write(&mut text);
            Pattern::parse(&String::from_utf8_lossy(&text))
        }
        None => bail!("the rule \"{name}\" has no pattern: a line is {{\"rule\": \"NAME\", \"pattern\": {{…}}}}"),
    };
    Ok(RuleLine { name, pattern: pattern.map(Arc::new).map_err(|e| e.to_string()), line })
}

/// Calls `act` with the number, from 0, and the bytes of each line that is not blank.
pub(super) fn each_line(path: &Path, mut act: impl FnMut(usize, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| format!("failed to open {}", path.display()))?))
    };
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).with_context(|| format!("failed to read {}", path.display()))?;
        if read == 0 {
            return Ok(());
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            act(number, text).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_line_has_a_name_and_a_pattern_in_one_of_the_forms() {
        let table = [
            (r#"{"rule":"a","pattern":{"x":[1]}}"#, "a valid"),
            (r#"{"name":"b","pattern":"{\"x\":[1]}"}"#, "b valid"),
            (r#"{"id":"r0","pattern":{"x":[{"prefx":"a"}]}}"#, "r0 invalid"),
            (r#"{"id":7,"pattern":{"x":[1.0]}}"#, "7 valid"),
            (r#"{"pattern":{}}"#, "refused"),
            (r#"{"rule":"a"}"#, "refused"),
            ("{", "refused"),
        ];
        for (line, expected) in table {
            let found = rule(line.as_bytes(), 1).map_or_else(
                |_| "refused".to_owned(),
                |r| format!("{} {}", r.name, if r.pattern.is_ok() { "valid" } else { "invalid" }),
            );
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn an_envelope_is_matched_as_a_cloudevent_and_anything_else_as_it_stands() {
        let rules = [rule(br#"{"rule":"a","pattern":{"data":{"n":[1]}}}"#, 1).expect("the rule is right")];
        let index = index(&rules);
        let envelope = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"eyJuIjoxfQ=="}"#;
        for (line, matches) in [(r#"{"data":{"n":1}}"#, true), (r#"{"n":1}"#, false), (envelope, true)] {
            let mut found = Vec::new();
            find(&index, line.as_bytes(), &mut Scratch::default(), &mut found).expect("the line is right");
            assert_eq!(!found.is_empty(), matches, "{line}");
        }
    }
}
