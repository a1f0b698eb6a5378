import type { Token } from 'lease-core'
import { postgresClient, SqlGuard } from 'lease-postgres'
import type { Pool } from 'pg'
import { ownSeat, type Adapter, type Contestant, type GuardedWrites } from '../../bench.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { openPool, sharedPools } from './pool.ts'

/** As an application would set it up. */
export const postgresLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  can: [...libraryCan, 'guard'],
  guards: ['BEGIN, check, UPDATE, COMMIT', 'UPDATE with a predicate'],
  open: async ({ url }, { space } = ownSeat()) => {
    const pool = openPool(url)
    return connected(pool, space, () => pool.end())
  },
  async openMany({ url }, seats, listening) {
    const shared = sharedPools(url, seats.length, listening)
    return seats.map(({ space }, index) => connected(shared.poolOf(index), space, () => shared.letGo(index)))
  },
}

function connected(pool: Pool, namespace: string, atEnd: () => Promise<void>): Contestant {
  return libraryContestant({
    connect: (clock) => postgresClient({ pool, namespace, clock }),
    atEnd,
    guard: (kind, token, lane) =>
      kind.startsWith('BEGIN') ? transaction(pool, token, lane) : predicate(pool, token, lane),
  })
}

/** What is written under leases: a row for each lane. */
export const ledgerTableSql = `CREATE TABLE bench_ledger (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO bench_ledger SELECT id, 0 FROM generate_series(0, 99) AS id`

const write = 'UPDATE bench_ledger SET n = n + 1 WHERE id = $1'

async function transaction(pool: Pool, token: Token, lane: number): Promise<GuardedWrites> {
  const run = async (guarded: boolean): Promise<void> => {
    const connection = await pool.connect()
    try {
      await connection.query('BEGIN')
      if (guarded) await token.check(connection)
      await connection.query(write, [lane])
      await connection.query('COMMIT')
    } finally {
      connection.release()
    }
  }
  return { guarded: () => run(true), plain: () => run(false) }
}

async function predicate(pool: Pool, token: Token, lane: number): Promise<GuardedWrites> {
  return {
    async guarded() {
      const guard = new SqlGuard(2)
      await token.check(guard)
      const { rowCount } = await pool.query(`${write} AND ${guard.text}`, [lane, ...guard.values])
      guard.assertHeld(rowCount)
    },
    async plain() {
      await pool.query(write, [lane])
    },
  }
}
