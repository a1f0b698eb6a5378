import { ownSeat, type Adapter, type Contestant } from '../../bench.ts'
import { peerContestant, versionOf } from '../peer.ts'
import { verrouLocks } from '../verrou.ts'
import { HAND_POOL, oneConnectionEach, openPool } from './pool.ts'

export const verrouKysely: Adapter = {
  name: 'verrou',
  role: 'peer',
  about: `${versionOf('@verrou/core')}, Kysely store over pg; it extends nothing by itself`,
  can: ['one', 'keep', 'queue', 'knows', 'asks'],
  waiters: oneConnectionEach,
  open: ({ url }, { space } = ownSeat()) => open(url, `${space}:`),
}

async function open(url: string, prefix: string): Promise<Contestant> {
  const { Kysely, PostgresDialect } = await import('kysely')
  const { kyselyStore } = await import('@verrou/core/drivers/kysely')
  const pool = openPool(url, HAND_POOL)
  const connection = new Kysely<object>({ dialect: new PostgresDialect({ pool }) })
  return peerContestant({
    ...(await verrouLocks(kyselyStore({ connection, autoCreateTable: false }), prefix)),
    close: () => connection.destroy(),
  })
}

/** As Verrou would create it, which it does in every process anew, two at a time if it comes so. */
export const verrouTableSql = `CREATE TABLE verrou (
  key varchar(255) PRIMARY KEY NOT NULL, owner varchar(255) NOT NULL, expiration bigint
)`
