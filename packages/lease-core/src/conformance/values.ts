import assert from 'node:assert/strict'
import type { Chapter } from './kit.ts'
import { ALICE, BOB, invalid, known, same } from './kit.ts'

/** What a holder advertises travels with its lease. */
export const values: Chapter = {
  title: 'values',
  state(clause) {
    clause('a value travels with the claim, and everyone reads it', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'http://10.0.0.7:8080/' })
      same(known(a, lease).value, 'http://10.0.0.7:8080/', 'the value')
      same((await scene.holding(b))?.value, 'http://10.0.0.7:8080/', 'the value')
    })

    clause('a lease without a value has none', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      same(known(a, lease).value, undefined, 'the value')
      same((await scene.holding(b))?.value, undefined, 'the value')
    })

    clause('the empty string is a value', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: '' })
      same((await scene.holding(b))?.value, '', 'the value')
      await a.extendLease(lease, { holder: ALICE, duration: longMs, value: 'something' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs, value: '' })
      assert.equal((await scene.holding(b))?.value, '', 'an extension did not replace the value by the empty one')
    })

    clause('an extension without a value keeps the old one', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs * 2 })
      same(known(a, lease).value, 'old', 'the value')
      same((await scene.holding(b))?.value, 'old', 'the value')
    })

    clause('an extension with a value replaces it, also when it does not lengthen the lease', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs * 2, value: 'new' })
      same(known(a, lease).value, 'new', 'the value')
      same((await scene.holding(b))?.value, 'new', 'the value')
      await a.extendLease(lease, { holder: ALICE, duration: longMs / 10, value: 'newest' })
      same((await scene.holding(b))?.value, 'newest', 'the value')
    })

    clause('a new term starts without the value of the last', async (scene) => {
      const { a, b, unitMs, longMs } = scene
      const { lease, durationMs } = await scene.whileLive(unitMs, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'released' })
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        assert.equal((await scene.holding(b))?.value, undefined, 'the value of the released term is still there')
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration, value: 'lapsed' })
      })
      await scene.lapse(lease, durationMs, a, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      assert.equal(known(b, lease).value, undefined, 'the value of the lapsed term is still there')
      same((await scene.holding(a))?.value, undefined, 'the value')
    })

    clause('a refused operation does not touch the value', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'mine' })
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs, value: 'theirs' }), 'a claim')
      await invalid(b.extendLease(lease, { holder: BOB, duration: longMs, value: 'theirs' }), 'an extension')
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'again' }), "a claim of one's own")
      same((await scene.holding(b))?.value, 'mine', 'the value')
    })

    clause('values of many leases claimed at once do not get mixed up', async (scene) => {
      const { a, b, longMs } = scene
      const names = scene.leases(50)
      const valueOf = (index: number): string | undefined => (index % 3 === 0 ? undefined : `value-${index}`)
      await Promise.all(
        names.map((lease, index) => a.claimLease(lease, { holder: ALICE, duration: longMs, value: valueOf(index) })),
      )
      await b.refresh(names)
      for (const [index, lease] of names.entries()) same(known(b, lease).value, valueOf(index), 'the value')
    })
  },
}
