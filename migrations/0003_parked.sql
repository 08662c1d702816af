-- What is not done: deliveries that wait for another try, and dead letters. A delivery is in at most one of the two.

create table oncue.parked (
    delivery_id   uuid primary key,
    -- The order in which deliveries of one ordering key came.
    seq           bigint not null generated always as identity,
    trigger       text not null,
    rule          text not null,
    -- Pinned when the event was matched; null for a rule that publishes.
    function      text,
    version       integer,
    -- The event in CloudEvents structured mode. Never jsonb: it refuses NUL and lone surrogates.
    event         bytea not null,
    transport_key bytea not null,
    generation    integer not null default 0,
    ordering_key  text,
    -- Attempts that ran, and processes that died while one ran.
    attempts      integer not null default 0,
    deaths        integer not null default 0,
    -- Not run yet because it may have killed a node: claimed alone.
    suspect       boolean not null default false,
    class         text not null,
    error         text,
    first_at      timestamptz not null default now(),
    next_at       timestamptz not null,
    token         uuid,
    node          text,
    lease_until   timestamptz,
    constraint parked_claim_is_whole check (num_nonnulls(token, node, lease_until) in (0, 3)),
    constraint parked_version_goes_with_function check ((function is null) = (version is null)),
    constraint parked_counts_are_not_negative check (attempts >= 0 and deaths >= 0 and generation >= 0),
    constraint parked_error_is_short check (octet_length(error) <= 4096)
);
create index parked_by_due on oncue.parked (next_at);
create index parked_by_key on oncue.parked (rule, ordering_key, seq) where ordering_key is not null;

create table oncue.dead_letters (
    -- The delivery's id; for a rejected message, an id made from its transport key.
    id            uuid primary key,
    kind          text not null,
    trigger       text not null,
    rule          text,
    function      text,
    version       integer,
    digest        bytea,
    event_id      text,
    event_type    text,
    class         text not null,
    error         text not null,
    -- failed: the event in structured mode; rejected: the message's bytes as they came.
    raw           bytea not null,
    -- The message's headers as a JSON list of [name, value], in UTF-8.
    headers       bytea not null default '\x5b5d',
    transport_key bytea not null,
    generation    integer not null default 0,
    ordering_key  text,
    -- Every attempt: number, outcome, error, started_at, micros, node.
    attempts      jsonb not null default '[]',
    dead_at       timestamptz not null default now(),
    state         text not null default 'dead',
    redriven_as   uuid,
    constraint dead_letters_kind_is_known check (kind in ('failed', 'rejected')),
    constraint dead_letters_state_is_known check (state in ('dead', 'redriven', 'dropped')),
    constraint dead_letters_failed_names_its_rule check (kind = 'rejected' or rule is not null),
    constraint dead_letters_error_is_short check (octet_length(error) <= 4096),
    constraint dead_letters_redriven_names_its_successor check (redriven_as is null or state = 'redriven')
);
create index dead_letters_by_time on oncue.dead_letters (dead_at);
