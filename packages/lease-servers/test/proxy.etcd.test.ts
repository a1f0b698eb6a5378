import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { type EtcdTarget, etcdTargets, type Proxy, startProxy, until } from 'lease-servers'

const [target] = etcdTargets(1)

describe('a proxy in front of etcd', () => {
  let proxy: Proxy
  let direct: Etcd3
  let prefix: string
  const clients: Etcd3[] = []

  function endpointOf(one: EtcdTarget | undefined): string {
    const [endpoint] = one?.endpoints ?? []
    if (endpoint === undefined) throw new Error('no target')
    return endpoint
  }

  beforeEach(async () => {
    prefix = `proxy.etcd.test:${process.pid}:${performance.now()}:`
    proxy = await startProxy(endpointOf(target))
    direct = new Etcd3({ hosts: endpointOf(target) })
  })

  afterEach(async () => {
    for (const client of clients.splice(0)) client.close()
    await proxy.close()
    await direct.delete().prefix(prefix)
    direct.close()
  })

  /** Without the driver's own way with faults, which repeats calls behind our back. */
  function throughProxy(): Etcd3 {
    const nothing = (): { dispose(): void } => ({ dispose: () => undefined })
    const pass = {
      _altReturn: undefined as never,
      onSuccess: nothing,
      onFailure: nothing,
      execute: async <T>(call: (context: { signal: AbortSignal }) => PromiseLike<T> | T, signal?: AbortSignal) =>
        call({ signal: signal ?? new AbortController().signal }),
    }
    const client = new Etcd3({
      hosts: proxy.url(endpointOf(target)),
      faultHandling: { host: () => pass, global: pass },
    })
    clients.push(client)
    return client
  }

  const failureOf = async (call: PromiseLike<unknown>): Promise<unknown> => {
    try {
      return await call
    } catch (error) {
      return error
    }
  }

  it('passes everything on and counts calls', async () => {
    const client = throughProxy()
    const long = 'x'.repeat(300_000)
    await client.put(`${prefix}a`).value(long)
    expect(await client.get(`${prefix}a`).string()).to.equal(long)
    await Promise.all(Array.from({ length: 50 }, async (_, index) => client.put(`${prefix}${index}`).value('x')))
    expect(proxy.counters).to.include({ connections: 1, requests: 52, cuts: 0 })
  })

  it('loses the reply of a call that was carried out', async () => {
    const client = throughProxy()
    const cut = proxy.cutAfterRequest(1, new RegExp(`${prefix}b`))
    await client.put(`${prefix}a`).value('1')
    expect(await failureOf(client.put(`${prefix}b`).value('1').exec())).to.be.instanceOf(Error)
    await cut
    expect(await direct.get(`${prefix}b`).string()).to.equal('1')
    await client.put(`${prefix}b`).value('2')
    expect(await direct.get(`${prefix}b`).string()).to.equal('2')
  })

  it('loses the reply of one of many calls under way', async () => {
    const client = throughProxy()
    await client.get(prefix).string()
    const cut = proxy.cutAfterRequest(1, new RegExp(`${prefix}7\\D`))
    const calls = Array.from({ length: 10 }, async (_, index) => client.put(`${prefix}${index}`).value('x').exec())
    const ends = await Promise.allSettled(calls)
    await cut
    expect(ends[7]?.status).to.equal('rejected')
    expect(await direct.get(`${prefix}7`).string()).to.equal('x')
  })

  it('waits for the end of a reply that comes in many pieces before it cuts', async () => {
    await direct.put(`${prefix}long`).value('x'.repeat(1_000_000))
    const client = throughProxy()
    const cut = proxy.cutAfterRequest(1, /long/)
    const failure = await failureOf(
      client
        .if(`${prefix}a`, 'Create', '==', 0)
        .then(client.put(`${prefix}a`).value('1'), client.get(`${prefix}long`))
        .commit(),
    )
    await cut
    expect(failure).to.be.instanceOf(Error)
    expect(await direct.get(`${prefix}a`).string()).to.equal('1')
  })

  it('keeps a call from the server when asked to cut before it', async () => {
    const client = throughProxy()
    const cut = proxy.cutBeforeRequest(2, new RegExp(prefix))
    await client.put(`${prefix}a`).value('1')
    expect(await failureOf(client.put(`${prefix}b`).value('1').exec())).to.be.instanceOf(Error)
    await cut
    expect(await direct.get(`${prefix}b`).string()).to.equal(null)
  })

  it('is not confused by a watch on the same connection', async () => {
    const client = throughProxy()
    const watcher = await client.watch().prefix(prefix).create()
    const heard: string[] = []
    watcher.on('put', (entry) => heard.push(entry.value.toString()))
    const reconnected = new Promise((resolve) => watcher.once('connected', resolve))
    const cut = proxy.cutAfterRequest(3, new RegExp(prefix))
    for (const value of ['1', '2']) {
      await direct.put(`${prefix}a`).value(`direct ${value}`)
      await client.put(`${prefix}a`).value(value)
    }
    await until('the watch has heard of all writes', () => heard.length >= 4)
    expect(await failureOf(client.put(`${prefix}a`).value('3').exec())).to.be.instanceOf(Error)
    await cut
    expect(await direct.get(`${prefix}a`).string()).to.equal('3')
    expect(heard.slice(0, 4)).to.deep.equal(['direct 1', '1', 'direct 2', '2'])
    await reconnected // a watch that is cancelled earlier goes on to connect for ever
    await watcher.cancel()
  })

  it('swallows bytes while paused, and cuts what lost some', async () => {
    const client = throughProxy()
    await client.put(`${prefix}a`).value('1')
    proxy.pause()
    let settled = false
    const lost = failureOf(client.put(`${prefix}a`).value('2').exec()).finally(() => (settled = true))
    await until('the proxy has swallowed the request', () => proxy.counters.bytesSwallowed > 0)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(settled).to.equal(false)
    proxy.resume()
    expect(await lost).to.be.instanceOf(Error)
    expect(await direct.get(`${prefix}a`).string()).to.equal('1')
  })
})
