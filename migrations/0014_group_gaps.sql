-- Gaps of consumer groups: a partition goes on behind a gap once an operator has accepted it, and the member that reads it
-- then says so here, so that the same place is another gap the next time.

alter table oncue.gaps add column applied_at timestamptz;
alter table oncue.gaps add constraint gaps_are_applied_once_accepted
    check (applied_at is null or accepted_at is not null);
-- Partitions that a group has begun to read, each with where it was assigned last. The group's commits are the positions; a
-- partition that is here and has none any more has lost it.
create table oncue.group_partitions (
    trigger      text not null,
    cluster      text not null,
    group_name   text not null,
    topic        text not null,
    partition    integer not null,
    -- Everything before it was settled then.
    position     bigint not null,
    assigned_at  timestamptz not null default now(),
    primary key (trigger, cluster, group_name, topic, partition),
    constraint group_partitions_trigger_exists foreign key (trigger) references oncue.triggers (name)
        on update cascade on delete cascade,
    constraint group_partitions_position_is_not_negative check (position >= 0)
);
-- Which keys of a trigger are parked is asked whenever a partition is assigned.
create index parked_by_trigger on oncue.parked (trigger, rule, ordering_key) where ordering_key is not null;
