import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import { inTransaction, SqlGuard } from 'lease-postgres'
import { enoughOf, postgresTargets, until } from 'lease-servers'
import { Pool } from 'pg'
import { openBank, type Bank } from './bank.ts'
import { deposit, openPool, transfer, withdraw, withdrawIfThere } from './plain-pg.ts'
import { failure } from './rivals.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: plain pg, on ${target.name}`, () => {
    let bank: Bank
    before(async () => (bank = await openBank(target)))
    after(() => bank[Symbol.asyncDispose]())
    beforeEach(() => bank.reset())

    it('a connection inside a transaction as key: the holder moves money', async () => {
      await transfer(bank.pool, await bank.hold(), 1, 2, 10)
      expect(await bank.balances()).to.deep.equal([90, 110])
    })

    it('a connection inside a transaction as key: who lost the lease writes nothing', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      await token.check() // worker-1 still relies on its grant: only the trapdoor asks the database
      expect(await failure(transfer(bank.pool, token, 1, 2, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('what was written before the guard refused is rolled back', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      const work = inTransaction(bank.pool, async (connection) => {
        await connection.query('UPDATE account SET balance = 0')
        await token.check(connection)
      })
      expect(await failure(work)).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('a predicate in the WHERE: the holder withdraws', async () => {
      await withdraw(bank.pool, await bank.hold(), 1, 10)
      expect(await bank.balances()).to.deep.equal([90, 100])
    })

    it('a predicate in the WHERE: who lost the lease writes nothing', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(withdraw(bank.pool, token, 1, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('a predicate asked alone first tells "not held" from "no such account"', async () => {
      const token = await bank.hold()
      expect(await withdrawIfThere(bank.pool, token, 1, 10)).to.equal(true)
      expect(await withdrawIfThere(bank.pool, token, 3, 10)).to.equal(false)
      await bank.takeOver(token)
      expect(await failure(withdrawIfThere(bank.pool, token, 1, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([90, 100])
    })

    it('an upsert by the holder writes a row that is there, and one that is not', async () => {
      const token = await bank.hold()
      await deposit(bank.pool, token, 2, 10)
      await deposit(bank.pool, token, 3, 10)
      expect(await bank.balances()).to.deep.equal([100, 110, 10])
    })

    it('an upsert by a former holder writes neither a row that is there nor one that is not', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(deposit(bank.pool, token, 2, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await failure(deposit(bank.pool, token, 3, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('an upsert guarded in DO UPDATE alone inserts without the lease, as the page warns', async () => {
      const token = await bank.hold()
      const guard = new SqlGuard(3)
      await token.check(guard)
      await bank.takeOver(token)
      const upsert = `INSERT INTO account (id, balance) VALUES ($1, $2)
        ON CONFLICT (id) DO UPDATE SET balance = excluded.balance WHERE ${guard.text}`
      expect((await bank.pool.query(upsert, [2, 0, ...guard.values])).rowCount).to.equal(0)
      expect((await bank.pool.query(upsert, [3, 0, ...guard.values])).rowCount).to.equal(1)
    })

    for (const [which, newPool] of [
      ['any pool', (connectionString: string) => new Pool({ connectionString })],
      ['openPool', (connectionString: string) => openPool({ connectionString })],
    ] as const) {
      it(`a connection that is terminated between two statements fails the transaction and not the process, with ${which}`, async () => {
        const pool = newPool(bank.url)
        pool.on('error', () => {})
        for (const moment of ['after a statement', 'before COMMIT']) {
          const work = inTransaction(pool, async (connection) => {
            const { rows } = await connection.query('SELECT pg_backend_pid() AS pid')
            await connection.query('UPDATE account SET balance = 0')
            let isOver = false
            connection.once('end', () => (isOver = true))
            await bank.pool.query('SELECT pg_terminate_backend($1)', [rows[0].pid])
            await until('the connection is over', () => isOver)
            if (moment === 'after a statement') await connection.query('UPDATE account SET balance = 1')
          })
          expect(await failure(work), moment).to.be.instanceOf(Error)
          expect(await bank.balances()).to.deep.equal([100, 100])
        }
        await inTransaction(pool, async (connection) => connection.query('UPDATE account SET balance = 7 WHERE id = 1'))
        expect(await bank.balances()).to.deep.equal([7, 100])
        await pool.end()
      })
    }
  })
}

describe('example: openPool', () => {
  it('a server that ends a connection together with its greeting fails the call and not the process', async () => {
    const message = (type: string, body: string): string => {
      const length = Buffer.alloc(4)
      length.writeInt32BE(body.length + 4)
      return type + length.toString('latin1') + body
    }
    const greeting = message('R', '\0'.repeat(4)) + message('K', '\0'.repeat(8)) + message('Z', 'I')
    const farewell = message('E', 'SFATAL\0C57P01\0Mterminating connection\0\0')
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => socket.end(greeting + farewell, 'latin1'))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const pool = openPool({ host: '127.0.0.1', port, user: 'app', database: 'app' })
    const work = inTransaction(pool, async () => {})
    expect(await failure(work)).to.be.instanceOf(Error)
    await pool.end()
    server.close()
  })
})
