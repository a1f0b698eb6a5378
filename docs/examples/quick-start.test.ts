import { expect } from 'chai'
import { freshDatabase, postgresTargets } from 'lease-servers'
import { Client } from 'pg'
import { withdrawInMemory } from './in-memory.ts'
import { quickStart } from './quick-start.ts'

describe('example: quick start', () => {
  for (const target of postgresTargets()) {
    it(`withdraws once, on ${target.name}`, async () => {
      await using database = await freshDatabase(target)
      const client = new Client({ connectionString: database.url })
      await client.connect()
      await client.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
      await client.query('INSERT INTO account VALUES (42, 100)')
      await quickStart(database.url)
      expect((await client.query('SELECT balance FROM account')).rows).to.deep.equal([{ balance: 90 }])
      expect((await client.query('SELECT holder FROM lease')).rows).to.deep.equal([{ holder: null }])
      await client.end()
    })
  }

  it('withdraws once, in memory', async () => {
    const accounts = new Map([[42, 100]])
    await withdrawInMemory(accounts)
    expect(accounts.get(42)).to.equal(90)
  })
})
