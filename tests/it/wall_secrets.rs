//! Secrets stay where they are: one is planted in every key that can hold one, under its name, under every name that is one
//! slip away from it, with other types and in broken addresses; nothing that Oncue says holds a part of it.

use std::path::Path;

use oncue::config::{Config, Environment};
use serde_json::json;

use crate::support::process::{self, Process};
use crate::support::{World, eventually};

/// The secret; an address may hold a character between its halves.
const HALVES: [&str; 2] = ["Zq7Xw", "9Kv3Rt"];
/// A secret of digits, for whoever forgets the quotes.
const DIGITS: &str = "7155177155";

fn secret() -> String {
    HALVES.concat()
}

/// Panics if `text` holds a part of a secret.
fn clean(what: &str, text: &str) {
    let leaked = HALVES.iter().chain([&DIGITS]).any(|part| text.contains(part));
    assert!(!leaked, "{what} shows a secret:\n{text}");
}

/// Sections with the keys in them that may hold a secret, and what else the section needs.
fn sections() -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    vec![
        ("[node]", "", &["database", "name", "health", "cache_dir", "drain", "log", "limits", "connections"]),
        ("[node.log]", "", &["filter", "format"]),
        ("[bus.events]", "kind = \"nats\"\nurl = \"nats://h:4222\"", &["password", "token", "credentials", "user"]),
        ("[bus.events]", "kind = \"nats\"", &["url"]),
        ("[bus.events.tls]", "", &["ca", "cert", "key", "required"]),
        (
            "[bus.k]",
            "kind = \"kafka\"\nurl = \"h:9092\"",
            &["password", "token", "mechanism", "publish", "credentials"],
        ),
        ("[bus.k]", "kind = \"kafka\"", &["url"]),
        (
            "[bus.k.options]",
            "",
            &[
                "\"ssl.key.password\"",
                "\"ssl.keystore.password\"",
                "\"sasl.password\"",
                "\"linger.ms\"",
                "\"client.rack\"",
            ],
        ),
        ("[bus.app]", "kind = \"postgres\"\nurl = \"postgres://h/d\"", &["password", "user", "accept_unbounded_wal"]),
        ("[bus.app]", "kind = \"postgres\"", &["url"]),
    ]
}

/// A manifest with `line` in `section`.
fn manifest(section: &str, needs: &str, line: &str) -> String {
    let bus = |name: &str, kind: &str, url: &str| {
        let header = format!("[bus.{name}");
        let is_inner = section.starts_with(&format!("{header}."));
        if is_inner { format!("{header}]\nkind = \"{kind}\"\nurl = \"{url}\"\n") } else { String::new() }
    };
    let outer = bus("events", "nats", "nats://h:4222") + &bus("k", "kafka", "h:9092");
    format!("{outer}{section}\n{needs}\n{line}\n")
}

/// Every text that is one slip away from `word`: a character too few, too many, wrong or out of its turn.
fn slips(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    let with = |edit: &dyn Fn(&mut Vec<char>)| {
        let mut letters = letters.clone();
        edit(&mut letters);
        letters.into_iter().collect::<String>()
    };
    let mut found = Vec::new();
    for at in 0..letters.len() {
        found.push(with(&|l| _ = l.remove(at)));
        if at + 1 < letters.len() {
            found.push(with(&|l| l.swap(at, at + 1)));
        }
        for c in ('a'..='z').chain(['_', '-', '.', 'X', '7', ' ']) {
            found.push(with(&|l| l[at] = c));
            found.push(with(&|l| l.insert(at, c)));
        }
    }
    found.extend(('a'..='z').map(|c| format!("{word}{c}")));
    found
}

fn environment() -> Environment {
    let url = format!("postgres://u:{}@h/d", secret());
    Environment::default().with("APP_TOKEN", &secret()).with("DATABASE_URL", &url).with("NATS_URL", "nats://h:4222")
}

/// Reads `text`: neither the errors nor what is read may show the secret.
fn read(text: &str) -> bool {
    read_in(text, &environment())
}

fn read_in(text: &str, environment: &Environment) -> bool {
    let config = Config::parse(Path::new("oncue.toml"), text, environment);
    match &config {
        Ok(config) => clean(text, &format!("{:?} {:?}", config.node.database, config.buses)),
        Err(errors) => clean(text, &format!("{errors} {errors:?}")),
    }
    config.is_ok()
}

/// What `key` could hold, with the secret in it.
fn value_of(key: &str, needs: &str) -> String {
    let secret = secret();
    match key {
        "database" => format!("postgres://u:{secret}@h/d"),
        "url" if needs.contains("kafka") => format!("u:{secret}@h:9092"),
        "url" if needs.contains("postgres") => format!("postgres://u:{secret}@h/d"),
        "url" => format!("nats://u:{secret}@h:4222"),
        _ => secret,
    }
}

#[test]
fn no_key_that_is_one_slip_away_shows_its_value() {
    let mut count = 0;
    for (section, needs, keys) in sections() {
        for key in keys {
            let value = value_of(key, needs);
            let environment = environment().with("APP_VALUE", &value);
            for name in [(*key).to_owned()].into_iter().chain(slips(key)) {
                for value in [format!("\"{value}\""), "\"${APP_VALUE}\"".to_owned(), DIGITS.to_owned()] {
                    read_in(&manifest(section, needs, &format!("{name} = {value}")), &environment);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 20_000, "{count} manifests are few");
}

#[test]
fn no_slip_in_the_name_of_a_section_shows_what_is_in_it() {
    for (section, needs, keys) in sections() {
        for name in slips(section) {
            read(&manifest(&name, needs, &format!("{} = \"{}\"", keys[0], value_of(keys[0], needs))));
        }
    }
    for key in ["node", "bus", "database", "password", "rule", "trigger", "function"] {
        read(&format!("{key} = \"{}\"\n", secret()));
    }
}

#[test]
fn no_slip_in_a_line_shows_its_value() {
    let secret = secret();
    for line in [
        format!("password = \"{secret}\""),
        format!("token = '{secret}'"),
        format!("password = \"\"\"{secret}\"\"\""),
        format!("tls = {{ ca = \"{secret}\" }}"),
        format!("password = {secret}"),
        format!("password = \"${{{secret}}}\""),
        format!("password = \"${{{secret}\""),
        format!("password = \"${{X:-{secret}}}\""),
        format!("password = [\"{secret}\"]"),
        format!("password = {{ a = \"{secret}\" }}"),
        format!("password = {DIGITS}{DIGITS}{DIGITS}{DIGITS}{DIGITS}"),
        format!("password = {DIGITS}.5"),
        format!("password = 0x{DIGITS}"),
    ] {
        for line in slips(&line).into_iter().chain([line.clone()]) {
            // A slip inside the secret leaves a half that is looked for.
            read(&manifest("[bus.events]", "kind = \"nats\"\nurl = \"nats://h:4222\"", &line));
        }
    }
}

/// Addresses with a password that has a character which means something in an address.
fn addresses() -> Vec<String> {
    let [first, second] = HALVES;
    let mut found = Vec::new();
    for scheme in
        ["postgres://", "postgresql://", "nats://", "tls://", "postgres:/", "postgre://", "", "kafka://", "pg:"]
    {
        for between in ["", "@", "/", "?", "#", ":", "%", "%zz", "[", "]", " ", ",", "&", "=", "\\\\", "é"] {
            let password = format!("{first}{between}{second}");
            for place in ["h:4222/d", "h/d", "h:99999/d", "h:x/d", "", "[::1/d", "h,g/d"] {
                found.push(format!("{scheme}u:{password}@{place}"));
                found.push(format!("{scheme}{password}@{place}"));
            }
            for key in ["password", "passwrd", "sslmode", "user", "options", "port", "hostaddr", "sslpassword", "x"] {
                found.push(format!("{scheme}u@h/d?{key}={password}"));
            }
            found.push(format!("{scheme}u:12{between}{second}@h/d"));
        }
    }
    found
}

#[tokio::test]
async fn no_broken_address_is_shown() {
    for url in addresses() {
        read(&manifest("[node]", "", &format!("database = \"{url}\"")));
        for kind in ["nats", "kafka", "postgres"] {
            let text = manifest("[bus.app]", &format!("kind = \"{kind}\""), &format!("url = \"{url}\""));
            read(&text);
        }
        if let Err(error) = oncue::store::Store::connect_lazy(&oncue::store::Config::new(url.as_str())) {
            clean(&url, &format!("{error} {error:?}"));
        }
        clean(&url, &oncue::bus::shown::shown(&format!("nats://u:{}@h:4222,{url}", secret())));
    }
}

/// A manifest that works, with a secret wherever one can be; the servers ask for none.
fn planted(world: &World) -> String {
    let secret = secret();
    let nats = world.nats_server.url().replace("nats://", &format!("nats://u:{secret}@"));
    format!(
        "[bus.other]\nkind = \"nats\"\nurl = \"{nats}\"\n\n\
         [bus.app]\nkind = \"postgres\"\nurl = \"{}\"\n\n\
         [bus.token]\nkind = \"nats\"\nurl = \"{}\"\ntoken = \"{secret}\"\n\n\
         [bus.away]\nkind = \"nats\"\nurl = \"nats://u:{secret}@127.0.0.1:1\"\n\n\
         [bus.k]\nkind = \"kafka\"\nurl = \"127.0.0.1:1\"\nmechanism = \"PLAIN\"\nuser = \"u\"\npassword = \"{secret}\"\n\
         tls = {{ required = true }}\n\n[bus.k.options]\n\"ssl.key.password\" = \"{secret}\"\n",
        with_password(world.postgres.url()),
        world.nats_server.url(),
    )
}

fn with_password(url: &str) -> String {
    format!("{url}{}password={}", if url.contains('?') { '&' } else { '?' }, secret())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_shows_no_secret_of_a_manifest_that_works() {
    let world = World::start().await;
    let (path, _) = process::manifest(&world, "planted", &planted(&world));
    let text = std::fs::read_to_string(&path).expect("the manifest");
    let url = world.postgres.url();
    std::fs::write(&path, text.replacen(url, &with_password(url), 1)).expect("it is written");
    for command in [
        &["plan"][..],
        &["--output", "json", "plan"],
        &["apply"],
        &["doctor"],
        &["--output", "json", "doctor"],
        &["export"],
        &["--output", "json", "export"],
        &["trigger", "list"],
        &["rule", "list"],
        &["dead-letter", "list"],
        &["serve", "--help"],
    ] {
        let said = process::run(&path, command).await;
        clean(&command.join(" "), &format!("{}{}", said.out, said.err));
        if command.contains(&"export") {
            let replaced = ["${BUS_TOKEN_TOKEN}", "${BUS_K_PASSWORD}", "${BUS_OTHER_URL}", "${NODE_DATABASE}"];
            assert!(replaced.iter().all(|variable| said.out.contains(variable)), "{said:?}");
            assert!(said.err.contains("bus.k.options.ssl.key.password"), "{said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_no_secret_in_logs_pages_tables_and_its_command_line() {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    for bus in ["other", "token", "away", "app", "k"] {
        let (kind, spec) = match bus {
            "app" => ("postgres", json!({ "tables": ["nothing"] })),
            "k" => ("kafka", json!({ "topics": ["t"] })),
            _ => ("jetstream", json!({ "stream": "WORK" })),
        };
        let insert = "insert into oncue.triggers (name, bus, kind, spec) values ($1, $1, $2, $3)";
        sqlx::query(insert).bind(bus).bind(kind).bind(spec).execute(&world.pool).await.expect("it is stored");
    }
    let node = Process::launch_logging(&world, "one", &planted(&world), "trace");
    eventually("what cannot be reached is told", async || {
        let (_, body) = node.get("/readyz").await.unwrap_or_default();
        clean("/readyz", &body);
        ["bus/away", "trigger/app", "trigger/k"].iter().all(|component| {
            let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let found =
                answer["components"].as_array().and_then(|all| all.iter().find(|c| c["component"] == **component));
            found.is_some_and(|found| found["reason"].as_str().is_some_and(|reason| !reason.is_empty()))
        })
    })
    .await;
    let (_, metrics) = node.get("/metrics").await.expect("it answers");
    clean("/metrics", &metrics);
    clean("the command line", &node.command_line());
    for table in ["triggers", "nodes", "rules", "dead_letters"] {
        let rows = world.rows(&format!("select * from oncue.{table}")).await;
        clean(table, &json!(rows).to_string());
    }
    clean("the log", &node.log_text());
    assert!(node.log_text().contains("DEBUG"), "the node logs everything");
    assert!(node.terminate().await.success());
    clean("the log", &node_log(&world, "one"));
}

fn node_log(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.dir.path().join(format!("{name}.log"))).expect("the log")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_shows_no_secret_of_a_manifest_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = secret();
    let wrong = [
        format!("[bus.events]\nkind = \"nats\"\nurl = \"nats://h:4222\"\ntokens = \"{secret}\""),
        format!("[bus.events]\nkind = \"nats\"\nurl = \"nats://h:4222\"\npasswd = \"{secret}\""),
        format!("[node]\ndatabse = \"postgres://u:{secret}@h/d\""),
        format!("[bus.events]\nkind = \"nats\"\nurl = \"nats://h:4222\"\nuser = \"u\"\npassword = {DIGITS}"),
        format!("databse = \"postgres://u:{secret}@h/d\""),
        format!("[bus.events]\nkind = \"{secret}\"\nurl = \"nats://h:4222\""),
        format!("[bus.events]\nkind = \"nats\"\nurl = \"nats://h:4222\"\ntoken = \"{secret}"),
        format!("[bus.k]\nkind = \"kafka\"\nurl = \"{secret}@h\""),
        format!("[node]\ndatabase = \"postgres://u:{secret}@127.0.0.1:1/d\""),
        format!("[node]\ndatabase = \"postgres://u@127.0.0.1:1/d?passwrd={secret}\""),
    ];
    for (at, text) in wrong.iter().enumerate() {
        let path = dir.path().join(format!("wrong{at}.toml"));
        std::fs::write(&path, text).expect("it is written");
        for command in [&["plan"][..], &["doctor"], &["apply"], &["export"], &["--output", "json", "doctor"]] {
            let said = process::run(&path, command).await;
            assert_ne!(said.code, 0, "{text}: {command:?}");
            clean(text, &format!("{}{}", said.out, said.err));
        }
        // A node whose database is away goes on trying: that one is not run.
        if !text.contains("127.0.0.1:1/d\"") {
            let said = process::run(&path, &["serve"]).await;
            assert_ne!(said.code, 0, "{text}");
            clean(text, &format!("{}{}", said.out, said.err));
        }
    }
}
