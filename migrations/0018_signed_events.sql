-- What tells a published event from a forged one. Any login may write a logical message under any prefix, so a message
-- is an event only if it is signed: `oncuemac` holds a HMAC-SHA-256 over the event, its transaction and its position,
-- with a key that nobody reads but the owner of these functions and the roles that follow the feed. The role that
-- published is an attribute of the event (`oncuerole`). The same text is installed into application databases
-- (`oncue migrate --bus NAME`), so it may be run again: keys and grants stay.

-- The keys. New events are signed with the newest; a key is believed until it is retired.
create table if not exists oncue.publish_keys (
    number         integer not null,
    -- The key, padded to a block of SHA-256, xor 0x36 and 0x5c (RFC 2104).
    inner_key      bytea not null,
    outer_key      bytea not null,
    created_at     timestamptz not null default now(),
    -- The server whose log the positions are of: on a copy that has another log they mean nothing.
    system         text not null,
    -- What stands before it in the log is an event without a signature: an older version of the functions wrote it.
    unsigned_until pg_lsn,
    -- What is signed with the key is believed only if it stands before it.
    retired_at     pg_lsn,
    constraint publish_keys_pkey primary key (number),
    constraint publish_keys_number_is_positive check (number > 0),
    constraint publish_keys_are_blocks check (octet_length(inner_key) = 64 and octet_length(outer_key) = 64)
);
comment on table oncue.publish_keys is 'Who reads this can forge events: only the roles that follow change feeds may';

-- Default privileges may have given it to others.
do $$
declare
    other record;
begin
    if not exists (select from oncue.publish_keys) then
        for other in
            select distinct a.grantee from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
                where c.oid = 'oncue.publish_keys'::pg_catalog.regclass and a.grantee <> c.relowner
        loop
            execute pg_catalog.format('revoke all on oncue.publish_keys from %s',
                case other.grantee when 0 then 'public' else other.grantee::pg_catalog.regrole::text end);
        end loop;
    end if;
end $$;

-- Makes the key that new events are signed with, and gives its number. The keys before it are still believed.
create or replace function oncue.rotate_publish_key() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    -- 4 times 122 random bits.
    secret    bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                              || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
    made      integer;
begin
    for i in 0..31 loop
        inner_pad := set_byte(inner_pad, i, get_byte(inner_pad, i) # get_byte(secret, i));
        outer_pad := set_byte(outer_pad, i, get_byte(outer_pad, i) # get_byte(secret, i));
    end loop;
    lock table oncue.publish_keys in share row exclusive mode;
    insert into oncue.publish_keys (number, inner_key, outer_key, system)
        select coalesce(max(k.number), 0) + 1, inner_pad, outer_pad,
            (select c.system_identifier::text from pg_control_system() c)
        from oncue.publish_keys k
        returning number into made;
    return made;
end $$;
comment on function oncue.rotate_publish_key() is 'Makes a new key for signing published events';

-- Ends the belief in every key but the newest, from here on in the log, and gives how many there were.
create or replace function oncue.retire_publish_keys() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    retired integer;
begin
    update oncue.publish_keys k set retired_at = pg_current_wal_insert_lsn()
        where k.retired_at is null and k.number < (select max(number) from oncue.publish_keys);
    get diagnostics retired = row_count;
    return retired;
end $$;
comment on function oncue.retire_publish_keys() is 'Retires every key for signing published events but the newest';

-- Signs an event in structured mode and writes it. Whoever may read the key may run it to an effect.
create or replace function oncue.write_message(event bytea) returns pg_lsn
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    key  record;
    -- Each message has a position after that of the one before: none is believed twice.
    seal text := pg_current_wal_insert_lsn()::text;
    rest bytea := substr(event, 2);
begin
    select k.number, k.inner_key, k.outer_key into key from oncue.publish_keys k
        where k.retired_at is null order by k.number desc limit 1;
    if key.number is null then
        raise exception 'oncue.publish: there is no key to sign the event with'
            using errcode = 'object_not_in_prerequisite_state', hint = 'Run `select oncue.rotate_publish_key()`.';
    end if;
    seal := key.number::text || '.' || seal || '.';
    return pg_logical_emit_message(true, 'oncue', convert_to('{"oncuemac":"' || seal || encode(sha256(key.outer_key
        || sha256(key.inner_key || convert_to(pg_current_xact_id()::xid::text || '.' || seal, 'UTF8') || rest)), 'hex')
        || '",', 'UTF8') || rest);
end $$;
comment on function oncue.write_message is 'Part of oncue.publish';

-- Checks the attributes of an event, says who publishes it, writes it, and gives its id. It runs as its owner, who may
-- read the key; it takes nothing from the caller that would end up in the event unchecked.
create or replace function oncue.write_event(
    type text, data jsonb, subject text, source text, id text, datacontenttype text, extensions jsonb, content bytea
) returns text language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- `current_user` is the owner here. What `set role` set is the session's own, and nobody sets it to a role of others.
    publisher  text := case current_setting('role') when 'none' then session_user::text else current_setting('role') end;
    attribute  record;
    attributes jsonb;
    texts      text;
    event      bytea;
begin
    if type is null or type ~ '\s' then
        raise exception 'oncue.publish: type must not be null or hold white space'
            using errcode = 'invalid_parameter_value', hint = 'A type looks like user.signup.';
    end if;
    id := coalesce(id, gen_random_uuid()::text);
    source := coalesce(source, 'postgres/' || current_database());
    datacontenttype := coalesce(datacontenttype, case when data is not null then 'application/json' end);
    attributes := jsonb_build_object('specversion', '1.0', 'id', id, 'source', source, 'type', type, 'subject', subject,
        'datacontenttype', datacontenttype, 'oncuerole', publisher);
    texts := concat(id, source, type, subject, datacontenttype, publisher);
    -- One look at all of them is quicker; which one it is, is asked when something may be wrong.
    if '' in (id, source, type, subject, datacontenttype) or octet_length(convert_to(texts, 'UTF8')) > 8192
        or texts ~ '[\u0001-\u001f\u007f-\u009f]'
    then
        for attribute in select key, value from jsonb_each_text(attributes) where value is not null loop
            if attribute.value = '' then
                raise exception 'oncue.publish: % is empty', attribute.key using errcode = 'invalid_parameter_value';
            elsif attribute.value ~ '[\u0001-\u001f\u007f-\u009f]' then
                raise exception 'oncue.publish: % holds a control character', attribute.key
                    using errcode = 'invalid_parameter_value';
            elsif octet_length(convert_to(attribute.value, 'UTF8')) > 8192 then
                raise exception 'oncue.publish: % is longer than 8192 bytes', attribute.key
                    using errcode = 'invalid_parameter_value';
            end if;
        end loop;
    end if;
    extensions := coalesce(extensions, '{}');
    if jsonb_typeof(extensions) <> 'object' then
        raise exception 'oncue.publish: extensions must be a JSON object' using errcode = 'invalid_parameter_value';
    elsif extensions <> '{}' then
        for attribute in select key, value from jsonb_each(extensions) loop
            if attribute.key !~ '^[a-z0-9]{1,64}$' or attribute.key ~ '^oncue' or attribute.key in
                ('specversion', 'id', 'source', 'type', 'subject', 'time', 'datacontenttype', 'dataschema', 'data') then
                raise exception 'oncue.publish: extensions: "%" cannot be the name of an extension', attribute.key
                    using errcode = 'invalid_parameter_value', hint = 'A name is 1 to 64 of a-z and 0-9, none of '
                        'CloudEvents itself, and does not begin with oncue.';
            elsif jsonb_typeof(attribute.value) not in ('string', 'number', 'boolean') then
                raise exception 'oncue.publish: extensions: "%" must be a string, a number or a boolean', attribute.key
                    using errcode = 'invalid_parameter_value', hint = 'Put the rest into data.';
            elsif attribute.value #>> '{}' ~ '[\u0001-\u001f\u007f-\u009f]'
                or octet_length(convert_to(attribute.value #>> '{}', 'UTF8')) > 8192 then
                raise exception 'oncue.publish: extensions: "%" holds a control character or more than 8192 bytes',
                    attribute.key using errcode = 'invalid_parameter_value';
            end if;
        end loop;
    end if;
    if current_setting('wal_level') <> 'logical' then
        raise exception 'oncue.publish: wal_level is %, so that nobody would ever read the event',
            current_setting('wal_level') using errcode = 'object_not_in_prerequisite_state',
                hint = 'Run `alter system set wal_level = logical` and restart the server.';
    end if;
    event := convert_to(left((jsonb_strip_nulls(attributes) || extensions)::text, -1)
        || coalesce(', "data": ' || data::text, '')
        || coalesce(', "data_base64": "' || translate(encode(content, 'base64'), E'\n', '') || '"', '') || '}', 'UTF8');
    if octet_length(event) > 16 * 1024 * 1024 then
        raise exception 'oncue.publish: the event has % bytes, more than 16 MiB', octet_length(event)
            using errcode = 'program_limit_exceeded', hint = 'Store the data and publish where it is.';
    end if;
    perform oncue.write_message(event);
    return id;
end $$;
comment on function oncue.write_event(text, jsonb, text, text, text, text, jsonb, bytea) is 'Part of oncue.publish';

-- Publishes an event whose data are JSON.
create or replace function oncue.publish(
    type text, data jsonb default null, subject text default null, source text default null, id text default null,
    datacontenttype text default null, extensions jsonb default '{}'
) returns text language sql volatile as $$
    select oncue.write_event(type, data, subject, source, id, datacontenttype, extensions, null)
$$;
comment on function oncue.publish(text, jsonb, text, text, text, text, jsonb) is
    'Publishes an event if this transaction commits, and gives the event''s id';

-- Publishes an event whose data are bytes.
create or replace function oncue.publish(
    type text, subject text, id text, content bytea, content_type text default 'application/octet-stream'
) returns text language sql volatile as $$
    select oncue.write_event(type, null, subject, null, id, content_type, null, content)
$$;
comment on function oncue.publish(text, text, text, bytea, text) is
    'Publishes an event whose data are bytes if this transaction commits, and gives the event''s id';

-- Lets a role publish: `select oncue.grant_publish('shop')`.
create or replace function oncue.grant_publish(role text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    grantee text := case role when 'public' then role else quote_ident(role) end;
begin
    execute 'grant usage on schema oncue to ' || grantee;
    execute 'grant execute on function oncue.publish(text, jsonb, text, text, text, text, jsonb),
        oncue.publish(text, text, text, bytea, text),
        oncue.write_event(text, jsonb, text, text, text, text, jsonb, bytea) to ' || grantee;
end $$;
comment on function oncue.grant_publish(text) is 'Lets a role publish events with oncue.publish';

-- Who may publish is said role by role. Only the first time: what was granted since stays.
do $$
declare
    other record;
begin
    if not exists (select from oncue.publish_keys) then
        revoke execute on function oncue.publish(text, jsonb, text, text, text, text, jsonb),
            oncue.publish(text, text, text, bytea, text),
            oncue.write_event(text, jsonb, text, text, text, text, jsonb, bytea), oncue.write_message(bytea),
            oncue.rotate_publish_key(), oncue.retire_publish_keys(), oncue.grant_publish(text) from public;
        perform oncue.rotate_publish_key();
        if pg_catalog.to_regprocedure('oncue.write_event(jsonb, jsonb, text)') is not null then
            -- An older version was there, which every role that may use the schema could run: they still may publish.
            for other in
                select distinct a.grantee from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
                    where n.nspname = 'oncue' and a.privilege_type = 'USAGE' and a.grantee <> n.nspowner
            loop
                perform oncue.grant_publish(case other.grantee when 0 then 'public'
                    else (select r.rolname::text from pg_catalog.pg_roles r where r.oid = other.grantee) end);
            end loop;
            -- What it wrote is in the log, and it is not signed.
            update oncue.publish_keys set unsigned_until = pg_catalog.pg_current_wal_insert_lsn();
        end if;
    end if;
    drop function if exists oncue.write_event(jsonb, jsonb, text);
end $$;
