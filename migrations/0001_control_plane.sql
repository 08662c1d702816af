-- What Oncue is told to do: components, functions in immutable versions, triggers and rules.
-- Whoever may write these rows controls the broker; every change raises `ruleset.version` and notifies the nodes.

create schema if not exists oncue;

-- A WebAssembly component, stored once by its SHA-256.
create table oncue.components (
    digest     bytea primary key,
    bytes      bytea not null,
    created_at timestamptz not null default now(),
    constraint components_digest_is_sha256_of_bytes check (digest = sha256(bytes)),
    constraint components_bytes_are_not_empty check (length(bytes) > 0)
);
alter table oncue.components alter column bytes set storage external;

-- A function: a name and the version that rules without a version of their own run.
create table oncue.functions (
    name            text primary key,
    current_version integer not null,
    created_at      timestamptz not null default now(),
    constraint functions_name_is_lower_case check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    constraint functions_current_version_is_positive check (current_version > 0)
);

-- One version of a function: component, limits, grants, configuration. Never changed once written.
create table oncue.function_versions (
    function   text not null,
    version    integer not null,
    digest     bytea not null,
    spec       jsonb not null default '{}',
    created_at timestamptz not null default now(),
    primary key (function, version),
    constraint function_versions_version_is_positive check (version > 0),
    constraint function_versions_spec_is_an_object check (jsonb_typeof(spec) = 'object'),
    constraint function_versions_function_exists foreign key (function) references oncue.functions (name)
        on delete cascade deferrable initially deferred,
    constraint function_versions_component_exists foreign key (digest) references oncue.components (digest)
);

alter table oncue.functions add constraint functions_current_version_exists
    foreign key (name, current_version) references oncue.function_versions (function, version)
    deferrable initially deferred;

create function oncue.refuse_version_change() returns trigger language plpgsql as $$
begin
    raise exception 'function version %@% is immutable: deploy a new version instead', old.function, old.version
        using errcode = 'restrict_violation';
end $$;

create trigger function_versions_are_immutable before update on oncue.function_versions
    for each row execute function oncue.refuse_version_change();

-- A subscription on a bus. `spec` holds what the kind needs (stream and subjects, topics, tables).
create table oncue.triggers (
    name       text primary key,
    bus        text not null,
    kind       text not null,
    spec       jsonb not null default '{}',
    state      text not null default 'active',
    error      text,
    -- Which source it was bound to (a stream's time of creation): another one of the same name is a gap.
    identity   text,
    created_at timestamptz not null default now(),
    constraint triggers_name_is_lower_case check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    constraint triggers_bus_is_lower_case check (bus ~ '^[a-z][a-z0-9_-]{0,62}$'),
    constraint triggers_kind_is_known check (kind in ('nats', 'jetstream', 'kafka', 'postgres', 'schedule')),
    constraint triggers_state_is_known check (state in ('active', 'paused', 'gap')),
    constraint triggers_spec_is_an_object check (jsonb_typeof(spec) = 'object')
);

-- A rule: which events, what runs, and how. `pattern` keeps the text as it was written.
create table oncue.rules (
    name               text primary key,
    trigger            text,
    pattern            json,
    match_all          boolean not null default false,
    run                text,
    run_version        integer,
    publish            text,
    input              text,
    ordering_key       text,
    on_failure         text not null default 'park_key',
    retry_max_attempts integer not null default 12,
    retry_base_ms      bigint not null default 1000,
    retry_cap_ms       bigint not null default 600000,
    retry_max_age_ms   bigint not null default 86400000,
    batch_max          integer not null default 1,
    batch_wait_ms      bigint not null default 0,
    rate_per_second    integer,
    rate_key           text,
    enabled            boolean not null default true,
    error              text,
    created_at         timestamptz not null default now(),
    constraint rules_name_is_lower_case check (name ~ '^[a-z0-9][a-z0-9._-]{0,126}$'),
    constraint rules_trigger_exists foreign key (trigger) references oncue.triggers (name) on update cascade,
    constraint rules_run_names_a_function foreign key (run) references oncue.functions (name) on update cascade,
    constraint rules_run_names_a_version foreign key (run, run_version)
        references oncue.function_versions (function, version),
    constraint rules_run_or_publish check (num_nonnulls(run, publish) = 1),
    constraint rules_version_needs_run check (run_version is null or run is not null),
    constraint rules_publish_is_bus_slash_subject check (publish ~ '^[a-z][a-z0-9_-]{0,62}/[^[:space:]*>]+$'),
    constraint rules_pattern_is_an_object check (json_typeof(pattern) = 'object'),
    constraint rules_pattern_or_match_all check ((pattern is null) = match_all),
    constraint rules_on_failure_is_known check (on_failure in ('park_key', 'skip')),
    constraint rules_max_attempts_in_range check (retry_max_attempts between 1 and 1000),
    constraint rules_retry_base_in_range check (retry_base_ms between 1 and 86400000),
    constraint rules_retry_cap_is_not_below_base check (retry_cap_ms between retry_base_ms and 604800000),
    constraint rules_retry_max_age_in_range check (retry_max_age_ms between 1 and 2592000000),
    -- The guest interface takes one event a call; the column is there so that batches need no new table.
    constraint rules_batch_max_is_one check (batch_max = 1),
    constraint rules_batch_wait_is_zero check (batch_wait_ms = 0),
    constraint rules_rate_is_positive check (rate_per_second between 1 and 1000000),
    constraint rules_rate_key_needs_rate check (rate_key is null or rate_per_second is not null)
);
create index rules_by_trigger on oncue.rules (trigger);
create index rules_by_run on oncue.rules (run);

-- The version that nodes poll; one row.
create table oncue.ruleset (
    only_row boolean primary key default true,
    version  bigint not null default 1,
    constraint ruleset_has_one_row check (only_row)
);
insert into oncue.ruleset default values;

-- Raised at commit and once a transaction, so that long transactions neither block nor deadlock each other.
create function oncue.raise_ruleset_version() returns trigger language plpgsql as $$
declare
    this_transaction constant text := pg_current_xact_id()::text;
    raised bigint;
begin
    if current_setting('oncue.raised_in', true) is distinct from this_transaction then
        perform set_config('oncue.raised_in', this_transaction, true);
        update oncue.ruleset set version = version + 1 returning version into raised;
        perform pg_notify('oncue_ruleset', raised::text);
    end if;
    return null;
end $$;

create constraint trigger functions_raise_version
    after insert or delete or update on oncue.functions
    deferrable initially deferred for each row execute function oncue.raise_ruleset_version();
create constraint trigger function_versions_raise_version
    after insert or delete on oncue.function_versions
    deferrable initially deferred for each row execute function oncue.raise_ruleset_version();
-- `error` is what nodes write back: it must not raise the version again.
create constraint trigger triggers_raise_version
    after insert or delete or update of name, bus, kind, spec, state on oncue.triggers
    deferrable initially deferred for each row execute function oncue.raise_ruleset_version();
create constraint trigger rules_raise_version
    after insert or delete or update of name, trigger, pattern, match_all, run, run_version, publish, input,
        ordering_key, on_failure, retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, batch_max,
        batch_wait_ms, rate_per_second, rate_key, enabled on oncue.rules
    deferrable initially deferred for each row execute function oncue.raise_ruleset_version();
