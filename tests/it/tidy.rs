//! The taste of the house, enforced: layers, sizes, homes of outside crates, and what only some may do.
//!
//! The rules are those of ARCHITECTURE.md; whoever changes them there changes them here in the same commit.

mod security;
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use self::source::Source;

/// Most lines of a file, its test module not counted.
const FILE_LINES: usize = 400;
/// Most lines of a function.
const FUNCTION_LINES: usize = 70;

/// The layers, lowest first. A file imports from its own layer and from lower ones.
const LAYERS: [&[&str]; 7] = [
    &["drain", "event", "lsn", "printable", "retry", "sqlstate", "telemetry", "watermark"],
    &["delivery", "function", "pattern", "pgtype", "rules", "transform"],
    &["bus", "outputs", "runtime", "store"],
    &["dispatch", "settle"],
    &["health", "triggers"],
    &["config", "node"],
    &["cli", "dev"],
];

/// Modules of a lower or the same layer that a module must not see all the same.
const STRANGERS: [(&str, &[&str]); 7] = [
    ("triggers", &["runtime", "store::Store", "rules"]),
    ("runtime", &["store", "rules", "pattern", "bus", "outputs"]),
    ("store", &["runtime", "bus", "outputs", "pattern"]),
    ("bus", &["store", "runtime", "rules"]),
    ("pattern", &["function", "delivery", "rules"]),
    ("event", &["drain", "retry", "watermark"]),
    ("retry", &["drain", "event"]),
];

/// Outside crates and where they live; a directory means the file beside it too.
const HOMES: [(&str, &[&str]); 13] = [
    ("tokio_postgres", &["src/store/guest"]),
    ("pgwire_replication", &["src/triggers/postgres"]),
    ("rdkafka", &["src/bus/kafka", "src/triggers/kafka"]),
    ("async_nats", &["src/bus", "src/triggers", "src/outputs"]),
    ("sqlx", &["src/store", "src/bus/postgres"]),
    ("wasmtime", &["src/runtime"]),
    ("wasmtime_wasi", &["src/runtime"]),
    ("clap", &["src/cli", "src/main"]),
    ("axum", &["src/health"]),
    ("hyper", &["src/health"]),
    ("hyper_util", &["src/health"]),
    ("metrics", &["src/telemetry"]),
    ("notify", &["src/dev"]),
];

/// Words that only some may use: the word, where, and why.
const WORDS: [(&[&str], &[&str], &str); 7] = [
    (
        &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        &[],
        "nothing prints so: data goes through cli/output, the rest is logged",
    ),
    (
        &["io::stdout()", "io::stderr()"],
        &["src/cli", "src/main", "src/dev", "src/telemetry"],
        "nothing but the command line prints",
    ),
    (
        &["env::var(", "env::var_os(", "env::vars(", "env::vars_os("],
        &["src/config"],
        "nothing but config reads the environment",
    ),
    (&["env::set_var(", "process::exit("], &[], "only main ends the process, nobody changes its environment"),
    (&[".unwrap()"], &[], "say in `expect` why it cannot happen, or return the error"),
    (&["unsafe "], &["src/runtime/cache.rs"], "one module is exempt"),
    (&["tokio::spawn(", "unbounded_channel("], &[], "tasks are tracked by drain, queues are bounded"),
];

/// Every breach of the rules in `sources`.
fn breaches(sources: &[Source]) -> Vec<String> {
    let tests = test_files(sources);
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| !tests.iter().any(|test| s.path.starts_with(test))) {
        sizes(source, &mut found);
        layers(source, &mut found);
        homes(source, &mut found);
        words(source, &mut found);
    }
    found
}

/// The files of modules that exist for tests only, as beginnings of their paths.
fn test_files(sources: &[Source]) -> Vec<String> {
    let inside = |source: &Source| {
        let path = source.path.strip_suffix(".rs").unwrap_or(&source.path).to_owned();
        let root = matches!(path.as_str(), "src/lib" | "src/main");
        if root { "src".to_owned() } else { path }
    };
    let of = |source: &Source| {
        let dir = inside(source);
        let files =
            source.test_modules.iter().flat_map(move |name| [format!("{dir}/{name}.rs"), format!("{dir}/{name}/")]);
        files.collect::<Vec<_>>()
    };
    sources.iter().flat_map(of).collect()
}

fn sizes(source: &Source, found: &mut Vec<String>) {
    let path = &source.path;
    if !source.text.starts_with("//!") {
        found.push(format!("{path}:1: no //! that says what the file is for"));
    }
    if source.length() > FILE_LINES {
        found.push(format!("{path}:{}: {} lines, more than {FILE_LINES}", source.length(), source.length()));
    }
    for (line, name, lines) in source.functions() {
        if lines > FUNCTION_LINES {
            found.push(format!("{path}:{line}: fn {name} has {lines} lines, more than {FUNCTION_LINES}"));
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn layers(source: &Source, found: &mut Vec<String>) {
    let module = source.module();
    if matches!(module, "lib" | "main") {
        return;
    }
    let Some(own) = layer(module) else {
        found.push(format!("{}:1: module {module} has no layer: add it to ARCHITECTURE.md and here", source.path));
        return;
    };
    let strangers = STRANGERS.iter().find(|(name, _)| *name == module).map_or([].as_slice(), |(_, s)| s);
    for (line, path) in imports(source) {
        let other = path.split("::").next().unwrap_or_default();
        if other == module || matches!(other, "telemetry" | "drain") {
            continue;
        }
        let place = format!("{}:{line}", source.path);
        match layer(other) {
            Some(level) if level > own => {
                found.push(format!("{place}: {module} (layer {own}) imports {other} (layer {level})"));
            }
            Some(_) if strangers.iter().any(|s| path == **s || path.starts_with(&format!("{s}::"))) => {
                found.push(format!("{place}: {module} must not see {path}"));
            }
            Some(_) => {}
            None => found.push(format!("{place}: crate::{other} is no module with a layer")),
        }
    }
}

/// Every `crate::a::b` of the code, a group `crate::{a, b::c}` taken apart, with its line.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices("crate::") {
        if source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = source.code[..at].matches('\n').count() + 1;
        let rest = &source.code[at + "crate::".len()..];
        let path: String = rest.chars().take_while(|c| is_path(*c)).collect();
        let after = &rest[path.len()..];
        let group = after.strip_prefix('{').and_then(|g| g.split('}').next()).unwrap_or_default();
        if group.is_empty() {
            found.push((line, path));
            continue;
        }
        let members = group.split(',').map(str::trim).filter(|m| !m.is_empty());
        found.extend(members.map(|m| (line, format!("{path}{}", m.split([' ', '{']).next().unwrap_or(m)))));
    }
    found
}

/// Whether `path` is the home or below it.
fn lives_in(path: &str, home: &str) -> bool {
    path == home || path.strip_prefix(home).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

fn homes(source: &Source, found: &mut Vec<String>) {
    for (name, homes) in HOMES {
        if homes.iter().any(|home| lives_in(&source.path, home)) {
            continue;
        }
        for (line, text) in source.lines() {
            let used = text.match_indices(name).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                let begins = !before.is_some_and(|c| c.is_alphanumeric() || "_:.\"".contains(c));
                let after = &text[at + name.len()..];
                let used = text.trim_start().starts_with("use ") && after.starts_with(';') || after.starts_with("::");
                begins && (used || text.contains(&format!("derive({name}")))
            });
            if used {
                found.push(format!("{}:{line}: {name} lives in {}", source.path, homes.join(", ")));
            }
        }
    }
}

fn words(source: &Source, found: &mut Vec<String>) {
    for (words, homes, why) in WORDS {
        if homes.iter().any(|home| lives_in(&source.path, home)) {
            continue;
        }
        for (line, text) in source.lines() {
            let ends_word = |c: char| c.is_alphanumeric() || c == '_';
            let is_word = |(at, word): (usize, &str)| !word.starts_with(ends_word) || !text[..at].ends_with(ends_word);
            let used = words.iter().find(|word| text.match_indices(**word).any(is_word));
            if let Some(word) = used {
                found.push(format!("{}:{line}: {}: {why}", source.path, word.trim()));
            }
        }
    }
}

fn read(dir: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the project");
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            sources.push(Source::new(&name.to_string_lossy(), &text));
        }
    }
}

#[test]
fn the_sources_keep_the_rules_of_the_house() {
    let mut sources = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    assert!(sources.len() > 100, "they are all read");
    let found = breaches(&sources);
    assert!(found.is_empty(), "{} breaches:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn every_module_of_the_library_has_exactly_one_layer() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).expect("it is there");
    let modules: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let layered: Vec<&str> = LAYERS.iter().flat_map(|modules| modules.iter().copied()).collect();
    let distinct: BTreeSet<&str> = layered.iter().copied().collect();
    assert_eq!(distinct.len(), layered.len(), "none is in two layers");
    assert_eq!(modules.into_iter().collect::<BTreeSet<_>>(), distinct);
}

#[test]
fn the_checker_finds_what_breaks_the_rules() {
    let long = format!("//! x\nfn f() {{\n{}}}\n", "    g();\n".repeat(70));
    let table = [
        ("src/store.rs", "use std::io;\n", "src/store.rs:1: no //!"),
        ("src/store.rs", &format!("//! x\n{}", "// y\n".repeat(400)), "src/store.rs:401: 401 lines"),
        ("src/store.rs", &long, "src/store.rs:2: fn f has 72 lines"),
        (
            "src/retry.rs",
            "//! x\n\nuse crate::store::Store;\n",
            "src/retry.rs:3: retry (layer 0) imports store (layer 2)",
        ),
        ("src/bus/nats.rs", "//! x\nuse crate::{event::Event, node::run};\n", "imports node (layer 5)"),
        (
            "src/rules.rs",
            "//! x\nfn f() {\n    crate::dispatch::go();\n}\n",
            "src/rules.rs:3: rules (layer 1) imports dispatch",
        ),
        ("src/triggers/nats.rs", "//! x\nuse crate::runtime::Runtime;\n", "triggers must not see runtime::Runtime"),
        ("src/triggers.rs", "//! x\nuse crate::store::Store;\n", "triggers must not see store::Store"),
        ("src/runtime.rs", "//! x\nuse crate::store::Store;\n", "runtime must not see store::Store"),
        ("src/node.rs", "//! x\nuse crate::surprise::Box;\n", "crate::surprise is no module"),
        ("src/surprise.rs", "//! x\n", "module surprise has no layer"),
        ("src/node.rs", "//! x\nuse sqlx::PgPool;\n", "src/node.rs:2: sqlx lives in src/store"),
        ("src/node.rs", "//! x\nfn f() { let x = async_nats::connect(); }\n", "async_nats lives in"),
        ("src/storeroom.rs", "//! x\nuse sqlx::PgPool;\n", "sqlx lives in"),
        ("src/node.rs", "//! x\nfn f() { println!(\"x\"); }\n", "src/node.rs:2: println!"),
        ("src/node.rs", "//! x\nfn f() { std::env::var(\"X\"); }\n", "nothing but config reads"),
        ("src/node.rs", "//! x\nfn f() { x.unwrap(); }\n", "src/node.rs:2: .unwrap()"),
        ("src/node.rs", "//! x\nfn f() { unsafe { g() } }\n", "src/node.rs:2: unsafe"),
        ("src/node.rs", "//! x\nfn f() { tokio::spawn(g()); }\n", "tokio::spawn("),
    ];
    for (path, text, expected) in table {
        let found = breaches(&[Source::new(path, text)]);
        assert!(found.iter().any(|breach| breach.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let table = [
        ("src/store/rules.rs", "//! x\nuse sqlx::PgPool;\nuse crate::{event::Event, telemetry};\n"),
        ("src/retry.rs", "//! x\nuse crate::telemetry;\n// println! and crate::node are words here.\n"),
        (
            "src/retry.rs",
            "//! x\nconst X: &str = \"crate::node println! unsafe \";\nconst Y: &str = r#\"x.unwrap()\"#;\n",
        ),
        ("src/retry.rs", "//! x\nfn f<'a>(x: &'a str) -> char { '\"' }\nfn g() { h(); }\n"),
        (
            "src/retry.rs",
            "//! x\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::node;\n    fn g() { x.unwrap(); }\n}\n",
        ),
        ("src/runtime/cache.rs", "//! x\nfn f() { unsafe { g() } }\n"),
        ("src/config/environment.rs", "//! x\nfn f() { std::env::vars_os(); }\n"),
        ("src/cli.rs", "//! x\nuse clap::Parser;\nuse crate::dev;\n"),
    ];
    for (path, text) in table {
        assert_eq!(breaches(&[Source::new(path, text)]), Vec::<String>::new(), "{text}");
    }
    let parent = Source::new("src/retry.rs", "//! x\n#[cfg(test)]\nmod table;\n");
    let tests = Source::new("src/retry/table.rs", "fn f() { x.unwrap(); }\n");
    assert_eq!(breaches(&[parent, tests]), Vec::<String>::new(), "a file for tests only is free");
}
