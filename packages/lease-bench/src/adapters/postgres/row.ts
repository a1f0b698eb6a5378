/**
 * The least that one could write: an insert that takes over what has lapsed, and a delete. As durable as the library's
 * statements, and with fewer promises: no lasting fencing token, no nonce, no refusal that says who has it, no guard.
 */
import { randomUUID } from 'node:crypto'
import type { Adapter } from '../../bench.ts'
import { batches, batchName, inBatches } from '../by-hand.ts'
import { HAND_POOL, openPool } from './pool.ts'

export const rowTableSql = `CREATE TABLE bench_row (
  ns text COLLATE "C", name text COLLATE "C", holder text NOT NULL, token bigint NOT NULL, expiry timestamptz NOT NULL,
  PRIMARY KEY (ns, name)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE SEQUENCE bench_token CACHE 1`

const conflict = `ON CONFLICT (ns, name) DO UPDATE
  SET holder = excluded.holder, token = excluded.token, expiry = excluded.expiry
  WHERE bench_row.expiry <= clock_timestamp()`
const columns = `nextval('bench_token'), clock_timestamp() + interval '2 hours'`

const claimOne = `INSERT INTO bench_row VALUES ($1, $2, $3, ${columns}) ${conflict} RETURNING token::text`
const releaseOne = `DELETE FROM bench_row WHERE ns = $1 AND name = $2 AND holder = $3`
const extendMany = `UPDATE bench_row SET expiry = clock_timestamp() + interval '2 hours'
  WHERE ns = $1 AND name = ANY($2::text[]) AND holder = $3 AND expiry > clock_timestamp()`
const claimMany = `INSERT INTO bench_row SELECT $1, name, $3, ${columns} FROM unnest($2::text[]) AS name ORDER BY name
  ${conflict} RETURNING name, token::text`
const releaseMany = `DELETE FROM bench_row WHERE ns = $1 AND name = ANY($2::text[]) AND holder = $3`

/** One prepared single-row statement per claim, over a pool. */
export const postgresRow: Adapter = {
  name: 'row',
  role: 'raw',
  about: 'single-row insert and delete, prepared',
  can: ['one'],
  async open({ url }) {
    const { send, close } = connected(url)
    return {
      one: {
        claim: (lease) => send('row_claim', claimOne, lease, 1),
        release: (lease) => send('row_release', releaseOne, lease, 1),
      },
      close,
    }
  },
}

/** One `unnest` statement for the claims of all callers. */
export function postgresRowBatch({ inFlight }: { readonly inFlight: number }): Adapter {
  return {
    name: batchName('row', inFlight),
    ...(inFlight > 1 && { isDetail: true as const }),
    role: 'raw',
    about: `unnest insert, update and delete, ${batches(inFlight)}`,
    can: ['many'],
    async open({ url }) {
      const { send, close } = connected(url)
      return inBatches(
        {
          claim: (leases) => send('rows_claim', claimMany, leases, leases.length),
          extend: (leases) => send('rows_extend', extendMany, leases, leases.length),
          release: (leases) => send('rows_release', releaseMany, leases, leases.length),
          close,
        },
        inFlight,
      )
    },
  }
}

interface Connected {
  readonly send: (name: string, text: string, what: string | readonly string[], rows: number) => Promise<void>
  readonly close: () => Promise<void>
}

function connected(url: string): Connected {
  const pool = openPool(url, HAND_POOL)
  const namespace = randomUUID()
  return {
    async send(name, text, what, rows) {
      const { rowCount } = await pool.query({ name, text, values: [namespace, what, 'bench'] })
      if (rowCount !== rows) throw new Error(`${name}: ${rowCount} of ${rows} done`)
    },
    close: () => pool.end(),
  }
}
