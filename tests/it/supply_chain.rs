//! What is built in comes from one registry, unchanged, under licences and from packages that `deny.toml` allows.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_package_is_of_the_registry_and_has_its_checksum() {
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock: toml::Table = text(lock).parse().expect("it is TOML");
        let packages = lock["package"].as_array().expect("packages");
        for package in packages {
            let field = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
            let is_ours = ["oncue", "oncue-fuzz"].contains(&field("name")) && field("source").is_empty();
            let is_known = field("source") == REGISTRY && field("checksum").len() == 64;
            assert!(is_ours || is_known, "{} {} is from {:?}", field("name"), field("version"), field("source"));
        }
    }
}

#[test]
fn ci_checks_the_dependencies() {
    assert!(text(".ci/run").lines().any(|line| line == "scripts/deny"));
}

/// Runs cargo-deny by our `deny.toml` on a package that depends on `name` with `licence`.
fn deny(name: &str, licence: &str, checks: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let package = |folder: &Path, name: &str, licence: &str, more: &str| {
        std::fs::create_dir_all(folder.join("src")).expect("a folder");
        std::fs::write(folder.join("src/lib.rs"), "").expect("it is written");
        let head =
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"{licence}\"\n");
        std::fs::write(folder.join("Cargo.toml"), head + more).expect("it is written");
    };
    package(&dir.path().join("dependency"), name, licence, "");
    let depends = format!("[dependencies]\n{name} = {{ path = \"dependency\", version = \"0.1.0\" }}\n");
    package(dir.path(), "whole", "MIT", &depends);
    let ours = root().join(".tools/bin/cargo-deny");
    let program = if ours.exists() { ours } else { PathBuf::from("cargo-deny") };
    let mut command = Command::new(program);
    command.arg("--offline").arg("--config").arg(root().join("deny.toml"));
    command.arg("check").args(checks).current_dir(dir.path());
    command.output().unwrap_or_else(|error| panic!("cargo-deny: {error}: run scripts/setup"))
}

#[test]
fn a_dependency_that_may_not_be_is_refused() {
    let table = [
        ("good", "MIT", true),
        ("good", "Apache-2.0 OR GPL-3.0-only", true),
        ("copyleft", "GPL-3.0-only", false),
        ("copyleft", "AGPL-3.0-only", false),
        // Allowed for `notify` and `webpki-roots` alone.
        ("other", "CC0-1.0", false),
        ("openssl", "MIT", false),
        ("native-tls", "MIT", false),
        // Only rustls may bring it.
        ("aws-lc-rs", "MIT", false),
    ];
    for (name, licence, good) in table {
        let said = deny(name, licence, &["bans", "licenses", "sources"]);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.success(), good, "{name} {licence}: {text}");
        assert!(good || text.contains(name), "{name} {licence}: {text}");
    }
}
