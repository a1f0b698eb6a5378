import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import { enough, etcdTargets, until } from 'lease-servers'
import { EtcdGuard, type EtcdSubstrate } from 'lease-etcd'
import type { Etcd3 } from 'etcd3'
import { briefMs, claim, newCall, release, settle, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

interface Term {
  readonly lease: string
  readonly holder: string
  readonly token: bigint
}

/** Writes the token to the account, if the guard lets it; the revision at which that was committed. */
type Write = (substrate: EtcdSubstrate, etcd: Etcd3, term: Term) => Promise<bigint>

const writes: Record<string, Write> = {
  'the guard’s comparison': async (substrate, etcd, { lease, holder, token }) => {
    const guard = new EtcdGuard()
    await substrate.trapdoor(lease, holder, token)(guard)
    await pause()
    const put = etcd.put(`account/${lease}`).value(String(token))
    const result = await etcd
      .if(...guard.comparison)
      .then(put)
      .commit()
    guard.assertHeld(result)
    return BigInt(result.header.revision)
  },
  'the guard’s builder': async (substrate, etcd, { lease, holder, token }) => {
    const guard = new EtcdGuard()
    await substrate.trapdoor(lease, holder, token)(guard)
    await pause()
    const result = await guard
      .if(etcd)
      .then(etcd.put(`account/${lease}`).value(String(token)))
      .commit()
    guard.assertHeld(result)
    return BigInt(result.header.revision)
  },
  'a check before the write instead': async (substrate, etcd, { lease, holder, token }) => {
    const held = (await substrate.read([lease], newCall())).get(lease)
    if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
    await pause()
    return BigInt((await etcd.put(`account/${lease}`).value(String(token))).header.revision)
  },
}

/** What a race has brought so far. */
interface Tally {
  granted: number
  committed: number
  refused: number
  /** Commits after a newer grant of the same lease. */
  violations: number
}

const GRANTS = enough(300)

for (const target of etcdTargets()) {
  describe(`stale holders in a race, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    /**
     * Workers claim for a few milliseconds, or a few more, dawdle, and write; some release, some just stop. They go on until
     * enough has happened, which `isEnough` decides.
     */
    async function race(write: Write, isEnough: (tally: Tally) => boolean): Promise<Tally> {
      const namespace = unique('ns')
      const leases = Array.from({ length: 6 }, () => unique('lease'))
      const tokens = new Map<string, bigint[]>(leases.map((lease) => [lease, []]))
      const written: { readonly lease: string; readonly token: bigint; readonly revision: bigint }[] = []
      const tally: Tally = { granted: 0, committed: 0, refused: 0, violations: 0 }
      // Tokens are revisions, as those of the writes are: the store itself says what came before what.
      const count = (): void => {
        tally.violations = written.filter(({ lease, token, revision }) =>
          tokens.get(lease)?.some((later) => token < later && later < revision),
        ).length
      }
      const over = new AbortController()
      const worker = async (holder: string): Promise<void> => {
        const etcd = setting.newEtcd()
        const substrate = setting.substrate({ namespace, etcd })
        while (!over.signal.aborted) {
          const lease = leases[Math.floor(Math.random() * leases.length)] ?? ''
          const durationMs = briefMs()
          let { outcome, holding } = await settle(substrate, claim(lease, holder, durationMs))
          if (outcome === 'refused') {
            const lapsed = holding?.version
            await sleep((holding?.remainingMs ?? 0) + 2)
            ;({ outcome, holding } = await settle(substrate, claim(lease, holder, durationMs, { lapsed })))
          }
          if (outcome !== 'granted' || holding === undefined) continue
          tally.granted++
          const token = holding.fencingToken
          tokens.get(lease)?.push(token)
          try {
            written.push({ lease, token, revision: await write(substrate, etcd, { lease, holder, token }) })
            tally.committed++
          } catch (error) {
            if (!(error instanceof ErrNotHeld)) throw error
            tally.refused++
          }
          if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
        }
      }
      const workers = Promise.all(Array.from({ length: 16 }, (_, index) => worker(`w${index}`)))
      const enough = until(
        'enough grants, commits, refusals, violations',
        () => {
          count()
          return over.signal.aborted || isEnough(tally) ? tally : undefined
        },
        50,
      )
      try {
        await Promise.race([enough, workers])
      } finally {
        over.abort()
      }
      await workers
      count() // a grant may have been recorded after the write that it makes a violation
      return tally
    }

    for (const key of ['the guard’s comparison', 'the guard’s builder']) {
      it(`with ${key} never commit after a newer grant, over ${GRANTS} grants`, async () => {
        const tally = await race(
          writes[key] ?? expect.fail(),
          ({ granted, committed, refused }) => granted >= GRANTS && committed >= 20 && refused >= 20,
        )
        if (process.env['LEASE_TEST_FIGURES']) console.log(tally)
        expect(tally.violations).to.equal(0)
      })
    }

    it('do so without a guard: this race would show it', async () => {
      const tally = await race(
        writes['a check before the write instead'] ?? expect.fail(),
        ({ violations }) => violations > 0,
      )
      if (process.env['LEASE_TEST_FIGURES']) console.log(tally)
      expect(tally.violations).to.be.greaterThan(0)
    })
  })
}

/** Shorter or longer than the lease. */
function pause(): Promise<void> {
  return sleep(Math.random() * 60)
}
