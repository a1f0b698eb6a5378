import { Pool } from 'pg'
import type { Adapter } from '../../bench.ts'

/** Connections of one who works by hand; 10 and 64 brought no more at 256 callers. */
export const HAND_POOL = 32

export function openPool(url: string, max?: number): Pool {
  const pool = new Pool({ connectionString: url, ...(max === undefined ? {} : { max }) })
  // `end()` does not wait for the sockets, and at the end the database is dropped under those that are left. A
  // connection that breaks while it is used rejects its statement as well.
  pool.on('error', () => {})
  return pool
}

/** Pools that several clients share: each listens for them over one connection. */
export interface SharedPools {
  poolOf(client: number): Pool
  /** This client needs its pool no longer; the last of a pool ends it. */
  letGo(client: number): Promise<void>
}

/** Connections of a pool that several clients share: a hand-off takes one at a time. */
const SHARED_POOL = 4

export function sharedPools(url: string, clients: number, most: number): SharedPools {
  const count = Math.min(clients, most)
  const pools = Array.from({ length: count }, () => openPool(url, clients > most ? SHARED_POOL : undefined))
  const users = pools.map((_, pool) => Math.ceil((clients - pool) / count))
  const poolOf = (client: number): Pool => pools[client % count] as Pool
  return {
    poolOf,
    async letGo(client) {
      const left = (users[client % count] = (users[client % count] as number) - 1)
      if (left === 0) await poolOf(client).end()
    },
  }
}

/** Of a waiter within the server, or one that polls it over a pool of its own. */
export const oneConnectionEach: NonNullable<Adapter['waiters']> = {
  atMost: 256,
  because: 'it takes a connection for each who waits, and the server has 500',
}
