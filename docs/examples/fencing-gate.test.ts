import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import {
  ErrFenced,
  FailOpenLock,
  type FencedLock,
  FencingGate,
  MemoryFencingStore,
  PostgresFencingStore,
} from 'lease-recipes'
import { type FreshDatabase, freshDatabase, postgresTargets } from 'lease-servers'
import { Pool } from 'pg'
import { putFile, putRow } from './fencing-gate.ts'

describe('example: writers that were overtaken', () => {
  const [target] = postgresTargets()
  if (target === undefined) throw new Error('there is no PostgreSQL to test against')
  let database: FreshDatabase
  let pool: Pool
  let manager: Manager
  /** Two holders of one lock, one after the other. The first does not know that it lost the lock. */
  let first: FencedLock
  let second: FencedLock

  before(async () => {
    database = await freshDatabase(target)
    pool = new Pool({ connectionString: database.url })
    pool.on('error', () => {}) // the database is dropped before the last connection is closed
    pool.on('connect', (client) => client.on('error', () => {}))
    await new PostgresFencingStore({ client: pool }).migrate()
    await pool.query('CREATE TABLE report (text text)')
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    manager = new Manager({ client: memoryClient({ store, clock }), clock })
    const locks = new FailOpenLock({ manager, clock, leaseDuration: 1000 })
    first = await locks.acquire('reports')
    await clock.advance(2000)
    second = await locks.acquire('reports')
  })
  after(async () => {
    await manager.stop()
    await pool.end()
    await database.drop()
  })

  it('files: the second writes as often as it likes, the first no more', async () => {
    const gate = new FencingGate({ store: new MemoryFencingStore() })
    const put: string[] = []
    const by = (who: string) => async (): Promise<void> => void put.push(who)
    expect(await putFile(gate, first, by('first'))).to.equal(true)
    expect(await putFile(gate, second, by('second'))).to.equal(true)
    expect(await putFile(gate, second, by('second'))).to.equal(true)
    expect(await putFile(gate, first, by('first'))).to.equal(false)
    expect(put).to.deep.equal(['first', 'second', 'second'])
  })

  it('rows: what the first writes too late is not there', async () => {
    await putRow(pool, second, 'second')
    const error: unknown = await putRow(pool, first, 'first').catch((thrown: unknown) => thrown)
    expect(error).to.be.instanceOf(ErrFenced)
    const { rows } = await pool.query('SELECT text FROM report')
    expect(rows).to.deep.equal([{ text: 'second' }])
  })
})
