import { expect } from 'chai'
import { ErrNotHeld, Manager } from 'lease-core'
import { inTransaction, migrate, postgresClient } from 'lease-postgres'
import { enoughOf, freshDatabase, postgresTargets, type FreshDatabase } from 'lease-servers'
import { Pool } from 'pg'

for (const target of enoughOf(postgresTargets())) {
  describe(`inTransaction, on ${target.name}`, () => {
    let database: FreshDatabase
    let pool: Pool
    before(async () => {
      database = await freshDatabase(target)
      pool = new Pool({ connectionString: database.url, max: 1 })
      pool.on('error', () => {})
      await pool.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
    })
    after(async () => {
      await pool.end()
      await database.drop()
    })
    beforeEach(() => pool.query('TRUNCATE account; INSERT INTO account VALUES (1, 100)'))

    const balance = async (): Promise<number> => (await pool.query('SELECT balance FROM account')).rows[0].balance
    const failure = async (work: Promise<unknown>): Promise<unknown> =>
      work.then(
        () => undefined,
        (error: unknown) => error,
      )

    it('commits, returns what the body returns, and gives the connection back without its listener', async () => {
      const written = await inTransaction(pool, async (connection) => {
        const { rowCount } = await connection.query('UPDATE account SET balance = 90 WHERE id = 1') // a pg.PoolClient
        return rowCount
      })
      expect(written).to.equal(1)
      expect(await balance()).to.equal(90)
      const connection = await pool.connect()
      const listeners = connection.listenerCount('error')
      connection.release()
      await inTransaction(pool, async () => {})
      const again = await pool.connect()
      expect(again).to.equal(connection)
      expect(again.listenerCount('error')).to.equal(listeners)
      again.release()
    })

    it('rolls back and throws what the body throws, and the next transaction has the same connection', async () => {
      const thrown = new Error('no')
      const work = inTransaction(pool, async (connection) => {
        await connection.query('UPDATE account SET balance = 0')
        throw thrown
      })
      expect(await failure(work)).to.equal(thrown)
      expect(await balance()).to.equal(100)
      expect(pool.totalCount).to.equal(1)
    })

    for (const how of ['BEGIN', 'BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY']) {
      it(`commits nothing that somebody has left on the connection uncommitted, and is not bound by it: ${how}`, async () => {
        const left = await pool.connect()
        await left.query(how)
        if (how === 'BEGIN') await left.query('INSERT INTO account VALUES (2, 100)')
        left.release()
        await inTransaction(pool, (connection) => connection.query('UPDATE account SET balance = 90'))
        expect((await pool.query('SELECT * FROM account')).rows).to.deep.equal([{ id: 1, balance: 90 }])
        expect(pool.totalCount).to.equal(1)
      })
    }

    it('gives up where each connection of the pool is inside of a transaction, and closes them', async () => {
      const released = new Set<unknown>()
      const query = async (): Promise<{ rows: never[] }> => ({ rows: [] })
      const left = { query, release: (destroy?: boolean) => released.add(destroy), getTransactionStatus: () => 'T' }
      const error = await failure(inTransaction({ connect: async () => left }, async () => {}))
      expect((error as Error | undefined)?.message).to.match(/find who gives connections back/)
      expect([...released]).to.deep.equal([true])
    })

    it('throws the first error and closes the connection when ROLLBACK fails as well', async () => {
      const first = new Error('the first')
      let broken: object | undefined
      const work = inTransaction(pool, async (connection) => {
        broken = connection
        const { rows } = await connection.query('SELECT pg_backend_pid() AS pid')
        const over = new Promise((resolve) => connection.once('end', resolve))
        const operator = new Pool({ connectionString: database.url, max: 1 })
        await operator.query('SELECT pg_terminate_backend($1)', [rows[0].pid])
        await operator.end()
        await over
        throw first
      })
      expect(await failure(work)).to.equal(first)
      const next = await pool.connect()
      expect(next).not.to.equal(broken)
      next.release()
    })

    it('throws when COMMIT was a rollback, because the body caught the error of a statement', async () => {
      const work = inTransaction(pool, async (connection) => {
        await connection.query('UPDATE account SET balance = 0')
        await connection.query('INSERT INTO account VALUES (1, 1)').catch(() => {}) // there is one already
      })
      expect(await failure(work))
        .to.have.property('message')
        .that.includes('nothing was written')
      expect(await balance()).to.equal(100)
    })

    it('its connection is a key: a former holder writes nothing', async () => {
      await migrate(pool)
      const client = postgresClient({ pool, namespace: 'transaction', listen: false })
      const manager = new Manager({ client })
      const token = await manager.claim('account', 'ann', { minutes: 1 })
      await inTransaction(pool, async (connection) => {
        await token.check(connection)
        await connection.query('UPDATE account SET balance = 90')
      })
      await manager.release('account', 'ann')
      await manager.claim('account', 'ben', { minutes: 1 })
      const late = inTransaction(pool, async (connection) => {
        await connection.query('UPDATE account SET balance = 0')
        await token.check(connection)
      })
      expect(await failure(late)).to.be.instanceOf(ErrNotHeld)
      expect(await balance()).to.equal(90)
      await manager.stop()
      await client.close()
    })
  })
}
