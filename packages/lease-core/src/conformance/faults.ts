import assert from 'node:assert/strict'
import type { Suite, Context } from './kit.ts'
import type { Info } from '../lease.ts'
import { ALICE, BOB, describeError, invalid, isUnknown, known, later, rejects, rises, same } from './kit.ts'

/** What is lost on the way is made good, or ends by itself; and every call is answered. */
export const faults: Suite = {
  title: 'faults',
  state(clause) {
    clause(
      'a lost reply: the retried claim is granted in the same term',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.delayRequests(unitMs) // so that there is time to look between the first request and its retry
        faults.loseReplies(1)
        const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        let first: Info | undefined
        await context.until('sight of the first request', async () => (first = await context.holding(b)) !== undefined)
        await context.settle(claim, 'the retried claim')
        assert.equal(known(client, lease).fencingToken, first?.fencingToken, 'the retry opened another term')
        same((await context.holding(b))?.fencingToken, first?.fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a lost request: the retried claim is granted',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseRequests(1)
        await context.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the retried claim')
        await context.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a lost request, and another was faster: the retry is refused',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        // The first request is lost after this delay, so the retry arrives later still.
        await context.undisturbed(unitMs, async (lease, delayMs) => {
          faults.heal()
          faults.delayRequests(delayMs)
          faults.loseRequests(1)
          let claim: Promise<void> | undefined
          await context.inTime(delayMs, async () => {
            claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
            await b.claimLease(lease, { holder: BOB, duration: longMs })
          })
          assert(claim !== undefined)
          await context.settle(invalid(claim, 'the retried claim'))
          same(known(client, lease).holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a lost reply of anything else: the retry resolves, and it was done once',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old' })
        const before = known(client, lease)
        const losing = async (call: () => Promise<void>, what: string): Promise<void> => {
          faults.loseReplies(1)
          await context.settle(call(), what)
          faults.heal()
        }
        await losing(() => client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'new' }), 'an extension')
        const seen = await context.holding(b)
        same(seen?.value, 'new', 'the value')
        same(seen?.fencingToken, before.fencingToken, 'the fencing token')
        await losing(() => client.pinLease(lease, 'operator'), 'a pin')
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
        await losing(() => client.unpinLease(lease, 'operator'), 'an unpin')
        same((await b.pinned()).has(lease), false, 'whether it is in the list of pins')
        await losing(() => client.refresh([lease]), 'a read')
        await losing(() => client.releaseLease(lease, ALICE), 'a release')
        same(await context.holding(b), undefined, 'the holding')
        const brief = await context.brief(client)
        await context.lapse(brief.lease, brief.durationMs, client)
        await losing(() => client.expireLease(brief.lease), 'an expiry')
        await b.claimLease(brief.lease, { holder: BOB, duration: longMs })
      },
      'faults',
    )

    clause(
      'the reply to many claims at once is lost: all are granted, each in one term',
      async (context) => {
        const { b, unitMs, longMs } = context
        const names = context.leases(200)
        const { client, faults } = await context.openFaulty()
        faults.delayRequests(unitMs)
        faults.loseReplies(1)
        const claims = later(
          Promise.all(names.map((lease) => client.claimLease(lease, { holder: `of-${lease}`, duration: longMs }))),
        )
        const last = names.at(-1) as string
        await context.until('sight of the first requests', async () => (await context.holding(b, last)) !== undefined)
        await b.refresh(names)
        const first = new Map(names.map((lease) => [lease, b.leases().get(lease)]))
        await context.settle(claims, 'the retried claims')
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
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseReplies()
        const claim = client.claimLease(lease, { holder: ALICE, duration: unitMs * 2 })
        await context.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
        await context.claimSoon(b, lease, BOB, longMs)
        await context.pass(unitMs * 3)
        await context.stillHeld(b, known(b, lease))
        same(known(b, lease).holder, BOB, 'the holder')
      },
      'faults',
    )

    clause(
      'a claim aborted on its way rejects with the signal’s reason, and what is granted after all is given back',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        await context.undisturbed(unitMs, async (lease, delayMs) => {
          faults.heal()
          faults.delayRequests(delayMs)
          const controller = new AbortController()
          const { signal } = controller
          const reason = new Error('enough')
          let claim: Promise<void> | undefined
          await context.inTime(delayMs, async () => {
            claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }, { signal }))
            await context.pass(delayMs / 5)
            controller.abort(reason)
          })
          assert(claim !== undefined)
          await assert.rejects(context.settle(claim), (error) => error === reason)
          await context.pass(delayMs)
          await context.claimSoon(b, lease, BOB, longMs)
          await context.pass(unitMs * 2)
          same((await context.holding(b))?.holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a crash between claim and reply: the lease lasts for its duration, then another gets it in a later term',
      async (context) => {
        const { b, unitMs, longMs, clock } = context
        await context.undisturbed(unitMs * 2, async (lease, durationMs) => {
          const { client, faults } = await context.openFaulty()
          faults.delayReplies(unitMs * 30)
          const sentMs = clock.monotonic()
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: durationMs }))
          const first = await context.sightOf('the claim', lease, durationMs)
          faults.loseRequests() // a dead process sends no more
          await client.close()
          await context.claimSoon(b, lease, BOB, longMs)
          const afterMs = clock.monotonic() - sentMs
          assert(afterMs >= durationMs * 0.999 - 1, `granted to another after ${afterMs} ms of ${durationMs}`)
          rises(first.fencingToken, known(b, lease).fencingToken)
          faults.heal()
          await context.settle(rejects('LEASE_UNKNOWN', claim, 'the claim of the closed client'))
        })
      },
      'faults',
    )

    clause(
      'a process that crashed between claim and reply is refused like any other: its lease is live',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseReplies()
        faults.delayReplies(context.unitMs * 30)
        void later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        await context.until('sight of the claim', async () => (await context.holding(b)) !== undefined)
        const again = await context.open()
        await invalid(again.claimLease(lease, { holder: ALICE, duration: longMs }), 'a claim after the crash')
        await again.extendLease(lease, { holder: ALICE, duration: longMs })
        same(known(again, lease).fencingToken, known(b, lease).fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a store that cannot be reached: ErrUnknown with its cause, and the same client goes on when it is back',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseRequests()
        const request = { holder: ALICE, duration: longMs }
        const error = await context.settle(rejects('LEASE_UNKNOWN', client.claimLease(lease, request), 'a claim'))
        assert(error.cause !== undefined, 'the error keeps no cause')
        await context.settle(rejects('LEASE_UNKNOWN', client.refresh([lease]), 'a read'))
        await context.settle(rejects('LEASE_UNKNOWN', client.pinned(), 'a list of pins'))
        faults.heal()
        assert.equal(await context.holding(b), undefined, 'it was claimed all the same')
        await context.settle(client.claimLease(lease, request), 'a claim when the store is back')
        await context.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a store that hangs: every call is answered with ErrUnknown',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const [held, pinned, vacant] = context.leases(3) as [string, string, string]
        const { client, faults } = await context.openFaulty(unitMs * 2)
        const request = { holder: ALICE, duration: longMs }
        await b.claimLease(held, request)
        await answered(context, 'a read before the store hangs', () => client.refresh([held]))
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
        await context.settle(Promise.all(answers), 'calls to a store that hangs')
        faults.heal()
        let attempts = 0
        // A claim that came to nothing known may hold its lease: the next one is for another.
        const claim = (): Promise<void> =>
          client.claimLease(attempts++ === 0 ? lease : `${lease}-again-${attempts}`, request)
        await answered(context, 'a claim when the store is back', claim)
        await answered(context, 'a release when the store is back', () => client.releaseLease(held, ALICE))
        same(await context.holding(b, held), undefined, 'the holding')
        await answered(context, 'an unpin when the store is back', () => client.unpinLease(pinned, 'operator'))
      },
      'faults',
    )
  },
}

/** The client's requests time out so soon that a slow store may miss one: the call is repeated. */
async function answered(context: Context, what: string, call: () => Promise<void>): Promise<void> {
  await context.until(`answer to ${what}`, async () => {
    try {
      await context.settle(call(), what)
      return true
    } catch (error) {
      if (!context.realTime || !isUnknown(error)) throw error
      return describeError(error)
    }
  })
}
