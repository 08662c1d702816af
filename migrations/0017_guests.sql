-- Guests: functions that run SQL. The statements of each granted role run on connections whose session user is a login
-- that is a member of that role and of nothing else, so that a statement that leaves its role ends at a login that may
-- do nothing. Such a connection settles its deliveries through `guest_settle`, which asks for a key that only the owner
-- of these tables can read.

-- The login of each role. Whoever may read this table may be any of them: nobody is granted it.
create table oncue.guests (
    role       text primary key,
    login      text not null unique,
    password   text not null,
    created_at timestamptz not null default now()
);
revoke all on oncue.guests from public;

create table oncue.guest_key (
    only_row boolean primary key default true,
    key      bytea not null,
    constraint guest_key_has_one_row check (only_row),
    constraint guest_key_is_long check (length(key) = 32)
);
revoke all on oncue.guest_key from public;
insert into oncue.guest_key (key)
    values (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- Makes the login of `role`, or gives it a new password, and lets it settle. Runs as the caller, who needs the right to
-- create roles and to grant `role`.
create function oncue.make_guest(role text) returns text language plpgsql volatile
    set search_path = pg_catalog, pg_temp as $$
declare
    -- Roles belong to the whole cluster, this table to one database.
    named constant name := ('oncue_guest_' || left(md5(current_database() || '/' || role), 8) || '_' || role)::name;
    word  constant text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
    setting text;
begin
    perform pg_advisory_xact_lock(hashtext('oncue.make_guest'));
    if not exists (select from pg_roles r where r.rolname = role) then
        raise exception 'role "%" does not exist', role using errcode = 'undefined_object',
            hint = format('Run: create role %I nologin;', role);
    end if;
    if not exists (select from pg_roles r where r.rolname = named) then
        execute format('create role %I login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls', named);
    end if;
    -- A backend that cannot be cancelled is left behind; there is a bound to them.
    execute format('alter role %I login connection limit 50 password %L', named, word);
    execute format('alter role %I reset all', named);
    execute format('grant %I to %I', role, named);
    execute format('grant usage on schema oncue to %I', named);
    execute format('grant execute on function oncue.guest_settle(bytea, text, text, text, text, text, text, text), '
                   'oncue.guest_objects(), oncue.guest_rights(), oncue.guest_check(bigint), oncue.guest_refuse(), '
                   'oncue.guest_login() to %I', named);
    foreach setting in array array['statement_timeout = ''5s''', 'lock_timeout = ''5s''',
        'idle_in_transaction_session_timeout = ''60s''', 'client_min_messages = ''error''', 'work_mem = ''16MB''',
        'temp_file_limit = ''256MB''', 'log_min_messages = ''error''', 'log_parameter_max_length = 0'] loop
        begin
            execute format('alter role %I set %s', named, setting);
        exception when insufficient_privilege then
            -- Three of them are a superuser's to set; `oncue doctor` names those that are missing.
            null;
        end;
    end loop;
    insert into oncue.guests as g (role, login, password) values (role, named, word)
    on conflict on constraint guests_pkey do update set login = excluded.login, password = excluded.password, created_at = now();
    return named;
end $$;
comment on function oncue.make_guest is 'Makes the login under which functions with the SQL grant of a role run their statements';
revoke all on function oncue.make_guest from public;

-- Why a guest's session is not to be used: what its login, or a role that it can become, may do that no guest may.
-- Null if there is nothing.
create function oncue.guest_login() returns text language sql stable set search_path = pg_catalog, pg_temp as $$
    select string_agg(why, '; ' order by why) from (
        select case
            when r.rolsuper then format('%I is a superuser', r.rolname)
            when r.rolbypassrls then format('%I has bypassrls', r.rolname)
            when r.rolcreaterole then format('%I has createrole', r.rolname)
            when r.rolcreatedb then format('%I has createdb', r.rolname)
            when r.rolreplication then format('%I has replication', r.rolname)
            when r.rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
                'pg_write_all_data', 'pg_read_all_data', 'pg_signal_backend', 'pg_create_subscription', 'pg_maintain',
                'pg_database_owner', 'pg_checkpoint') then format('it is a member of %I', r.rolname)
            when r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'oncue')
                then format('%I owns the schema oncue', r.rolname)
            when has_table_privilege(r.oid, 'oncue.guests', 'select') or has_table_privilege(r.oid, 'oncue.guest_key', 'select')
                or has_table_privilege(r.oid, 'oncue.publish_keys', 'select')
                then format('%I may read keys or passwords of Oncue', r.rolname)
            when r.oid = (select d.datdba from pg_database d where d.datname = current_database())
                then format('%I owns the database', r.rolname)
            end as why
        from pg_roles r where pg_has_role(session_user, r.oid, 'member')
        union all
        select 'track_counts is off: what a delivery leaves behind would not be seen'
        where current_setting('track_counts') = 'off'
        union all
        select format('the login %I owns objects', session_user)
        where exists (select from pg_shdepend s where s.refclassid = 'pg_authid'::regclass and s.deptype = 'o'
                      and s.refobjid = (select r.oid from pg_roles r where r.rolname = session_user))
    ) as found where why is not null
$$;

-- Rows that this transaction has put into the catalogs, those of savepoints that were undone included; what the session did before
-- may be in it or not, but stays the same until the transaction ends.
-- Everything is qualified, as in `guest_check`: both run once a delivery, and a fixed search_path would cost more than they do.
create function oncue.guest_objects() returns bigint language plpgsql volatile as $$
begin
    return pg_catalog.pg_stat_get_xact_tuples_inserted(1259)                              -- pg_class
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(1255)          -- pg_proc
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(1247)          -- pg_type
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2615)          -- pg_namespace
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2617)          -- pg_operator
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2618)          -- pg_rewrite
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2620)          -- pg_trigger
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2995)          -- pg_largeobject_metadata
        operator(pg_catalog.+) oncue.guest_rights();
end $$;

-- The same for what roles are and what they may do by default.
create function oncue.guest_rights() returns bigint language plpgsql volatile as $$
begin
    return pg_catalog.pg_stat_get_xact_tuples_inserted(1260)                              -- pg_authid
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(1260)
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(2964)          -- pg_db_role_setting
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(2964)
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(2964)
        operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_inserted(826);          -- pg_default_acl
end $$;

-- Refuses what the statements of one delivery must not leave behind: a temporary object, which later statements on the
-- connection would find, or any object that belongs to the role or the login. `known` is what `guest_objects` said before.
create function oncue.guest_check(known bigint) returns void language plpgsql volatile as $$
begin
    if pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid then
        raise exception 'the statements made a temporary object' using errcode = 'insufficient_privilege';
    end if;
    if oncue.guest_objects() operator(pg_catalog.<>) known then
        perform oncue.guest_refuse();
    end if;
end $$;

create function oncue.guest_refuse() returns void language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    made text;
begin
    if oncue.guest_rights() > 0 then
        raise exception 'the statements changed a role, its settings or default rights' using errcode = 'insufficient_privilege';
    end if;
    -- Objects of others, such as a partition that the table's owner makes on demand, are theirs to make.
    with mine as (
        select r.oid from pg_roles r where pg_has_role(session_user, r.oid, 'member')
    ), made_now as (
        select 'relation ' || c.relname as what, c.relowner as owner, c.xmin as by from pg_class c
        union all select 'function ' || p.proname, p.proowner, p.xmin from pg_proc p
        union all select 'type ' || t.typname, t.typowner, t.xmin from pg_type t
        union all select 'schema ' || n.nspname, n.nspowner, n.xmin from pg_namespace n
        union all select 'operator ' || o.oprname, o.oprowner, o.xmin from pg_operator o
        union all select 'trigger ' || g.tgname, c.relowner, g.xmin from pg_trigger g join pg_class c on c.oid = g.tgrelid
        union all select 'rule ' || w.rulename, c.relowner, w.xmin from pg_rewrite w join pg_class c on c.oid = w.ev_class
        union all select 'large object ' || l.oid, l.lomowner, l.xmin from pg_largeobject_metadata l
    )
    select m.what into made from made_now m join mine on mine.oid = m.owner
    where age(m.by) <= age(pg_current_xact_id()::xid) limit 1;
    if found then
        raise exception 'the statements made the %', made using errcode = 'insufficient_privilege';
    end if;
end $$;

-- Settles deliveries in the transaction that ran their statements. Each of the texts is a JSON list of rows: claims
-- (`id`, `token`), fences (`lease`, `epoch`), and rows of the tables that the parameters name; bytes are in hexadecimal.
-- Raises OC001 where a claim was taken over, OC002 where a lease has passed on, and a violated primary key where a
-- delivery had been settled before: nothing is settled then.
create function oncue.guest_settle(key bytea, node text, claims text, fences text, ledger text, recorded text, logs text,
    outbox text) returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    ended bigint;
begin
    if sha256(guest_settle.key) is distinct from (select sha256(k.key) from oncue.guest_key k) then
        raise exception 'guest_settle is for nodes of Oncue' using errcode = 'insufficient_privilege';
    end if;
    if claims is not null then
        delete from oncue.parked p using json_to_recordset(claims::json) as c (id uuid, token uuid)
            where p.delivery_id = c.id and p.token = c.token;
        get diagnostics ended = row_count;
        if ended <> json_array_length(claims::json) then
            raise exception 'a claim was taken over' using errcode = 'OC001';
        end if;
    end if;
    if fences is not null then
        -- Shared, so that no lease passes on before the commit.
        perform from oncue.leases l join json_to_recordset(fences::json) as f (lease text, epoch bigint)
            on l.name = f.lease where l.epoch = f.epoch order by l.name for share of l;
        perform from json_to_recordset(fences::json) as f (lease text, epoch bigint)
            where not exists (select from oncue.leases l where l.name = f.lease and l.epoch = f.epoch);
        if found then
            raise exception 'a lease has passed on' using errcode = 'OC002';
        end if;
    end if;
    with attempts as materialized (
        select * from json_to_recordset(ledger::json) as a (delivery_id uuid, attempt int, event_id text, event_type text,
            event_source text, trigger text, rule text, function text, version int, outcome text, settlement text,
            error text, started_at bigint, micros bigint, fuel bigint, peak_memory bigint, outputs int, cause uuid)
    ), summed as (
        insert into oncue.usage as u (day, trigger, rule, function, version, runs, failed, micros, fuel, outputs)
        select (now() at time zone 'UTC')::date, a.trigger, a.rule, coalesce(a.function, ''), coalesce(a.version, 0),
               count(*), count(*) filter (where a.outcome <> 'ok'), sum(a.micros), sum(a.fuel), sum(a.outputs)
        from attempts a group by 1, 2, 3, 4, 5 order by 3, 4, 5, 2
        on conflict (day, rule, function, version, trigger) do update
        set runs = u.runs + excluded.runs, failed = u.failed + excluded.failed, micros = u.micros + excluded.micros,
            fuel = u.fuel + excluded.fuel, outputs = u.outputs + excluded.outputs
    )
    insert into oncue.ledger (delivery_id, attempt, event_id, event_type, event_source, trigger, rule, function, version,
        outcome, settlement, error, started_at, micros, fuel, peak_memory, outputs, cause, node)
    select a.delivery_id, a.attempt, a.event_id, a.event_type, a.event_source, a.trigger, a.rule, a.function, a.version,
        a.outcome, a.settlement, a.error, 'epoch'::timestamptz + a.started_at * interval '1 microsecond', a.micros, a.fuel,
        a.peak_memory, a.outputs, a.cause, guest_settle.node
    from attempts a;
    if recorded is not null then
        insert into oncue.recorded (id, trigger, event_id, event_type, matched, transport_key, attributes, data)
        select r.id, r.trigger, r.event_id, r.event_type, r.matched, decode(r.transport_key, 'hex'),
               decode(r.attributes, 'hex'), decode(r.data, 'hex')
        from json_to_recordset(recorded::json) as r (id uuid, trigger text, event_id text, event_type text, matched boolean,
            transport_key text, attributes text, data text)
        on conflict do nothing;
    end if;
    if logs is not null then
        insert into oncue.logs (delivery_id, attempt, function, lines, dropped)
        select l.* from json_to_recordset(logs::json) as l (delivery_id uuid, attempt int, function text, lines text,
            dropped bigint)
        on conflict do nothing;
    end if;
    if outbox is not null then
        insert into oncue.outbox (delivery_id, place, bus, subject, message_id, event, node, next_at)
        select o.delivery_id, o.place, o.bus, o.subject, o.message_id, decode(o.event, 'hex'), guest_settle.node,
               clock_timestamp() + o.lease_ms * interval '1 millisecond'
        from json_to_recordset(outbox::json) as o (delivery_id uuid, place int, bus text, subject text, message_id text,
            event text, lease_ms bigint);
    end if;
end $$;
revoke all on function oncue.guest_settle, oncue.guest_objects, oncue.guest_rights, oncue.guest_check, oncue.guest_refuse,
    oncue.guest_login from public;
