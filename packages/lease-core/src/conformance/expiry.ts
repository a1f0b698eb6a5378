import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, CAROL, invalid, known, same } from './kit.ts'

/** A lease lasts for its whole duration, then anybody may have it. */
export const expiry: Suite = {
  title: 'expiry',
  state(clause) {
    clause('a claim lasts at least its duration from the start of the call, then another gets it', async (context) => {
      const { a, b, unitMs, longMs, clock } = context
      const {
        lease,
        durationMs,
        outcome: sentMs,
      } = await context.whileLive(unitMs * 1.6, async (lease, duration) => {
        const sentMs = clock.monotonic()
        await a.claimLease(lease, { holder: ALICE, duration })
        return sentMs
      })
      await context.claimSoon(b, lease, BOB, longMs)
      const afterMs = clock.monotonic() - sentMs
      assert(afterMs >= durationMs * 0.999 - 1, `granted to another after ${afterMs} ms of ${durationMs}`)
    })

    clause('an extension lasts at least its duration from the start of the call', async (context) => {
      const { a, b, unitMs, longMs, clock } = context
      const {
        lease,
        durationMs,
        outcome: sentMs,
      } = await context.whileLive(unitMs * 2.4, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        await context.pass(duration / 6)
        const sentMs = clock.monotonic()
        await a.extendLease(lease, { holder: ALICE, duration })
        return sentMs
      })
      await context.claimSoon(b, lease, BOB, longMs)
      const afterMs = clock.monotonic() - sentMs
      assert(afterMs >= durationMs * 0.999 - 1, `granted to another after ${afterMs} ms of ${durationMs}`)
    })

    clause('nobody sees an expiry earlier than what its holder relies on', async (context) => {
      const { a, b, lease, longMs, clock } = context
      const sentMs = clock.now()
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const reliedOnMs = sentMs + longMs * 0.999 - 1
      const seenMs = (await context.holding(b))?.expiry.toMillis() ?? 0
      assert(seenMs >= reliedOnMs, `${reliedOnMs - seenMs} ms too early`)
    })

    clause('a live lease is not expired', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      await invalid(b.expireLease(lease), 'an expiry of a live lease')
      await invalid(a.expireLease(lease), 'the same by its own client')
      await context.stillHeld(b, before)
    })

    clause('a vacant lease is expired without complaint', async ({ a, lease, longMs }) => {
      await a.expireLease(lease)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await a.expireLease(lease)
      await a.expireLease(lease)
    })

    clause('a lapsed lease is expired, and then it is vacant for everyone', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, b)
      await b.expireLease(lease)
      await b.expireLease(lease)
      assert.equal(b.leases().get(lease), undefined, 'the one who expired it still shows it')
      const c = await context.open()
      await c.refresh([lease])
      assert.equal(c.leases().get(lease), undefined, 'another still sees it')
      await c.claimLease(lease, { holder: CAROL, duration: longMs })
      await invalid(a.extendLease(lease, { holder: ALICE, duration: longMs }), 'an extension by the last holder')
    })

    clause(
      'a lapsed lease is gone from a fresh read, though nobody expired it',
      async (context) => {
        const { a, b } = context
        const { lease, durationMs } = await context.brief()
        await context.lapse(lease, durationMs)
        same(await context.holding(b), undefined, 'the holding')
        await a.refresh()
        same(a.leases().get(lease), undefined, 'the holding known')
      },
      'serverClock',
    )

    clause(
      'the boundary is exclusive: at the very instant of its expiry a lease stands, and just after it does not',
      async (context) => {
        const { a, b, lease, unitMs, clock } = context
        await context.pass(Math.ceil(clock.monotonic()) - clock.monotonic()) // so that the sums below are exact
        await a.claimLease(lease, { holder: ALICE, duration: unitMs })
        await context.pass(unitMs - 1)
        await invalid(b.claimLease(lease, { holder: BOB, duration: unitMs }), 'a claim just before')
        await context.pass(1)
        await invalid(b.expireLease(lease), 'an expiry at the very instant')
        await invalid(b.claimLease(lease, { holder: BOB, duration: unitMs }), 'a claim at the very instant')
        await context.pass(1)
        await b.expireLease(lease)
        await b.claimLease(lease, { holder: BOB, duration: unitMs })
      },
      'serverClock',
      'exactClock',
    )
  },
}
