/** How tables and functions come to be. */
import { onConnection } from './connection.ts'
import type { PostgresPool } from './driver.ts'
import type { DatabaseFunction } from './function-text.ts'
import { functionsOf } from './functions.ts'
import { quoteIdentifier, quoteLiteral, tablesOf, type TableOptions } from './schema.ts'

/**
 * Creates what is missing: schema, tables, index, functions. Idempotent, and safe when many processes start at once: they queue
 * at an advisory lock that ends with the transaction.
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
  const { lease, floor, line } = tables
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
  nonce text,                         -- of the claim that opened the term
  value text,
  pins text[] NOT NULL DEFAULT '{}',  -- the entities that pin it
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- No index on anything that a renewal writes: renewals then stay within their page (HOT).
CREATE INDEX IF NOT EXISTS ${quoteIdentifier(`${table}_pinned`)} ON ${lease} (ns) WHERE pins <> '{}';

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
