/** One connection that listens, for all namespaces over one connection of the caller. */
import { expect } from 'chai'
import type { Redis } from 'ioredis'
import { LeaseEvents, systemClock, type Clock, type LeaseChange } from 'lease-core'
import { redisClient, type RedisSubstrate } from 'lease-redis'
import { claim, grant, settle, unique } from 'lease-scenes'
import { redisTargets, startProxy, until } from 'lease-servers'
import { LASTING_MS, openSetting, releaseOf, type Setting } from './setting.ts'

/** A tenant that listens. */
interface Tenant {
  readonly substrate: RedisSubstrate
  readonly heard: LeaseChange[]
  readonly leave: () => void
}

/** Its timers ring a hundred times as soon. */
const hasty: Clock = { ...systemClock, setTimer: (delayMs, wake) => systemClock.setTimer(delayMs / 100, wake) }

for (const target of redisTargets('server')) {
  describe(`namespaces over one connection to ${target.name}`, () => {
    let setting: Setting
    let shared: Redis
    let connectionName: string
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(async () => {
      connectionName = unique('tenants')
      shared = setting.connect({ connectionName })
      await shared.ping()
    })

    function tenant(options: Parameters<Setting['substrate']>[0] = {}): Tenant {
      const substrate = setting.substrate({ redis: shared, ...options })
      const heard: LeaseChange[] = []
      const leave = substrate.watch?.((change) => heard.push(change)) ?? expect.fail('it does not listen')
      return { substrate, heard, leave }
    }

    const listening = (tenants: readonly Tenant[]): Promise<unknown> =>
      until('all that listen', () => tenants.every(({ heard }) => heard.some(({ kind }) => kind === 'resync')))
    const vacated = ({ heard }: Tenant): string[] =>
      heard.flatMap((change) => (change.kind === 'vacated' ? [change.lease] : []))

    /** A term of this lease that is over, which is announced. */
    async function handOver({ substrate }: Tenant, lease: string): Promise<void> {
      await grant(substrate, claim(lease, 'a', LASTING_MS))
      await settle(substrate, await releaseOf(substrate, lease, 'a'))
    }

    /** Of this name: the ids of those that are subscribed, and how many are there. */
    async function connections(): Promise<{ readonly subscribed: string[]; readonly count: number }> {
      const all = String(await setting.redis.client('LIST')).split('\n')
      const own = all.filter((line) => line.includes(`name=${connectionName} `))
      const subscribed = own.filter((line) => !line.includes(' sub=0 ')).map((line) => /id=(\d+)/.exec(line)?.[1] ?? '')
      return { subscribed, count: own.length }
    }

    for (const [what, says] of [
      ['refused', /nothing listens at the address/],
      ['that the server wants no user for', /refused the credentials/],
      ['that a promise fails to make', /no token/],
      ['of nothing', /listen must make a connection/],
    ] as const) {
      it(`report once that none comes to listen, for want of one ${what}`, async () => {
        const password = unique('unguessable')
        const listen = {
          refused: () => setting.connect({ retryStrategy: null }, 'redis://127.0.0.1:1'),
          'that the server wants no user for': () =>
            setting.connect({ username: 'nobody', password, retryStrategy: null }),
          'that a promise fails to make': async () => Promise.reject<Redis>(new Error('no token')),
          'of nothing': () => undefined as unknown as Redis,
        }[what]
        const events = new LeaseEvents()
        const client = redisClient({ events, redis: shared, namespace: unique('ns'), listen })
        const warnings: string[] = []
        events.subscribe((event) => {
          if (event.type === 'warning' && event.warning === 'no-hints') warnings.push(event.message)
        })
        const leave = client.subscribe(() => {})
        await until('the warning', () => warnings.length > 0)
        expect(warnings).to.have.length(1)
        expect(warnings[0]).to.match(says).and.not.include(password)
        leave()
        await client.close()
      })
    }

    it('share the one that listens, and each hears of its own leases', async () => {
      const tenants = Array.from({ length: 30 }, () => tenant())
      await listening(tenants)
      expect(await connections()).to.have.property('count', 2)
      for (const [index, one] of tenants.entries()) await handOver(one, `l${index}`)
      await until('all hand-overs', () => tenants.every((one) => vacated(one).length > 0))
      for (const [index, one] of tenants.entries()) expect(vacated(one)).to.deep.equal([`l${index}`])
      for (const { leave } of tenants) leave()
      await until('the end of the one that listens', async () => (await connections()).count === 1)
    })

    it('go on hearing when one of them, or one of two in the same, has left', async () => {
      const namespace = unique('ns')
      const [gone, twin, other] = [tenant({ namespace }), tenant({ namespace }), tenant()]
      await listening([gone, twin, other])
      gone.leave()
      for (const one of [twin, other]) {
        await handOver(one, 'l')
        await until('a hand-over', () => vacated(one).includes('l'))
      }
      expect(vacated(gone)).to.deep.equal([])
      const again = tenant({ namespace })
      await listening([again])
      await handOver(twin, 'm')
      await until('a hand-over', () => vacated(again).includes('m'))
      expect(await connections()).to.have.property('count', 2)
    })

    it('are back on one that listens when theirs has ended', async () => {
      const tenants = [tenant(), tenant(), tenant()]
      await listening(tenants)
      for (const { heard } of tenants) heard.length = 0
      const [id = expect.fail()] = (await connections()).subscribed
      await setting.redis.client('KILL', 'ID', id)
      await listening(tenants)
      expect((await connections()).subscribed).to.have.length(1)
      for (const one of tenants) {
        await handOver(one, 'l')
        await until('a hand-over', () => vacated(one).includes('l'))
      }
    })

    it('are back on another one when theirs falls silent', async () => {
      await using proxy = await startProxy(setting.url)
      const far = setting.connect({ connectionName }, proxy.url(setting.url))
      const tenants = [tenant({ redis: far, clock: hasty }), tenant({ redis: far, clock: hasty })]
      await listening(tenants)
      proxy.silence()
      for (const { heard } of tenants) heard.length = 0
      await listening(tenants)
      for (const { leave } of tenants) leave()
    })

    it('do not disturb each other when one of them may not listen', async () => {
      const [user, namespace] = [unique('user'), unique('ns')]
      const rights = ['on', '>secret', 'allkeys', 'allcommands', '-unsubscribe', `&lease:{${namespace}}:c`]
      await setting.redis.acl('SETUSER', user, ...rights)
      const redis = setting.connect({ username: user, password: 'secret' })
      const [deaf, able] = [tenant({ redis }), tenant({ redis, namespace })]
      await listening([able])
      await handOver(able, 'l')
      await until('a hand-over', () => vacated(able).includes('l'))
      expect(deaf.heard).to.deep.equal([])
      for (const { leave } of [deaf, able]) leave()
      await setting.redis.acl('DELUSER', user)
    })

    it('with a function that makes the one that listens ask it for another one, with what is valid by then', async () => {
      const user = unique('user')
      const rights = ['on', 'allkeys', 'allchannels', 'allcommands']
      await setting.redis.acl('SETUSER', user, ...rights, '>first')
      let password = 'first'
      const fetched = async (): Promise<string> => password
      let made = 0
      const listen = async (): Promise<Redis> => {
        made++
        return setting.connect({ username: user, password: await fetched(), connectionName, retryStrategy: null })
      }
      const tenants = [tenant({ listen }), tenant({ listen })]
      await listening(tenants)
      expect(made).to.equal(1)
      password = 'second'
      await setting.redis.acl('SETUSER', user, '<first', '>second')
      for (const { heard } of tenants) heard.length = 0
      const [id = expect.fail()] = (await connections()).subscribed
      await setting.redis.client('KILL', 'ID', id)
      await listening(tenants)
      for (const { leave } of tenants) leave()
      await setting.redis.acl('DELUSER', user)
    })

    it('take the password that the connection has when theirs is made anew', async () => {
      const user = unique('user')
      const rights = ['on', 'allkeys', 'allchannels', 'allcommands']
      await setting.redis.acl('SETUSER', user, ...rights, '>first')
      const redis = setting.connect({ username: user, password: 'first', connectionName })
      const one = tenant({ redis })
      await listening([one])
      await setting.redis.acl('SETUSER', user, '<first', '>second')
      redis.options.password = 'second'
      one.heard.length = 0
      const [id = expect.fail()] = (await connections()).subscribed
      await setting.redis.client('KILL', 'ID', id)
      await listening([one])
      one.leave()
      await setting.redis.acl('DELUSER', user)
    })
  })
}
