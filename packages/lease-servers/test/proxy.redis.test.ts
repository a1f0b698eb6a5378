import { expect } from 'chai'
import { Redis as Client, type RedisOptions } from 'ioredis'
import { type Proxy, redisTargets, startProxy, until } from 'lease-servers'

const [target] = redisTargets('server')

for (const protocol of [2, 3] as const) {
  describe(`a proxy in front of Redis, RESP${protocol}`, () => {
    let proxy: Proxy
    let direct: Client
    let prefix: string
    const clients: Client[] = []

    beforeEach(async () => {
      if (!target) throw new Error('no target')
      prefix = `proxy.redis.test:${process.pid}:${performance.now()}:`
      proxy = await startProxy(target.url)
      direct = new Client(target.url)
    })

    afterEach(async () => {
      for (const client of clients.splice(0)) client.disconnect()
      await proxy.close()
      const keys = await direct.keys(`${prefix}*`)
      if (keys.length > 0) await direct.del(keys)
      direct.disconnect()
    })

    async function throughProxy(options: Omit<RedisOptions, 'replyMapping'> = {}): Promise<Client> {
      const client = new Client(proxy.url(target?.url ?? ''), { protocol, retryStrategy: () => null, ...options })
      client.on('error', () => undefined)
      clients.push(client)
      await new Promise((resolve) => client.once('ready', resolve))
      return client
    }

    const failureOf = async (call: Promise<unknown>): Promise<unknown> => call.catch((error: unknown) => error)

    it('passes everything on and counts commands, but no greeting', async () => {
      const client = await throughProxy()
      const long = 'x'.repeat(300_000)
      await client.set(`${prefix}a`, long)
      expect(await client.get(`${prefix}a`)).to.equal(long)
      expect(await client.pipeline().get(`${prefix}b`).incr(`${prefix}c`).exec()).to.deep.equal([
        [null, null],
        [null, 1],
      ])
      expect(proxy.counters).to.include({ connections: 1, requests: 4, cuts: 0 })
    })

    it('loses the reply of a command that was carried out', async () => {
      const client = await throughProxy()
      const cut = proxy.cutAfterRequest(1, new RegExp(`INCR[^]*${prefix}`, 'i'))
      await client.get(`${prefix}a`)
      expect(await failureOf(client.incr(`${prefix}a`))).to.be.instanceOf(Error)
      await cut
      expect(await direct.get(`${prefix}a`)).to.equal('1')
      expect(await (await throughProxy()).incr(`${prefix}a`)).to.equal(2)
    })

    it('loses the reply in the middle of a pipeline, and none before it', async () => {
      const client = await throughProxy()
      const cut = proxy.cutAfterRequest(3, new RegExp(prefix))
      const calls = ['a', 'b', 'c'].map(async (one) => client.incr(`${prefix}${one}`))
      const [a, b, c] = await Promise.allSettled(calls)
      await cut
      expect([a?.status, b?.status, c?.status]).to.deep.equal(['fulfilled', 'fulfilled', 'rejected'])
      expect(await direct.get(`${prefix}c`)).to.equal('1')
    })

    it('waits for the end of a reply that comes in many pieces before it cuts', async () => {
      await direct.rpush(`${prefix}list`, ...Array.from({ length: 20_000 }, (_, index) => `entry ${index}`))
      const client = await throughProxy()
      const script = `redis.call('INCR', KEYS[1]) return redis.call('LRANGE', KEYS[2], 0, -1)`
      const cut = proxy.cutAfterRequest()
      expect(await failureOf(client.eval(script, 2, `${prefix}a`, `${prefix}list`))).to.be.instanceOf(Error)
      await cut
      expect(await direct.get(`${prefix}a`)).to.equal('1')
    })

    it('keeps a command from the server when asked to cut before it', async () => {
      const client = await throughProxy()
      const cut = proxy.cutBeforeRequest(1, /incr/i)
      await client.set(`${prefix}b`, '1')
      expect(await failureOf(client.incr(`${prefix}a`))).to.be.instanceOf(Error)
      await cut
      expect(await direct.get(`${prefix}a`)).to.equal(null)
    })

    it('is not confused by a subscriber, even on the same connection', async () => {
      const subscriber = await throughProxy()
      const heard: string[] = []
      subscriber.on('message', (_, text) => heard.push(text))
      await subscriber.subscribe(`${prefix}news`)
      const client = protocol === 3 ? subscriber : await throughProxy()
      await direct.publish(`${prefix}news`, 'one')
      await until('the subscriber has heard', () => heard.includes('one'))
      const cut = proxy.cutAfterRequest(2)
      await client.set(`${prefix}a`, '1')
      await direct.publish(`${prefix}news`, 'two')
      expect(await failureOf(client.incr(`${prefix}a`))).to.be.instanceOf(Error)
      await cut
      expect(await direct.get(`${prefix}a`)).to.equal('2')
      expect(heard[0]).to.equal('one')
    })

    it('springs its trap at the next command when the connection ends before the reply', async () => {
      const client = await throughProxy()
      let sprung = false
      const cut = proxy.cutAfterRequest(1, /blpop|incr/i).then(() => (sprung = true))
      const waiting = failureOf(client.blpop(`${prefix}nothing`, 0))
      await until('the proxy has passed the command on', () => proxy.counters.requests >= 1)
      client.disconnect()
      expect(await waiting).to.be.instanceOf(Error)
      expect(sprung).to.equal(false)
      const other = await throughProxy()
      expect(await failureOf(other.incr(`${prefix}a`))).to.be.instanceOf(Error)
      await cut
      expect(await direct.get(`${prefix}a`)).to.equal('1')
    })
  })
}
