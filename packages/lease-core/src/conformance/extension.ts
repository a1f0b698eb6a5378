import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, invalid, known, rises, same, termOf } from './kit.ts'

/** An extension moves the expiry of a held lease forward, and changes nothing else. */
export const extension: Suite = {
  title: 'extension',
  state(clause) {
    clause('an extended lease outlives its first expiry', async (context) => {
      const { a, b, unitMs, longMs } = context
      const {
        lease,
        durationMs,
        outcome: before,
      } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const before = known(a, lease)
        const sentMs = context.clock.now()
        await a.extendLease(lease, { holder: ALICE, duration: longMs })
        const expiryMs = known(a, lease).expiry.toMillis()
        assert(expiryMs >= sentMs + longMs, 'the expiry is earlier than the start of the call + duration')
        return before
      })
      await context.lapse(lease, durationMs, b)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim past the first expiry')
      await context.stillHeld(b, before)
    })

    clause('an extension never shortens', async (context) => {
      const { a, b, unitMs, longMs } = context
      const {
        lease,
        durationMs,
        outcome: before,
      } = await context.whileLive(unitMs, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const before = known(a, lease)
        await a.extendLease(lease, { holder: ALICE, duration })
        return before
      })
      const fresh = await context.open()
      const after = await context.holding(fresh)
      same(after?.holder, ALICE, 'the holder')
      const lostMs = before.expiry.toMillis() - (after?.expiry.toMillis() ?? 0)
      assert(lostMs < longMs / 10, `the expiry went back by ${lostMs} ms`)
      await context.lapse(lease, durationMs, a, b)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim before the first expiry')
    })

    clause('an extension keeps the holder and the fencing token', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      for (let times = 1; times <= 3; times++) await a.extendLease(lease, { holder: ALICE, duration: longMs * 2 })
      assert.equal(known(a, lease).fencingToken, before.fencingToken, 'the fencing token changed')
      same(known(a, lease).holder, ALICE, 'the holder')
      await context.stillHeld(b, before)
    })

    clause(
      'a lease can be extended in the name of its holder by a process that knows nothing of it',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const stranger = await context.open()
        await stranger.extendLease(lease, { holder: ALICE, duration: longMs * 2 })
        same(known(stranger, lease).fencingToken, known(a, lease).fencingToken, 'the fencing token')
        await a.extendLease(lease, { holder: ALICE, duration: longMs * 3 })
      },
    )

    clause('an extension that names a term prolongs no other term of the same holder', async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const term = termOf(known(a, lease))
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration, value: 'of the later term' })
        const now = known(a, lease)
        for (const client of [a, b]) {
          const request = { holder: ALICE, duration: longMs, value: 'of the earlier term' }
          await invalid(client.extendLease(lease, request, { term }), 'an extension of the earlier term')
        }
        await context.stillHeld(b, now, lease)
      })
      await context.claimSoon(b, lease, BOB, longMs)
    })

    clause('an extension that names a term does not prolong it in the name of another holder', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      const request = { holder: BOB, duration: longMs, value: 'of another' }
      await invalid(b.extendLease(lease, request, { term: termOf(before) }), "an extension of another's term")
      await context.stillHeld(b, before)
    })

    clause('an extension that names a term does not open it again once it is over', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const term = termOf(known(a, lease))
      await a.releaseLease(lease, ALICE)
      for (const client of [a, b]) {
        const request = { holder: ALICE, duration: longMs }
        await invalid(client.extendLease(lease, request, { term }), 'an extension of a term that is over')
      }
      same(await context.holding(b), undefined, 'the holding')
    })

    clause('many extensions at once all succeed', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      const calls = Array.from({ length: 20 }, (_, index) =>
        a.extendLease(lease, { holder: ALICE, duration: longMs * (1 + (index % 3)) }),
      )
      await Promise.all(calls)
      await context.stillHeld(a, before)
    })

    clause("another's lease is not extended", async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const expiryMs = known(a, lease).expiry.toMillis()
        await invalid(b.extendLease(lease, { holder: BOB, duration: longMs }), "an extension of another's lease")
        await invalid(a.extendLease(lease, { holder: BOB, duration: longMs }), 'the same through the same client')
        assert(known(a, lease).expiry.toMillis() < expiryMs + longMs / 2, 'it was extended all the same')
      })
      await context.claimSoon(b, lease, BOB, longMs)
    })

    clause('a vacant lease is not extended', async (context) => {
      const { a, lease, longMs } = context
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension of a lease never held')
      assert.equal(await context.holding(a), undefined, 'it is held now')
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension of a released lease')
      assert.equal(await context.holding(a), undefined, 'it is held again')
    })

    clause(
      'a lapsed lease is not extended, though nobody else has claimed it: it must be claimed anew',
      async (context) => {
        const { a, b, longMs } = context
        const { lease, durationMs } = await context.brief()
        const before = known(a, lease)
        await context.lapse(lease, durationMs, a, b)
        await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension of a lapsed lease')
        assert.equal(await context.holding(a), undefined, 'it is held again')
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        rises(before.fencingToken, known(b, lease).fencingToken)
      },
    )

    clause('a stale holder cannot extend, and the new holder keeps the lease', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      const now = known(b, lease)
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension by a stale holder')
      await invalid(b.extendLease(lease, { holder: ALICE, duration: longMs }), 'the same where nothing is remembered')
      await context.stillHeld(a, now)
    })
  },
}
