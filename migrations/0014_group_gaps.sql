-- Gaps of consumer groups: a partition goes on behind a gap once an operator has accepted it, and the member that reads it
-- then says so here, so that the same place is another gap the next time.

alter table oncue.gaps add column applied_at timestamptz;
alter table oncue.gaps add constraint gaps_are_applied_once_accepted
    check (applied_at is null or accepted_at is not null);
-- Which keys of a trigger are parked is asked whenever a partition is assigned.
create index parked_by_trigger on oncue.parked (trigger, rule, ordering_key) where ordering_key is not null;
