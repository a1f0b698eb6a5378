import assert from 'node:assert/strict'
import type { Hold } from '../hold.ts'
import type { Manager } from '../manager.ts'
import { ALICE, BOB, CAROL, known, rejects, rises, same, type Chapter, type Scene } from './kit.ts'

/** One claim of any of several leases: what semaphores are made of. */
export const any: Chapter = {
  title: 'any of several leases',
  state(clause) {
    clause('whoever comes gets one that is free, each another one', async (scene) => {
      const { a, b, longMs } = scene
      const leases = scene.leases(3)
      const [first, second] = [scene.manage(a), scene.manage(b)]
      const holds = [
        await scene.settle(first.holdAny(leases, ALICE, { duration: longMs })),
        await scene.settle(second.holdAny(leases, BOB, { duration: longMs })),
        await scene.settle(first.holdAny(leases, CAROL, { duration: longMs, value: 'here' })),
      ]
      same(holds.map(({ lease }) => lease).toSorted(), leases.toSorted(), 'the leases granted')
      for (const hold of holds) same((await scene.holding(b, hold.lease))?.holder, hold.holder, 'the holder')
      same((await scene.holding(b, holds[2]?.lease))?.value, 'here', 'the value')
    })

    clause('when all are held it is denied, and says when the first may be free', async (scene) => {
      const { a, b, longMs, clock } = scene
      const leases = scene.leases(2)
      await a.claimLease(leases[0] as string, { holder: ALICE, duration: longMs * 2 })
      await a.claimLease(leases[1] as string, { holder: BOB, duration: longMs })
      const denied = await rejects(
        'LEASE_CLAIM_DENIED',
        scene.settle(scene.manage(b).holdAny(leases, CAROL, { duration: longMs })),
        'a claim of leases that are all held',
      )
      const { expiry } = denied as { expiry?: { toMillis(): number } }
      assert(expiry !== undefined, 'the denial does not say until when')
      const leftMs = expiry.toMillis() - clock.now()
      assert(leftMs < longMs * 1.5, `the denial speaks of ${leftMs} ms, though one is free after ${longMs}`)
    })

    clause('a holder that has one already gets the same again, and no second one', async (scene) => {
      const { a, b, longMs } = scene
      const leases = scene.leases(4)
      const hold = await scene.settle(scene.manage(a).holdAny(leases, ALICE, { duration: longMs }))
      const before = known(a, hold.lease)
      const again = await scene.settle(scene.manage(b).holdAny(leases, ALICE, { duration: longMs * 2 }))
      same(again.lease, hold.lease, 'the lease')
      same(again.fencingToken, hold.fencingToken, 'the fencing token')
      await scene.stillHeld(b, before, hold.lease)
      assert(known(b, hold.lease).expiry > before.expiry, 'the second grant did not refresh the time')
      same(await heldBy(scene, leases, ALICE), 1, 'how many leases the holder has')
      const manager = scene.manage(b)
      const both = await scene.settle(
        Promise.all([1, 2].map(() => manager.holdAny(leases, BOB, { duration: longMs, shared: true }))),
      )
      same(both[0]?.lease, both[1]?.lease, 'the lease of two calls at once')
    })

    clause('one that has lapsed, or was released, is free, in a later term', async (scene) => {
      const { a, b, longMs } = scene
      const { lease: short, durationMs } = await scene.brief()
      const long = `${short}-long`
      const leases = [short, long]
      await a.claimLease(long, { holder: BOB, duration: longMs })
      const before = [known(a, short).fencingToken, known(a, long).fencingToken] as const
      await scene.lapse(short, durationMs, a, b)
      const manager = scene.manage(b)
      const taken = await scene.settle(manager.holdAny(leases, CAROL, { duration: longMs }))
      same(taken.lease, short, 'the lease')
      rises(before[0], taken.fencingToken)
      await a.releaseLease(long, BOB)
      const next = await scene.settle(manager.holdAny(leases, ALICE, { duration: longMs }))
      same(next.lease, long, 'the lease')
      rises(before[1], next.fencingToken)
    })

    clause('a pinned one is not free, lapsed or not', async (scene) => {
      const { a, b, unitMs, longMs } = scene
      const {
        lease,
        durationMs,
        outcome: leases,
      } = await scene.whileLive(unitMs, async (lease, duration) => {
        const leases = [lease, `${lease}-2`]
        for (const one of leases) await a.claimLease(one, { holder: ALICE, duration })
        await a.pinLease(lease, 'operator')
        return leases
      })
      for (const one of leases) await scene.lapse(one, durationMs, b)
      const manager = scene.manage(b)
      same((await scene.settle(manager.holdAny(leases, BOB, { duration: longMs }))).lease, leases[1], 'the lease')
      await rejects(
        'LEASE_CLAIM_DENIED',
        manager.holdAny(leases, CAROL, { duration: longMs }),
        'a claim of a pinned one',
      )
      await a.unpinLease(lease, 'operator')
    })

    clause('of many that come at once exactly as many are granted as there are leases', async (scene) => {
      const { a, b, longMs } = scene
      const leases = scene.leases(5)
      const managers = [scene.manage(a), scene.manage(b)]
      const claims = Array.from({ length: 20 }, (_, index) =>
        (managers[index % 2] as Manager).holdAny(leases, `holder-${index}`, { duration: longMs }),
      )
      const outcomes = await scene.settle(Promise.allSettled(claims))
      const granted = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
      same(granted.length, leases.length, 'how many were granted')
      same(granted.map(({ lease }: Hold) => lease).toSorted(), leases.toSorted(), 'the leases granted')
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') same(codeOf(outcome.reason), 'LEASE_CLAIM_DENIED', 'the refusal')
      }
    })

    clause(
      'who waits gets whichever is released first',
      async (scene) => {
        const { a, b, longMs } = scene
        const leases = scene.leases(3)
        for (const lease of leases) await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const waiting = scene.manage(b).holdAny(leases, BOB, { duration: longMs, wait: true })
        await scene.pass(scene.unitMs)
        await a.releaseLease(leases[1] as string, ALICE)
        same((await scene.settle(waiting, 'the wait')).lease, leases[1], 'the lease')
      },
      'notifications',
    )

    clause('who waits gets the first that lapses, by the clock alone', async (scene) => {
      const { a, b, longMs } = scene
      const { lease: short } = await scene.brief()
      const long = `${short}-long`
      await a.claimLease(long, { holder: ALICE, duration: longMs })
      const waiting = scene.manage(b).holdAny([short, long], BOB, { duration: longMs, wait: true })
      same((await scene.settle(waiting, 'the wait')).lease, short, 'the lease')
    })

    clause(
      'a lost reply does not cost a second lease',
      async (scene) => {
        const { longMs } = scene
        const leases = scene.leases(3)
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies(1)
        const hold = await scene.settle(scene.manage(client).holdAny(leases, ALICE, { duration: longMs }))
        faults.heal()
        same(await heldBy(scene, leases, ALICE), 1, 'how many leases the holder has')
        same((await scene.holding(scene.b, hold.lease))?.fencingToken, hold.fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause('bad input is refused as such, and nothing is claimed', async (scene) => {
      const { a, longMs } = scene
      const manager = scene.manage(a)
      const leases = scene.leases(129)
      const duration = longMs
      await rejects('LEASE_NOT_VALID', manager.holdAny([], ALICE, { duration }), 'none')
      await rejects('LEASE_NOT_VALID', manager.holdAny(leases, ALICE, { duration }), 'too many')
      await rejects('LEASE_NOT_VALID', manager.holdAny([leases[0] as string, ''], ALICE, { duration }), 'a bad name')
      const twice = [leases[0], leases[0]] as string[]
      await rejects('LEASE_NOT_VALID', manager.holdAny(twice, ALICE, { duration }), 'the same twice')
      await rejects('LEASE_NOT_VALID', manager.holdAny(leases.slice(0, 2), '', { duration }), 'no holder')
      same(await heldBy(scene, leases, ALICE), 0, 'how many leases the holder has')
    })
  },
}

async function heldBy(scene: Scene, leases: readonly string[], holder: string): Promise<number> {
  const held = await Promise.all(leases.map((lease) => scene.holding(scene.b, lease)))
  return held.filter((info) => info?.holder === holder).length
}

function codeOf(error: unknown): unknown {
  return (error as { code?: unknown }).code
}
