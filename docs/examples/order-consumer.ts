/** Ships orders, in one process of several. After SIGTERM it finishes the order that it has, and another process goes on. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Manager, type Token } from 'lease-core'
import { inTransaction, migrate, postgresClient } from 'lease-postgres'
import { lead } from 'lease-recipes'
import { Pool } from 'pg'

const pool = new Pool({ connectionString: process.env['DATABASE_URL'], connectionTimeoutMillis: 10_000 })
await migrate(pool) // creates the tables of the leases; safe in every process at every start
const client = postgresClient({ pool, namespace: 'shop' })
const manager = new Manager({ client })

/** Ships the next order. A former leader fails with ErrNotHeld and ships nothing. Returns whether there was one. */
async function shipNext(token: Token, fencingToken: bigint): Promise<boolean> {
  return await inTransaction(pool, async (connection) => {
    await token.check(connection)
    const { rowCount } = await connection.query(
      `INSERT INTO shipment (order_id, fencing_token)
       SELECT id, $1 FROM orders WHERE id > (SELECT coalesce(max(order_id), 0) FROM shipment) ORDER BY id LIMIT 1`,
      [fencingToken],
    )
    return rowCount === 1
  })
}

const candidate = lead(manager, 'shipping', async ({ signal, token, fencingToken }) => {
  while (!signal.aborted) {
    const shipped = await shipNext(token, fencingToken)
    if (!shipped) await sleep(1000, undefined, { signal }).catch(() => {}) // the signal ends the pause
  }
})
candidate.on('elected', () => console.log('elected'))
candidate.on('lost', (error) => console.error('shipping', error))
candidate.on('error', (error) => console.error('shipping', error)) // after both the candidate campaigns again

async function stop(): Promise<void> {
  console.log('stopping')
  await candidate.stop() // waits for the order, then releases: at most one `duration`, 15 seconds
  if (candidate.isWorking) console.warn('the order is not finished: the next leader may begin beside it')
  await manager.stop()
  await client.close() // the client first, then the pool
  await pool.end() // nothing is left: the process ends with 0
}
process.once('SIGTERM', () => void stop())
console.log('started')
