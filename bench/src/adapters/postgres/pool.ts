import { Pool } from 'pg'

/** Connections of one who works by hand; 10 and 64 brought no more at 256 callers. */
export const HAND_POOL = 32

export function openPool(url: string, max?: number): Pool {
  const pool = new Pool({ connectionString: url, ...(max === undefined ? {} : { max }) })
  // `end()` does not wait for the sockets, and at the end the database is dropped under those that are left. A
  // connection that breaks while it is used rejects its statement as well.
  pool.on('error', () => {})
  return pool
}
