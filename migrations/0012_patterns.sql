-- What is wrong with a pattern as far as SQL can tell: its shape and its operators. A rule with such a mistake is refused
-- when it is written; what is left (wildcards, networks, ranges, costs) the nodes check, and say in `rules.error`.
-- Nothing is refused here that a node would take.

create function oncue.pattern_error(pattern json, place text default '', depth integer default 0) returns text
language plpgsql immutable parallel safe as $$
declare
    shapes constant jsonb := '{"exactly": ["string"], "prefix": ["string", "object"], "suffix": ["string", "object"],
        "equals-ignore-case": ["string"], "wildcard": ["string"], "numeric": ["array"], "cidr": ["string"],
        "exists": ["boolean"], "anything-but": ["string", "number", "boolean", "null", "array", "object"]}';
    field record;
    item record;
    operator record;
    here text;
    at text;
    found text;
begin
    if depth > 128 then
        return format('%s: nested deeper than 128 levels', place);
    end if;
    for field in select key, value, json_typeof(value) as kind from json_each(pattern) loop
        here := place || '/' || replace(replace(field.key, '~', '~0'), '/', '~1');
        if field.kind = 'object' then
            if not exists (select from json_each(field.value)) then
                return format('%s: an empty object asks for nothing; write [{"exists": true}] for any value', here);
            end if;
            found := oncue.pattern_error(field.value, here, depth + 1);
            if found is not null then return found; end if;
            continue;
        elsif field.kind <> 'array' then
            return format('%s: expected a list or an object, got a %s; wrap the value in a list', here, field.kind);
        elsif field.key = '$or' and json_array_length(field.value) < 2 then
            return format('%s: $or needs at least two patterns, got %s', here, json_array_length(field.value));
        elsif json_array_length(field.value) = 0 then
            return format('%s: an empty list matches nothing; write [{"exists": false}] for a field that must be absent',
                          here);
        end if;
        for item in
            select value, json_typeof(value) as kind, n - 1 as n from json_array_elements(field.value) with ordinality e(value, n)
        loop
            at := here || '/' || item.n;
            if field.key = '$or' then
                if item.kind <> 'object' then
                    return format('%s: expected a pattern, got a %s', at, item.kind);
                elsif not exists (select from json_each(item.value)) then
                    return format('%s: an empty pattern makes the whole $or match', at);
                end if;
                found := oncue.pattern_error(item.value, at, depth + 1);
                if found is not null then return found; end if;
            elsif item.kind = 'array' then
                return format('%s: a list inside a list; write its values into the outer list', at);
            elsif item.kind = 'object' then
                select min(key) as name, count(*) as count, min(json_typeof(value)) as kind into operator
                    from json_each(item.value);
                if operator.count <> 1 then
                    return format('%s: an operator is an object with one member, got %s', at, operator.count);
                elsif not shapes ? operator.name then
                    return format('%s: unknown operator "%s"; there are %s', at, operator.name,
                                  (select string_agg(name, ', ') from jsonb_object_keys(shapes) name));
                elsif not shapes -> operator.name ? operator.kind then
                    return format('%s/%s: expected a %s, got a %s', at, operator.name,
                                  shapes -> operator.name ->> 0, operator.kind);
                end if;
            end if;
        end loop;
    end loop;
    return null;
exception
    -- A key with U+0000: no text of Postgres can be it. The nodes say whether it is right.
    when untranslatable_character then return null;
end $$;

create function oncue.check_pattern() returns trigger language plpgsql as $$
declare
    found text;
begin
    if new.pattern is not null and json_typeof(new.pattern) = 'object' then
        found := case
            when exists (select from json_each(new.pattern)) then oncue.pattern_error(new.pattern)
            else '{} matches everything; set match_all = true instead'
        end;
        if found is not null then
            raise exception 'rule "%": pattern: %', new.name, found using errcode = 'check_violation', constraint = 'rules_pattern_is_sound',
                hint = 'Try it with `oncue rule test --pattern … --data …`.';
        end if;
    end if;
    return new;
end $$;

create trigger rules_pattern_is_sound before insert or update of pattern on oncue.rules
    for each row execute function oncue.check_pattern();
