-- What a function that also wrote by SQL emitted: committed together with what it wrote, published afterwards. A row is
-- leased from the start to the node that committed it; another one takes it over when the lease has run out.

create table oncue.outbox (
    delivery_id uuid not null,
    -- The number of the event among those of its delivery.
    place       integer not null,
    -- The order in which they were committed, as far as there is one.
    seq         bigint not null generated always as identity,
    bus         text not null,
    subject     text not null,
    -- What the receiver dedupes by; the same however often it is published.
    message_id  text not null,
    -- The event in CloudEvents structured mode. Never jsonb: it refuses NUL and lone surrogates.
    event       bytea not null,
    node        text not null,
    attempts    integer not null default 0,
    error       text,
    created_at  timestamptz not null default now(),
    -- Not before this: the end of a lease, or the next try after a failure.
    next_at     timestamptz not null,
    primary key (delivery_id, place),
    constraint outbox_counts_are_not_negative check (place >= 0 and attempts >= 0),
    constraint outbox_error_is_short check (octet_length(error) <= 4096)
);
create index outbox_by_due on oncue.outbox (next_at, seq);
