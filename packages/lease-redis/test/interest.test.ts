/** Which clients are notified of what: beyond what the conformance kit asks, what only Redis can show. */
import { expect } from 'chai'
import type { Redis } from 'ioredis'
import { LeaseEvents, Manager, type LeaseChange } from 'lease-core'
import { INTEREST_MS, noTicket, TOLD, type Call, type Verdict } from 'lease-core/adapter'
import { redisClient, type RedisSubstrate } from 'lease-redis'
import { claim, expire, grant, newCall, settle, sleep, unique } from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { documentedRights } from './rights.ts'
import { LASTING_MS, openSetting, releaseOf, type Setting } from './setting.ts'

/** One client of the port. */
interface Client {
  readonly substrate: RedisSubstrate
  readonly call: () => Call
  /** What it is notified; undefined: it does not listen. */
  readonly told: LeaseChange[] | undefined
}

for (const target of redisTargets('server')) {
  describe(`whom to notify, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let base: string
    let lease: string
    let substrate: RedisSubstrate
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('told')
      base = `lease:{${namespace}}:`
      lease = unique('lease')
      substrate = setting.substrate({ namespace })
    })

    async function client({ listens = true } = {}): Promise<Client> {
      const name = Math.random().toString(36).slice(2).padEnd(12, '0').slice(0, 12)
      const call = (): Call => ({ ...newCall(), client: name })
      const own = setting.substrate({ namespace })
      if (!listens) return { substrate: own, call, told: undefined }
      const told: LeaseChange[] = []
      own.watch?.((change) => told.push(change), name)
      await until('a client that listens', () => told.length > 0)
      told.length = 0
      return { substrate: own, call, told }
    }

    /** Gets in the queue, or asks again with its ticket. */
    async function ask({ substrate: own, call }: Client, place = 0): Promise<Verdict> {
      const [verdict] = await own.apply([claim(lease, 'w', LASTING_MS, { place })], call())
      return verdict ?? expect.fail('no verdict')
    }

    /** All that is published in the namespace while the body runs, and shortly after. */
    async function published(body: () => Promise<unknown>): Promise<string[]> {
      const listener = setting.connect()
      const heard: string[] = []
      await listener.psubscribe(`${base}*`)
      listener.on('pmessage', (_, channel, message) => heard.push(`${channel.slice(base.length)} ${message}`))
      await body()
      await setting.redis.publish(`${base}end`, '')
      await until('the end of what is published', () => heard.at(-1) === 'end ', 1)
      listener.disconnect()
      return heard.slice(0, -1)
    }

    it('nobody is, of leases that nobody waits for, also while others are waited for', async () => {
      const work = async (): Promise<void> => {
        const names = [unique('one'), unique('two')]
        await substrate.apply(
          names.map((name) => claim(name, 'a', LASTING_MS, { announce: true })),
          newCall(),
        )
        const releases = await Promise.all(names.map((name) => releaseOf(substrate, name, 'a')))
        await substrate.apply(releases, newCall())
        await grant(substrate, claim(lease, 'a', 1))
        await until('its lapse', async () => (await settle(substrate, expire(lease))).outcome === 'granted')
      }
      expect(await published(work)).to.deep.equal([])
      const other = unique('other')
      await grant(substrate, claim(other, 'a', LASTING_MS))
      await substrate.apply([claim(other, 'w', LASTING_MS, { place: 0 })], newCall())
      expect(await published(work)).to.deep.equal([])
    })

    it('one for whom nobody listens is notified, and counts as none: the next ones are reported as well', async () => {
      await grant(substrate, claim(lease, 'a', LASTING_MS))
      const crowd: Client[] = []
      for (const listens of [false, true, false, true, true]) crowd.push(await client({ listens }))
      const tickets: number[] = []
      for (const one of crowd) tickets.push((await ask(one)).ticket?.place ?? 0)
      const { told } = await settle(substrate, await releaseOf(substrate, lease, 'a'))
      expect(told).to.equal(tickets[3])
      await until('word of the vacancy', () => (crowd[3]?.told?.length ?? 0) > 0)
      const to = (index: number, ahead: number): LeaseChange[] => [
        { kind: 'vacated', lease, to: { place: tickets[index] ?? 0, ahead } },
      ]
      expect(crowd.map((one) => one.told)).to.deep.equal([undefined, to(1, 0), undefined, to(3, 1), []])
    })

    it('those who were not heard of for long are forgotten, one by one', async () => {
      await grant(substrate, claim(lease, 'a', LASTING_MS))
      const crowd = [await client(), await client(), await client()]
      const members: string[] = []
      for (const one of crowd) members.push(`${(await ask(one)).ticket?.place} ${one.call().client}`)
      for (const key of ['q', 'd']) {
        expect(await setting.redis.pttl(`${base}${key}:${lease}`)).to.be.within(1, INTEREST_MS)
        expect(await setting.redis.zrange(`${base}${key}:${lease}`, 0, '-1')).to.deep.equal(members)
      }
      const [first = expect.fail()] = members
      await setting.redis.zadd(`${base}d:${lease}`, 1, first)
      const again = await ask(crowd[2] as Client, Number(members[2]?.split(' ')[0]))
      expect(again.ticket?.ahead).to.equal(1)
      expect(await setting.redis.zscore(`${base}q:${lease}`, first)).to.equal(null)
      const late = await ask(crowd[0] as Client, Number(first.split(' ')[0]))
      expect(late.ticket, 'one that was forgotten').to.deep.equal({ place: Number(first.split(' ')[0]), ahead: 0 })
    })

    it('a lapse is reported once: by an expiry, or by a claim of another name that takes the lapsed one out of the index', async () => {
      await grant(substrate, claim(lease, 'a', LASTING_MS))
      const [one, watcher] = [await client(), await client()]
      const place = (await ask(one)).ticket?.place ?? expect.fail('no ticket')
      await watcher.substrate.read([lease], watcher.call(), [lease])
      await setting.redis.del(`${base}l:${lease}`)
      expect(await substrate.read(undefined, newCall())).to.have.property('size', 0)
      await until('a claim that looks after the index', async () => {
        const other = unique('other')
        await grant(substrate, claim(other, 'a', LASTING_MS))
        // It looks at some of the index by chance, so the index stays small.
        await settle(substrate, await releaseOf(substrate, other, 'a'))
        return (await setting.redis.sismember(`${base}i`, lease)) === 0
      })
      await until('word of the lapse', () => [one, watcher].every(({ told }) => (told?.length ?? 0) >= 1))
      expect(one.told).to.deep.equal([{ kind: 'vacated', lease, to: { place, ahead: 0 } }])
      const again = await published(async () => {
        expect(await settle(substrate, expire(lease))).to.have.property('outcome', 'granted')
      })
      expect(again).to.deep.equal([])
    })

    it('watchers that were not heard of for long are notified nothing', async () => {
      const [gone, here] = [await client(), await client()]
      for (const one of [gone, here]) await one.substrate.read([lease], one.call(), [lease])
      await setting.redis.zadd(`${base}b:${lease}`, 1, gone.call().client)
      await grant(substrate, claim(lease, 'a', LASTING_MS, { announce: true }))
      await settle(substrate, await releaseOf(substrate, lease, 'a'))
      await until('word of the vacancy', () => (here.told?.length ?? 0) >= 2)
      expect(gone.told).to.deep.equal([])
      await setting.redis.zadd(`${base}x`, 1, lease)
      expect(
        await published(async () => {
          await grant(substrate, claim(lease, 'a', LASTING_MS, { announce: true }))
        }),
        'after an interest that has lapsed',
      ).to.deep.equal([])
    })

    it('nothing of it stays behind', async () => {
      await grant(substrate, claim(lease, 'a', LASTING_MS))
      const [one, two, three] = [await client(), await client(), await client()]
      const first = await ask(one)
      const second = await ask(two)
      await three.substrate.read([lease], three.call(), [lease])
      await settle(substrate, await releaseOf(substrate, lease, 'a'))
      await one.substrate.apply([claim(lease, 'w', LASTING_MS, { place: first.ticket?.place })], one.call())
      await two.substrate.apply([{ kind: 'leave', lease, place: second.ticket?.place }], two.call())
      await three.substrate.apply([{ kind: 'leave', lease, place: undefined }], three.call())
      const left = (await setting.redis.keys(`${base}*`)).map((key) => key.slice(base.length)).toSorted()
      expect(left).to.deep.equal(['i', `l:${lease}`, `o:${lease}`, 't', 'v'])
    })

    it('a hand-off is two messages of a vacancy and one of a grant, however many wait', async () => {
      for (const count of [2, 12]) {
        lease = unique('lease')
        await grant(substrate, claim(lease, 'a', LASTING_MS))
        const crowd: Client[] = []
        for (let index = 0; index < count; index++) crowd.push(await client())
        const places: (number | undefined)[] = []
        for (const one of crowd) places.push((await ask(one)).ticket?.place)
        const [first] = crowd
        const messages = await published(async () => {
          await settle(substrate, await releaseOf(substrate, lease, 'a'))
          const taken = claim(lease, 'w', LASTING_MS, { place: places[0] })
          expect((await first?.substrate.apply([taken], first.call()))?.[0]?.outcome).to.equal('granted')
        })
        expect(messages).to.have.length(TOLD + 1)
      }
    })

    it('without the rights to queues a claim is refused and granted all the same, and waiters wake by timer', async () => {
      const user = unique('app')
      const { leases } = await documentedRights(namespace)
      await setting.redis.acl(
        'SETUSER',
        user,
        ...leases,
        ...leases.filter((word) => word.startsWith('+z')).map((word) => `-${word.slice(1)}`),
      )
      const redis: Redis = setting.connect({ username: user, password: 'secret' })
      const warnings: string[] = []
      const events = new LeaseEvents()
      events.subscribe((event) => event.type === 'warning' && warnings.push(event.warning))
      const first = redisClient({ redis, namespace, events })
      const manager = new Manager({ client: first, maxSleep: 200 })
      try {
        const hold = await manager.hold(lease, 'one', { duration: LASTING_MS })
        const ticket = noTicket()
        const second = redisClient({ redis: setting.connect({ username: user, password: 'secret' }), namespace })
        await second.claimLease(lease, { holder: 'two', duration: LASTING_MS }, { ticket }).catch(() => {})
        expect(ticket).to.deep.equal(noTicket())
        const waiting = new Manager({ client: second, maxSleep: 200 })
        const next = waiting.hold(lease, 'two', { duration: LASTING_MS, wait: true })
        await sleep(50)
        await hold.release()
        await (await next).release()
        await waiting.stop()
        await second.close()
        expect(warnings.filter((warning) => warning === 'queue-forbidden')).to.have.length(1)
      } finally {
        await manager.stop()
        await first.close()
        await setting.redis.acl('DELUSER', user)
      }
    })
  })
}
