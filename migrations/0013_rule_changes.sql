-- What nodes need in order to read the rules that changed and not all of them, and what they say of a rule besides its
-- error. `changed_in` is the transaction that changed a rule last: a node that has read the rules in one snapshot has
-- not seen the changes of transactions that are not visible in it. `cost` is how many comparisons an event may need.

alter table oncue.rules
    add column changed_in xid8 not null default pg_current_xact_id(),
    add column cost bigint;
create index rules_by_change on oncue.rules (changed_in);

create function oncue.note_rule_change() returns trigger language plpgsql as $$
begin
    new.changed_in := pg_current_xact_id();
    return new;
end $$;

-- Not of what nodes write back, `error` and `cost`.
create trigger rules_note_change
    before insert or update of name, trigger, pattern, match_all, run, run_version, publish, input, ordering_key,
        on_failure, retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, batch_max, batch_wait_ms,
        rate_per_second, rate_key, enabled, changed_in on oncue.rules
    for each row execute function oncue.note_rule_change();
