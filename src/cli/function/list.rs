//! `oncue function list` and `show`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use time::OffsetDateTime;

use crate::config::{Form, duration_text, function_form, size_text};
use crate::function::Limits;
use crate::function::hex;
use crate::rules::Target;
use crate::store::control::{ControlPlane, FunctionVersion};

use crate::cli::arguments::Limit;
use crate::cli::{Context, output};

/// Digits of a digest that a table shows.
const DIGEST_DIGITS: usize = 12;

#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    current_version: u32,
    versions: usize,
    rules: usize,
    digest: String,
    timeout_ms: u64,
    memory_bytes: u64,
    #[serde(with = "time::serde::rfc3339")]
    deployed_at: OffsetDateTime,
}

#[derive(Serialize)]
struct Details<'a> {
    name: &'a str,
    current_version: u32,
    versions: Vec<Version<'a>>,
    rules: Vec<&'a str>,
}

#[derive(Serialize)]
struct Version<'a> {
    version: u32,
    current: bool,
    digest: String,
    bytes: i64,
    #[serde(with = "time::serde::rfc3339")]
    deployed_at: OffsetDateTime,
    limits: &'a Limits,
    grants: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql_role: Option<&'a str>,
    config: &'a BTreeMap<String, String>,
    #[serde(skip)]
    form: Form,
}

/// Lists the functions.
///
/// # Errors
/// Those of the database.
pub async fn list(limit: &Limit, context: &Context) -> anyhow::Result<ExitCode> {
    let tables = context.store().await?.control_plane().await.context("failed to read the functions")?;
    let current = tables.functions.iter().filter(|v| v.current);
    let rows: Vec<Summary<'_>> = limit.first(current.map(|v| summary(v, &tables)));
    let columns = ["name", "version", "versions", "rules", "sha256", "timeout", "memory", "deployed"];
    context.output.list(&columns, &rows, |row| {
        vec![
            row.name.to_owned(),
            row.current_version.to_string(),
            row.versions.to_string(),
            row.rules.to_string(),
            row.digest[..DIGEST_DIGITS.min(row.digest.len())].to_owned(),
            duration_text(std::time::Duration::from_millis(row.timeout_ms)),
            size_text(row.memory_bytes),
            output::moment(row.deployed_at),
        ]
    })?;
    for (name, version, error) in &tables.unreadable {
        context.output.note(&format!("{name}@{version} cannot be read: {error}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary<'a>(version: &'a FunctionVersion, tables: &'a ControlPlane) -> Summary<'a> {
    Summary {
        name: &version.function,
        current_version: version.version,
        versions: tables.functions.iter().filter(|v| v.function == version.function).count(),
        rules: rules(tables, &version.function).len(),
        digest: hex(&version.digest),
        timeout_ms: version.spec.limits.timeout_ms,
        memory_bytes: version.spec.limits.memory_bytes,
        deployed_at: version.created_at,
    }
}

/// Shows the function `name`.
///
/// # Errors
/// No such function, those of the database.
pub async fn show(name: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the functions")?;
    let current = super::current(&tables, name)?;
    let sizes = store.component_sizes(name).await?;
    let versions = tables.functions.iter().rev().filter(|v| v.function == name);
    let version = |v| Version::of(v, &sizes);
    let details = Details {
        name: &current.function,
        current_version: current.version,
        versions: versions.map(version).collect(),
        rules: rules(&tables, name),
    };
    context.output.one(&details, text)?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Version<'a> {
    fn of(version: &'a FunctionVersion, sizes: &BTreeMap<u32, i64>) -> Self {
        Self {
            version: version.version,
            current: version.current,
            digest: hex(&version.digest),
            bytes: sizes.get(&version.version).copied().unwrap_or_default(),
            deployed_at: version.created_at,
            limits: &version.spec.limits,
            grants: version.spec.grants.publish.iter().map(String::as_str).collect(),
            sql_role: version.spec.grants.sql.as_ref().map(|grant| grant.role.as_str()),
            config: &version.spec.config,
            form: function_form(&version.spec),
        }
    }
}

fn rules<'a>(tables: &'a ControlPlane, function: &str) -> Vec<&'a str> {
    let runs = |target: &Target| matches!(target, Target::Run { function: f, .. } if f == function);
    tables.rules.iter().filter(|r| runs(&r.rule.target)).map(|r| r.rule.name.as_str()).collect()
}

fn text(details: &Details<'_>) -> String {
    let rules = if details.rules.is_empty() { "-".to_owned() } else { details.rules.join(", ") };
    let mut text = output::fields(&[
        ("function", details.name.to_owned()),
        ("current", details.current_version.to_string()),
        ("rules", rules),
    ]);
    for version in &details.versions {
        let mark = if version.current { " (current)" } else { "" };
        let mut rows = vec![
            ("sha256", version.digest.clone()),
            ("size", output::bytes(version.bytes.unsigned_abs())),
            ("deployed", output::moment(version.deployed_at)),
        ];
        for key in ["limits", "grants", "config"] {
            rows.push((key, version.form.get(key).map_or_else(|| "default".to_owned(), ToString::to_string)));
        }
        text.push_str(&format!("\nversion {}{mark}\n{}", version.version, output::fields(&rows)));
    }
    text
}
