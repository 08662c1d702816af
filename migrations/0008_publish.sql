-- Publishing inside the application's own transaction: the event is a logical message, which exists if and only if the
-- transaction commits, and which change feeds read in order with the row changes. Runs as the caller; no table is
-- touched. The same text is installed into application databases (`oncue migrate --bus NAME`), so it may be run again.

-- Checks the attributes of an event, writes it, and gives its id.
create or replace function oncue.write_event(attributes jsonb, extensions jsonb, payload text)
    returns text language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    attribute record;
    content   bytea;
begin
    if attributes ->> 'type' is null or attributes ->> 'type' ~ '\s' then
        raise exception 'oncue.publish: type must not be null or hold white space'
            using errcode = 'invalid_parameter_value', hint = 'A type looks like user.signup.';
    end if;
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
    if jsonb_typeof(extensions) is distinct from 'object' then
        raise exception 'oncue.publish: extensions must be a JSON object' using errcode = 'invalid_parameter_value';
    end if;
    for attribute in select key, value from jsonb_each(extensions) loop
        if attribute.key !~ '^[a-z0-9]{1,64}$' or attribute.key ~ '^oncue' or attribute.key in
            ('specversion', 'id', 'source', 'type', 'subject', 'time', 'datacontenttype', 'dataschema', 'data') then
            raise exception 'oncue.publish: extensions: "%" cannot be the name of an extension', attribute.key
                using errcode = 'invalid_parameter_value',
                    hint = 'A name is 1 to 64 of a-z and 0-9, none of CloudEvents itself, and does not begin with oncue.';
        elsif jsonb_typeof(attribute.value) not in ('string', 'number', 'boolean') then
            raise exception 'oncue.publish: extensions: "%" must be a string, a number or a boolean', attribute.key
                using errcode = 'invalid_parameter_value', hint = 'Put the rest into data.';
        elsif attribute.value #>> '{}' ~ '[\u0001-\u001f\u007f-\u009f]'
            or octet_length(convert_to(attribute.value #>> '{}', 'UTF8')) > 8192 then
            raise exception 'oncue.publish: extensions: "%" holds a control character or more than 8192 bytes',
                attribute.key using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    if current_setting('wal_level') <> 'logical' then
        raise exception 'oncue.publish: wal_level is %, so that nobody would ever read the event',
            current_setting('wal_level') using errcode = 'object_not_in_prerequisite_state',
                hint = 'Run `alter system set wal_level = logical` and restart the server.';
    end if;
    content := convert_to(
        left((jsonb_strip_nulls(attributes) || extensions)::text, -1) || coalesce(payload, '') || '}', 'UTF8');
    if octet_length(content) > 16 * 1024 * 1024 then
        raise exception 'oncue.publish: the event has % bytes, more than 16 MiB', octet_length(content)
            using errcode = 'program_limit_exceeded', hint = 'Store the data and publish where it is.';
    end if;
    perform pg_logical_emit_message(true, 'oncue', content);
    return attributes ->> 'id';
end $$;
comment on function oncue.write_event is 'Part of oncue.publish';

-- Publishes an event whose data are JSON.
create or replace function oncue.publish(
    type text, data jsonb default null, subject text default null, source text default null, id text default null,
    datacontenttype text default null, extensions jsonb default '{}'
) returns text language sql volatile as $$
    select oncue.write_event(
        pg_catalog.jsonb_build_object(
            'specversion', '1.0',
            'id', coalesce(id, pg_catalog.gen_random_uuid()::text),
            'source', coalesce(source, 'postgres/' || pg_catalog.current_database()),
            'type', type,
            'subject', subject,
            'datacontenttype', coalesce(datacontenttype, case when data is not null then 'application/json' end)),
        coalesce(extensions, '{}'),
        ', "data": ' || data::text)
$$;
comment on function oncue.publish(text, jsonb, text, text, text, text, jsonb) is
    'Publishes an event if this transaction commits, and gives the event''s id';

-- Publishes an event whose data are bytes.
create or replace function oncue.publish(
    type text, subject text, id text, content bytea, content_type text default 'application/octet-stream'
) returns text language sql volatile as $$
    select oncue.write_event(
        pg_catalog.jsonb_build_object(
            'specversion', '1.0',
            'id', coalesce(id, pg_catalog.gen_random_uuid()::text),
            'source', 'postgres/' || pg_catalog.current_database(),
            'type', type,
            'subject', subject,
            'datacontenttype', content_type),
        '{}',
        ', "data_base64": "' || pg_catalog.translate(pg_catalog.encode(content, 'base64'), E'\n', '') || '"')
$$;
comment on function oncue.publish(text, text, text, bytea, text) is
    'Publishes an event whose data are bytes if this transaction commits, and gives the event''s id';
