import { inspect } from 'node:util'
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrNotValid } from 'lease-core'
import {
  redisClient,
  RedisSubstrate,
  type RedisClientOptions,
  type RedisConnection,
  type RedisListenConnection,
  type RedisPrivateConnection,
  type RedisScripting,
} from 'lease-redis'

describe('the options of lease-redis', () => {
  const redis = new Redis({ lazyConnect: true })
  const cluster = new Cluster(['redis://127.0.0.1:1'], { lazyConnect: true })

  const problemsOf = (make: () => unknown): Record<string, string> => {
    try {
      make()
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid)
      return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
    }
    return {}
  }

  it('need a connection and a namespace, and nothing else', async () => {
    await redisClient({ redis, namespace: 'n' }).close()
    await redisClient({ redis: cluster, namespace: 'n' }).close()
    expect(redis.status).to.equal('wait') // nothing was sent
    expect(problemsOf(() => redisClient({} as RedisClientOptions))).to.have.keys('redis', 'namespace')
    expect(problemsOf(() => redisClient(undefined as unknown as RedisClientOptions))).to.have.keys('options')
  })

  it('show no password when a URL or a configuration is passed by mistake', () => {
    const configuration = { host: 'cache', password: 'hunter2' }
    for (const thing of ['redis://:hunter2@cache', new URL('redis://:hunter2@cache'), configuration]) {
      for (const bad of [
        { redis: thing, namespace: 'n' },
        { redis, namespace: 'n', listen: thing },
        { redis, namespace: 'n', prefix: [thing] },
      ]) {
        let error: unknown
        try {
          redisClient(bad as unknown as RedisClientOptions)
        } catch (thrown) {
          error = thrown
        }
        expect(error).to.be.instanceOf(ErrNotValid)
        expect(inspect(error, { depth: 9 })).not.to.include('hunter2')
      }
    }
  })

  it('are all checked before anything is said, those of core too', () => {
    const bad = {
      redis: 'redis://',
      namespace: 'x'.repeat(256),
      prefix: '',
      listen: true,
      clock: {},
      events: {},
      requestTimeout: -1,
      Namespace: 'typo',
    }
    expect(problemsOf(() => redisClient(bad as unknown as RedisClientOptions))).to.have.keys(Object.keys(bad))
    const { events: _events, requestTimeout: _requestTimeout, ...own } = bad
    expect(problemsOf(() => new RedisSubstrate(own as unknown as RedisClientOptions))).to.have.keys(Object.keys(own))
  })

  it('take a namespace and a prefix of any characters but braces, which mark the slot in a Cluster', () => {
    for (const namespace of ['a.b#c$', `it's "n"`, 'ü 🐘:*?[]']) redisClient({ redis, namespace, prefix: namespace })
    for (const namespace of ['', 'a\0', '\ud800', 'a{b', 'a}b', 5 as unknown as string]) {
      expect(
        problemsOf(() => redisClient({ redis, namespace })),
        namespace,
      ).to.have.keys('namespace')
    }
    for (const prefix of ['', '\ud800', '{', '}', 5 as unknown as string]) {
      expect(
        problemsOf(() => redisClient({ redis, namespace: 'n', prefix })),
        prefix,
      ).to.have.keys('prefix')
    }
  })

  it('must say how to listen when the connection does not show how it was made', () => {
    const plain: RedisConnection = { eval: redis.eval.bind(redis), evalsha: redis.evalsha.bind(redis) } as never
    expect(problemsOf(() => redisClient({ redis: plain, namespace: 'n' }))).to.have.keys('listen')
    redisClient({ redis: plain, namespace: 'n', listen: false })
    redisClient({ redis: plain, namespace: 'n', listen: () => redis.duplicate() })
  })

  it('refuse a keyPrefix that is not a string', () => {
    const odd = new Redis({ lazyConnect: true, keyPrefix: Buffer.from('x') as unknown as string })
    expect(problemsOf(() => redisClient({ redis: odd, namespace: 'n' }))).to.have.keys('redis')
  })

  it('fit the types of ioredis as they are, whatever shape its answers have', () => {
    const connections: RedisConnection[] = [
      redis,
      cluster,
      new Redis({ lazyConnect: true, replyMapping: 'resp3' }),
      new Cluster(['redis://127.0.0.1:1'], { lazyConnect: true, redisOptions: { replyMapping: 'resp3' } }),
    ]
    const scripting: RedisScripting[] = [redis, cluster]
    const listening: RedisListenConnection = redis
    const owned: RedisPrivateConnection = redis
    expect([connections.length, scripting.length, listening, owned]).to.have.length(4)
  })
})
