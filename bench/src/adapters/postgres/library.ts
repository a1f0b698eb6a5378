import { randomUUID } from 'node:crypto'
import type { Token } from 'lease-core'
import { postgresClient, SqlGuard } from 'lease-postgres'
import type { Pool } from 'pg'
import type { Adapter, Contestant, Ground, GuardedWrites } from '../../bench.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { openPool } from './pool.ts'

/** As an application would set it up. */
export const postgresLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  can: [...libraryCan, 'guard'],
  guards: ['BEGIN, check, UPDATE, COMMIT', 'UPDATE with a predicate'],
  open: (ground) => open(ground, randomUUID()),
}

async function open(ground: Ground, namespace: string): Promise<Contestant> {
  const pool = openPool(ground.url)
  return libraryContestant({
    connect: (clock) => postgresClient({ pool, namespace, clock }),
    atEnd: () => pool.end(),
    another: () => open(ground, namespace),
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
