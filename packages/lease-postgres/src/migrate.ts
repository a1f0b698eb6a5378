/** How tables and functions come to be. */
import { notValid, type ErrNotValid } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { codeOf, onConnection } from './connection.ts'
import type { PostgresPool, PostgresResult } from './driver.ts'
import { countedOf, digestOf, type DatabaseFunction } from './function-text.ts'
import { functionsOf } from './functions.ts'
import { checkPool } from './options.ts'
import { withPool, type OpenPostgresJs } from './postgres-js.ts'
import {
  checkOwner,
  checkTableNames,
  HOME,
  HOME_SUFFIX,
  LAYOUT,
  quoteIdentifier,
  quoteLiteral,
  tablesOf,
  type TableOptions,
} from './schema.ts'

export interface MigrateOptions extends TableOptions {
  /**
   * A role whose tables and functions count as those of an earlier `migrate`. Without that they are where they belong to the
   * role that migrates, a role that it is a member of, the owner of the schema or of the database, or a superuser.
   */
  readonly owner?: string | undefined
}

/** What `migrate` has found. */
export interface Migration {
  /**
   * `DROP FUNCTION ..` for each function that an earlier release has left for these tables, and `DROP TABLE ..` for the table of
   * its queues. Run them once no process of an earlier release runs any more. Functions of a later release are not among them.
   */
  readonly outdated: readonly string[]
}

/**
 * Creates what is missing: schema, tables, columns, index, functions. Idempotent, and safe when many processes start at once.
 * Where everything is there it only reads catalogs: it waits for nobody, and any role may do it. Tables of an earlier release keep
 * their leases and pins, and processes of that release may go on.
 *
 * Nothing is used that somebody else may have planted: a table or function of the same name that belongs to a stranger is
 * refused (SQLSTATE 42501), and so is a function with another text (42P17) or a table of a later release (55000).
 *
 * @throws ErrNotValid the options break a rule, or the name of a table is taken; otherwise what the driver throws. `55P03`: others kept a lock for more than half a
 * minute, and nothing has changed; call it again
 */
export async function migrate(pool: PostgresPool | OpenPostgresJs, options: MigrateOptions = {}): Promise<Migration> {
  checkPool(pool)
  const read = parseOptions(options)
  const text = sqlOf(read)
  // Without values, so that the statements travel as one message and are thereby one transaction.
  const results: unknown = await withPool(pool, (own) =>
    onConnection(own, undefined, (client) => client.query(text)),
  ).catch((error: unknown) => {
    throw isTaken(error) ? taken(read, error) : error
  })
  const last = (Array.isArray(results) ? results.at(-1) : results) as PostgresResult | undefined
  const { outdated } = (last?.rows[0] ?? {}) as { readonly outdated?: string | null }
  return { outdated: JSON.parse(outdated || '[]') as string[] }
}

/** By one of the names there is something that is no part of leases: other columns (42703), an index or a view. */
const isTaken = (error: unknown): boolean => /^(42703|42P07|42809)$/.test(codeOf(error) ?? '')

function taken({ table = 'lease' }: MigrateOptions, cause: unknown): ErrNotValid {
  const others = ['floor', 'line', 'counts', 'layout', 'pinned', 'share'].map((end) => `${table}_${end}`).join(', ')
  const rule = `must not be the name of something else, nor may any of ${others} be`
  return notValid([{ argument: 'table', rule, value: table }], { cause })
}

/**
 * The statements that `migrate` runs, for people who migrate by hand. All that changes something is one statement. What is
 * outdated is printed as a NOTICE.
 *
 * @throws ErrNotValid the options break a rule
 */
export function migrationSql(options: MigrateOptions = {}): string {
  return sqlOf(parseOptions(options))
}

function parseOptions(given: MigrateOptions): MigrateOptions {
  const options = new OptionReader(given, KNOWN)
  checkTableNames(options)
  checkOwner(options)
  options.finish()
  return options.read
}

function sqlOf(options: MigrateOptions): string {
  const body = migrationBody(options)
  const tag = `$migrate_${digestOf(body)}$`
  return `-- An earlier snapshot would not show what another has made in the meantime.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;

DO ${tag}
${body}
${tag};

SELECT pg_catalog.current_setting('lease.outdated', true) AS outdated;
`
}

/** Any constant; the same for all tables, since two schemas may be created at once as well. */
const MIGRATION_LOCK = '7811887010271462'

/** For so long it tries to get a lock that others have. A call does so twice, on two connections. */
const PATIENCE = '20 seconds'

/** Columns that earlier releases did not have, by what the name of their table ends with. */
const addedColumns: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  '': { opened: 'bigint', opener: 'text', generations: 'jsonb', unpinned: 'bigint', valued: 'bigint', weight: 'int' },
  _waiter: { weight: 'int' },
}

/** Indexes of the leases, by what their names end with. None on anything that a renewal writes: renewals then stay within their page (HOT). */
const indexes: Readonly<Record<string, string>> = {
  _pinned: `(ns) WHERE pins <> '{}'`,
  _share: `(ns, ${countedOf('name')}, weight) WHERE weight IS NOT NULL`,
}

/** The names of all options. */
const KNOWN: readonly (keyof MigrateOptions)[] = ['schema', 'table', 'owner']

/**
 * Looks; where something is missing takes the advisory lock and looks again; creates what is missing, and looks a last time. So
 * nothing counts that was not looked at under the lock, and nothing is locked where everything is there.
 *
 * Each round is a subtransaction, so a lock that is not to be had undoes that round alone. It waits for a lock for half a second
 * at a time, since others queue behind it.
 *
 * The types and functions above the line that sets the path name their schema: until then whatever is called is looked up in the
 * path of the caller, who may have more rights than those who can create something in it.
 */
function migrationBody({ owner, ...where }: MigrateOptions): string {
  const tables = tablesOf(where)
  const { schema, table = 'lease' } = where
  const functions = Object.values(functionsOf(tables))
  const suffixes = Object.keys(columnsOf)
  const tableNames = suffixes.map((suffix) => quoteLiteral(table + suffix)).join(', ')
  const functionNames = functions.map(({ name }) => `'${name}'`).join(', ')
  const isThere = (suffix: string): string =>
    `EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = space AND c.relname = ${quoteLiteral(table + suffix)} AND c.relkind IN ('r', 'p'))`
  const oidOf = (suffix: string): string =>
    `(SELECT c.oid FROM pg_class c WHERE c.relnamespace = space AND c.relname = ${quoteLiteral(table + suffix)})`
  const leaseOid = oidOf('')
  const columnsAreThere = (suffix: string): string => {
    const names = Object.keys(addedColumns[suffix] ?? {})
    return `(SELECT count(*) FROM pg_attribute a WHERE a.attrelid = ${oidOf(suffix)} AND NOT a.attisdropped
        AND a.attname IN (${names.map((name) => `'${name}'`).join(', ')})) = ${names.length}`
  }
  const indexIsThere = (
    suffix: string,
  ): string => `EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = ${leaseOid} AND c.relname = ${quoteLiteral(table + suffix)})`
  const addColumns = (suffix: string): string => {
    const adding = Object.entries(addedColumns[suffix] ?? {}).map(
      ([name, type]) => `ADD COLUMN IF NOT EXISTS ${name} ${type}`,
    )
    return template(`ALTER TABLE ${HOME}.${quoteIdentifier(table + suffix)} ${adding.join(', ')}`)
  }
  return `DECLARE
  home_name pg_catalog.text := ${schema === undefined ? 'pg_catalog.current_schema()' : quoteLiteral(schema)};
  path pg_catalog.text := pg_catalog.current_setting('search_path');
  patience pg_catalog.text := pg_catalog.current_setting('lock_timeout');
  home pg_catalog.text;
  suffix pg_catalog.text;
  wanted pg_catalog.text;
  outdated pg_catalog.text;
  space pg_catalog.oid;
  one record;
  found_one record;
  layout integer;
  newest bigint;
  until timestamp with time zone;
  complete boolean;
  is_mine boolean := false;  -- the right to create
  was_made boolean := false;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  PERFORM set_config('lock_timeout', '500ms', true);
  IF home_name IS NULL THEN
    RAISE EXCEPTION 'no schema of the search_path exists: create one, or name one by the option "schema"' USING ERRCODE = '3F000';
  END IF;
  home := '"' || replace(home_name, '"', '""') || '"';
  suffix := '_' || left(encode(sha256(convert_to(home_name, 'UTF8')), 'hex'), 16);
  until := clock_timestamp() + interval '${PATIENCE}';
  LOOP
    BEGIN
      SELECT n.oid INTO space FROM pg_namespace n WHERE n.nspname = home_name;
      -- Whose they are.
      SELECT o.what, a.rolname INTO found_one FROM (
        SELECT 'table ' || c.oid::regclass::text AS what, c.relowner AS owner FROM pg_class c
        WHERE c.relnamespace = space AND c.relname IN (${tableNames})
        UNION ALL SELECT 'function ' || p.oid::regprocedure::text, p.proowner FROM pg_proc p
        WHERE p.pronamespace = space AND p.proname IN (${functionNames})
      ) o JOIN pg_roles a ON a.oid = o.owner
      WHERE NOT (
        a.rolsuper OR a.rolname = current_user${owner === undefined ? '' : ` OR a.rolname = ${quoteLiteral(owner)}`}
        OR a.oid = (SELECT n.nspowner FROM pg_namespace n WHERE n.oid = space)
        OR a.oid = (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database())
        OR pg_has_role(a.oid, 'MEMBER') AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
      ) LIMIT 1;
      IF FOUND THEN
        RAISE EXCEPTION '% belongs to role "%", which may have planted it: drop it, or say migrate({ owner }) if this role migrates',
          found_one.what, found_one.rolname USING ERRCODE = '42501';
      END IF;
      -- Tables.
      layout := NULL;
      IF ${isThere('_layout')} THEN
        EXECUTE format(${template(`SELECT max(version) FROM ${tables.layout}`)}, home) INTO layout;
        IF layout > ${LAYOUT} THEN
          RAISE EXCEPTION 'the tables have layout %, and this release of lease-postgres knows layouts up to ${LAYOUT}: update it', layout
            USING ERRCODE = '55000';
        END IF;
      END IF;
      complete := coalesce(layout = ${LAYOUT}, false) AND ${suffixes.map(isThere).join(' AND ')}
        AND ${[...Object.keys(addedColumns).map(columnsAreThere), ...Object.keys(indexes).map(indexIsThere)].join(' AND ')};
      IF is_mine AND NOT complete THEN
        IF space IS NULL THEN
          EXECUTE format('CREATE SCHEMA %s', home);
        END IF;
${suffixes
  .map((suffix) => {
    const create = template(
      `CREATE ${columnsOf[suffix]?.replace('TABLE', () => `TABLE ${HOME}.${quoteIdentifier(table + suffix)}`)}`,
    )
    // The sequence is logged: after a crash, too, those who come later get larger tickets.
    const logged =
      suffix === WAITER
        ? `\n          EXECUTE format('ALTER SEQUENCE %s SET LOGGED', pg_get_serial_sequence(home || ${quoteLiteral(`.${quoteIdentifier(table + suffix)}`)}, 'place'));`
        : ''
    return `        IF NOT ${isThere(suffix)} THEN
          EXECUTE format(${create}, home);${logged}
        END IF;`
  })
  .join('\n')}
        SELECT n.oid INTO space FROM pg_namespace n WHERE n.nspname = home_name;
${Object.keys(addedColumns)
  .map(
    (suffix) => `        IF NOT (${columnsAreThere(suffix)}) THEN
          EXECUTE format(${addColumns(suffix)}, home);
        END IF;`,
  )
  .join('\n')}
${Object.entries(indexes)
  .map(
    ([suffix, on]) => `        IF NOT ${indexIsThere(suffix)} THEN
          EXECUTE format(${template(`CREATE INDEX ${quoteIdentifier(table + suffix)} ON ${tables.lease} ${on}`)}, home);
        END IF;`,
  )
  .join('\n')}
        IF layout IS NULL THEN
          EXECUTE format(${template(`INSERT INTO ${tables.layout} (version) VALUES (${LAYOUT})`)}, home);
          EXECUTE format(${template(`GRANT SELECT ON ${tables.layout} TO PUBLIC`)}, home);
        END IF;
      END IF;
      -- Functions. Never replaced, and never dropped here: another text is another name, and older versions may still be running.
      FOR one IN SELECT * FROM (VALUES
${functions.map(functionRow).join(',\n')}
      ) AS f(name, arguments, settings, config, body) LOOP
        wanted := format(one.body, home, suffix);
        SELECT replace(p.prosrc, chr(13), '') AS body, p.proconfig, p.prosecdef, p.prorettype, p.provolatile, p.proisstrict INTO found_one FROM pg_proc p
        WHERE p.pronamespace = space AND p.proname = one.name AND replace(oidvectortypes(p.proargtypes), '"', '') = one.arguments;
        IF NOT FOUND THEN
          complete := false;
          IF is_mine THEN
            EXECUTE format('CREATE FUNCTION %s.%s(%s) RETURNS text LANGUAGE plpgsql %s AS %L',
              home, one.name, one.arguments, one.settings, wanted);
            EXECUTE format('COMMENT ON FUNCTION %s.%s(%s) IS %L', home, one.name, one.arguments,
              'lease-postgres, made at ' || (date_part('epoch', transaction_timestamp()) * 1000000)::bigint);
          END IF;
        ELSIF found_one.body <> wanted OR found_one.proconfig IS DISTINCT FROM one.config::text[] OR found_one.prosecdef
            OR found_one.prorettype <> 'text'::regtype OR found_one.provolatile <> 'v' OR found_one.proisstrict THEN
          RAISE EXCEPTION 'function %.%(%) is not as this release makes it: drop it, and run migrate() again', home, one.name, one.arguments
            USING ERRCODE = '42P17';
        END IF;
      END LOOP;
      EXIT WHEN complete;
      IF was_made THEN
        RAISE EXCEPTION 'something is missing that has just been made: run migrate() again' USING ERRCODE = '55000';
      END IF;
      was_made := is_mine;
      is_mine := is_mine OR pg_try_advisory_xact_lock(${MIGRATION_LOCK});
      IF NOT is_mine AND clock_timestamp() > until THEN
        RAISE EXCEPTION 'another session is migrating, or has the advisory lock ${MIGRATION_LOCK}' USING ERRCODE = '55P03';
      END IF;
    EXCEPTION WHEN lock_not_available THEN
      IF clock_timestamp() > until THEN RAISE; END IF;
      PERFORM pg_sleep(0.2);
    END;
    IF NOT is_mine THEN PERFORM pg_sleep(0.05); END IF;
  END LOOP;
  -- What an earlier release has left: older than the newest function of this one, and about the same table.
  SELECT max(coalesce(substring(obj_description(p.oid, 'pg_proc') FROM 'made at ([0-9]+)')::bigint, 0)) INTO newest
  FROM pg_proc p WHERE p.pronamespace = space AND p.proname IN (${functionNames});
  SELECT json_agg(o.statement ORDER BY o.statement) INTO outdated FROM (
    SELECT 'DROP FUNCTION ' || p.oid::regprocedure::text AS statement FROM pg_proc p
    WHERE p.pronamespace = space AND p.proname ~ '^lease_[a-z_]+_[0-9a-f]{16}$' AND p.proname NOT IN (${functionNames})
      AND (position(${quoteLiteral(` ${quoteIdentifier(table)} `)} IN p.prosrc) > 0 OR position(${quoteLiteral(`.${quoteIdentifier(table)} `)} IN p.prosrc) > 0)
      AND p.proowner = (SELECT c.relowner FROM pg_class c WHERE c.oid = ${leaseOid})
      AND coalesce(substring(obj_description(p.oid, 'pg_proc') FROM 'made at ([0-9]+)')::bigint, 0) < newest
    UNION ALL SELECT 'DROP TABLE ' || c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = space AND c.relname = ${quoteLiteral(`${table}_line`)} AND c.relpersistence = 'u'
      AND c.relowner = (SELECT l.relowner FROM pg_class l WHERE l.oid = ${leaseOid})
      AND (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
        = '{ns,name,last,served,at}'
  ) o;
  IF outdated IS NOT NULL THEN
    RAISE NOTICE 'once no process of an earlier release runs any more: %', outdated;
  END IF;
  PERFORM set_config('lease.outdated', coalesce(outdated, '[]'), true);
  PERFORM set_config('lock_timeout', patience, true);
  PERFORM set_config('search_path', path, true);
END`
}

/** The text as a literal for `format`, in which the first argument is the schema, quoted, and the second the suffix of channels. */
const template = (text: string): string => quoteLiteral(forFormat(text))
const forFormat = (text: string): string =>
  text.replaceAll('%', '%%').replaceAll(HOME, '%1$s').replaceAll(HOME_SUFFIX, '%2$s')

const WAITER = '_waiter'

/** What each table is, by what its name ends with. */
const columnsOf: Readonly<Record<string, string>> = {
  '': `TABLE (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  holder text,                        -- NULL: vacant
  token bigint NOT NULL,              -- fencing token of the present term, or of the last
  expiry timestamptz NOT NULL,
  nonce text,                         -- of the claim that opened the term, or of its last adoption
  value text,
  pins text[] NOT NULL DEFAULT '{}',  -- the entities that pin it
  opened bigint,                      -- when the term was opened, in microseconds; NULL: the token tells
  opener text,                        -- nonce of the claim that opened the term, where an adoption has replaced it
  generations jsonb,                  -- of each entity that pins it: generation of the pin, and when it was set
  unpinned bigint,                    -- when a pin was last withdrawn, in microseconds
  valued bigint,                      -- when the latest extension with a value was sent, in microseconds
  weight int,                         -- of a share; negative: it is over, and counts until a claim has got past its guards
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)`,
  _floor: `TABLE (
  ns text COLLATE "C" PRIMARY KEY,
  token bigint NOT NULL               -- no lease unknown to the other table ever had a higher one
)`,
  // Which clients to notify of what. It is not logged: after a crash everyone who waits looks again, and so is in it again.
  [WAITER]: `UNLOGGED TABLE (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,     -- empty: every lease of the namespace
  place bigint GENERATED BY DEFAULT AS IDENTITY,  -- 0: watches it; otherwise the ticket in its queue
  client text COLLATE "C" NOT NULL,
  until timestamptz NOT NULL,         -- then it ends, unless it is renewed
  weight int,                         -- of the share that it waits for
  PRIMARY KEY (ns, name, place, client)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)`,
  // One row for each counted lease: it decides each grant.
  _counts: `TABLE (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,     -- ends with #
  capacity int,                       -- NULL: it is not defined
  generation text,                    -- of the definition, or of what has ended it
  until timestamptz,                  -- of a definition by use: until when it is remembered at least
  used bigint NOT NULL DEFAULT 0,     -- the sum of the weights in the rows of its shares
  sweep bigint NOT NULL DEFAULT 0,    -- in microseconds: no share lapses before that
  token bigint NOT NULL DEFAULT 0,    -- the highest fencing token of its shares
  ended bigint,                       -- when it was last undefined, in microseconds
  former jsonb,                       -- of earlier definitions: the generation, and when it was over
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)`,
  _layout: 'TABLE (version int NOT NULL)',
}

/** The function as a row of the migration, under a comment that names it. */
function functionRow({ name, parameters, settings, body }: DatabaseFunction): string {
  const set = settings.map(([setting, value]) => `SET ${setting} = ${value}`).join(' ')
  const config = settings.map(([setting, value]) => `"${setting}=${value}"`).join(',')
  const tag = `$_${digestOf(body)}$`
  return `-- FUNCTION ${name}
('${name}', '${parameters.join(', ')}', '${set}', '{${config}}', ${tag}\n${forFormat(body)}\n${tag})`
}
