import type { PoolClient } from 'pg'
import { ownSeat, type Adapter, type Contestant } from '../../bench.ts'
import { peerContestant, type PeerLock } from '../peer.ts'
import { HAND_POOL, oneConnectionEach, openPool } from './pool.ts'

/** What is written most often by hand: the lock is the session's, so each takes a connection for as long as it is held. */
export const advisoryByHand: Adapter = {
  name: 'advisory',
  role: 'peer',
  about: `pg_try_advisory_lock by hand, a connection of a pool of ${HAND_POOL} for each lock; pg_advisory_lock to wait`,
  can: ['one', 'queue'],
  waiters: oneConnectionEach,
  open: ({ url }, { space } = ownSeat()) => open(url, `${space}:`),
}

async function open(url: string, prefix: string): Promise<Contestant> {
  const pool = openPool(url, HAND_POOL)
  const key = 'hashtextextended($1, 0)'
  const locked = async (lease: string, sql: string): Promise<PeerLock> => {
    const session = await pool.connect()
    const name = prefix + lease
    const { rows } = await session.query<{ granted: unknown }>(`SELECT ${sql}(${key}) AS granted`, [name])
    if (rows[0]?.granted === false) {
      session.release()
      throw new Error(`${lease} is taken`)
    }
    return { release: () => unlock(session, name) }
  }
  const unlock = async (session: PoolClient, name: string): Promise<void> => {
    await session.query(`SELECT pg_advisory_unlock(${key})`, [name])
    session.release()
  }
  return peerContestant({
    acquire: (lease) => locked(lease, 'pg_try_advisory_lock'),
    wait: (lease) => locked(lease, 'pg_advisory_lock'),
    close: () => pool.end(),
  })
}
