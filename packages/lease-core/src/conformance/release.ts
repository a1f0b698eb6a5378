import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, CAROL, invalid, known, rejects, same, termOf } from './kit.ts'

/** Only the holder gives a lease up early, and what is vacant already needs no giving up. */
export const release: Suite = {
  title: 'release',
  state(clause) {
    clause('a release vacates the lease at once', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      assert.equal(a.leases().get(lease), undefined, 'its own client still shows it')
      assert.equal(await context.holding(b), undefined, 'another client still sees it')
      await b.claimLease(lease, { holder: BOB, duration: longMs })
    })

    clause('a second release resolves', async ({ a, b, lease, longMs }) => {
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await a.releaseLease(lease, ALICE)
      await b.releaseLease(lease, ALICE)
    })

    clause('a release of a lease that was never held resolves', async (context) => {
      const { a, b, lease, longMs } = context
      await a.releaseLease(lease, ALICE)
      same(await context.holding(a), undefined, 'the holding')
      await b.claimLease(lease, { holder: BOB, duration: longMs })
    })

    clause('a release by its last holder of a lease that has lapsed resolves', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, a, b)
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
    })

    clause(
      'a release by anybody of a lease that has lapsed resolves: it is vacant',
      async (context) => {
        const { b } = context
        const { lease, durationMs } = await context.brief()
        await context.lapse(lease, durationMs, b)
        await b.releaseLease(lease, BOB)
      },
      'serverClock',
    )

    clause("another's lease is not released", async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      await invalid(b.releaseLease(lease, BOB), "a release of another's lease")
      await invalid(a.releaseLease(lease, BOB), 'the same through the same client')
      await context.stillHeld(b, before)
      await invalid(b.claimLease(lease, { holder: CAROL, duration: longMs }), 'a claim after the refused release')
    })

    clause('a stale holder cannot release, and the new holder keeps the lease', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      const now = known(b, lease)
      await invalid(a.releaseLease(lease, ALICE), 'a release by a stale holder')
      await context.stillHeld(a, now)
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim after the refused release')
    })

    clause('a release that comes after another has claimed what was released does no harm', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await invalid(a.releaseLease(lease, ALICE), 'the second release, too late')
      await context.stillHeld(a, known(b, lease))
    })

    clause('a release that names a term ends no other term of the same holder', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const term = termOf(known(a, lease))
      await a.releaseLease(lease, ALICE)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const now = known(a, lease)
      for (const client of [a, b]) {
        await invalid(client.releaseLease(lease, ALICE, { term }), 'a release of the earlier term')
      }
      await context.stillHeld(b, now)
      await b.releaseLease(lease, ALICE, { term: termOf(now) })
      same(await context.holding(a), undefined, 'the holding')
    })

    clause('a release that names a term does not end it in the name of another holder', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      const { fencingToken } = before
      for (const term of [termOf(before), { fencingToken, nonce: undefined }]) {
        await invalid(b.releaseLease(lease, BOB, { term }), "a release of another's term")
      }
      await context.stillHeld(b, before)
    })

    clause('a release that names a term resolves once the lease is vacant', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const term = termOf(known(a, lease))
      for (const client of [a, a, b]) await client.releaseLease(lease, ALICE, { term })
      same(await context.holding(b), undefined, 'the holding')
      await b.claimLease(lease, { holder: BOB, duration: longMs })
    })

    clause('a release does not end the term that another process of this name has adopted', async (context) => {
      const { a, b, lease, longMs } = context
      const manager = context.manage(a)
      const hold = await context.settle(manager.hold(lease, ALICE, { duration: longMs, renewEvery: false }))
      const adopter = context.manage(b)
      await context.settle(adopter.claim(lease, ALICE, longMs))
      const term = known(b, lease)
      same(term.fencingToken, hold.fencingToken, 'the fencing token')
      const error = await context.settle(rejects('LEASE_NOT_HELD', hold.release(), 'the release of the earlier one'))
      same(error.reason, 'adopted', 'the reason')
      await context.stillHeld(a, term)
      await context.settle(adopter.release(lease, ALICE))
      same(await context.holding(a), undefined, 'the holding')
    })

    clause(
      'a lease can be released in the name of its holder by a process that knows nothing of it',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const stranger = await context.open()
        await stranger.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
      },
    )
  },
}
