import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, invalid, known, same } from './kit.ts'

/** What a holder advertises travels with its lease. */
export const values: Suite = {
  title: 'values',
  state(clause) {
    clause('a value travels with the claim, and everyone reads it', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'http://10.0.0.7:8080/' })
      same(known(a, lease).value, 'http://10.0.0.7:8080/', 'the value')
      same((await context.holding(b))?.value, 'http://10.0.0.7:8080/', 'the value')
    })

    clause('a lease without a value has none', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      same(known(a, lease).value, undefined, 'the value')
      same((await context.holding(b))?.value, undefined, 'the value')
    })

    clause('the empty string is a value', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: '' })
      same((await context.holding(b))?.value, '', 'the value')
      await a.extendLease(lease, { holder: ALICE, duration: longMs, value: 'something' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs, value: '' })
      assert.equal((await context.holding(b))?.value, '', 'an extension did not replace the value by the empty one')
    })

    clause('an extension without a value keeps the old one', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs * 2 })
      same(known(a, lease).value, 'old', 'the value')
      same((await context.holding(b))?.value, 'old', 'the value')
    })

    clause('an extension with a value replaces it, also when it does not lengthen the lease', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs * 2, value: 'new' })
      same(known(a, lease).value, 'new', 'the value')
      same((await context.holding(b))?.value, 'new', 'the value')
      await a.extendLease(lease, { holder: ALICE, duration: longMs / 10, value: 'newest' })
      same((await context.holding(b))?.value, 'newest', 'the value')
    })

    clause('a new term starts without the value of the last', async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease, durationMs } = await context.whileLive(unitMs, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'released' })
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        assert.equal((await context.holding(b))?.value, undefined, 'the value of the released term is still there')
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration, value: 'lapsed' })
      })
      await context.lapse(lease, durationMs, a, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      assert.equal(known(b, lease).value, undefined, 'the value of the lapsed term is still there')
      same((await context.holding(a))?.value, undefined, 'the value')
    })

    clause('a refused operation does not touch the value', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'mine' })
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs, value: 'theirs' }), 'a claim')
      await invalid(b.extendLease(lease, { holder: BOB, duration: longMs, value: 'theirs' }), 'an extension')
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'again' }), 'a claim of its own')
      same((await context.holding(b))?.value, 'mine', 'the value')
    })

    clause('values of many leases claimed at once do not get mixed up', async (context) => {
      const { a, b, longMs } = context
      const names = context.leases(50)
      const valueOf = (index: number): string | undefined => (index % 3 === 0 ? undefined : `value-${index}`)
      await Promise.all(
        names.map((lease, index) => a.claimLease(lease, { holder: ALICE, duration: longMs, value: valueOf(index) })),
      )
      await b.refresh(names)
      for (const [index, lease] of names.entries()) same(known(b, lease).value, valueOf(index), 'the value')
    })
  },
}
