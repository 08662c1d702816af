//! Tables of mistakes and their errors.

use std::path::Path;

use super::*;

mod round_trip;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let environment = Environment::default().with("NATS_URL", "nats://h:4222").with("DATABASE_URL", "postgres://h/d");
    Config::parse(Path::new("oncue.toml"), text, &environment)
}

/// Each manifest with the error that it gets; a bus `events` is there without being written.
const MISTAKES: &[(&str, &str)] = &[
    ("x = ", "oncue.toml:1:5: this is not TOML: string values must be quoted, expected literal string"),
    (
        "[nod]\nhealth = \"off\"",
        "oncue.toml:1:2: nod: unknown key; did you mean `node`? \
         the keys here are node, bus, trigger, function, rule",
    ),
    (
        "[node]\ndatabase = \"${NOWHERE}\"",
        "oncue.toml:2:12: node.database: the environment variable NOWHERE is not set; \
         set it, or give a default: ${NOWHERE:-…}",
    ),
    (
        "[node]\ndrain = \"1 parsec\"",
        "oncue.toml:2:9: node.drain: expected a duration from 0s to 1h, such as \"5s\", got a string",
    ),
    (
        "[node]\nconcurrency = 0",
        "oncue.toml:2:15: node.concurrency: expected a whole number from 1 to 100000, got a number",
    ),
    (
        "[node]\nbudget = { bytes = \"5 bananas\" }",
        "oncue.toml:2:20: node.budget.bytes: expected a size from 1.0 MiB to 1.0 TiB, such as \"32MiB\", \
         got a string",
    ),
    (
        "[bus.app]\nkind = \"kafke\"\nurl = \"x\"",
        "oncue.toml:2:8: bus.app.kind: this is no kind of bus; it is \"nats\", \"kafka\" or \"postgres\"",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"kafka://x\"",
        "oncue.toml:3:7: bus.app.url: broker 1 of the url is no broker; \
         write host:port; TLS is `tls = { required = true }`",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\npublish = \"core\"",
        "oncue.toml:4:11: bus.app.publish: `publish` is no key of a kafka bus; \
         remove it: what is published is acknowledged by every in-sync replica",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\n[[rule]]\nname = \"r\"\npattern = '{\"type\":[\"a\"]}'\npublish = \"app/a/b\"",
        "oncue.toml:4:1: rule \"r\".publish: \"a/b\" cannot be a topic of the Kafka bus \"app\"; \
         a name of a topic is 1 to 249 of a-z, A-Z, 0-9, ., _ and -",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\nmechanism = \"PLAINTEXT\"",
        "oncue.toml:4:13: bus.app.mechanism: this is no way to log in; \
         it is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\nmechanism = \"PLAIN\"",
        "oncue.toml:4:13: bus.app.mechanism: there is no user; add `user` and `password`",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\n[bus.app.options]\nacks = 1",
        "oncue.toml:5:8: bus.app.options.acks: this is Oncue's to set; \
         remove it: Oncue publishes with an idempotent producer and acks=all",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\noptions = { \"lingr.ms\" = 1 }",
        "oncue.toml:4:26: bus.app.options.\"lingr.ms\": this is no option of a Kafka bus; \
         did you mean `linger.ms`? docs/kafka.md lists the options",
    ),
    (
        "[bus.app]\nkind = \"kafka\"\nurl = \"x\"\noptions = { \"linger.ms\" = [1] }",
        "oncue.toml:4:27: bus.app.options.\"linger.ms\": expected a string, a number, true or false, got a list",
    ),
    (
        "[bus.app]\nkind = \"nats\"\nurl = \"${NATS_URL}\"\noptions = {}",
        "oncue.toml:4:11: bus.app.options: `options` is no key of a nats bus; remove it",
    ),
    (
        "[bus.app]\nkind = \"postgres\"\nurl = \"postgres://me:hush@h/d?sslmode=strict\"",
        "oncue.toml:3:7: bus.app.url: sslmode is none of disable, prefer, require, verify-ca, verify-full",
    ),
    (
        "[bus.app]\nkind = \"postgres\"\nurl = \"${DATABASE_URL}\"\ntoken = \"x\"",
        "oncue.toml:4:9: bus.app.token: `token` is no key of a postgres bus; \
         use `user` and `password`, or write them into the url",
    ),
    (
        "[bus.app]\nkind = \"nats\"\nurl = \"${NATS_URL}\"\naccept_unbounded_wal = true",
        "oncue.toml:4:24: bus.app.accept_unbounded_wal: `accept_unbounded_wal` is no key of a nats bus; remove it",
    ),
    ("[bus.app]\nkind = \"nats\"", "oncue.toml:1:1: bus.app.url: `url` is missing; add `url = \"${NATS_URL}\"`"),
    (
        "[trigger.users]\nbus = \"events\"\ntables = [\"public.users\"]",
        "oncue.toml:1:1: trigger.users.tables: `tables` needs a bus of the kind \"postgres\", and \"events\" is none; \
         name a postgres bus",
    ),
    (
        "[bus.app]\nkind = \"postgres\"\nurl = \"${DATABASE_URL}\"\n[trigger.users]\nbus = \"app\"\nstream = \"APP\"",
        "oncue.toml:4:1: trigger.users.stream: `stream` needs a bus of the kind \"nats\", and \"app\" is none; \
         name a nats bus",
    ),
    (
        "[bus.app]\nkind = \"postgres\"\nurl = \"${DATABASE_URL}\"\n[trigger.users]\nbus = \"app\"\n\
         tables = [\"users\"]\nrelay = \"app/x\"",
        "oncue.toml:4:1: trigger.users.relay: `relay` needs a bus of the kind \"nats\", and \"app\" is none; \
         name a nats bus",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntables = [\"a b\"]",
        "oncue.toml:3:10: trigger.users.tables: \"a b\" is no table's name: a part with other characters than letters, \
         digits, _ and $ must be quoted; it looks like public.users, or public.\"Users\" with capitals",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntables = [\"a\"]\nstart = \"all\"",
        "oncue.toml:4:9: trigger.users.start: \"all\" is no start of a change feed; \
         it is \"now\", or \"snapshot\" for the rows that are there first",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nstream = \"A\"\ntables = [\"a\"]",
        "oncue.toml:4:10: trigger.users.tables: `stream` and `tables` do not go together; keep one of them",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nstream = \"A\"\nslot = \"a\"",
        "oncue.toml:4:8: trigger.users.slot: `slot` goes with `tables`; remove it: the trigger has `stream`",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"a\"]",
        "oncue.toml:1:1: trigger.users.topics: `topics` needs a bus of the kind \"kafka\", and \"events\" is none; \
         name a kafka bus",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"a b\"]",
        "oncue.toml:3:10: trigger.users.topics: \"a b\" can be no topic: letters, digits, `.`, `_` and `-`, 249 at most; an \
         expression begins with `^`",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"^a(\"]",
        "oncue.toml:3:10: trigger.users.topics: \"^a(\" is no expression: error: unclosed group",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"a\", \"a\"]",
        "oncue.toml:3:10: trigger.users.topics: \"a\" is there twice",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"a\"]\nordered = \"yes\"",
        "oncue.toml:4:11: trigger.users.ordered: \"yes\" is no order; it is \"key\", \"partition\" or \"none\"",
    ),
    (
        "[trigger.users]\nbus = \"events\"\ntopics = [\"a\"]\nstart = \"now\"",
        "oncue.toml:4:9: trigger.users.start: \"now\" is no time such as 2026-01-31T12:00:00Z: \
         the 'year' component could not be parsed",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nstream = \"A\"\ngroup = \"a\"",
        "oncue.toml:4:9: trigger.users.group: `group` goes with `topics`; remove it: the trigger has `stream`",
    ),
    (
        "[trigger.users]\nbus = \"evnts\"\nsubject = \"a.>\"",
        "oncue.toml:1:1: trigger.users.bus: there is no bus \"evnts\"; did you mean the bus \"events\"? \
         else add a section [bus.evnts]",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nsubject = \"a..b\"",
        "oncue.toml:3:11: trigger.users.subject: \"a..b\" has an empty token between its dots",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nsubject = \"a\"\nrecord = \"some\"",
        "oncue.toml:4:10: trigger.users.record: \"some\" is unknown; it is \"none\", \"matched\" (events that a rule matched) \
         or \"all\"",
    ),
    (
        "[trigger.users]\nbus = \"events\"\nsubject = \"a\"\nrecord_for = \"10s\"",
        "oncue.toml:4:14: trigger.users.record_for: expected a duration from 1m to 1year 18h, such as \"5s\", got \"10s\"",
    ),
    (
        "[bus.app]\nkind = \"postgres\"\nurl = \"${DATABASE_URL}\"\n[trigger.users]\nbus = \"app\"\n\
         tables = [\"a\"]\nrelay = \"events/x\"\nrecord = \"all\"",
        "oncue.toml:8:10: trigger.users.record: a trigger that relays its events matches none and records none; set it on the \
         trigger that reads what is relayed",
    ),
    (
        "[trigger.Users]\nbus = \"events\"",
        "oncue.toml:1:1: trigger.Users: \"Users\" cannot be the name of a trigger; \
         a name is a lower-case letter and then up to 62 of a-z, 0-9, _ and -",
    ),
    (
        "[function.welcome]\ncomponent = \"w.wasm\"\nlimits = { memori = \"32MiB\" }",
        "oncue.toml:3:12: function.welcome.limits.memori: unknown key; \
         did you mean `memory`? the keys here are timeout, memory, fuel, concurrency, output, output_events, log",
    ),
    ("[function.welcome]\ncomponent = 3", "oncue.toml:2:13: function.welcome.component: expected a string, got 3"),
    (
        "[function.welcome]\ncomponent = \"w.wasm\"\ngrants = { http = [\"https://x\"] }",
        "oncue.toml:3:19: function.welcome.grants.http: the grant `http` is not supported by this version; \
         remove it; this version grants `publish` and `sql`",
    ),
    (
        "[function.welcome]\ncomponent = \"w.wasm\"\ngrants = { sql = { role = \"none\" } }",
        "oncue.toml:3:27: function.welcome.grants.sql.role: \"none\" cannot be the name of a role; \
         it is a role of Postgres: `create role mailer nologin;`",
    ),
    (
        "[function.welcome]\ncomponent = \"w.wasm\"\ngrants = { publish = [\"events/a\", \"mail\"] }",
        "oncue.toml:3:35: function.welcome.grants.publish[1]: \"mail\" names no bus; \
         it is a bus and a subject, as in \"events/mail.*\"",
    ),
    (
        "[[rule]]\nname = \"r\"\nrun = \"f\"\npattern = '{\"type\":[{\"prefx\":\"a\"}]}'",
        "oncue.toml:4:11: rule[0].pattern: /type/0: PATTERN",
    ),
    (
        "[[rule]]\nname = \"r\"\nrun = \"f\"\nmatch_all = true\nordering_key = \"data.id\"",
        "oncue.toml:5:16: rule[0].ordering_key: PATH",
    ),
    (
        "[[rule]]\nname = \"r\"\nrun = \"f@0\"\nmatch_all = true",
        "oncue.toml:3:7: rule[0].run: \"f@0\" is no function; \
         it is a function, as in \"welcome\", or one version of it, as in \"welcome@3\"",
    ),
    (
        "[[rule]]\nname = \"r\"\nrun = \"f\"",
        "oncue.toml:1:1: rule[0].pattern: `pattern` is missing; \
         add `pattern = '{\"type\":[\"user.signup\"]}'`, or `match_all = true` for every event",
    ),
    (
        "[[rule]]\nname = \"r\"\nmatch_all = true\npublish = \"events/a.*\"",
        "oncue.toml:4:11: rule[0].publish: \"a.*\" has a wildcard, which nobody can publish to; \
         it is a bus and a subject without wildcards, as in \"events/user.created\"",
    ),
    (
        "[[rule]]\nname = \"r\"\nmatch_all = true\nrun = \"f\"\nbatch = { max = 10 }",
        "oncue.toml:5:17: rule[0].batch.max: batches are not supported by this version; remove it, or write 1",
    ),
    (
        "[[rule]]\nname = \"r\"\nmatch_all = true\nrun = \"f\"\nretry = { base = \"2s\", cap = \"1s\" }",
        "oncue.toml:5:30: rule[0].retry.cap: expected a duration from 2s to 7days, such as \"5s\", got \"1s\"",
    ),
    (
        "[[rule]]\nname = \"r\"\nmatch_all = true\nrun = \"f\"\n[[rule]]\nname = \"r\"\nmatch_all = true\nrun = \"f\"",
        "oncue.toml:5:1: rule.name: there is another rule \"r\" at oncue.toml:1:1; give each rule its own name",
    ),
];

#[test]
fn every_mistake_is_told_with_its_place_its_key_and_the_fix() {
    let mut wrong = String::new();
    for (manifest, expected) in MISTAKES {
        let error = parse(manifest).err().map(|e| e.to_string()).unwrap_or_default();
        // What the pattern language says of a mistake is its own affair.
        let (expected, is_prefix) = match expected.rsplit_once(' ') {
            Some((start, "PATTERN" | "PATH")) => (start, true),
            _ => (*expected, false),
        };
        let agrees = if is_prefix { error.starts_with(expected) } else { error == expected };
        if !agrees {
            wrong += &format!("{manifest}\n  gave: {error}\n  want: {expected}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let errors = parse("[node]\nhealth = 1\n[trigger.t]\n[[rule]]\nname = \"R\"").expect_err("it is wrong");
    let keys: Vec<&str> = errors.0.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(keys, ["node.health", "trigger.t.bus", "rule[0].name"]);
}

#[test]
fn a_pattern_may_be_a_table() {
    let text = "[[rule]]\nname = \"r\"\nrun = \"f\"\npattern = { type = [\"a\"], data = { n = [{ numeric = [\">\", 1.50] }] } }";
    let config = parse(text).expect("it is right");
    let expected = r#"{"type":["a"],"data":{"n":[{"numeric":[">",1.50]}]}}"#;
    assert_eq!(config.manifest.rules[0].rule.pattern.as_deref(), Some(expected));
}

#[test]
fn names_that_are_nowhere_are_told_with_the_nearest_one() {
    let text = "[function.welcome]\ncomponent = \"w.wasm\"\n[[rule]]\nname = \"r\"\nrun = \"welcom\"\ntrigger = \"t\"\nmatch_all = true";
    let config = parse(text).expect("the tables may know the names");
    let error = config.manifest.check_references(&Known::default()).expect_err("nobody knows them").to_string();
    let expected = "oncue.toml:3:1: rule \"r\".trigger: there is no trigger \"t\"; add a section [trigger.t]\n\
                    oncue.toml:3:1: rule \"r\".run: there is no function \"welcom\"; did you mean the function \
                    \"welcome\"? else add a section [function.welcom], or `oncue function deploy welcom FILE`";
    assert_eq!(error, expected);
}
