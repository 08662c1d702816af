//! `[function.NAME]`: where the component is, how it is built, and what it may use.
//!
//! Invariant: limits are inside their bounds and grants have a form; whether the component can run is found by loading
//! it, which is not done here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::event::subject;
use crate::function::{FunctionSpec, Grants, Limits, SqlGrant};
use crate::pattern::Json;

use super::error::{ConfigError, Place};
use super::reader::{Field, Node, Section, Value, join};
use super::values::{NAME_FORM, is_name};

const KEYS: &[&str] = &["component", "build", "limits", "grants", "config"];
const LIMIT_KEYS: &[&str] = &["timeout", "memory", "fuel", "concurrency", "output", "output_events", "log"];
const GRANT_KEYS: &[&str] = &["publish", "sql", "http", "secrets"];
/// Those that this version does not know.
const GRANTS_TO_COME: &[&str] = &["http", "secrets"];
/// Longest name of a role (NAMEDATALEN less one).
const ROLE_MAX: usize = 63;

/// How a component is made from its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Run by `sh -c` in the manifest's directory.
    pub command: String,
    /// Globs of the sources, relative to the manifest's directory.
    pub watch: Vec<String>,
}

/// One `[function.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionEntry {
    /// Unique.
    pub name: String,
    /// The component, as it is written.
    pub component: String,
    /// The component's file.
    pub file: PathBuf,
    /// How it is built, if Oncue shall build it.
    pub build: Option<Build>,
    /// Limits, grants and configuration.
    pub spec: FunctionSpec,
    /// Where it is written.
    pub place: Option<Place>,
}

/// Reads the function `name` at `path`; files are below `base`.
pub(super) fn read(name: &str, node: &Node, path: &str, base: &Path) -> Result<FunctionEntry, ConfigError> {
    let section = Section::open(node, path, KEYS)?;
    if !is_name(name) {
        return Err(section.error("", format!("{name:?} cannot be the name of a function"), NAME_FORM.to_owned()));
    }
    let example = format!("\"functions/{name}/{name}.wasm\"");
    let component = section.required("component", &example)?.word()?.to_owned();
    let mut spec = FunctionSpec::default();
    if let Some(field) = section.get("limits") {
        read_limits(&field, &mut spec.limits)?;
    }
    if let Some(field) = section.get("grants") {
        spec.grants = read_grants(&field)?;
    }
    if let Some(field) = section.get("config") {
        read_values(&field, &mut spec)?;
    }
    Ok(FunctionEntry {
        name: name.to_owned(),
        file: base.join(&component),
        component,
        build: section.get("build").map(|f| read_build(&f)).transpose()?,
        spec,
        place: section.place(),
    })
}

/// What options of the command line add to `spec`: limits as in `timeout=5s`, publish grants, a role for SQL, values.
///
/// # Errors
/// The option that is not as its key wants.
pub fn add_options(
    spec: &mut FunctionSpec,
    limits: &[(String, String)],
    publish: &[String],
    role: Option<&str>,
    values: &[(String, String)],
) -> Result<(), ConfigError> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let typed = |text: &str| if is_number(text) { Json::Number(text.to_owned()) } else { Json::string(text) };
    let node = Node::from_json(Json::object(limits.iter().map(|(k, v)| (k.clone(), typed(v))).collect()));
    read_limits(&Field { node: &node, path: "limits".to_owned() }, &mut spec.limits)?;
    if !publish.is_empty() {
        let grants = Json::Array(publish.iter().map(Json::string).collect());
        let node = Node::from_json(Json::object(vec![("publish".to_owned(), grants)]));
        spec.grants.publish = read_grants(&Field { node: &node, path: "grants".to_owned() })?.publish;
    }
    if let Some(role) = role {
        let grant = Json::object(vec![("role".to_owned(), Json::string(role))]);
        let node = Node::from_json(grant);
        spec.grants.sql = Some(read_sql(&Field { node: &node, path: "grants.sql".to_owned() })?);
    }
    spec.config.extend(values.iter().cloned());
    Ok(())
}

fn read_build(field: &Field<'_>) -> Result<Build, ConfigError> {
    let section = Section::open(field.node, &field.path, &["command", "watch"])?;
    Ok(Build {
        command: section.required("command", "\"make\"")?.word()?.to_owned(),
        watch: section.get("watch").map_or(Ok(Vec::new()), |f| f.words())?,
    })
}

fn read_limits(field: &Field<'_>, limits: &mut Limits) -> Result<(), ConfigError> {
    let section = Section::open(field.node, &field.path, LIMIT_KEYS)?;
    if let Some(field) = section.get("timeout") {
        let timeout = field.duration(Duration::from_millis(1)..=Duration::from_secs(3_600))?;
        limits.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    }
    if let Some(field) = section.get("memory") {
        limits.memory_bytes = field.size(64 << 10..=4 << 30)?;
    }
    if let Some(field) = section.get("fuel") {
        // What a `bigint` of the ledger holds.
        limits.fuel = field.integer(1..=i64::MAX.unsigned_abs())?;
    }
    if let Some(field) = section.get("concurrency") {
        limits.concurrency = field.integer(1..=100_000)?;
    }
    if let Some(field) = section.get("output") {
        limits.output_bytes = field.size(1..=1 << 30)?;
    }
    if let Some(field) = section.get("output_events") {
        limits.output_events = field.integer(1..=100_000)?;
    }
    if let Some(field) = section.get("log") {
        limits.log_bytes = u32::try_from(field.size(0..=16 << 20)?).unwrap_or(u32::MAX);
    }
    Ok(())
}

fn read_grants(field: &Field<'_>) -> Result<Grants, ConfigError> {
    let section = Section::open(field.node, &field.path, GRANT_KEYS)?;
    if let Some(key) = GRANTS_TO_COME.iter().find(|key| section.get(key).is_some()) {
        let fix = "remove it; this version grants `publish` and `sql`".to_owned();
        return Err(section.error(key, format!("the grant `{key}` is not supported by this version"), fix));
    }
    let mut grants = Grants::default();
    if let Some(field) = section.get("publish") {
        field.list()?.iter().try_for_each(check_grant)?;
        grants.publish = field.words()?;
    }
    grants.sql = section.get("sql").map(|field| read_sql(&field)).transpose()?;
    Ok(grants)
}

fn read_sql(field: &Field<'_>) -> Result<SqlGrant, ConfigError> {
    let section = Section::open(field.node, &field.path, &["role"])?;
    let field = section.required("role", "\"mailer\"")?;
    let role = field.word()?;
    // Both mean something else where a role is set; no role can have these names.
    if role.len() > ROLE_MAX || role.contains('\0') || matches!(role, "none" | "public") {
        let fix = "it is a role of Postgres: `create role mailer nologin;`";
        return Err(field.error(format!("{role:?} cannot be the name of a role"), fix));
    }
    Ok(SqlGrant { role: role.to_owned() })
}

fn check_grant(field: &Field<'_>) -> Result<(), ConfigError> {
    let grant = field.word()?;
    let form = "it is a bus and a subject, as in \"events/mail.*\"";
    let Some((bus, subject)) = grant.split_once('/') else {
        return Err(field.error(format!("\"{}\" names no bus", subject::shown(grant)), form));
    };
    if !is_name(bus) {
        return Err(field.error(format!("\"{}\" is no bus and subject", subject::shown(grant)), form));
    }
    let problem = |problem| field.error(format!("\"{}\" {problem}", subject::shown(subject)), form);
    subject::check_pattern(subject).map_err(problem)
}

fn read_values(field: &Field<'_>, spec: &mut FunctionSpec) -> Result<(), ConfigError> {
    let Value::Table(entries) = &field.node.value else {
        return Err(field.error("expected a table of strings", "write `config = { KEY = \"value\" }`"));
    };
    for entry in entries {
        let value = Field { node: &entry.node, path: join(&field.path, &entry.key) };
        spec.config.insert(entry.key.clone(), value.text()?.to_owned());
    }
    Ok(())
}
