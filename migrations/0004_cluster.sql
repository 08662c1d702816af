-- Who works: nodes that are alive, and leases for work that one node does at a time. A lease's epoch only grows; it
-- is the fencing token of whatever its holder writes.

create table oncue.nodes (
    node            text primary key,
    version         text not null,
    state           text not null,
    ruleset_version bigint not null,
    started_at      timestamptz not null default now(),
    beat_at         timestamptz not null default now(),
    constraint nodes_state_is_known check (state in ('starting', 'running', 'draining', 'stopped'))
);

create table oncue.leases (
    name       text primary key,
    owner      text not null,
    epoch      bigint not null,
    expires_at timestamptz not null,
    constraint leases_epoch_is_positive check (epoch > 0)
);

create function oncue.refuse_older_epoch() returns trigger language plpgsql as $$
begin
    raise exception 'lease %: epoch % is not above %', old.name, new.epoch, old.epoch
        using errcode = 'restrict_violation';
end $$;

create trigger leases_epoch_never_falls before update on oncue.leases
    for each row when (new.epoch < old.epoch or (new.owner <> old.owner and new.epoch <= old.epoch))
    execute function oncue.refuse_older_epoch();
