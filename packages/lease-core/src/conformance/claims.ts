import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, grants, invalid, known, rises, same } from './kit.ts'

/** A claim opens a term on a vacant or lapsed lease, for exactly one of all who ask. */
export const claims: Suite = {
  title: 'claims',
  state(clause) {
    clause('a vacant lease is granted, and the client knows it without a read', async ({ a, lease, longMs, clock }) => {
      const sentMs = clock.now()
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const info = known(a, lease)
      same(info.holder, ALICE, 'the holder')
      same(typeof info.fencingToken, 'bigint', 'the type of the fencing token')
      same(info.pinned, false, 'whether it shows as pinned')
      const latestMs = clock.now() + longMs * 1.01
      const expiryMs = info.expiry.toMillis()
      assert(expiryMs >= sentMs + longMs, `the expiry is ${sentMs + longMs - expiryMs} ms too early`)
      assert(expiryMs <= latestMs, `the expiry is ${expiryMs - latestMs} ms too late`)
    })

    clause('everyone else sees who got it', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await context.stillHeld(b, known(a, lease))
    })

    clause('a lease held by another is refused, and stays as it was', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
      const before = known(a, lease)
      await invalid(
        b.claimLease(lease, { holder: BOB, duration: longMs, value: 'second' }),
        "a claim of another's lease",
      )
      await invalid(a.claimLease(lease, { holder: BOB, duration: longMs }), 'the same through the same client')
      await context.stillHeld(b, before)
      await context.stillHeld(a, before)
    })

    clause('a live lease is refused to its own holder: it is to be extended', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim of its own lease')
      await invalid(b.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim of its own lease elsewhere')
      await context.stillHeld(b, before)
    })

    clause('a released lease is granted to the next', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await context.stillHeld(a, known(b, lease))
      same(known(a, lease).holder, BOB, 'the holder')
    })

    clause('a lapsed lease is taken over in one step, and the new holder is the holder', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      same(known(b, lease).holder, BOB, 'the holder')
      const seen = await context.holding(a)
      assert.equal(seen?.holder, BOB, 'the old holder still counts as the holder')
      same(seen?.fencingToken, known(b, lease).fencingToken, 'the fencing token')
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim by the displaced holder')
    })

    clause('a lapsed lease is granted anew to its last holder', async (context) => {
      const { a, longMs } = context
      const { lease, durationMs } = await context.brief()
      const before = known(a, lease)
      await context.lapse(lease, durationMs, a)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      rises(before.fencingToken, known(a, lease).fencingToken)
    })

    clause('of two clients at once exactly one is granted', async (context) => {
      const { a, b, longMs } = context
      for (const lease of context.leases(10)) {
        const { granted } = await grants([
          [ALICE, a.claimLease(lease, { holder: ALICE, duration: longMs })],
          [BOB, b.claimLease(lease, { holder: BOB, duration: longMs })],
        ])
        assert.equal(granted.length, 1, `${granted.length} of two were granted`)
        same((await context.holding(a, lease))?.holder, granted[0], 'the holder')
        same((await context.holding(b, lease))?.holder, granted[0], 'the holder')
      }
    })

    clause('of two processes that claim for the same holder at once exactly one is granted', async (context) => {
      const { a, b, longMs } = context
      for (const lease of context.leases(10)) {
        const { granted } = await grants([
          ['a', a.claimLease(lease, { holder: ALICE, duration: longMs })],
          ['b', b.claimLease(lease, { holder: ALICE, duration: longMs })],
        ])
        assert.equal(granted.length, 1, `${granted.length} of two were granted`)
      }
    })

    clause('of many at once exactly one is granted', async (context) => {
      const { a, b, lease, longMs } = context
      const contenders = Array.from({ length: 20 }, (_, index) => `contender-${index}`)
      const { granted } = await grants(
        contenders.map((holder, index) => [
          holder,
          (index % 2 === 0 ? a : b).claimLease(lease, { holder, duration: longMs }),
        ]),
      )
      assert.equal(granted.length, 1, `${granted.length} of twenty were granted`)
      same((await context.holding(await context.open()))?.holder, granted[0], 'the holder')
    })

    clause('of two who take over a lapsed lease at once exactly one is granted', async (context) => {
      const { a, b, longMs } = context
      const c = await context.open()
      const { lease, durationMs } = await context.brief(c, { holder: 'late' })
      await context.lapse(lease, durationMs, a, b)
      const { granted } = await grants([
        [ALICE, a.claimLease(lease, { holder: ALICE, duration: longMs })],
        [BOB, b.claimLease(lease, { holder: BOB, duration: longMs })],
      ])
      assert.equal(granted.length, 1, `${granted.length} of two were granted`)
      same((await context.holding(c))?.holder, granted[0], 'the holder')
    })

    clause('one holder may hold many leases', async (context) => {
      const { a, b, longMs } = context
      const names = context.leases(3)
      for (const lease of names) await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await b.refresh(names)
      for (const lease of names) same(known(b, lease).holder, ALICE, 'the holder')
    })

    clause('leases of the same name in two namespaces have nothing to do with each other', async (context) => {
      const { a, lease, longMs } = context
      const elsewhere = await context.openElsewhere()
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      assert.equal(await context.holding(elsewhere), undefined, 'it is held in the other namespace too')
      await elsewhere.claimLease(lease, { holder: BOB, duration: longMs })
      await elsewhere.releaseLease(lease, BOB)
      await context.stillHeld(a, known(a, lease))
      same(known(a, lease).holder, ALICE, 'the holder')
    })
  },
}
