//! `oncue export`: writes the tables as a manifest.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use crate::config::{self, Exported};
use crate::function::hex;
use crate::runtime;
use crate::store::Store;

use super::Context;

/// What may be typed after `oncue export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also write the components below this directory, each to the path that the manifest gives it; existing files stay
    #[arg(long, value_name = "DIR")]
    components: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    manifest: &'a str,
    left_out: &'a [String],
}

/// Writes the manifest to stdout.
///
/// # Errors
/// A broken manifest at hand, those of the database, a component that cannot be written.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the tables")?;
    let exported = config::export(&tables, context.config()?);
    for reason in &exported.left_out {
        context.output.note(&format!("left out: {reason}"));
    }
    for (key, variable) in &exported.replaced {
        context
            .output
            .note(&format!("not written: {key}, which may hold a password; set {variable} where the manifest is used"));
    }
    if let Some(directory) = &args.components {
        for (path, digest) in &exported.components {
            let note = write_component(&store, directory, path, digest).await?;
            context.output.note(&note);
        }
    }
    let Exported { text, left_out, .. } = &exported;
    if context.output.is_json() {
        context.output.one(&Document { manifest: text, left_out }, |_| String::new())?;
    } else {
        context.output.file(text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn write_component(store: &Store, directory: &Path, path: &str, digest: &[u8]) -> anyhow::Result<String> {
    let file = directory.join(path);
    let shown = file.display();
    let is_relative = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    anyhow::ensure!(
        is_relative,
        "the component's path {path} leads out of {}; give it another one",
        directory.display()
    );
    if let Ok(bytes) = std::fs::read(&file) {
        let same = runtime::digest(&bytes)[..] == *digest;
        return Ok(if same {
            format!("{shown} is there")
        } else {
            format!("kept {shown}, which is another component")
        });
    }
    let bytes = store.component(digest).await?;
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    }
    std::fs::write(&file, bytes).with_context(|| format!("failed to write {shown}"))?;
    Ok(format!("wrote {shown}, sha256 {}", hex(digest)))
}
