-- What a trigger is asked to record: nothing, the events that a rule matched, or all; and for how long. A row of
-- `recorded` is one event as it came, written in the transaction that settles it, so that rules can be tried on it and
-- runs repeated with the same bytes. Partitioned like the ledger, and its ids begin with the same time as those of the
-- event's deliveries.

alter table oncue.triggers add column record text not null default 'none';
alter table oncue.triggers add column record_for_ms bigint not null default 604800000;
alter table oncue.triggers add constraint triggers_record_is_known check (record in ('none', 'matched', 'all'));
alter table oncue.triggers add constraint triggers_record_for_in_range
    check (record_for_ms between 60000 and 31622400000);
alter table oncue.triggers add constraint triggers_relay_records_nothing
    check (record = 'none' or spec ->> 'relay' is null);

create constraint trigger triggers_recording_raises_version
    after update of record, record_for_ms on oncue.triggers
    deferrable initially deferred for each row execute function oncue.raise_ruleset_version();

create table oncue.recorded (
    trigger       text not null,
    -- Made from the trigger and the transport key, whatever rules there are.
    id            uuid not null,
    event_id      text not null,
    event_type    text not null,
    -- Whether a rule matched it when it came.
    matched       boolean not null,
    transport_key bytea not null,
    -- The event in CloudEvents structured mode without its data, and the data. Never jsonb: it refuses NUL and lone surrogates.
    attributes    bytea not null,
    data          bytea not null,
    recorded_at   timestamptz not null default now(),
    -- By trigger, because each has its own retention.
    primary key (trigger, id)
) partition by range (id);
-- By its beginning: a whole id may be longer than a B-tree takes, and many events may have the same one.
create index recorded_by_event on oncue.recorded (left(event_id, 128));
create table oncue.recorded_default partition of oncue.recorded default;

-- Creates the partitions of `day` where they are missing; false when a default partition holds rows of that day.
create or replace function oncue.ensure_partitions(day date) returns boolean language plpgsql as $$
declare
    parent text;
    low constant uuid := oncue.delivery_floor(day::timestamp at time zone 'UTC');
    high constant uuid := oncue.delivery_floor((day + 1)::timestamp at time zone 'UTC');
    made boolean := true;
begin
    foreach parent in array array['ledger', 'logs', 'recorded'] loop
        begin
            execute format('create table if not exists oncue.%I partition of oncue.%I for values from (%L) to (%L)',
                           parent || '_' || to_char(day, 'YYYYMMDD'), parent, low, high);
        exception when check_violation then
            made := false;
        end;
    end loop;
    return made;
end $$;

select oncue.ensure_partitions((now() at time zone 'UTC')::date + offset_days)
from generate_series(-1, 2) as offset_days;
