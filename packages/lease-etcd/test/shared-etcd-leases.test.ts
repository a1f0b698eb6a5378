import { expect } from 'chai'
import { TestClock } from 'lease-core/testing'
import { etcdTargets, until } from 'lease-servers'
import { claim, extend, grant, newCall, pin, readOne, settle, sleep, together, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'
import { SharedEtcdLeases } from '#src/shared-etcd-leases.ts'

describe('shared etcd leases', () => {
  /** A server that says how often it was asked, and for what. */
  function counted(clock: TestClock, more: { readonly longer?: number } = {}) {
    const asked: number[] = []
    const leases = new SharedEtcdLeases(clock)
    const grant = async (ttlSeconds: number) => {
      asked.push(ttlSeconds)
      return { id: String(asked.length), ttlSeconds: ttlSeconds + (more.longer ?? 0) }
    }
    return { asked, leases, cover: (durationMs: number) => leases.cover(durationMs, grant) }
  }

  it('are shared for as long as they cover the duration, and not a moment longer', async () => {
    const clock = new TestClock()
    const { asked, cover } = counted(clock)
    expect(await cover(30_000)).to.equal('1')
    expect(asked).to.deep.equal([38]) // a quarter more, in whole seconds
    await clock.advance(8_000)
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

  it('last as long as the server says, if that is longer', async () => {
    const clock = new TestClock()
    const { cover } = counted(clock, { longer: 5 })
    await cover(1_000)
    await clock.advance(6_000)
    expect(await cover(1_000)).to.equal('1')
    await clock.advance(1)
    expect(await cover(1_000)).to.equal('2')
  })

  it('that are forgotten are not used again', async () => {
    const { leases, cover } = counted(new TestClock())
    await Promise.all([cover(1_000), cover(60_000)])
    leases.forget(new Set(['1', '0', '77']))
    expect(await cover(1_000)).to.equal('3')
    expect(await cover(60_000)).to.equal('2')
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
