import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { Info } from '../lease.ts'
import type { Suite, Live, Context } from './kit.ts'
import { ALICE, BOB, invalid, known, rises, same } from './kit.ts'

/** A pinned lease does not lapse while any entity pins it. */
export const pins: Suite = {
  title: 'pins',
  state(clause) {
    clause('a pinned lease past its expiry is not granted to another', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await pinned(context, b)
      await context.lapse(lease, durationMs, a, b)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim of a pinned lease')
      const seen = await context.holding(b, lease)
      same(seen?.holder, ALICE, 'the holder')
      same(seen?.pinned, true, 'whether it shows as pinned')
      same(seen?.fencingToken, known(a, lease).fencingToken, 'the fencing token')
    })

    clause('a pinned lease past its expiry is not expired', async (context) => {
      const { a, b } = context
      const { lease, durationMs } = await pinned(context, a)
      await context.lapse(lease, durationMs, a, b)
      await invalid(b.expireLease(lease), 'an expiry of a pinned lease')
      same((await context.holding(b, lease))?.holder, ALICE, 'the holder')
    })

    clause('a pinned lease past its expiry is still its holder’s, to extend and to release', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs, outcome: before } = await pinned(context, a)
      await context.lapse(lease, durationMs, a, b)
      await a.extendLease(lease, { holder: ALICE, duration: longMs })
      await a.unpinLease(lease, 'operator')
      await context.stillHeld(b, before, lease)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim of the extended lease')
      await a.pinLease(lease, 'operator')
      await a.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await b.unpinLease(lease, 'operator')
    })

    clause(
      'a pin on a lapsed lease does not bring its holder back',
      async (context) => {
        const { a, b, longMs } = context
        const { lease, durationMs, outcome: before } = await context.brief()
        await context.lapse(lease, durationMs)
        await b.pinLease(lease, 'operator')
        same(await context.holding(b, lease), undefined, 'the holding')
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        rises(before.fencingToken, known(b, lease).fencingToken)
        await context.stillHeld(a, known(b, lease), lease)
        await b.unpinLease(lease, 'operator')
      },
      'serverClock',
    )

    clause('unpinned past its expiry a lease has lapsed', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs, outcome: before } = await pinned(context, a)
      await context.lapse(lease, durationMs, a, b)
      await b.unpinLease(lease, 'operator')
      if (!context.serverClock) await context.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      rises(before.fencingToken, known(b, lease).fencingToken)
    })

    clause('unpinned before its expiry a lease stays held', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const before = known(a, lease)
      await b.pinLease(lease, 'operator')
      await b.unpinLease(lease, 'operator')
      await context.stillHeld(b, before)
      same(known(b, lease).pinned, false, 'whether it shows as pinned')
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim')
    })

    clause('a pin on a vacant lease leaves it vacant, and protects its next holder', async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease, durationMs } = await context.whileLive(unitMs, async (lease, duration) => {
        await b.pinLease(lease, 'operator')
        assert.equal(await context.holding(b, lease), undefined, 'the pin made it held')
        await a.claimLease(lease, { holder: ALICE, duration })
        assert.equal(known(a, lease).pinned, true, 'the claim does not show the pin')
      })
      await context.lapse(lease, durationMs, a, b)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim of a pinned lease')
      await b.unpinLease(lease, 'operator')
    })

    clause('a pin outlives the holding: it protects the one after, too', async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease, durationMs } = await context.whileLive(unitMs, async (lease, duration) => {
        await a.pinLease(lease, 'operator')
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await a.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration })
      })
      await context.lapse(lease, durationMs, a, b)
      await invalid(a.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim of a pinned lease')
      await a.unpinLease(lease, 'operator')
    })

    clause('while any entity pins it a lease does not lapse', async (context) => {
      const { a, b, unitMs, longMs } = context
      const { lease, durationMs } = await context.whileLive(unitMs, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        await Promise.all([a.pinLease(lease, 'one'), b.pinLease(lease, 'two'), a.pinLease(lease, 'three')])
      })
      same((await b.pinned()).get(lease), ['one', 'three', 'two'], 'the pins')
      await b.unpinLease(lease, 'one')
      await a.unpinLease(lease, 'three')
      await context.lapse(lease, durationMs, a, b)
      await invalid(b.claimLease(lease, { holder: BOB, duration: longMs }), 'a claim with one pin left')
      same((await a.pinned()).get(lease), ['two'], 'the pins')
      await a.unpinLease(lease, 'two')
      same((await a.pinned()).has(lease), false, 'whether it is in the list of pins')
    })

    clause('pins show: in the lease, and in the list of all pins with their entities, sorted', async (context) => {
      const { a, b, lease, longMs } = context
      const [held, vacant] = context.leases(2) as [string, string]
      await a.claimLease(held, { holder: ALICE, duration: longMs })
      for (const entity of ['zoe', 'Operator', 'backup-7']) await a.pinLease(held, entity)
      await a.pinLease(vacant, 'operator')
      const all = await b.pinned()
      same(all.get(held), ['Operator', 'backup-7', 'zoe'], 'the pins')
      same(all.get(vacant), ['operator'], 'the pins')
      same(all.has(lease), false, 'whether it is in the list of pins')
      same((await context.holding(b, held))?.pinned, true, 'whether it shows as pinned')
      same(b.leases().get(vacant), undefined, 'the holding known')
    })

    clause('pins are idempotent, and withdrawing one that is not there is no error', async (context) => {
      const { a, b, lease } = context
      await a.unpinLease(lease, 'operator')
      await a.pinLease(lease, 'operator')
      await a.pinLease(lease, 'operator')
      await b.pinLease(lease, 'operator')
      same((await b.pinned()).get(lease), ['operator'], 'the pins')
      await b.unpinLease(lease, 'somebody-else')
      same((await b.pinned()).get(lease), ['operator'], 'the pins')
      await a.unpinLease(lease, 'operator')
      await a.unpinLease(lease, 'operator')
      same((await b.pinned()).has(lease), false, 'whether it is in the list of pins')
    })

    clause('a pin changes neither holder nor fencing token nor value', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'v' })
      const before = known(a, lease)
      await b.pinLease(lease, 'operator')
      await context.stillHeld(b, before)
      await b.unpinLease(lease, 'operator')
      await context.stillHeld(b, before)
    })
  },
}

/** A short lease of Alice's that this client has pinned in time. */
function pinned(context: Context, by: Client): Promise<Live<Info>> {
  return context.whileLive(context.unitMs, async (lease, duration) => {
    await context.a.claimLease(lease, { holder: ALICE, duration })
    const before = known(context.a, lease)
    await by.pinLease(lease, 'operator')
    return before
  })
}
