-- What happened: one ledger row for each attempt, committed together with the state that it led to, the sums of usage
-- and the log lines. Partitioned by the delivery id, whose first 48 bits are the source's time in milliseconds, so
-- that the primary key is the dedupe and retention drops whole partitions.

create table oncue.ledger (
    delivery_id  uuid not null,
    attempt      integer not null,
    event_id     text not null,
    event_type   text not null,
    event_source text not null,
    trigger      text not null,
    rule         text not null,
    function     text,
    version      integer,
    outcome      text not null,
    settlement   text not null,
    error        text,
    started_at   timestamptz not null,
    micros       bigint not null,
    fuel         bigint not null,
    peak_memory  bigint not null,
    outputs      integer not null,
    cause        uuid,
    node         text not null,
    settled_at   timestamptz not null default now(),
    primary key (delivery_id, attempt),
    constraint ledger_attempt_is_positive check (attempt > 0),
    constraint ledger_settlement_is_known check (settlement in ('done', 'again', 'parked', 'dead', 'void')),
    constraint ledger_done_is_ok check ((settlement = 'done') = (outcome = 'ok')),
    constraint ledger_version_goes_with_function check ((function is null) = (version is null)),
    constraint ledger_costs_are_not_negative check (micros >= 0 and fuel >= 0 and peak_memory >= 0 and outputs >= 0),
    constraint ledger_error_is_short check (octet_length(error) <= 4096)
) partition by range (delivery_id);
create index ledger_by_event on oncue.ledger (event_id);
create index ledger_by_cause on oncue.ledger (cause) where cause is not null;
-- Rows are written in the order of this column, so a few bytes for each range of pages find them again.
create index ledger_by_settling on oncue.ledger using brin (settled_at) with (autosummarize = on);
create table oncue.ledger_default partition of oncue.ledger default;

-- What a function logged in one attempt: a JSON list of [level, message], kept as text because it may hold anything.
create table oncue.logs (
    delivery_id uuid not null,
    attempt     integer not null,
    function    text not null,
    lines       text not null,
    dropped     bigint not null default 0,
    primary key (delivery_id, attempt)
) partition by range (delivery_id);
create table oncue.logs_default partition of oncue.logs default;

-- Sums over the ledger, raised in the transaction that writes the ledger rows: they add up exactly.
create table oncue.usage (
    day      date not null,
    trigger  text not null,
    rule     text not null,
    function text not null,
    version  integer not null,
    runs     bigint not null,
    failed   bigint not null,
    micros   bigint not null,
    fuel     bigint not null,
    outputs  bigint not null,
    primary key (day, rule, function, version, trigger),
    constraint usage_sums_are_not_negative check (runs >= failed and failed >= 0 and micros >= 0 and fuel >= 0)
);

-- Events that no rule matched: how many of each type a day, with one of them.
create table oncue.unmatched (
    day        date not null,
    trigger    text not null,
    event_type text not null,
    count      bigint not null,
    sample     bytea,
    last_at    timestamptz not null default now(),
    primary key (day, trigger, event_type),
    constraint unmatched_count_is_positive check (count > 0)
);

-- The lowest delivery id of a moment.
create function oncue.delivery_floor(at timestamptz) returns uuid language sql immutable strict as $$
    select (lpad(to_hex(greatest(0, floor(extract(epoch from at) * 1000))::bigint), 12, '0')
            || '00000000000000000000')::uuid
$$;

-- Creates the partitions of `day` where they are missing; false when the default partition holds rows of that day.
create function oncue.ensure_partitions(day date) returns boolean language plpgsql as $$
declare
    parent text;
    low constant uuid := oncue.delivery_floor(day::timestamp at time zone 'UTC');
    high constant uuid := oncue.delivery_floor((day + 1)::timestamp at time zone 'UTC');
begin
    foreach parent in array array['ledger', 'logs'] loop
        execute format('create table if not exists oncue.%I partition of oncue.%I for values from (%L) to (%L)',
                       parent || '_' || to_char(day, 'YYYYMMDD'), parent, low, high);
    end loop;
    return true;
exception when check_violation then
    return false;
end $$;

select oncue.ensure_partitions((now() at time zone 'UTC')::date + offset_days)
from generate_series(-1, 2) as offset_days;
