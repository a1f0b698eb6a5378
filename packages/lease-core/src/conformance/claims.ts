import assert from 'node:assert/strict'
import type { Chapter } from './kit.ts'
import { ALICE, BOB, grants, invalid, known, rises, same } from './kit.ts'

/** A claim opens a term on a vacant or lapsed lease, for exactly one of all who ask. */
export const claims: Chapter = {
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

    clause('everyone else sees who got it', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await scene.stillHeld(b, known(a, lease))
    })

    clause('a lease held by another is refused, and stays as it was', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
      const before = known(a, lease)
      await invalid(
        b.claimLease(lease, { holder: BOB, duration: longMs, value: 'second' }),
        "a claim of another's lease",
      )
      await invalid(a.claimLease(lease, { holder: BOB, duration: longMs }), 'the same through the same client')
      await scene.stillHeld(b, before)
      await scene.stillHeld(a, before)
    })

    clause('a live lease is refused to its own holder: it is to be extended', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), "a claim of one's own lease")
      await invalid(b.claimLease(lease, { holder: ALICE, duration: longMs }), "a claim of one's own lease elsewhere")
      await scene.stillHeld(b, before)
    })

    clause('a released lease is granted to the next', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await scene.stillHeld(a, known(b, lease))
      same(known(a, lease).holder, BOB, 'the holder')
    })

    clause('a lapsed lease is taken over in one step, and the new holder is the holder', async (scene) => {
      const { a, b, longMs } = scene
      const { lease, durationMs } = await scene.brief()
      await scene.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      same(known(b, lease).holder, BOB, 'the holder')
      const seen = await scene.holding(a)
      assert.equal(seen?.holder, BOB, 'the old holder still counts as the holder')
      same(seen?.fencingToken, known(b, lease).fencingToken, 'the fencing token')
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim by the displaced holder')
    })

    clause('a lapsed lease is granted anew to its last holder', async (scene) => {
      const { a, longMs } = scene
      const { lease, durationMs } = await scene.brief()
      const before = known(a, lease)
      await scene.lapse(lease, durationMs, a)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      rises(before.fencingToken, known(a, lease).fencingToken)
    })

    clause('of two clients at once exactly one is granted', async (scene) => {
      const { a, b, longMs } = scene
      for (const lease of scene.leases(10)) {
        const { granted } = await grants([
          [ALICE, a.claimLease(lease, { holder: ALICE, duration: longMs })],
          [BOB, b.claimLease(lease, { holder: BOB, duration: longMs })],
        ])
        assert.equal(granted.length, 1, `${granted.length} of two were granted`)
        same((await scene.holding(a, lease))?.holder, granted[0], 'the holder')
        same((await scene.holding(b, lease))?.holder, granted[0], 'the holder')
      }
    })

    clause('of two processes that claim for the same holder at once exactly one is granted', async (scene) => {
      const { a, b, longMs } = scene
      for (const lease of scene.leases(10)) {
        const { granted } = await grants([
          ['a', a.claimLease(lease, { holder: ALICE, duration: longMs })],
          ['b', b.claimLease(lease, { holder: ALICE, duration: longMs })],
        ])
        assert.equal(granted.length, 1, `${granted.length} of two were granted`)
      }
    })

    clause('of many at once exactly one is granted', async (scene) => {
      const { a, b, lease, longMs } = scene
      const contenders = Array.from({ length: 20 }, (_, index) => `contender-${index}`)
      const { granted } = await grants(
        contenders.map((holder, index) => [
          holder,
          (index % 2 === 0 ? a : b).claimLease(lease, { holder, duration: longMs }),
        ]),
      )
      assert.equal(granted.length, 1, `${granted.length} of twenty were granted`)
      same((await scene.holding(await scene.open()))?.holder, granted[0], 'the holder')
    })

    clause('of two who take over a lapsed lease at once exactly one is granted', async (scene) => {
      const { a, b, longMs } = scene
      const c = await scene.open()
      const { lease, durationMs } = await scene.brief(c, { holder: 'late' })
      await scene.lapse(lease, durationMs, a, b)
      const { granted } = await grants([
        [ALICE, a.claimLease(lease, { holder: ALICE, duration: longMs })],
        [BOB, b.claimLease(lease, { holder: BOB, duration: longMs })],
      ])
      assert.equal(granted.length, 1, `${granted.length} of two were granted`)
      same((await scene.holding(c))?.holder, granted[0], 'the holder')
    })

    clause('one holder may hold many leases', async (scene) => {
      const { a, b, longMs } = scene
      const names = scene.leases(3)
      for (const lease of names) await a.claimLease(lease, { holder: ALICE, duration: longMs })
      await b.refresh(names)
      for (const lease of names) same(known(b, lease).holder, ALICE, 'the holder')
    })

    clause('leases of the same name in two namespaces have nothing to do with each other', async (scene) => {
      const { a, lease, longMs } = scene
      const elsewhere = await scene.openElsewhere()
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      assert.equal(await scene.holding(elsewhere), undefined, 'it is held in the other namespace too')
      await elsewhere.claimLease(lease, { holder: BOB, duration: longMs })
      await elsewhere.releaseLease(lease, BOB)
      await scene.stillHeld(a, known(a, lease))
      same(known(a, lease).holder, ALICE, 'the holder')
    })
  },
}
