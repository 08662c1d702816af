-- Change feeds: how far each has settled, what it lost, and the tables that it reads whole. One node at a time follows a
-- feed: the holder of its lease, whose epoch every settlement of the feed's events checks.

-- The process that holds a lease: a node that was killed and started again takes its own lease over at once, with a
-- higher epoch, so that its former self, should it still be there, settles nothing.
alter table oncue.leases add column holder uuid;

create table oncue.feeds (
    trigger     text primary key,
    slot        text not null,
    publication text not null,
    -- Which server the positions belong to.
    system_id   text not null,
    timeline    bigint not null,
    database    text not null,
    -- Every transaction that ends at or before this is settled. Written before the slot is told.
    settled_lsn pg_lsn not null,
    -- Nothing that commits behind this has ever been started: written before it is.
    read_until  pg_lsn not null,
    -- How to begin again after a gap: set by `oncue trigger resume`, cleared by the feed.
    restart     text,
    updated_at  timestamptz not null default now(),
    constraint feeds_trigger_exists foreign key (trigger) references oncue.triggers (name)
        on update cascade on delete cascade,
    constraint feeds_restart_is_known check (restart in ('accept', 'resnapshot'))
);

-- Ranges that a source no longer had when they were to be read. Positions are those of the source, as text.
create table oncue.gaps (
    id            bigint primary key generated always as identity,
    trigger       text not null,
    from_position text,
    to_position   text,
    reason        text not null,
    found_at      timestamptz not null default now(),
    accepted_at   timestamptz,
    accepted_as   text,
    constraint gaps_acceptance_is_whole check (num_nonnulls(accepted_at, accepted_as) in (0, 2)),
    constraint gaps_acceptance_is_known check (accepted_as in ('accept', 'resnapshot'))
);
create index gaps_by_trigger on oncue.gaps (trigger, found_at);

-- Tables that a feed reads row by row, in the order of their key, beside the changes that it follows.
create table oncue.backfills (
    id              uuid primary key default gen_random_uuid(),
    trigger         text not null,
    schema_name     text not null,
    table_name      text not null,
    -- A condition in SQL that the rows must meet; it is run as the role of the bus.
    filter          text,
    state           text not null default 'waiting',
    -- The key of the last row whose event is settled, each column as text; null before the first.
    cursor          text[],
    chunks          bigint not null default 0,
    rows_read       bigint not null default 0,
    -- Rows that had changed meanwhile: their changes came as events of their own.
    rows_superseded bigint not null default 0,
    rows_estimated  bigint,
    rows_per_second integer,
    error           text,
    requested_at    timestamptz not null default now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    constraint backfills_trigger_exists foreign key (trigger) references oncue.triggers (name)
        on update cascade on delete cascade,
    constraint backfills_state_is_known check (state in ('waiting', 'running', 'done', 'failed', 'cancelled')),
    constraint backfills_rate_is_positive check (rows_per_second > 0),
    constraint backfills_end_is_known check ((finished_at is not null) = (state in ('done', 'failed', 'cancelled'))),
    constraint backfills_failure_has_its_reason check (state <> 'failed' or error is not null)
);
create index backfills_open on oncue.backfills (trigger, requested_at) where state in ('waiting', 'running');
