//! The command line as a script sees it: exit codes, data on stdout, and errors that name the place and the fix.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::process::{Said, manifest, run};
use crate::support::{World, eventually, functions};

const SHOP: &str = r#"
[trigger.signups]
bus = "main"
stream = "SIGNUPS"
subjects = ["user.>"]

[function.welcome]
component = "welcome.wasm"
grants = { publish = ["main/mail.*"] }

[[rule]]
name = "greet"
trigger = "signups"
pattern = '{"type":["user.signup"]}'
run = "welcome"
retry = { max_attempts = 2, base = "50ms", cap = "100ms" }
"#;

/// Servers with streams and no tables, and a manifest beside the component that it names.
async fn project(more: &str) -> (World, PathBuf) {
    let world = World::without_tables().await;
    world.stream("SIGNUPS", &["user.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    std::fs::write(world.dir.path().join("welcome.wasm"), functions::welcome()).expect("the component is written");
    let (manifest, _) = manifest(&world, "shop", more);
    (world, manifest)
}

async fn expect(manifest: &Path, code: i32, arguments: &[&str]) -> Said {
    let said = run(manifest, arguments).await;
    assert_eq!(said.code, code, "oncue {}: {said:?}", arguments.join(" "));
    said
}

/// What the command says with `--output json`, which must be one document.
async fn data(manifest: &Path, arguments: &[&str]) -> Value {
    let said = expect(manifest, 0, &[arguments, &["--output", "json"]].concat()).await;
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {arguments:?}: {}", said.out))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_planned_applied_exported_and_then_there_is_nothing_to_do() {
    let (world, manifest) = project(SHOP).await;
    let early = expect(&manifest, 1, &["rule", "list"]).await;
    assert!(early.err.contains("oncue migrate") && early.out.is_empty(), "{early:?}");
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["migrate"]).await;
    assert!(data(&manifest, &["plan"]).await.to_string().contains("greet"));
    expect(&manifest, 2, &["plan", "--detailed-exitcode"]).await;
    assert_eq!(world.number("select count(*) from oncue.rules").await, 0, "a plan changes nothing");
    expect(&manifest, 0, &["apply"]).await;
    let row = world.row("select trigger, run, retry_max_attempts, retry_base_ms, pattern from oncue.rules").await;
    let pattern = json!({ "type": ["user.signup"] });
    let rule = json!({ "trigger": "signups", "run": "welcome", "retry_max_attempts": 2, "retry_base_ms": 50, "pattern": pattern });
    assert_eq!(row, rule);
    expect(&manifest, 0, &["plan", "--detailed-exitcode"]).await;
    let version = world.number("select version from oncue.ruleset").await;
    expect(&manifest, 0, &["apply"]).await;
    assert_eq!(world.number("select version from oncue.ruleset").await, version, "the second time changes nothing");

    let exported = expect(&manifest, 0, &["export"]).await.out;
    let own = std::fs::read_to_string(&manifest).expect("the manifest is there");
    let settings = own.split("[trigger.").next().expect("its settings");
    // What an export cannot know is where the node finds its servers.
    let whole = if exported.contains("[node]") { exported.clone() } else { format!("{settings}{exported}") };
    // The address of the database comes from the environment: an export holds no secret.
    assert!(exported.contains("${NODE_DATABASE}") || !exported.contains("[node]"), "{exported}");
    let whole = whole.replace("${NODE_DATABASE}", world.postgres.url());
    let again = manifest.with_file_name("again.toml");
    std::fs::write(&again, whole).expect("it is written");
    let said = run(&again, &["plan", "--prune", "--detailed-exitcode"]).await;
    assert!(said.code == 0 || said.err.contains("component"), "{said:?}\n{exported}");
    assert!(
        exported.contains("greet") && exported.contains("user.signup") && exported.contains("stream = \"SIGNUPS\"")
    );

    // Without a rule in the manifest it stays, unless pruning is asked for.
    std::fs::write(&again, settings).expect("it is written");
    expect(&again, 0, &["apply"]).await;
    assert_eq!(world.number("select count(*) from oncue.rules").await, 1);
    expect(&again, 0, &["apply", "--prune"]).await;
    assert_eq!(world.number("select count(*) from oncue.rules").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_manifest_is_shown_with_its_place_and_fix() {
    let (_world, manifest) = project("").await;
    let own = std::fs::read_to_string(&manifest).expect("the manifest is there");
    let table = [
        ("[trigger.x]\nbus = \"main\"\nstreem = \"S\"\n", vec!["trigger.x", "streem", "stream"]),
        ("[trigger.x]\nbus = \"mian\"\nstream = \"S\"\n", vec!["trigger.x", "mian", "main"]),
        ("[function.f]\ncomponent = \"nowhere.wasm\"\n", vec!["nowhere.wasm"]),
        (
            "[function.f]\ncomponent = \"welcome.wasm\"\nlimits = { memory = \"lots\" }\n",
            vec!["function.f", "memory", "lots"],
        ),
        (
            "[[rule]]\nname = \"r\"\npattern = '{\"type\":[{\"prefx\":\"a\"}]}'\nrun = \"welcome\"\n",
            vec!["rule", "/type/0", "prefix"],
        ),
        ("[[rule]]\nname = \"r\"\npattern = '{}'\nrun = \"a\"\npublish = \"main/x\"\n", vec!["rule", "publish"]),
        ("[[rule]]\nname = \"r\"\nmatch_all = true\nrun = \"welcom\"\n", vec!["welcom"]),
        ("[nod]\n", vec!["nod", "node"]),
        ("[trigger.x\n", vec!["again.toml"]),
    ];
    let again = manifest.with_file_name("again.toml");
    let db = World::start().await;
    let own = own.replace(
        &own[own.find("postgres://").expect("an address")..own.find("\"\nhealth").expect("health")],
        db.postgres.url(),
    );
    for (text, words) in table {
        std::fs::write(&again, format!("{own}\n{text}")).expect("it is written");
        let said = run(&again, &["apply"]).await;
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{text}: {said:?}");
        for word in words {
            assert!(said.err.contains(word), "{word} in {}", said.err);
        }
    }
    assert_eq!(db.number("select count(*) from oncue.rules").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_cannot_run_is_refused_when_it_is_deployed() {
    let (world, manifest) = project("").await;
    expect(&manifest, 0, &["migrate"]).await;
    let dir = world.dir.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("it is written");
    write("garbage.wasm", b"this is no component");
    write("empty.wasm", b"");
    write("cut.wasm", &functions::welcome()[..10_000]);
    write("core.wasm", &wat::parse_str("(module)").expect("it is valid"));
    write("nothing.wasm", &wat::parse_str("(component)").expect("it is valid"));
    let import = r#"(component (import "evil:host/root" (instance (export "run" (func)))))"#;
    write("import.wasm", &wat::parse_str(import).expect("it is valid"));
    for (file, word) in [
        ("garbage.wasm", "garbage.wasm"),
        ("empty.wasm", "empty.wasm"),
        ("cut.wasm", "cut.wasm"),
        ("core.wasm", "component"),
        ("nothing.wasm", "handler"),
        ("import.wasm", "evil:host/root"),
        ("absent.wasm", "absent.wasm"),
    ] {
        let said = run(&manifest, &["function", "deploy", "f", file]).await;
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{file}: {said:?}");
        assert!(said.err.starts_with("error: ") && said.err.contains(word), "{file}: {}", said.err);
    }
    let said = run(&manifest, &["function", "deploy", "Bad Name", "welcome.wasm"]).await;
    assert!(said.code != 0, "{said:?}");
    assert_eq!(world.number("select count(*) from oncue.functions").await, 0);
    assert_eq!(world.number("select count(*) from oncue.components").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_with_data_on_stdout() {
    let (world, manifest) = project(SHOP).await;
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["apply"]).await;
    let node = Node::start(&world, "one").await;
    for email in ["a@example.com", "b@fail.example"] {
        let payload = json!({ "email": email }).to_string();
        expect(&manifest, 0, &["publish", "main/user.signup", &payload, "--id", email]).await;
    }
    expect(&manifest, 0, &["publish", "main/user.left", "{}"]).await;
    eventually("one is done and one is dead", async || {
        world.ledger("settlement = 'done'").await == 1
            && world.number("select count(*) from oncue.dead_letters").await == 1
    })
    .await;
    let letter = world.row("select id from oncue.dead_letters").await["id"].as_str().expect("an id").to_owned();
    let commands: [&[&str]; 18] = [
        &["event", "list"],
        &["event", "show", "a@example.com"],
        &["dead-letter", "list"],
        &["dead-letter", "show", &letter],
        &["usage"],
        &["usage", "--by", "rule"],
        &["usage", "--check"],
        &["function", "list"],
        &["function", "show", "welcome"],
        &["function", "logs", "welcome"],
        &["function", "invoke", "welcome", "--type", "user.signup", "--data", r#"{"email":"x@example.com"}"#],
        &["rule", "list"],
        &["rule", "show", "greet"],
        &["rule", "test", "greet", "--type", "user.signup", "--data", "{}"],
        &["trigger", "list"],
        &["trigger", "show", "signups"],
        &["plan"],
        &["version"],
    ];
    for command in commands {
        let value = data(&manifest, command).await;
        assert!(value.is_array() || value.is_object(), "{command:?}: {value}");
        let table = expect(&manifest, 0, command).await;
        assert!(!table.out.is_empty() && !table.out.contains('\u{1b}'), "{command:?}: {table:?}");
    }
    // These servers do not write to disk, so the doctor's answer is no.
    let findings = expect(&manifest, 1, &["doctor", "--output", "json"]).await.out;
    let findings: Vec<Value> = serde_json::from_str(&findings).expect("a list");
    let bad: Vec<&Value> = findings.iter().filter(|finding| finding["level"] == "error").collect();
    assert!(bad.len() == 1 && bad[0]["text"].to_string().contains("fsync is off"), "{bad:?}");
    let events = data(&manifest, &["event", "list"]).await.to_string();
    assert!(events.contains("a@example.com") && events.contains("b@fail.example"), "{events}");
    assert!(expect(&manifest, 0, &["completions", "bash"]).await.out.contains("oncue"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_redriven_and_done() {
    let (world, manifest) = project(SHOP).await;
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["apply"]).await;
    // A function that cannot greet the fifth one, then one that can.
    world.deploy("welcome", &functions::steered(), &functions::spec()).await;
    let node = Node::start(&world, "one").await;
    world
        .publish_events("user.signup", [("odd".to_owned(), r#"{"do":"f2","email":"a@example.com"}"#.to_owned())])
        .await;
    eventually("it is dead", async || world.number("select count(*) from oncue.dead_letters").await == 1).await;
    let letter = world.row("select id, class from oncue.dead_letters").await;
    assert_eq!(letter["class"], "retry");
    let id = letter["id"].as_str().expect("an id").to_owned();
    let dry = expect(&manifest, 0, &["dead-letter", "redrive", &id, "--dry-run", "--output", "json"]).await;
    assert!(dry.out.contains(&id), "{dry:?}");
    assert_eq!(world.number("select count(*) from oncue.dead_letters where state = 'dead'").await, 1);
    world.deploy("welcome", &functions::welcome(), &functions::spec()).await;
    eventually("the node knows the new version", async || {
        let known = node.metric("oncue_ruleset_version").await;
        known == Some(f64::from(i32::try_from(world.number("select version from oncue.ruleset").await).expect("few")))
    })
    .await;
    expect(&manifest, 0, &["dead-letter", "redrive", &id, "--with-current"]).await;
    eventually("it is done", async || world.ledger("settlement = 'done' and version = 3").await == 1).await;
    let row = world.row("select state, redriven_as from oncue.dead_letters").await;
    assert_eq!(row["state"], "redriven");
    let done = world.row("select delivery_id, event_id, attempt from oncue.ledger where settlement = 'done'").await;
    assert_eq!((&done["delivery_id"], &done["event_id"]), (&row["redriven_as"], &json!("odd")));
    let twice = run(&manifest, &["dead-letter", "redrive", &id]).await;
    assert!(twice.code == 1 || twice.err.contains("redriven") || twice.out.contains("redriven"), "{twice:?}");
    assert_eq!(world.ledger("settlement = 'done'").await, 1);
    assert_eq!(world.stored("MAIL").await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_message_is_redriven_once_it_can_be_read() {
    let (world, manifest) = project(SHOP).await;
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["apply"]).await;
    let mut settings = crate::support::node::config(&world, "small");
    settings.limits.max_bytes = 1_024;
    let node = Node::launch(settings);
    node.ready().await;
    let large = json!({ "email": "big@example.com", "filler": "x".repeat(2_000) }).to_string();
    world.publish("user.signup", &[], large.as_bytes()).await;
    eventually("it is rejected", async || {
        world.number("select count(*) from oncue.dead_letters where class = 'too_large'").await == 1
    })
    .await;
    // The command reads it by its own manifest, whose limit is larger.
    expect(&manifest, 0, &["dead-letter", "redrive", "--all", "--yes"]).await;
    eventually("it is done", async || world.ledger("settlement = 'done'").await == 1).await;
    assert_eq!(world.number("select count(*) from oncue.dead_letters where state = 'redriven'").await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_use_is_two_and_a_failure_is_one() {
    let (mut world, manifest) = project(SHOP).await;
    for arguments in [&["frobnicate"][..], &["rule", "show"], &["event", "list", "--nonsense"], &["publish"]] {
        let said = expect(&manifest, 2, arguments).await;
        assert!(said.out.is_empty() && said.err.contains("Usage"), "{said:?}");
    }
    assert!(expect(&manifest, 0, &["--help"]).await.out.contains("dead-letter"));
    assert!(expect(&manifest, 0, &["--version"]).await.out.contains("oncue "));
    expect(&manifest, 0, &["migrate"]).await;
    for arguments in [
        &["rule", "show", "nothing"][..],
        &["function", "show", "nothing"],
        &["trigger", "pause", "nothing"],
        &["event", "show", "nothing"],
        &["function", "promote", "nothing", "3"],
        &["dead-letter", "show", "00000000-0000-0000-0000-000000000000"],
        &["publish", "main/elsewhere", "{}"],
        &["rule", "test", "--pattern", r#"{"type":["a"]}"#, "--type", "b", "--data", "{}"],
    ] {
        let said = run(&manifest, arguments).await;
        assert_eq!(said.code, 1, "{arguments:?}: {said:?}");
    }
    world.postgres.stop_immediate().await;
    let said = expect(&manifest, 1, &["rule", "list"]).await;
    assert!(said.err.contains("postgres is not reachable") && said.err.contains("fix:"), "{said:?}");
    let said = run(&manifest, &["doctor"]).await;
    assert!(said.code == 1 && said.out.to_lowercase().contains("postgres"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_rules_and_triggers_are_changed_by_commands() {
    let (world, manifest) = project("").await;
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["function", "deploy", "welcome", "welcome.wasm", "--grant", "main/mail.*"]).await;
    expect(
        &manifest,
        0,
        &["function", "deploy", "welcome", "welcome.wasm", "--set", "greeting=Hi", "--grant", "main/mail.*"],
    )
    .await;
    let current = async || world.number("select current_version from oncue.functions").await;
    assert_eq!(current().await, 2);
    expect(&manifest, 0, &["function", "rollback", "welcome"]).await;
    assert_eq!(current().await, 1);
    expect(&manifest, 0, &["function", "promote", "welcome", "2"]).await;
    assert_eq!(current().await, 2);
    let pattern = r#"{"type":["user.signup"]}"#;
    expect(&manifest, 0, &["rule", "add", "greet", "--pattern", pattern, "--run", "welcome"]).await;
    let bad = run(&manifest, &["rule", "add", "bad", "--pattern", r#"{"type":[{"x":1}]}"#, "--run", "welcome"]).await;
    assert!(bad.code != 0 && bad.err.contains("/type/0"), "{bad:?}");
    let nobody = run(&manifest, &["rule", "add", "bad", "--pattern", pattern, "--run", "nobody"]).await;
    assert!(nobody.code == 1 && nobody.err.contains("nobody"), "{nobody:?}");
    expect(&manifest, 0, &["rule", "disable", "greet"]).await;
    assert_eq!(world.number("select count(*) from oncue.rules where enabled").await, 0);
    expect(&manifest, 0, &["rule", "enable", "greet"]).await;
    assert_eq!(world.number("select count(*) from oncue.rules where enabled").await, 1);
    world.jetstream_trigger("signups", "SIGNUPS", json!({})).await;
    let node = Node::start(&world, "one").await;
    expect(&manifest, 0, &["trigger", "pause", "signups"]).await;
    eventually("it is paused", async || {
        node.component("trigger/signups").await.is_some_and(|(state, _)| state == "paused")
    })
    .await;
    expect(&manifest, 0, &["publish", "user.signup", r#"{"email":"a@example.com"}"#]).await;
    expect(&manifest, 0, &["trigger", "resume", "signups"]).await;
    eventually("it is done", async || world.ledger("settlement = 'done' and version = 2").await == 1).await;
    world.jetstream.delete_stream("SIGNUPS").await.expect("it is deleted");
    world.stream("SIGNUPS", &["user.>"]).await;
    eventually("there is a gap", async || world.row("select state from oncue.triggers").await["state"] == "gap").await;
    let refused = run(&manifest, &["trigger", "resume", "signups"]).await;
    assert!(refused.code == 1 && refused.err.contains("--accept-gap"), "{refused:?}");
    expect(&manifest, 0, &["trigger", "resume", "signups", "--accept-gap"]).await;
    expect(&manifest, 0, &["publish", "user.signup", r#"{"email":"b@example.com"}"#]).await;
    eventually("the new stream is read", async || world.ledger("settlement = 'done'").await == 2).await;
    node.stop().await;
}

/// What `rule backtest --file` tried, `rule add --file` takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_added_from_every_form_of_file_that_holds_one() {
    let (world, manifest) = project("").await;
    expect(&manifest, 0, &["migrate"]).await;
    let keys =
        |name: &str| format!("name = \"{name}\"\npattern = '{{\"type\":[\"a\"]}}'\npublish = \"main/mail.welcome\"\n");
    let section = |name: &str| format!("[[rule]]\n{}", keys(name));
    let json = json!({ "name": "json", "match_all": true, "publish": "main/mail.welcome" }).to_string();
    let file = |name: &str, text: &str| {
        let path = world.dir.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.display().to_string()
    };
    for (name, text) in [("keys", keys("keys")), ("section", section("section")), ("json", json)] {
        expect(&manifest, 0, &["rule", "add", "--file", &file(name, &text)]).await;
    }
    let two = file("two.toml", &format!("{}{}", section("one"), section("two")));
    let said = run(&manifest, &["rule", "add", "--file", &two]).await;
    assert!(said.code == 1 && said.err.contains("does not hold one rule"), "{said:?}");
    assert_eq!(world.number("select count(*) from oncue.rules").await, 3);
}
