import assert from 'node:assert/strict'
import type { Chapter, Scene } from './kit.ts'
import type { Info } from '../lease.ts'
import { ALICE, BOB, describeError, invalid, isUnknown, known, later, rejects, rises, same } from './kit.ts'

/** What is lost on the way is made good, or ends by itself; and every call is answered. */
export const faults: Chapter = {
  title: 'faults',
  state(clause) {
    clause(
      'a lost reply: the retried claim is granted in the same term',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.delayRequests(unitMs) // so that there is time to look between the first request and its retry
        faults.loseReplies(1)
        const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        let first: Info | undefined
        await scene.until('sight of the first request', async () => (first = await scene.holding(b)) !== undefined)
        await scene.settle(claim, 'the retried claim')
        assert.equal(known(client, lease).fencingToken, first?.fencingToken, 'the retry opened another term')
        same((await scene.holding(b))?.fencingToken, first?.fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a lost request: the retried claim is granted',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseRequests(1)
        await scene.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the retried claim')
        await scene.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a lost request, and another was faster: the retry is refused',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        // The first request is lost after this delay, so the retry arrives later still.
        await scene.undisturbed(unitMs, async (lease, delayMs) => {
          faults.heal()
          faults.delayRequests(delayMs)
          faults.loseRequests(1)
          let claim: Promise<void> | undefined
          await scene.inTime(delayMs, async () => {
            claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
            await b.claimLease(lease, { holder: BOB, duration: longMs })
          })
          assert(claim !== undefined)
          await scene.settle(invalid(claim, 'the retried claim'))
          same(known(client, lease).holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a lost reply of anything else: the retry resolves, and it was done once',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
        const before = known(client, lease)
        const losing = async (call: () => Promise<void>, what: string): Promise<void> => {
          faults.loseReplies(1)
          await scene.settle(call(), what)
          faults.heal()
        }
        await losing(() => client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'new' }), 'an extension')
        const seen = await scene.holding(b)
        same(seen?.value, 'new', 'the value')
        same(seen?.fencingToken, before.fencingToken, 'the fencing token')
        await losing(() => client.pinLease(lease, 'operator'), 'a pin')
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
        await losing(() => client.unpinLease(lease, 'operator'), 'an unpin')
        same((await b.pinned()).has(lease), false, 'whether it is in the list of pins')
        await losing(() => client.refresh([lease]), 'a read')
        await losing(() => client.releaseLease(lease, ALICE), 'a release')
        same(await scene.holding(b), undefined, 'the holding')
        const brief = await scene.brief(client)
        await scene.lapse(brief.lease, brief.durationMs, client)
        await losing(() => client.expireLease(brief.lease), 'an expiry')
        await b.claimLease(brief.lease, { holder: BOB, duration: longMs })
      },
      'faults',
    )

    clause(
      'the reply to many claims at once is lost: all are granted, each in one term',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const names = scene.leases(200)
        const { client, faults } = await scene.openFaulty()
        faults.delayRequests(unitMs)
        faults.loseReplies(1)
        const claims = later(
          Promise.all(names.map((lease) => client.claimLease(lease, { holder: `of-${lease}`, duration: longMs }))),
        )
        const last = names.at(-1) as string
        await scene.until('sight of the first requests', async () => (await scene.holding(b, last)) !== undefined)
        await b.refresh(names)
        const first = new Map(names.map((lease) => [lease, b.leases().get(lease)]))
        await scene.settle(claims, 'the retried claims')
        await b.refresh(names)
        for (const lease of names) {
          same(known(b, lease).holder, `of-${lease}`, 'the holder')
          same(known(client, lease).fencingToken, known(b, lease).fencingToken, 'the fencing token')
          const seen = first.get(lease)
          if (seen !== undefined) assert.equal(known(b, lease).fencingToken, seen.fencingToken, 'another term')
        }
      },
      'faults',
    )

    clause(
      'a claim given up does not stay held beyond its duration',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies()
        const claim = client.claimLease(lease, { holder: ALICE, duration: unitMs * 2 })
        await scene.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
        await scene.claimSoon(b, lease, BOB, longMs)
        await scene.pass(unitMs * 3)
        await scene.stillHeld(b, known(b, lease))
        same(known(b, lease).holder, BOB, 'the holder')
      },
      'faults',
    )

    clause(
      'a claim aborted on its way rejects with the signal’s reason, and what is granted after all is given back',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await scene.undisturbed(unitMs, async (lease, delayMs) => {
          faults.heal()
          faults.delayRequests(delayMs)
          const controller = new AbortController()
          const { signal } = controller
          const reason = new Error('enough')
          let claim: Promise<void> | undefined
          await scene.inTime(delayMs, async () => {
            claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }, { signal }))
            await scene.pass(delayMs / 5)
            controller.abort(reason)
          })
          assert(claim !== undefined)
          await assert.rejects(scene.settle(claim), (error) => error === reason)
          await scene.pass(delayMs)
          await scene.claimSoon(b, lease, BOB, longMs)
          await scene.pass(unitMs * 2)
          same((await scene.holding(b))?.holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a crash between claim and reply: the lease lasts for its duration, then another gets it in a later term',
      async (scene) => {
        const { b, unitMs, longMs, clock } = scene
        await scene.undisturbed(unitMs * 2, async (lease, durationMs) => {
          const { client, faults } = await scene.openFaulty()
          faults.delayReplies(unitMs * 30)
          const sentMs = clock.monotonic()
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: durationMs }))
          const first = await scene.sightOf('the claim', lease, durationMs)
          faults.loseRequests() // a dead process sends no more
          await client.close()
          await scene.claimSoon(b, lease, BOB, longMs)
          const afterMs = clock.monotonic() - sentMs
          assert(afterMs >= durationMs * 0.999 - 1, `granted to another after ${afterMs} ms of ${durationMs}`)
          rises(first.fencingToken, known(b, lease).fencingToken)
          faults.heal()
          await scene.settle(rejects('LEASE_UNKNOWN', claim, 'the claim of the closed client'))
        })
      },
      'faults',
    )

    clause(
      'a process that crashed between claim and reply is refused like any other: its lease is live',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies()
        faults.delayReplies(scene.unitMs * 30)
        void later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        await scene.until('sight of the claim', async () => (await scene.holding(b)) !== undefined)
        const again = await scene.open()
        await invalid(again.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim after the crash')
        await again.extendLease(lease, { holder: ALICE, duration: longMs })
        same(known(again, lease).fencingToken, known(b, lease).fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a store that cannot be reached: ErrUnknown with its cause, and the same client goes on when it is back',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseRequests()
        const request = { holder: ALICE, duration: longMs }
        const error = await scene.settle(rejects('LEASE_UNKNOWN', client.claimLease(lease, request), 'a claim'))
        assert(error.cause !== undefined, 'the error keeps no cause')
        await scene.settle(rejects('LEASE_UNKNOWN', client.refresh([lease]), 'a read'))
        await scene.settle(rejects('LEASE_UNKNOWN', client.pinned(), 'a list of pins'))
        faults.heal()
        assert.equal(await scene.holding(b), undefined, 'it was claimed all the same')
        await scene.settle(client.claimLease(lease, request), 'a claim when the store is back')
        await scene.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a store that hangs: every call is answered with ErrUnknown',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const [held, pinned, vacant] = scene.leases(3) as [string, string, string]
        const { client, faults } = await scene.openFaulty(unitMs * 2)
        const request = { holder: ALICE, duration: longMs }
        await b.claimLease(held, request)
        await answered(scene, 'a read before the store hangs', () => client.refresh([held]))
        faults.hang()
        const calls = {
          claim: client.claimLease(lease, request),
          extension: client.extendLease(held, request),
          expiry: client.expireLease(vacant),
          pin: client.pinLease(pinned, 'operator'),
          read: client.refresh([lease]),
          'full read': client.refresh(),
          'list of pins': client.pinned(),
        }
        const answers = Object.entries(calls).map(([what, call]) => rejects('LEASE_UNKNOWN', call, what))
        await scene.settle(Promise.all(answers), 'calls to a store that hangs')
        faults.heal()
        let attempts = 0
        // A claim that came to nothing known may hold its lease: the next one is for another.
        const claim = (): Promise<void> =>
          client.claimLease(attempts++ === 0 ? lease : `${lease}-again-${attempts}`, request)
        await answered(scene, 'a claim when the store is back', claim)
        await answered(scene, 'a release when the store is back', () => client.releaseLease(held, ALICE))
        same(await scene.holding(b, held), undefined, 'the holding')
        await answered(scene, 'an unpin when the store is back', () => client.unpinLease(pinned, 'operator'))
      },
      'faults',
    )
  },
}

/** The client's requests time out so soon that a slow store may miss one: the call is repeated. */
async function answered(scene: Scene, what: string, call: () => Promise<void>): Promise<void> {
  await scene.until(`answer to ${what}`, async () => {
    try {
      await scene.settle(call(), what)
      return true
    } catch (error) {
      if (!scene.realTime || !isUnknown(error)) throw error
      return describeError(error)
    }
  })
}
