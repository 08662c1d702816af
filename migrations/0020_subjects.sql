-- What an event may be published to, what a trigger may read and what a function may be granted: subjects without tokens
-- that begin with $ (an event published to $JS.API.STREAM.DELETE.X deletes the stream X), without white space and control
-- characters, of bounded length. The program checks the same (`event::subject`); a row that was written by hand before is
-- left as it is, and the nodes refuse it in its `error`.

create function oncue.subject_error(subject text, wildcards boolean) returns text
language plpgsql immutable strict parallel safe set search_path = pg_catalog as $$
declare
    part record;
    parts text[];
begin
    if subject = '' then
        return 'is empty';
    elsif length(subject) > 1024 then
        return 'is longer than 1024 characters';
    elsif subject ~ '[\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]' then
        return 'has white space or a control character';
    end if;
    parts := string_to_array(subject, '.');
    for part in select token, n from unnest(parts) with ordinality t (token, n) loop
        if part.token = '' then
            return 'has an empty token between its dots';
        elsif left(part.token, 1) = '$' then
            return 'has a token that begins with $, which names a server''s own subjects';
        elsif part.n = 1 and part.token = '_INBOX' then
            return 'begins with _INBOX, where others wait for answers';
        elsif length(part.token) > 255 then
            return 'has a token of more than 255 characters';
        elsif wildcards and part.token = '>' and part.n < cardinality(parts) then
            return 'has > before its end';
        end if;
    end loop;
    if not wildcards and subject ~ '[*>]' then
        return 'has a wildcard, which nobody can publish to';
    end if;
    return null;
end $$;

-- Raises what is wrong with `subject`, as the field `field` of what `owner` names.
create function oncue.require_subject(owner text, field text, subject text, wildcards boolean, constraint_name text)
returns void language plpgsql as $$
declare
    found text := oncue.subject_error(subject, wildcards);
begin
    if found is not null then
        raise exception '%: %: % %', owner, field, left(to_json(subject)::text, 200), found
            using errcode = 'check_violation', constraint = constraint_name,
                hint = 'Use dot-separated tokens such as orders.created, at most 255 characters each and 1024 in all.';
    end if;
end $$;

create function oncue.check_rule_subject() returns trigger language plpgsql as $$
begin
    perform oncue.require_subject(format('rule "%s"', new.name), 'publish',
        substr(new.publish, strpos(new.publish, '/') + 1), false, 'rules_publish_is_a_subject');
    return new;
end $$;

create trigger rules_publish_is_a_subject before insert or update of publish on oncue.rules
    for each row when (new.publish is not null) execute function oncue.check_rule_subject();

create function oncue.check_trigger_subjects() returns trigger language plpgsql as $$
declare
    owner constant text := format('trigger "%s"', new.name);
    wanted jsonb := new.spec -> 'subjects';
    relay text := new.spec ->> 'relay';
    one text;
begin
    perform oncue.require_subject(owner, 'relay', substr(relay, strpos(relay, '/') + 1), false,
        'triggers_subjects_are_subjects');
    perform oncue.require_subject(owner, 'subject', new.spec ->> 'subject', true, 'triggers_subjects_are_subjects');
    perform oncue.require_subject(owner, 'queue', new.spec ->> 'queue', false, 'triggers_subjects_are_subjects');
    if jsonb_typeof(wanted) = 'array' then
        for one in select jsonb_array_elements_text(wanted) loop
            perform oncue.require_subject(owner, 'subjects', one, true, 'triggers_subjects_are_subjects');
        end loop;
    end if;
    return new;
end $$;

create trigger triggers_subjects_are_subjects before insert or update of kind, spec on oncue.triggers
    for each row when (new.kind in ('nats', 'jetstream', 'postgres')) execute function oncue.check_trigger_subjects();

create function oncue.check_grant_subjects() returns trigger language plpgsql as $$
declare
    owner constant text := format('function version %s@%s', new.function, new.version);
    granted jsonb := new.spec -> 'grants' -> 'publish';
    one text;
begin
    if jsonb_typeof(granted) = 'array' then
        for one in select jsonb_array_elements_text(granted) loop
            perform oncue.require_subject(owner, 'grants.publish', substr(one, strpos(one, '/') + 1), true,
                'function_versions_grants_are_subjects');
        end loop;
    end if;
    return new;
end $$;

create trigger function_versions_grants_are_subjects before insert on oncue.function_versions
    for each row execute function oncue.check_grant_subjects();
