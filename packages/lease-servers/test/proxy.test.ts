import { expect } from 'chai'
import { Client } from 'pg'
import { freshDatabase, type FreshDatabase, postgresTargets, type Proxy, startProxy, until } from 'lease-servers'

const [target] = postgresTargets()

describe('a proxy in front of PostgreSQL', () => {
  let database: FreshDatabase
  let direct: Client
  let proxy: Proxy
  const clients: Client[] = []

  before(async () => {
    if (!target) throw new Error('no target')
    database = await freshDatabase(target)
    direct = await connected(database.url)
    await direct.query('CREATE TABLE notes (n int)')
  })

  after(async () => {
    await direct.end()
    await database.drop()
  })

  beforeEach(async () => {
    proxy = await startProxy(database.url)
    await direct.query('TRUNCATE notes')
  })

  afterEach(async () => {
    await proxy.close()
    await Promise.all(clients.splice(0).map(async (client) => client.end()))
  })

  async function connected(url: string): Promise<Client> {
    const client = new Client({ connectionString: url })
    client.on('error', () => undefined)
    await client.connect()
    return client
  }

  async function throughProxy(): Promise<Client> {
    const client = await connected(proxy.url(database.url))
    clients.push(client)
    return client
  }

  async function notes(): Promise<number[]> {
    const { rows } = await direct.query<{ n: number }>('SELECT n FROM notes ORDER BY n')
    return rows.map((row) => row.n)
  }

  it('passes everything on and counts it', async () => {
    const client = await throughProxy()
    await client.query('SELECT 1')
    await client.query('SELECT $1::text', ['x'.repeat(200_000)])
    expect(proxy.counters).to.include({ connections: 1, requests: 2, cuts: 0 })
    expect(proxy.counters.bytesToServer).to.be.greaterThan(200_000)
    expect(proxy.counters.bytesToClient).to.be.greaterThan(200_000)
  })

  it('loses the reply of a request that was carried out', async () => {
    const client = await throughProxy()
    const cut = proxy.cutAfterRequest()
    const failure: unknown = await client.query('INSERT INTO notes VALUES (1)').catch((error: unknown) => error)
    await cut
    expect(failure).to.be.instanceOf(Error)
    expect(await notes()).to.deep.equal([1])
    await (await throughProxy()).query('INSERT INTO notes VALUES (2)')
    expect(await notes()).to.deep.equal([1, 2])
  })

  it('waits for the end of a reply that comes in many pieces before it cuts', async () => {
    const client = await throughProxy()
    const cut = proxy.cutAfterRequest()
    const big = `INSERT INTO notes SELECT n FROM generate_series(1, 20000) n RETURNING n, repeat('x', 50)`
    const failure: unknown = await client.query(big).catch((error: unknown) => error)
    await cut
    expect(failure).to.be.instanceOf(Error)
    expect(await notes()).to.have.length(20_000)
  })

  it('cuts at the nth request that matches, no matter who sends it', async () => {
    const [one, other] = [await throughProxy(), await throughProxy()]
    const cut = proxy.cutAfterRequest(2, /INSERT/)
    await one.query('SELECT 1')
    await one.query('INSERT INTO notes VALUES (1)')
    await other.query('SELECT 1')
    const failure: unknown = await other.query('INSERT INTO notes VALUES (2)').catch((error: unknown) => error)
    await cut
    expect(failure).to.be.instanceOf(Error)
    expect(await notes()).to.deep.equal([1, 2])
    await one.query('SELECT 1')
  })

  it('keeps a request from the server when asked to cut before it', async () => {
    const client = await throughProxy()
    const cut = proxy.cutBeforeRequest(1, /INSERT/)
    await client.query('SELECT 1')
    const failure: unknown = await client.query('INSERT INTO notes VALUES (1)').catch((error: unknown) => error)
    await cut
    expect(failure).to.be.instanceOf(Error)
    expect(await notes()).to.deep.equal([])
  })

  it('swallows bytes while paused, and cuts what lost some', async () => {
    const [busy, quiet] = [await throughProxy(), await throughProxy()]
    proxy.pause()
    let settled = false
    const lost = busy
      .query('INSERT INTO notes VALUES (1)')
      .catch((error: unknown) => error)
      .finally(() => (settled = true))
    await until('the proxy has swallowed the request', () => proxy.counters.bytesSwallowed > 0)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(settled).to.equal(false)
    proxy.resume()
    expect(await lost).to.be.instanceOf(Error)
    expect(await notes()).to.deep.equal([])
    await quiet.query('SELECT 1')
  })

  it('delivers late what it held, in order', async () => {
    const client = await throughProxy()
    proxy.hold()
    const late = client.query('INSERT INTO notes VALUES (1)')
    const fresh = throughProxy()
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(await notes()).to.deep.equal([])
    proxy.resume()
    await late
    expect(await notes()).to.deep.equal([1])
    await (await fresh).query('SELECT 1')
  })

  it('refuses connections until it accepts them again on the same port', async () => {
    const client = await throughProxy()
    const { port } = proxy
    await proxy.refuse()
    const failure: unknown = await client.query('SELECT 1').catch((error: unknown) => error)
    expect(failure).to.be.instanceOf(Error)
    const refused: unknown = await throughProxy().catch((error: unknown) => error)
    expect(refused).to.have.property('code', 'ECONNREFUSED')
    await proxy.accept()
    expect(proxy.port).to.equal(port)
    await (await throughProxy()).query('SELECT 1')
  })
})
