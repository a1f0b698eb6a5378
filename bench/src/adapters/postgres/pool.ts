import { setTimeout as pause } from 'node:timers/promises'
import { Pool, type PoolClient } from 'pg'

/** Connections of one who works by hand; 10 and 64 brought no more at 256 callers. */
export const HAND_POOL = 32

/** It reads a table, for where nothing but transactions has to be told nothing is told. */
const tell = 'SELECT pg_stat_force_next_flush() FROM pg_namespace LIMIT 1'

/** Those that are open. */
const open = new Map<Pool, { readonly url: string; readonly connections: ReadonlySet<PoolClient> }>()

export function openPool(url: string, max?: number): Pool {
  const pool = new Pool({ connectionString: url, ...(max === undefined ? {} : { max }) })
  // `end()` does not wait for the sockets, and at the end the database is dropped under those that are left. A
  // connection that breaks while it is used rejects its statement as well.
  pool.on('error', () => {})
  const connections = new Set<PoolClient>()
  pool.on('connect', (client) => void connections.add(client))
  pool.on('remove', (client) => void connections.delete(client))
  open.set(pool, { url, connections })
  return pool
}

/**
 * Has every pooled connection to this database tell the server's statistics what it has done so far: a server process does so by itself
 * after a second, or ten when it is idle. Returns how many statements that took.
 */
export async function tellStatistics(database: string): Promise<number> {
  const own = [...open].filter(([, { url }]) => url === database)
  const told = await Promise.all(own.map(([pool, { connections }]) => tellOf(pool, connections)))
  return told.reduce((sum, count) => sum + count, 0)
}

async function tellOf(pool: Pool, connections: ReadonlySet<PoolClient>): Promise<number> {
  if (pool.ending) {
    open.delete(pool)
    return 0
  }
  const due = new Set(connections)
  let statements = 0
  // One that is busy is soon free again; one that stays busy tells by itself.
  for (let tries = 0; due.size > 0 && tries < 20; tries++) {
    if (tries > 0) await pause(1)
    const idle = await Promise.all(Array.from({ length: pool.idleCount }, () => pool.connect()))
    const asked = idle.filter((client) => due.delete(client))
    statements += asked.length
    try {
      await Promise.all(asked.map((client) => client.query(tell)))
    } finally {
      for (const client of idle) client.release()
    }
  }
  return statements
}
