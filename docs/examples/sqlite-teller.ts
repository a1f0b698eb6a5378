/**
 * A process that moves one account forward under a lease. It reads the balance before its transaction, so two tellers at once would lose
 * a deposit. Its argument is a `TellerOrder` as JSON. It says each step to its parent, and goes on with the next step when it is notified.
 */
import { once } from 'node:events'
import { ErrNotHeld, Manager, type Trapdoor } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { openSqlite, type SqliteDriver } from './sqlite-drivers.ts'
import { SqliteSubstrate, migrateSqlite, type SqliteConnection } from './sqlite.ts'

export interface TellerOrder {
  readonly driver: SqliteDriver
  readonly file: string
  readonly name: string
  readonly deposits: number
  readonly leaseMs: number
  /** Waits for a message of the parent after it has said this. */
  readonly stopAt?: Step | undefined
}

/** `read`: it holds the lease, and has read the balance. `checked`: its transaction has passed the trapdoor. */
export type Step = 'read' | 'checked' | 'deposited' | 'refused'

/** Runs the body in a transaction. A lock that another process holds is awaited without blocking this process. */
async function inTransaction(connection: SqliteConnection, body: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      connection.exec('BEGIN IMMEDIATE')
      break
    } catch (error) {
      if (!String(error).includes('database is locked')) throw error
      await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 10))
    }
  }
  try {
    await body()
  } catch (error) {
    connection.exec('ROLLBACK')
    throw error
  }
  connection.exec('COMMIT')
}

async function work({ driver, file, name, deposits, leaseMs, stopAt }: TellerOrder): Promise<void> {
  const [ofLeases, books] = [openSqlite(driver, file), openSqlite(driver, file)]
  migrateSqlite(ofLeases)
  const client = new SubstrateClient({ substrate: new SqliteSubstrate(ofLeases, 'bank') })
  const manager = new Manager({ client, maxSleep: 50 })

  const say = async (step: Step): Promise<void> => {
    const go = stopAt === step ? once(process, 'message') : undefined
    process.send?.(step)
    await go
  }
  const deposit = async (trapdoor: Trapdoor, fencingToken: bigint): Promise<void> => {
    const [{ balance }] = books.prepare('SELECT balance FROM account').all() as [{ balance: number }]
    await say('read')
    await inTransaction(books, async () => {
      await trapdoor(books) // as `token.check(books)`, without what this process itself knows: only the store decides
      books.prepare('UPDATE account SET balance = ?').run(balance + 1)
      books.prepare('INSERT INTO journal (name, token) VALUES (?, ?)').run(name, Number(fencingToken))
      await say('checked')
    })
  }

  for (let done = 0; done < deposits;) {
    const hold = await manager.hold('account', name, { duration: leaseMs, wait: true })
    const known = client.leases().get('account')
    try {
      if (known?.fencingToken !== hold.fencingToken) continue // lapsed already, on a slow machine
      await deposit(known.trapdoor, known.fencingToken)
      done++
      await say('deposited')
    } catch (error) {
      if (!(error instanceof ErrNotHeld)) throw error
      await say('refused')
    } finally {
      await hold.release().catch(() => {}) // it was lost
    }
  }
  await manager.stop()
  await client.close()
}

process.once('disconnect', () => process.exit()) // its parent has died, or it has done its work
await work(JSON.parse(process.argv[2] ?? '') as TellerOrder)
process.disconnect()
