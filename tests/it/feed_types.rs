//! The decoding half of a change feed on a real Postgres: every type, every identity, every strange name, as the events
//! that stand in `tests/data/feed` and as the server's own `row_to_json` has them.

mod feed;
mod values;

use oncue::pgtype::{Type, Types};
use serde_json::{Value, json};

use self::feed::{Feed, assert_golden};
use self::values::{SCALARS, not_a_columns_type};
use crate::support::not_run;

#[tokio::test(flavor = "multi_thread")]
async fn every_built_in_type_is_what_the_servers_own_json_says() {
    let mut feed = Feed::start().await;
    let names = feed.rows("select typname as name from pg_type where oid < 16384 and typtype in ('b', 'r', 'm')").await;
    for name in names.iter().map(|row| row["name"].as_str().expect("a name")) {
        let covered = SCALARS.iter().any(|(ty, _)| *ty == name) || name.starts_with('_') || not_a_columns_type(name);
        assert!(covered, "{name} has no example");
    }
    for (at, (ty, texts)) in SCALARS.iter().enumerate() {
        let table = format!("t{at}");
        feed.sql(&format!("create table {table} (id int primary key, v \"{ty}\", vs \"{ty}\"[])")).await;
        let literals: Vec<String> =
            texts.iter().map(|text| format!("'{}'::\"{ty}\"", text.replace('\'', "''"))).collect();
        let all = format!("array[{}, null]", literals.join(", "));
        for (id, literal) in literals.iter().enumerate() {
            feed.sql(&format!("insert into {table} values ({id}, {literal}, {all})")).await;
        }
        feed.sql(&format!("insert into {table} values (-1, null, '{{}}')")).await;
    }
    let events = feed.events().await;
    let mut golden = Vec::new();
    for (at, (ty, _)) in SCALARS.iter().enumerate() {
        let rows: Vec<_> = events.iter().filter(|event| event.table() == format!("t{at}")).collect();
        let same = if *ty == "bytea" {
            Vec::new()
        } else {
            feed.texts(&format!("select row_to_json(t)::text from t{at} t order by ctid")).await
        };
        for (event, row) in rows.iter().zip(&same) {
            assert_eq!(event.member("after"), *row, "{ty}");
        }
        assert!(rows.iter().all(|event| event.member("undecoded").is_empty()), "{ty}");
        golden.extend(rows.iter().map(|event| format!("[\"{ty}\",{}]", event.member("after"))));
    }
    assert_golden("types", &golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_built_in_types_is_that_of_the_server() {
    let mut feed = Feed::start().await;
    let query = "select oid::bigint, typname, typelem::bigint as element, ascii(typdelim) as delimiter,
            typsubscript = 'array_subscript_handler'::regproc and typname like '\\_%' as is_array
        from pg_type where oid < 16384 and typtype in ('b', 'r', 'm')";
    let types = Types::new();
    let oid = |value: &Value| u32::try_from(value.as_u64().expect("a number")).expect("an oid");
    for row in feed.rows(query).await {
        // Arrays of the catalogues' own row types are learnt like any other.
        let element = types.get(oid(&row["element"]));
        if row["is_array"] == json!(true) && element.is_none() {
            assert_eq!(types.get(oid(&row["oid"])), None);
            continue;
        }
        let known = types.get(oid(&row["oid"])).unwrap_or_else(|| panic!("{row} is built in"));
        if row["is_array"] == json!(true) {
            let delimiter = u8::try_from(oid(&row["delimiter"])).expect("ASCII");
            assert_eq!(*known, Type::Array { element: element.expect("seen"), delimiter }, "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_ones_own_are_learnt_from_the_catalogue() {
    let mut feed = Feed::start().await;
    feed.sql(
        r#"
        create type mood as enum ('sad', 'so "so"');
        create type pair as (n int, "t.""x" text);
        create type deep as (p pair, ps pair[], j jsonb, m mood, b bytea);
        create domain positive as numeric check (value > 0);
        create domain positives as positive[];
        create type span as range (subtype = float8);
        create table own (id int primary key, m mood, ms mood[], p pair, ps pair[], d deep, n positive, ns positives,
            nss positives[], s span, ss span_multirange);
        "#,
    )
    .await;
    feed.sql(
        r#"
        insert into own (id, m, ms, p, ps) values
            (1, 'sad', '{sad,"so \"so\"",null}', '(1,"a ""b"" \\ (c), {d}")',
             array[row(1, 'x'), null, row(null, '')]::pair[]);
        insert into own (id, d) values
            (2, row(row(1, E'a"\\\n'), array[row(2, 'NULL'), row(null, null)]::pair[],
                    '{"k": ["v", "\"\\"]}', 'sad', '\x00ff'));
        insert into own (id, n, ns, nss, s, ss) values
            (3, 1.50, '{1,2.5}', '{"{1}","{2,3}",null}', '[1.5,2)', '{[1,2), [3,)}');
        "#,
    )
    .await;
    feed.sql("alter type mood add value 'later'").await;
    feed.sql("insert into own (id, m) values (4, 'later')").await;
    let events = feed.events().await;
    let rows = feed.texts("select row_to_json(t)::text from own t order by id").await;
    for (event, row) in events.iter().zip(&rows).filter(|(event, _)| event.subject() != "2") {
        assert_eq!(event.member("after"), *row);
    }
    assert_golden("own", &feed::lines(&events));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_not_known_or_has_changed_stays_text_and_says_so() {
    let mut feed = Feed::start().await;
    feed.sql("create type pair as (a int, b int); create table odd (id int primary key, p pair, n int)").await;
    feed.sql("insert into odd values (1, '(1,2)', 3)").await;
    let known = feed.events().await;
    assert_eq!(known[0].member("after"), r#"{"id":1,"p":{"a":1,"b":2},"n":3}"#);

    feed.sql("alter type pair add attribute c int").await;
    feed.sql("insert into odd values (2, '(1,2,3)', 3)").await;
    let changed = feed.events_without_asking().await;
    assert_eq!(changed[0].member("after"), r#"{"id":2,"p":"(1,2,3)","n":3}"#, "one field is not to be guessed");
    assert_eq!(changed[0].member("undecoded"), r#"["p"]"#);

    feed.sql("insert into odd values (3, '(1,2,3)', 3)").await;
    feed.forget_types();
    let unknown = feed.events_without_asking().await;
    assert_eq!(unknown[0].member("undecoded"), r#"["p"]"#);
    feed.sql("insert into odd values (4, '(1,2,3)', 3)").await;
    let learnt = feed.events().await;
    assert_eq!(learnt[0].member("after"), r#"{"id":4,"p":{"a":1,"b":2,"c":3},"n":3}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_values_are_what_the_servers_own_json_says() {
    const ROWS: i32 = 1_000;
    let mut feed = Feed::start().await;
    feed.sql(
        r#"
        create type inner_row as (t text, ts text[], n numeric);
        create type outer_row as ("a ""b""" inner_row, rows inner_row[], j json, at timestamptz);
        create table r (id int primary key, t text, grid text[], o outer_row, os outer_row[], f4 float4, f8 float8,
            n numeric, at timestamp, atz timestamptz, during interval, b jsonb);
        create function pick(n int) returns int as $$ select floor(random() * n)::int $$ language sql volatile;
        create function nasty() returns text as $$
            select case pick(8) when 0 then null when 1 then '' when 2 then 'NULL' else
                (select coalesce(string_agg(substr(E'ab"\\{}(),; \n\t\u0001\'%:[]é漢😀\u00a0', pick(25) + 1, 1), ''), '')
                 from generate_series(1, pick(9))) end
        $$ language sql volatile;
        create function nasties() returns text[] as $$
            select case pick(6) when 0 then null else array(select nasty() from generate_series(1, pick(4))) end
        $$ language sql volatile;
        create function digits() returns numeric as $$
            select (case pick(2) when 0 then '-' else '' end || pick(1000000000) || '.' || pick(1000000000))::numeric
                * ('1e' || pick(60) - 30)::numeric
        $$ language sql volatile;
        create function inner_one() returns inner_row as $$
            select case pick(6) when 0 then null else row(nasty(), nasties(), digits())::inner_row end
        $$ language sql volatile;
        create function outer_one() returns outer_row as $$
            select row(inner_one(), array(select inner_one() from generate_series(1, pick(3))),
                json_build_object('k', nasty(), 'v', nasties()),
                to_timestamp(pick(2000000000)) + pick(1000000) * interval '1 microsecond')::outer_row
        $$ language sql volatile;
        "#,
    )
    .await;
    feed.sql("select setseed(0.5)").await;
    feed.sql(&format!(
        "insert into r select id, nasty(), array[array[nasty(), nasty()], array[nasty(), nasty()]], outer_one(),
            array(select outer_one() from generate_series(1, pick(3))),
            (random() - 0.5) * power(10, pick(60) - 30), (random() - 0.5) * power(10, pick(500) - 250), digits(),
            timestamp '4000-01-01 BC' + random() * interval '10000 years', to_timestamp(random() * 1e10 - 5e9),
            (random() - 0.5) * interval '1000 days 1 mon', to_jsonb(outer_one()) from generate_series(1, {ROWS}) id"
    ))
    .await;
    let events = feed.events().await;
    let rows = feed.texts("select row_to_json(r)::text from r order by id").await;
    assert_eq!((events.len(), rows.len()), (1_000, 1_000));
    for (event, row) in events.iter().zip(&rows) {
        assert_eq!(event.member("after"), *row);
        assert_eq!(event.member("undecoded"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_extensions_are_strings() {
    let mut feed = Feed::start().await;
    let available = "select name from pg_available_extensions where name in ('hstore', 'citext')";
    if feed.rows(available).await.len() < 2 {
        not_run("types of extensions", "this Postgres came without hstore and citext");
        return;
    }
    feed.sql("create extension hstore; create extension citext").await;
    feed.sql("create table x (id citext primary key, h hstore, hs hstore[])").await;
    feed.sql(r#"insert into x values ('Ä"b', 'a=>1,"b c"=>NULL', array['k=>v'::hstore, null])"#).await;
    assert_golden("extensions", &feed::lines(&feed.events().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_any_length_keep_every_digit() {
    let mut feed = Feed::start().await;
    feed.sql("create table long (id int primary key, n numeric, ns numeric[])").await;
    feed.sql(
        "insert into long select 1, v, array[v, -v]
         from (select (repeat('9', 131072) || '.' || repeat('1', 16383))::numeric v) q",
    )
    .await;
    let events = feed.events().await;
    let row = feed.texts("select row_to_json(t)::text from long t").await;
    assert_eq!(row[0].len() / 100_000, 4, "they are as long as that");
    assert!(events[0].member("after") == row[0], "digit for digit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_before_depends_on_the_replica_identity() {
    let mut feed = Feed::start().await;
    feed.sql(
        "create table d (id int, a text, b text, primary key (id));
         create table f (like d including all); alter table f replica identity full;
         create table i (like d including all); alter table i alter a set not null;
         create unique index by_a on i (a); alter table i replica identity using index by_a;
         create table n (like d including all); alter table n replica identity nothing;
         create table k (a text, b int, c text, primary key (b, a));
         create table free (a int); alter table free replica identity full;
         create table none (a int)",
    )
    .await;
    for table in ["d", "f", "i"] {
        let rows = format!(
            "insert into {table} values (1, 'x', 'y'), (2, 'z', null);
             update {table} set b = 'Y' where id = 1;
             update {table} set id = 3 where id = 1;
             update {table} set a = 'X', b = null where id = 3;
             update {table} set b = b;
             delete from {table} where id = 2"
        );
        feed.sql(&rows).await;
    }
    feed.sql("insert into n values (1, 'x', 'y'); insert into none values (1)").await;
    feed.sql("insert into k values ('p', 1, 'q'); update k set c = 'r'; update k set a = 'P'; delete from k").await;
    feed.sql("insert into free values (1), (1); update free set a = 2; delete from free").await;
    feed.sql("truncate d, f; truncate i restart identity; truncate k cascade").await;
    assert_golden("identities", &feed::lines(&feed.events().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_out_of_line_that_were_not_touched_are_named() {
    let mut feed = Feed::start().await;
    feed.sql(
        "create table d (id int primary key, n int, long text, other text);
         alter table d alter long set storage external, alter other set storage external;
         create table f (like d including all); alter table f replica identity full;
         create table k (long text primary key, n int); alter table k alter long set storage external",
    )
    .await;
    for table in ["d", "f"] {
        let rows = format!(
            "insert into {table} values (1, 1, repeat('a', 3000), null);
             update {table} set n = 2;
             update {table} set other = repeat('b', 3000);
             update {table} set n = 3, long = null;
             update {table} set n = 4, id = 7"
        );
        feed.sql(&rows).await;
    }
    feed.sql("insert into k values (repeat('k', 2500), 1); update k set n = 2; delete from k").await;
    let short = |line: String| {
        let runs = [("a", 3000), ("b", 3000), ("k", 2500)];
        runs.iter().fold(line, |line, (c, n)| line.replace(&c.repeat(*n), &format!("<{n} {c}>")))
    };
    let lines: Vec<String> = feed::lines(&feed.events().await).into_iter().map(short).collect();
    assert_golden("toast", &lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_be_anything_that_postgres_takes() {
    let mut feed = Feed::start().await;
    feed.sql(
        r#"
        create schema "a.b *>%";
        create table "a.b *>%"."T ""x"".y" ("Id "" 1" int primary key, "ünï.cödé" text, "back\slash" text, "new
line" int, " " int, "select" int);
        insert into "a.b *>%"."T ""x"".y" values (1, 'a', 'b', 2, 3, 4);
        update "a.b *>%"."T ""x"".y" set "Id "" 1" = 2;
        create table "Straße_漢字_😀" (id int primary key);
        insert into "Straße_漢字_😀" values (1);
        create table computed (id int primary key, a int, twice int generated always as (a * 2) stored, b int);
        insert into computed (id, a, b) values (1, 2, 3);
        "#,
    )
    .await;
    assert_golden("names", &feed::lines(&feed.events().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_with_the_columns_of_their_place_in_the_log() {
    let mut feed = Feed::start().await;
    let statements = [
        "create table t (id int primary key, a text, b int)",
        "insert into t values (1, 'x', 1)",
        "alter table t add column c timestamptz default '2026-01-31 12:00+00'",
        "insert into t values (2, 'y', 2)",
        "alter table t rename column a to \"A\"; insert into t values (3, 'z', 3)",
        "begin; insert into t values (4, '{1}', 4); alter table t drop column b; \
         insert into t values (5, '{2}'); commit",
        "delete from t where id < 4; alter table t alter \"A\" type int[] using \"A\"::int[]",
        "update t set \"A\" = '{3}' where id = 4",
        "alter table t rename to u; insert into u values (6, null)",
        "alter table u replica identity full; delete from u where id = 6",
        "create table part (id int, v text, primary key (id)) partition by range (id)",
        "create table part_1 partition of part for values from (1) to (10)",
        "create table part_2 (v text, id int not null)",
        "alter table part attach partition part_2 for values from (10) to (20)",
        "insert into part values (1, 'a'), (11, 'b'); update part set id = 12 where id = 1",
        "begin; insert into u values (7, null); rollback; drop table u",
    ];
    for statement in statements {
        feed.sql(statement).await;
    }
    assert_golden("columns", &feed::lines(&feed.events().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_as_wide_as_postgres_allows_is_one_event() {
    let mut feed = Feed::start().await;
    let columns: Vec<String> = (1..=1600).map(|n| format!("c{n} smallint")).collect();
    feed.sql(&format!("create table wide ({}); alter table wide replica identity full", columns.join(", "))).await;
    let values: Vec<String> = (1..=1600).map(|n| if n % 3 == 0 { "null".to_owned() } else { n.to_string() }).collect();
    feed.sql(&format!("insert into wide values ({})", values.join(", "))).await;
    feed.sql("update wide set c800 = 0, c1600 = 0").await;
    let events = feed.events().await;
    let row = feed.texts("select row_to_json(t)::text from wide t").await;
    assert_eq!(events[1].member("after"), row[0]);
    assert_eq!(events[1].member("before"), events[0].member("after"));
    assert_eq!(events[1].member("changed"), r#"["c800","c1600"]"#);
    assert_eq!(events[1].subject(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_utf_8_is_flagged_and_stops_nothing() {
    let mut feed = Feed::start().await;
    feed.sql("create database bytes encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0").await;
    let mut feed = feed.database("bytes").await;
    // With any other encoding of the client the server refuses to send the row, and the slot never gets past it.
    feed.sql("set client_encoding = 'SQL_ASCII'").await;
    feed.sql("create table t (id text primary key, v text, vs text[])").await;
    feed.sql(r"insert into t values (E'k\xff', E'a\xe9b', array[E'\xc3', 'x']), ('é', 'ü', '{ä}')").await;
    let events = feed.events().await;
    assert_eq!(events[0].member("after"), "{\"id\":\"k\u{fffd}\",\"v\":\"a\u{fffd}b\",\"vs\":\"{\u{fffd},x}\"}");
    assert_eq!(events[0].member("undecoded"), r#"["id","v","vs"]"#);
    assert_eq!(events[0].subject(), "k\u{fffd}");
    assert_eq!(events[1].member("after"), r#"{"id":"é","v":"ü","vs":["ä"]}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_order_and_transactions_are_whole() {
    let mut feed = Feed::start().await;
    feed.sql("create table t (id int primary key)").await;
    feed.sql(
        "begin; insert into t values (1); select pg_logical_emit_message(true, 'oncue', 'one');
         savepoint s; insert into t values (2); rollback to s; insert into t values (3); commit",
    )
    .await;
    feed.sql(
        "begin; select pg_logical_emit_message(true, 'oncue', 'never');
         select pg_logical_emit_message(false, 'oncue', 'at once'); rollback",
    )
    .await;
    feed.sql("truncate t").await;
    let story = feed.story().await;
    let expected = [
        "begin",
        "relation t",
        "insert",
        "message oncue one (in the transaction)",
        "insert",
        "commit",
        "message oncue at once",
        "begin",
        "relation t",
        "truncate",
        "commit",
    ];
    assert_eq!(story, expected);
}
