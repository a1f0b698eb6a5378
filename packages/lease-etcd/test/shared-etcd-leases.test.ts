import { expect } from 'chai'
import { sleep as clockSleep } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { etcdTargets, startProxy, until } from 'lease-servers'
import { claim, extend, grant, newCall, pin, readOne, release, settle, sleep, together, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'
import { SharedEtcdLeases } from '#src/shared-etcd-leases.ts'

describe('shared etcd leases', () => {
  /** A server that says how often it was asked, and for what. */
  function counted(clock: TestClock, more: { readonly longer?: number } = {}) {
    const asked: number[] = []
    const leases = new SharedEtcdLeases(clock)
    const ids: string[] = []
    const grant = async ({ ID, TTL }: { readonly ID: string; readonly TTL: number }) => {
      ids.push(ID)
      asked.push(TTL)
      return TTL + (more.longer ?? 0)
    }
    /** Which one it was, in the order in which they were asked for. */
    const cover = async (durationMs: number) => String(ids.indexOf(await leases.cover(durationMs, grant)) + 1)
    return { asked, ids, leases, cover }
  }

  it('are shared for as long as they cover the duration, and not a moment longer', async () => {
    const clock = new TestClock()
    const { asked, cover } = counted(clock)
    expect(await cover(30_000)).to.equal('1')
    expect(asked).to.deep.equal([38]) // a quarter more, in whole seconds
    await clock.advance(8_000 - 38 - 1) // less 0.1 % and a millisecond, for the server's clock may be faster
    expect(await cover(30_000)).to.equal('1')
    await clock.advance(1)
    expect(await cover(30_000)).to.equal('2')
  })

  it('are asked for once by many at the same time, and by none after a failure', async () => {
    const clock = new TestClock()
    const { asked, leases, cover } = counted(clock)
    const failing = () => Promise.reject(new Error('no'))
    const outcomes = await Promise.allSettled([leases.cover(1_000, failing), leases.cover(1_000, failing)])
    expect(outcomes.map(({ status }) => status)).to.deep.equal(['rejected', 'rejected'])
    expect(await Promise.all(Array.from({ length: 9 }, () => cover(1_000)))).to.deep.equal(Array(9).fill('1'))
    expect(asked).to.deep.equal([2])
  })

  it('count from sending, by the clock that says more has passed', async () => {
    const clock = new TestClock()
    const { cover } = counted(clock)
    await cover(1_500)
    await clock.suspend(1_400) // suspended: only the wall clock went on
    expect(await cover(1_500)).to.equal('1')
    await clock.suspend(200)
    expect(await cover(1_500)).to.equal('2')
    await clock.jumpWall(-3_600_000)
    await clock.advance(1_501)
    expect(await cover(1_500)).to.equal('3')
  })

  it('count from the sending of their grant, however late its answer comes', async () => {
    const clock = new TestClock()
    const { leases, ids, cover } = counted(clock)
    const slow = leases.cover(30_000, async ({ TTL }) => {
      await clockSleep(clock, 3_000)
      return TTL
    })
    await clock.advance(3_000)
    const id = await slow
    await clock.advance(8_000 - 38 - 1 - 3_000)
    expect(await leases.cover(30_000, () => expect.fail('another one was asked for'))).to.equal(id)
    await clock.advance(1)
    expect(await cover(30_000)).to.equal('1')
    expect(ids[0]).not.to.equal(id)
  })

  it('last as long as the server says, if that is longer', async () => {
    const clock = new TestClock()
    const { cover } = counted(clock, { longer: 5 })
    await cover(1_000)
    await clock.advance(6_000 - 7 - 1)
    expect(await cover(1_000)).to.equal('1')
    await clock.advance(1)
    expect(await cover(1_000)).to.equal('2')
  })

  it('that are forgotten are not used again', async () => {
    const { leases, ids, cover } = counted(new TestClock())
    await Promise.all([cover(1_000), cover(60_000)])
    leases.forget(new Set([ids[0] ?? '', '0', '77']))
    expect(await cover(1_000)).to.equal('3')
    expect(await cover(60_000)).to.equal('2')
  })

  it('are shared by durations that are about as long, and cover each of them', async () => {
    const { asked, cover } = counted(new TestClock())
    const hour = 3_600_000
    for (let second = 0; second < 50; second++) await cover(20 * hour - second * 1_000)
    expect(asked).to.have.length(1)
    await cover(20 * hour + 600_000)
    expect(asked).to.have.length(1)
    await cover(24 * hour)
    await cover(hour)
    expect(asked).to.have.length(3)
  })

  it('of long durations are about 65 at a time at most, however often one is needed', async () => {
    const clock = new TestClock()
    const { asked, cover } = counted(clock)
    const day = 86_400_000
    for (let turn = 0; turn < 30 * 24; turn++) {
      await cover(30 * day)
      await clock.suspend(day / 24)
    }
    expect(asked.length).to.be.within(60, 70)
  })

  it('are spare in the end unless a request that names them has no answer, or a key has to stay', async () => {
    const { leases, ids, cover } = counted(new TestClock())
    for (const minutes of [1, 10, 100, 1_000, 10_000]) await cover(minutes * 60_000)
    const [answered = '', unanswered = '', staying = '', crowded = '', unused] = ids
    const put = (lease: string, key: string) => ({ lease, request: { request_put: { key: Buffer.from(key), lease } } })
    leases.send([put(answered, 'a'), put('0', 'b'), put(answered, 'c')])()
    leases.send([put(answered, 'd'), put(unanswered, 'e')], staying)
    leases.send([put(answered, 'f')])()
    leases.send(Array.from({ length: 1_000 }, (_, index) => put(crowded, `k${index}`)))()
    expect(leases.close().map(({ id }) => id)).to.deep.equal([unused])
    expect(() => leases.send([put(answered, 'g')])).to.throw('closed')
    expect(() => leases.send([put('0', 'g')])).not.to.throw()
  })

  it('shorter than asked for are an error', async () => {
    const { cover } = counted(new TestClock(), { longer: -1 })
    expect(await cover(1_000).catch((error: Error) => error.message)).to.match(/granted a lease of 1 seconds/)
  })
})

for (const target of etcdTargets()) {
  describe(`keys that vanish, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    together({
      'do so after the moment that was promised, and soon enough; an extension moves it, a shorter one not back':
        async () => {
          const substrate = setting.substrate()
          const promised = new Map<string, number>()
          const vanished = new Map<string, number>()
          let resyncs = 0
          substrate.watch?.((change) => {
            if (change.kind === 'resync') resyncs++
            else vanished.set(change.lease, performance.now())
          })
          await until('the watch', () => resyncs > 0)
          const one = async (round: number): Promise<void> => {
            const lease = `l${round}`
            const durationMs = 200 + Math.random() * 800
            await sleep(Math.random() * 2_500) // longer than an etcd lease is shared
            let atMs = performance.now()
            const seen = await grant(substrate, claim(lease, 'a', durationMs))
            let endMs = atMs + durationMs
            if (round % 3 > 0) {
              const nextMs = round % 3 === 1 ? durationMs / 2 : durationMs * 1.5
              await sleep(5)
              atMs = performance.now()
              const { outcome } = await settle(substrate, extend(lease, 'a', nextMs, { seen }))
              if (outcome === 'granted') endMs = Math.max(endMs, atMs + nextMs)
              else expect(performance.now(), 'when it was gone already').to.be.greaterThan(endMs)
            }
            promised.set(lease, endMs)
          }
          await Promise.all(Array.from({ length: 120 }, (_, round) => one(round)))
          await until(
            'all keys to vanish',
            async () => {
              const found = await substrate.read(undefined, newCall({ timeoutMs: 60_000 }))
              // A watch that started again has missed some events, so the times of these are unknown.
              if (resyncs > 1) {
                for (const lease of promised.keys()) {
                  if (!found.has(lease) && !vanished.has(lease)) vanished.set(lease, Number.POSITIVE_INFINITY)
                }
              }
              return vanished.size === promised.size
            },
            50,
          )
          const early = [...promised].filter(([lease, endMs]) => (vanished.get(lease) ?? 0) < endMs)
          expect(early).to.deep.equal([])
        },

      'share few etcd leases': async () => {
        let grants = 0
        const etcd = setting.newEtcd({
          defaultCallOptions: ({ method }) => {
            if (method === 'leaseGrant') grants++
            return {}
          },
        })
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace, etcd })
        const startedMs = performance.now()
        for (let round = 0; round < 20; round++) {
          const ops = Array.from({ length: 20 }, () => claim(unique('l'), 'a', 600_000))
          const verdicts = await substrate.apply(ops, newCall({ timeoutMs: 60_000 }))
          expect(new Set(verdicts.map(({ outcome }) => outcome))).to.deep.equal(new Set(['granted']))
        }
        // One is shared for a minute.
        const minutes = Math.ceil((performance.now() - startedMs) / 60_000)
        const { kvs } = await setting.etcd.getAll().prefix(`lease/${namespace}/l/`).exec()
        expect(kvs).to.have.length(400)
        expect(new Set(kvs.map(({ lease }) => lease)).size).to.be.within(1, minutes)
        expect(grants).to.be.within(1, minutes)
      },

      'that nothing hangs on are revoked when their client is closed, and no others': async () => {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        const etcdLeaseOf = async (lease: string): Promise<string> => {
          const [kv] = (await setting.etcd.get(`lease/${namespace}/l/${lease}`).exec()).kvs
          return kv?.lease ?? expect.fail()
        }
        const leftOf = async (ID: string): Promise<number> =>
          Number((await setting.etcd.leaseClient.leaseTimeToLive({ ID })).TTL)
        // Each of another duration, so each on an etcd lease of its own.
        for (const [lease, days] of [
          ['released', 30],
          ['held', 60],
          ['half', 90],
          ['other half', 90],
        ] as const) {
          await grant(substrate, claim(lease, 'a', days * 86_400_000))
        }
        const seen = await grant(substrate, claim('moved', 'a', 120 * 86_400_000))
        const ids = { spare: [] as string[], needed: [await etcdLeaseOf('held'), await etcdLeaseOf('half')] }
        for (const lease of ['released', 'moved']) ids.spare.push(await etcdLeaseOf(lease))
        await grant(substrate, extend('moved', 'a', 240 * 86_400_000, { seen }))
        ids.needed.push(await etcdLeaseOf('moved'))
        await settle(substrate, release('released', 'a'))
        await settle(substrate, release('half', 'a'))
        expect(new Set([...ids.spare, ...ids.needed]).size).to.equal(5)

        await substrate.close()
        for (const id of ids.spare) expect(await leftOf(id)).to.equal(-1)
        for (const id of ids.needed) expect(await leftOf(id)).to.be.greaterThan(0)
        expect(
          [...(await setting.substrate({ namespace }).read(undefined, newCall())).keys()].toSorted(),
        ).to.deep.equal(['held', 'moved', 'other half'])
      },

      'are granted once where the answer to the grant is lost': async () => {
        const url = target.endpoints[0] ?? ''
        await using proxy = await startProxy(url)
        const ids: unknown[] = []
        const etcd = setting.newEtcd({
          hosts: proxy.url(url),
          defaultCallOptions: (context) => {
            if (context.method === 'leaseGrant') ids.push((context.params as { readonly ID?: string }).ID)
            return {}
          },
        })
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace, etcd })
        await grant(substrate, claim('l', 'a', 60_000))
        const cut = proxy.cutAfterRequest() // the next request is a grant, for the duration is another
        await grant(substrate, claim('m', 'a', 600_000))
        await cut
        const [kv] = (await setting.etcd.get(`lease/${namespace}/l/m`).exec()).kvs
        expect(ids.length).to.be.at.least(3)
        expect(new Set(ids.slice(1))).to.deep.equal(new Set([kv?.lease]))
      },

      'do not, while they are pinned': async () => {
        const substrate = setting.substrate()
        await settle(substrate, pin('l', 'e'))
        const held = await grant(substrate, claim('l', 'a', 50))
        await grant(substrate, claim('m', 'a', 50))
        await until('the other key to vanish', async () => (await readOne(substrate, 'm')) === undefined)
        expect(await substrate.read(undefined, newCall())).to.deep.equal(new Map([['l', held]]))
      },
    })
  })
}
