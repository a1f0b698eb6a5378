import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import { etcdTargets } from 'lease-servers'
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

for (const target of etcdTargets()) {
  describe(`stale holders in a race, on ${target.name}`, function () {
    this.timeout(120_000)
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    /** Workers claim for a few milliseconds, or a few more, dawdle, and write; some release, some just stop. */
    async function race(
      write: Write,
      grants: number,
    ): Promise<{ granted: number; committed: number; refused: number; violations: number }> {
      const namespace = unique('ns')
      const leases = Array.from({ length: 6 }, () => unique('lease'))
      const tokens = new Map<string, bigint[]>(leases.map((lease) => [lease, []]))
      const written: { readonly lease: string; readonly token: bigint; readonly revision: bigint }[] = []
      let granted = 0
      let refused = 0
      const worker = async (holder: string): Promise<void> => {
        const etcd = setting.newEtcd()
        const substrate = setting.substrate({ namespace, etcd })
        while (granted < grants) {
          const lease = leases[Math.floor(Math.random() * leases.length)] ?? ''
          const durationMs = briefMs()
          let { outcome, holding } = await settle(substrate, claim(lease, holder, durationMs))
          if (outcome === 'refused') {
            const lapsed = holding?.version
            await sleep((holding?.remainingMs ?? 0) + 2)
            ;({ outcome, holding } = await settle(substrate, claim(lease, holder, durationMs, { lapsed })))
          }
          if (outcome !== 'granted' || holding === undefined) continue
          granted++
          const token = holding.fencingToken
          tokens.get(lease)?.push(token)
          try {
            written.push({ lease, token, revision: await write(substrate, etcd, { lease, holder, token }) })
          } catch (error) {
            if (!(error instanceof ErrNotHeld)) throw error
            refused++
          }
          if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
        }
      }
      await Promise.all(Array.from({ length: 16 }, (_, index) => worker(`w${index}`)))
      // Tokens are revisions, as those of the writes are: the store itself says what came before what.
      const violations = written.filter(({ lease, token, revision }) =>
        tokens.get(lease)?.some((later) => token < later && later < revision),
      )
      return { granted, committed: written.length, refused, violations: violations.length }
    }

    const grants = target.name.includes('three') ? 300 : 1_000
    for (const key of ['the guard’s comparison', 'the guard’s builder']) {
      it(`with ${key} never commit after a newer grant, over ${grants} grants`, async () => {
        const { granted, committed, refused, violations } = await race(writes[key] ?? expect.fail(), grants)
        if (process.env['LEASE_TEST_FIGURES']) console.log({ granted, committed, refused, violations })
        expect(committed).to.be.greaterThan(3)
        expect(refused).to.be.greaterThan(5)
        expect(violations).to.equal(0)
      })
    }

    it('do so without a guard: this race would show it', async () => {
      const { violations, committed } = await race(writes['a check before the write instead'] ?? expect.fail(), 500)
      if (process.env['LEASE_TEST_FIGURES']) console.log({ committed, violations })
      expect(violations).to.be.greaterThan(0)
    })
  })
}

/** Shorter or longer than the lease. */
function pause(): Promise<void> {
  return sleep(Math.random() * 60)
}
