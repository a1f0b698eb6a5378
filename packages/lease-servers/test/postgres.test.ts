import { expect } from 'chai'
import { existsSync } from 'node:fs'
import { Client } from 'pg'
import { freshDatabase, isMatrix, type Postgres, postgresTargets, startPostgres } from 'lease-servers'
import { runs } from './runs.ts'

async function ask(url: string, text: string): Promise<unknown> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  try {
    const { rows } = await client.query<{ answer: unknown }>(text)
    return rows[0]?.answer
  } finally {
    await client.end()
  }
}

for (const target of postgresTargets()) {
  describe(`the shared server ${target.name}`, () => {
    it('is of the version it says', async () => {
      const answer = await ask(target.url, `SELECT current_setting('server_version_num')::int / 10000 AS answer`)
      expect(answer).to.equal(target.version)
    })

    it('gives each caller a database of its own, which is gone after drop', async () => {
      const first = await freshDatabase(target)
      const second = await freshDatabase(target)
      try {
        await ask(first.url, 'CREATE TABLE mine (n int)')
        expect(await ask(second.url, `SELECT to_regclass('mine')::text AS answer`)).to.equal(null)
      } finally {
        await first.drop()
        await second.drop()
      }
      await first.drop()
      const failure: unknown = await ask(first.url, 'SELECT 1').catch((error: unknown) => error)
      expect(failure).to.have.property('code', '3D000')
    })

    it('checks the password of the role that has one', async function () {
      if (target.passwordUrl === undefined) this.skip()
      const url = new URL(target.passwordUrl)
      expect(await ask(url.href, 'SELECT 1 AS answer')).to.equal(1)
      url.password = 'wrong'
      const failure: unknown = await ask(url.href, 'SELECT 1').catch((error: unknown) => error)
      expect(failure).to.have.property('code', '28P01')
    })
  })
}

describe('a server of one’s own', () => {
  let server: Postgres

  before(async () => {
    server = await startPostgres({ env: { LEASE_TEST: 'one' } })
  })

  after(async () => {
    await server.stop()
  })

  it('answers nothing while paused, and everything afterwards', async () => {
    const client = new Client({ connectionString: server.url })
    await client.connect()
    server.pause()
    let answered = false
    const answer = client.query('SELECT 1').then(() => (answered = true))
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(answered).to.equal(false)
    server.resume()
    await answer
    await client.end()
  })

  it('has the variables that it was given in its environment', async () => {
    await ask(server.url, 'CREATE TABLE variable (answer text)')
    await ask(server.url, "COPY variable FROM PROGRAM 'printenv LEASE_TEST'")
    expect(await ask(server.url, 'SELECT answer FROM variable')).to.equal('one')
  })

  const matrixOnly = isMatrix() ? it : it.skip // the server starts once more
  matrixOnly('kills every process, also one that was begun in the same moment', async () => {
    const { pid = 0 } = server
    const clients = Array.from({ length: 8 }, () => new Client({ connectionString: server.url }))
    for (const client of clients) client.on('error', () => undefined)
    const connecting = clients.map(async (client) => client.connect().catch(() => undefined))
    await server.kill()
    expect(runs(pid)).to.equal(false)
    await Promise.all(connecting)
    await Promise.all(clients.map(async (client) => client.end().catch(() => undefined)))
    // A process that was left would keep the segment of shared memory, and the server would not start.
    await server.restart()
  })

  it('keeps port and data over a restart, and over a kill', async () => {
    const { port, pid } = server
    await ask(server.url, 'CREATE TABLE kept AS SELECT 7 AS answer')
    await ask(server.url, 'CHECKPOINT')
    await server.restart()
    expect(server.pid).not.to.equal(pid)
    expect(await ask(server.url, 'SELECT answer FROM kept')).to.equal(7)
    await server.kill()
    expect(server.pid).to.equal(undefined)
    await server.restart()
    expect(await ask(server.url, 'SELECT answer FROM kept')).to.equal(7)
    expect(server.port).to.equal(port)
  })

  it('leaves no process and no folder, even when stopped while paused', async () => {
    const folder = await ask(server.url, `SELECT current_setting('data_directory') AS answer`)
    const { pid } = server
    server.pause()
    await server.stop()
    await server.stop()
    expect(existsSync(String(folder))).to.equal(false)
    expect(() => process.kill(pid ?? 0, 0)).to.throw('ESRCH')
  })
})
