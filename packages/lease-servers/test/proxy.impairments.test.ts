import { once } from 'node:events'
import { connect } from 'node:net'
import { expect } from 'chai'
import { Redis as Client } from 'ioredis'
import { Client as PostgresClient } from 'pg'
import { postgresTargets, type Proxy, redisTargets, startProxy, until } from 'lease-servers'

const [target] = redisTargets('server')
const [postgres] = postgresTargets()

describe('an impaired proxy', () => {
  let proxy: Proxy
  let direct: Client
  let key: string
  const clients: Client[] = []

  beforeEach(async () => {
    if (!target) throw new Error('no target')
    key = `proxy.impairments.test:${process.pid}:${performance.now()}`
    proxy = await startProxy(target.url)
    direct = new Client(target.url)
  })

  afterEach(async () => {
    for (const client of clients.splice(0)) client.disconnect()
    await proxy.close()
    await direct.del(key)
    direct.disconnect()
  })

  async function throughProxy(): Promise<Client> {
    const client = new Client(proxy.url(target?.url ?? ''), { retryStrategy: () => null })
    client.on('error', () => undefined)
    clients.push(client)
    await new Promise((resolve) => client.once('ready', resolve))
    return client
  }

  /** An INCR with its outcome so far. */
  function incr(client: Client): { outcome: string; readonly settled: Promise<void> } {
    const call = { outcome: 'pending', settled: Promise.resolve() }
    call.settled = client.incr(key).then(
      () => void (call.outcome = 'answered'),
      () => void (call.outcome = 'failed'),
    )
    return call
  }

  it('stalls what there is, and delivers it after the client has hung up; new connections are sound', async () => {
    const client = await throughProxy()
    const stall = proxy.impair({ kind: 'hold', on: 'present' })
    const call = incr(client)
    await until('the request is on its way', () => proxy.counters.bytesDelayed > 0)
    client.disconnect()
    await call.settled
    expect(await (await throughProxy()).get(key)).to.equal(null)
    proxy.mend(stall)
    await until('the late request was carried out', async () => (await direct.get(key)) === '1')
    expect(call.outcome).to.equal('failed')
  })

  it('holds requests only', async () => {
    const client = await throughProxy()
    const hold = proxy.impair({ kind: 'hold', way: 'up' })
    const call = incr(client)
    await until('the request is on its way', () => proxy.counters.bytesDelayed > 0)
    expect([await direct.get(key), call.outcome]).to.deep.equal([null, 'pending'])
    proxy.mend(hold)
    await call.settled
    expect(call.outcome).to.equal('answered')
  })

  it('holds answers only', async () => {
    const client = await throughProxy()
    const hold = proxy.impair({ kind: 'hold', way: 'down' })
    const call = incr(client)
    await until('the request was carried out', async () => (await direct.get(key)) === '1')
    expect(call.outcome).to.equal('pending')
    proxy.mend(hold)
    await call.settled
    expect(call.outcome).to.equal('answered')
  })

  it('drops one direction, and cuts what lost some when it is mended', async () => {
    const [busy, quiet] = [await throughProxy(), await throughProxy()]
    const drop = proxy.impair({ kind: 'drop', way: 'down' })
    const call = incr(busy)
    await until('the answer is lost', () => proxy.counters.bytesSwallowed > 0)
    expect([await direct.get(key), call.outcome]).to.deep.equal(['1', 'pending'])
    proxy.mend(drop)
    await call.settled
    expect(call.outcome).to.equal('failed')
    expect(await quiet.get(key)).to.equal('1')
  })

  for (const impairment of [
    { kind: 'delay', maxMs: 3 },
    { kind: 'trickle', maxBytes: 7, maxMs: 1 },
  ] as const) {
    it(`keeps every byte and their order in a ${impairment.kind}, and after its end`, async () => {
      const client = await throughProxy()
      const fault = proxy.impair(impairment)
      const values = Array.from({ length: 30 }, (_, index) => String(index))
      const late = Promise.all(values.map(async (value) => client.append(key, `${value},`)))
      await until('bytes are late', () => proxy.counters.bytesDelayed > 0)
      proxy.mend(fault)
      await late
      expect(await client.get(key)).to.equal(values.map((value) => `${value},`).join(''))
      const lateAgain = proxy.impair(impairment)
      expect(await client.get(key)).to.have.length.greaterThan(30)
      proxy.mend(lateAgain)
    })
  }

  it('cuts each request of the share before the server has it, and none once it is mended', async () => {
    const client = await throughProxy()
    const cuts = proxy.impair({ kind: 'cut-requests', when: 'before', share: 1 })
    const call = incr(client)
    await call.settled
    proxy.mend(cuts)
    expect([call.outcome, await direct.get(key)]).to.deep.equal(['failed', null])
    expect(await (await throughProxy()).incr(key)).to.equal(1)
  })

  it('cuts each request of the share after it was carried out', async () => {
    const client = await throughProxy()
    const cuts = proxy.impair({ kind: 'cut-requests', when: 'after', share: 1 })
    const call = incr(client)
    await call.settled
    proxy.mend(cuts)
    expect([call.outcome, await direct.get(key)]).to.deep.equal(['failed', '1'])
  })

  it('lets connections live for a while only', async () => {
    const before = await throughProxy()
    const fault = proxy.impair({ kind: 'short-lived', minMs: 1, maxMs: 20 })
    await until('the connection of before is cut', () => before.status === 'end')
    const later = connect(proxy.port, '127.0.0.1').on('error', () => undefined)
    await once(later, 'close')
    expect(proxy.counters.cuts).to.equal(2)
    proxy.mend(fault)
    expect(await (await throughProxy()).incr(key)).to.equal(1)
  })

  it('cuts a share of the connections', async () => {
    const all = [await throughProxy(), await throughProxy()]
    proxy.cut({ share: 0 })
    await Promise.all(all.map(async (client) => client.get(key)))
    proxy.cut({ share: 1 })
    await until('all are cut', () => all.every(({ status }) => status === 'end'))
  })

  it('meets only Redis connections that listen', async () => {
    const [listening, other] = [await throughProxy(), await throughProxy()]
    await listening.subscribe(key)
    const hold = proxy.impair({ kind: 'hold', on: 'listening', way: 'down' })
    const heard: string[] = []
    listening.on('message', (_, text) => heard.push(text))
    await direct.publish(key, 'late')
    await until('the message is held', () => proxy.counters.bytesDelayed > 0)
    expect(await other.get(key)).to.equal(null)
    expect(heard).to.deep.equal([])
    proxy.mend(hold)
    await until('the message arrives', () => heard.length >= 1)
    const refusal = proxy.impair({ kind: 'refuse-listeners' })
    expect(await other.get(key)).to.equal(null)
    await other.subscribe(key).catch(() => undefined)
    await until('the one that wants to listen is cut', () => other.status === 'end')
    proxy.mend(refusal)
    proxy.cut({ on: 'listening' })
    await until('the one that listens is cut', () => listening.status === 'end')
    await (await throughProxy()).subscribe(key)
  })

  it('meets only PostgreSQL connections that listen', async () => {
    await using front = await startProxy(postgres?.url ?? '')
    const open = async (): Promise<{ readonly client: PostgresClient; readonly gone: () => boolean }> => {
      const client = new PostgresClient({ connectionString: front.url(postgres?.url ?? '') })
      let isGone = false
      client.on('error', () => undefined)
      client.on('end', () => (isGone = true))
      await client.connect()
      return { client, gone: () => isGone }
    }
    const [listening, other] = [await open(), await open()]
    await listening.client.query('LISTEN "impairments"')
    await other.client.query("SELECT 'listen', $1::text", ['LISTEN x'])
    front.cut({ on: 'listening' })
    await until('the one that listens is cut', () => listening.gone())
    await other.client.query('SELECT 1')
    const refusal = front.impair({ kind: 'refuse-listeners' })
    await other.client.query('LISTEN "impairments"').catch(() => undefined)
    await until('the one that wants to listen is cut', () => other.gone())
    front.mend(refusal)
  })

  it('meets only those that began with given words', async () => {
    const [one, other] = [await throughProxy(), await throughProxy()]
    await one.set(key, 'this-one')
    const hold = proxy.impair({ kind: 'hold', on: { first: 'this-one' } })
    const late = one.get(key)
    await until('the request is on its way', () => proxy.counters.bytesDelayed > 0)
    expect(await other.get(key)).to.equal('this-one')
    proxy.mend(hold)
    expect(await late).to.equal('this-one')
  })
})
