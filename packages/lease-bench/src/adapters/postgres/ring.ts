import { createHash } from 'node:crypto'
import type { Pool, PoolClient } from 'pg'
import type { Adapter, Seat } from '../../bench.ts'
import { neighboursOf, ring, type RingClient } from '../ring.ts'
import { openPool, sharedPools } from './pool.ts'

/** By hand; a waiter listens on a connection of its pool, as the library does. */
export const postgresRing: Adapter = ring({
  about: 'by hand, to the next of a ring: UPDATE with pg_notify in one statement, the notification, UPDATE',
  async connect({ url }, seat) {
    const pool = openPool(url)
    return clientOf(new Listener(pool), seat, () => pool.end())
  },
  async connectMany({ url }, seats, listening) {
    const shared = sharedPools(url, seats.length, listening)
    const listeners = new Map<Pool, Listener>()
    return seats.map((seat, index) => {
      const pool = shared.poolOf(index)
      const listener = listeners.get(pool) ?? new Listener(pool)
      listeners.set(pool, listener)
      return clientOf(listener, seat, () => shared.letGo(index))
    })
  },
})

/** What is handed on: a row for each lease. */
export const ringTableSql = `CREATE TABLE bench_ring (
  ns text COLLATE "C", name text COLLATE "C", holder int, token bigint NOT NULL, PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)`

const begin = `INSERT INTO bench_ring VALUES ($1, $2, NULL, 0) ON CONFLICT DO NOTHING`
const claim = `UPDATE bench_ring SET holder = $3, token = token + 1
  WHERE ns = $1 AND name = $2 AND holder IS NULL RETURNING token`
const release = `WITH released AS (
  UPDATE bench_ring SET holder = NULL WHERE ns = $1 AND name = $2 AND holder = $3 RETURNING 1
) SELECT pg_notify($4, '') FROM released`

function clientOf(listener: Listener, { space, index, count }: Seat, atEnd: () => Promise<void>): RingClient {
  const { pool } = listener
  const send = async (name: string, text: string, values: readonly unknown[], rows: number): Promise<void> => {
    const { rowCount } = await pool.query({ name, text, values: [...values] })
    if (rowCount !== rows) throw new Error(`${name}: ${rowCount} of ${rows} rows`)
  }
  return {
    async listen(lease, woken) {
      await pool.query(begin, [space, lease])
      await listener.listen(channelOf(space, lease, index), woken)
    },
    claim: (lease) => send('ring_claim', claim, [space, lease, index], 1),
    release(lease) {
      const { next } = neighboursOf({ space, index, count })
      return send('ring_release', release, [space, lease, index, channelOf(space, lease, next)], 1)
    },
    async close() {
      listener.close()
      await atEnd()
    },
  }
}

/** A channel's name has at most 63 bytes. */
function channelOf(space: string, lease: string, index: number): string {
  return `ring_${createHash('md5').update(`${space}:${lease}`).digest('hex')}_${index}`
}

/** One connection that listens for several clients. */
class Listener {
  readonly pool: Pool
  readonly #woken = new Map<string, () => void>()
  #session: Promise<PoolClient> | undefined

  constructor(pool: Pool) {
    this.pool = pool
  }

  async listen(channel: string, woken: () => void): Promise<void> {
    this.#woken.set(channel, woken)
    const session = await (this.#session ??= this.#connect())
    await session.query(`LISTEN ${channel}`)
  }

  /** Idempotent. */
  close(): void {
    const session = this.#session
    this.#session = undefined
    session?.then(
      (open) => open.release(true),
      () => {}, // it has rejected where somebody listened
    )
  }

  async #connect(): Promise<PoolClient> {
    const session = await this.pool.connect()
    session.on('notification', ({ channel }) => this.#woken.get(channel)?.())
    session.on('error', () => {})
    return session
  }
}
