/** How tables and functions come to be. */
import { onConnection } from './connection.ts'
import type { PostgresPool } from './driver.ts'
import type { DatabaseFunction } from './function-text.ts'
import { functionsOf } from './functions.ts'
import { LAYOUT, quoteIdentifier, quoteLiteral, tablesOf, type TableOptions, type Tables } from './schema.ts'

/**
 * Creates what is missing: schema, tables, columns, index, functions. Idempotent, and safe when many processes start at once:
 * they queue at an advisory lock that ends with the transaction. Tables of an earlier release keep their leases and pins, and
 * processes of that release may go on. Tables of a later release are refused.
 *
 * @throws ErrNotValid the options break a rule; otherwise what the driver throws
 */
export async function migrate(pool: PostgresPool, options: TableOptions = {}): Promise<void> {
  const text = migrationSql(options)
  // Without values, so that the statements travel as one message and are thereby one transaction.
  await onConnection(pool, undefined, (client) => client.query(text))
}

/**
 * The statements that `migrate` runs, for people who migrate by hand. Run them in one transaction where several may run
 * them at once: the advisory lock lasts as long as that.
 *
 * @throws ErrNotValid the options break a rule
 */
export function migrationSql(options: TableOptions = {}): string {
  const tables = tablesOf(options)
  const { lease, floor, line, layout } = tables
  const { schema, table = 'lease' } = options
  return `-- one at a time: CREATE .. IF NOT EXISTS alone fails when two run it at once
SELECT pg_advisory_xact_lock(${MIGRATION_LOCK});
${schema === undefined ? '' : createSchema(schema)}
CREATE TABLE IF NOT EXISTS ${lease} (
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
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE IF NOT EXISTS ${floor} (
  ns text COLLATE "C" PRIMARY KEY,
  token bigint NOT NULL               -- no lease unknown to the other table ever had a higher one
);

-- Who is next, of those who wait for a lease. No promise hangs on it, so it is not logged.
CREATE UNLOGGED TABLE IF NOT EXISTS ${line} (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  last int NOT NULL,                  -- the last place given
  served int NOT NULL,                -- the last place whose owner was granted the lease
  at timestamptz NOT NULL,            -- when the last place was given
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS ${layout} (version int NOT NULL);
${upgrade(tables, table)}

-- Never replaced, and never dropped here: another text is another name, and older versions may still be running.
${Object.values(functionsOf(tables))
  .map((one: DatabaseFunction) => createFunction(schema, one))
  .join('\n')}
`
}

/** Any constant; the same for all tables, since two schemas may be created at once as well. */
const MIGRATION_LOCK = '7811887010271462'

/** CREATE SCHEMA IF NOT EXISTS asks for the right to create one even where it exists. */
function createSchema(schema: string): string {
  const body = `BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = ${quoteLiteral(schema)}) THEN
    CREATE SCHEMA ${quoteIdentifier(schema)};
  END IF;
END`
  return `DO ${quoteLiteral(body)};`
}

/**
 * Writes down the layout, and adds what an earlier one did not have. That locks the table for a moment. Others queue behind
 * the lock while it waits for transactions in progress, so it waits for half a second at a time. Where the layout is known, no
 * statement of the migration locks the table.
 */
function upgrade({ lease, layout }: Tables, table: string): string {
  const body = `DECLARE
  found int := (SELECT max(version) FROM ${layout});
  patience text := current_setting('lock_timeout');
BEGIN
  IF found > ${LAYOUT} THEN
    RAISE EXCEPTION 'the tables have layout %, and this release of lease-postgres knows layouts up to ${LAYOUT}: update it', found;
  END IF;
  IF found IS NULL THEN
    PERFORM set_config('lock_timeout', '500ms', true);
    FOR attempt IN 1 .. ${UPGRADE_ATTEMPTS} LOOP
      BEGIN
        ALTER TABLE ${lease} ADD COLUMN IF NOT EXISTS opened bigint, ADD COLUMN IF NOT EXISTS opener text,
          ADD COLUMN IF NOT EXISTS generations jsonb, ADD COLUMN IF NOT EXISTS unpinned bigint,
          ADD COLUMN IF NOT EXISTS valued bigint;
        -- No index on anything that a renewal writes: renewals then stay within their page (HOT).
        CREATE INDEX IF NOT EXISTS ${quoteIdentifier(`${table}_pinned`)} ON ${lease} (ns) WHERE pins <> '{}';
        EXIT;
      EXCEPTION WHEN lock_not_available THEN
        IF attempt = ${UPGRADE_ATTEMPTS} THEN RAISE; END IF;
        PERFORM pg_sleep(0.2);
      END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
    INSERT INTO ${layout} (version) VALUES (${LAYOUT});
    GRANT SELECT ON ${layout} TO PUBLIC;
  END IF;
END`
  return `DO ${quoteLiteral(body)};`
}

const UPGRADE_ATTEMPTS = 60

/** CREATE OR REPLACE would make all sessions plan anew, at every start of a process, and asks for the ownership. */
function createFunction(schema: string | undefined, { name, definition }: DatabaseFunction): string {
  const home = schema === undefined ? 'current_schema()' : quoteLiteral(schema)
  return `DO $create_${name}$ BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace s ON s.oid = p.pronamespace
    WHERE s.nspname = ${home} AND p.proname = '${name}'
  ) THEN
${definition};
  END IF;
END $create_${name}$;`
}
