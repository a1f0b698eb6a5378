/** The first mistakes that everybody makes: nothing waits in silence. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { Manager } from 'lease-core'
import { redisClient } from 'lease-redis'
import { caught, failsForSetUp, leavesNoTimer, unique } from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`a set-up that cannot work, and a short job, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    const over = async (options: object, words: RegExp): Promise<void> => {
      const redis = new Redis(target.url, options)
      redis.on('error', () => {})
      try {
        await failsForSetUp(redisClient({ redis, namespace: unique('ns') }), words)
      } finally {
        redis.disconnect()
      }
    }

    it('fails at once where the password is wrong', () =>
      over({ username: 'nobody', password: 'wrong' }, /the server (refused the credentials|wants a password)/))

    it('fails at once where a node of a Cluster, or a Sentinel, refuses the password', async () => {
      const { hostname: host, port } = new URL(target.url)
      const nodes = [{ host, port: Number(port) }]
      const credentials = { username: 'nobody', password: 'wrong' }
      for (const open of [
        () => new Cluster(nodes, { redisOptions: credentials }),
        () => new Redis({ sentinels: nodes, name: 'any', sentinelUsername: 'nobody', sentinelPassword: 'wrong' }),
      ]) {
        const redis = open()
        redis.on('error', () => {})
        try {
          const client = redisClient({ redis, namespace: unique('ns'), requestTimeout: 60_000 })
          await failsForSetUp(client, /the server refused the credentials/, ['a claim', 'a hold that waits'])
        } finally {
          redis.disconnect()
        }
      }
    })

    it('fails at once where the user lacks the rights', async () => {
      const user = unique('user')
      await setting.redis.acl('SETUSER', user, 'on', '>pw', '+@connection', '+info')
      try {
        await over({ username: user, password: 'pw' }, /this user lacks a right/)
      } finally {
        await setting.redis.acl('DELUSER', user)
      }
    })

    it('leaves no timer behind where a job holds, releases, stops and closes at once', () =>
      leavesNoTimer((clock) => redisClient({ redis: setting.redis, namespace: unique('ns'), clock })))

    it('warns in the stream of the manager of what the set-up weakens', async () => {
      const redis = new Redis(target.url)
      const client = redisClient({ redis, namespace: unique('ns') })
      const manager = new Manager({ client })
      const pages: unknown[] = []
      manager.events.subscribe((event) => void (event.type === 'warning' && pages.push(event.page)))
      await manager.find('l')
      // Tests run on a server without an append-only file.
      await until('a warning', () => pages.length > 0)
      expect(new Set(pages)).to.deep.equal(new Set(['docs/substrates/redis.md']))
      await manager.stop()
      await client.close()
      redis.disconnect()
    })
  })
}

describe('Redis that is away', () => {
  it('is named by a claim that has no answer, with the cause, and nothing of it may have happened', async () => {
    const redis = new Redis('redis://127.0.0.1:1') // nobody listens there
    redis.on('error', () => {})
    const client = redisClient({ redis, namespace: 'away', requestTimeout: { seconds: 2 } })
    const manager = new Manager({ client })
    const { message } = await caught(manager.claim('a', 'me', { seconds: 5 }))
    expect(message).to.include('connect ECONNREFUSED 127.0.0.1:1').and.not.include('may have happened')
    redis.disconnect()
    await manager.stop()
    await client.close()
  })
})
