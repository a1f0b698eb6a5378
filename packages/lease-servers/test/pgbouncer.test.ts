import { expect } from 'chai'
import { Client } from 'pg'
import { freshDatabase, type Pgbouncer, pgbouncerTarget, startPgbouncer } from 'lease-servers'

/** A connection of its own, closed in the end. */
async function connected(url: string): Promise<Client & AsyncDisposable> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  return Object.assign(client, { [Symbol.asyncDispose]: async () => client.end() })
}

async function ask(client: Client, text: string): Promise<unknown> {
  const { rows } = await client.query<{ answer: unknown }>(text)
  return rows[0]?.answer
}

const pid = 'SELECT pg_backend_pid() AS answer'
const target = pgbouncerTarget()

describe(`the shared ${target.name}`, () => {
  it('passes on what it is asked to the server behind it', async () => {
    await using pooled = await connected(target.url)
    await using direct = await connected(target.directUrl)
    const port = 'SELECT inet_server_port() AS answer'
    expect(await ask(pooled, port)).to.equal(await ask(direct, port))
    expect(await ask(pooled, `SELECT current_setting('server_version_num')::int / 10000 AS answer`)).to.equal(
      target.version,
    )
  })

  it('gives each caller a database of its own, on both ways', async () => {
    await using database = await freshDatabase(target)
    await using pooled = await connected(database.url)
    await using direct = await connected(database.directUrl)
    await ask(direct, 'CREATE TABLE mine (n int)')
    expect(await ask(pooled, `SELECT to_regclass('mine')::text AS answer`)).to.equal('mine')
  })
})

describe('a pgbouncer of one’s own', () => {
  let pgbouncer: Pgbouncer

  before(async () => {
    pgbouncer = await startPgbouncer(target.directUrl, { poolSize: 1 })
  })

  after(async () => {
    await pgbouncer.stop()
  })

  it('lets clients share a connection of the server between two transactions, and not within one', async () => {
    await using first = await connected(pgbouncer.url)
    await using second = await connected(pgbouncer.url)
    const shared = await ask(first, pid)
    expect(await ask(second, pid)).to.equal(shared)
    await ask(first, 'BEGIN')
    let answered = false
    const answer = ask(second, pid).then((one) => {
      answered = true
      return one
    })
    for (let turn = 0; turn < 20; turn++) expect(await ask(first, pid)).to.equal(shared)
    expect(answered).to.equal(false)
    await ask(first, 'COMMIT')
    expect(await answer).to.equal(shared)
  })

  it('answers on its console', async () => {
    await using console = await connected(pgbouncer.consoleUrl)
    const { rows } = await console.query<{ key: string; value: string }>('SHOW CONFIG')
    expect(rows.find(({ key }) => key === 'pool_mode')?.value).to.equal('transaction')
  })

  it('does what its console is notified', async () => {
    await using pooled = await connected(pgbouncer.url)
    const before = await ask(pooled, pid)
    await using console = await connected(pgbouncer.consoleUrl)
    await console.query('RECONNECT')
    expect(await ask(pooled, pid)).not.to.equal(before)
  })

  it('cuts its clients when it is restarted, and serves new ones on the same port', async () => {
    await using client = await connected(pgbouncer.url)
    const { url } = pgbouncer
    const gone = new Promise<void>((resolve) => void client.once('end', resolve))
    await pgbouncer.restart()
    await gone
    await using next = await connected(url)
    expect(await ask(next, 'SELECT 1 AS answer')).to.equal(1)
  })
})
