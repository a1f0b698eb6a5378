import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { Info } from '../lease.ts'
import type { Manager } from '../manager.ts'
import type { Faults, Packets } from './harness.ts'
import type { Suite, Context } from './kit.ts'
import { ALICE, BOB, CAROL, describeError, invalid, isUnknown, known, later, rejects, same, TooSlow } from './kit.ts'

/**
 * A request may be executed at any time after it was sent, also when its client has given it up, and twice. What comes late does
 * nothing: it opens no term, ends or prolongs none but its own, and sets or withdraws no pin.
 */
export const late: Suite = {
  title: 'late packets',
  state(clause) {
    // ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that was sent again opens no term when its first packet comes after the release',
      (context) =>
        hasty(context, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          await context.settle(
            client.claimLease(lease, { holder: ALICE, duration: context.longMs }),
            'the second packet',
          )
          await client.releaseLease(lease, ALICE)
          await arrive(context, packets)
          await vacant(context, lease)
        }),
      'faults',
    )

    clause(
      'a claim that was sent again opens no term when its first packet comes after terms of others',
      (context) =>
        hasty(context, async ({ client, faults, lease }) => {
          const { b, longMs } = context
          const packets = faults.holdBack(1)
          await context.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the second packet')
          await client.releaseLease(lease, ALICE)
          for (const holder of [BOB, ALICE]) {
            await b.claimLease(lease, { holder, duration: longMs })
            await b.releaseLease(lease, holder)
          }
          await arrive(context, packets)
          await vacant(context, lease)
        }),
      'faults',
    )

    clause(
      'a claim that was refused at last opens no term when its first packet comes after the release',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = context
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
          await underWay(context, packets)
          await invalid(context.settle(claim, 'the second packet'), 'the claim')
          await b.releaseLease(lease, BOB)
          await pastDeadline() // until then it may open a term, which the clean-up of the claim ends
          await arrive(context, packets)
          await vacant(context, lease)
        }),
      'faults',
    )

    clause(
      'a claim whose outcome stayed unknown leaves no term behind when its packet comes last',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          const claim = client.claimLease(lease, { holder: ALICE, duration: context.longMs })
          await context.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
          faults.heal()
          await pastDeadline()
          await arrive(context, packets)
          await context.claimSoon(context.b, lease, BOB, context.longMs)
        }),
      'faults',
    )

    clause(
      'a claim whose outcome stayed unknown leaves no term behind when its packet comes at once',
      (context) =>
        hasty(context, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          const claim = client.claimLease(lease, { holder: ALICE, duration: context.longMs })
          await context.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
          faults.heal()
          await arrive(context, packets)
          await context.claimSoon(context.b, lease, BOB, context.longMs)
        }),
      'faults',
    )

    clause(
      'an aborted claim leaves no term behind when its packet comes last',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: context.longMs }, { signal }))
          await underWay(context, packets)
          controller.abort()
          await assert.rejects(context.settle(claim), (error) => error === signal.reason)
          await pastDeadline()
          await arrive(context, packets)
          await context.claimSoon(context.b, lease, BOB, context.longMs)
        }),
      'faults',
    )

    clause(
      'what cleans up after an aborted claim ends no later term of the same holder',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const request = { holder: ALICE, duration: context.longMs }
          const aborted = later(client.claimLease(lease, request, { signal }))
          await underWay(context, packets)
          controller.abort()
          await context.settle(client.claimLease(lease, request), 'the next claim')
          const term = known(client, lease)
          await assert.rejects(aborted, (error) => error === signal.reason)
          await pastDeadline()
          await arrive(context, packets)
          await pastDeadline()
          await context.stillHeld(context.b, term, lease)
        }),
      'faults',
    )

    clause(
      'a claim of a waiter opens no term when its first packet comes after the release',
      (context) =>
        hasty(context, async ({ client, faults, lease, timeoutMs }) => {
          const { b, longMs } = context
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const manager = context.manage(client, { maxSleep: timeoutMs })
          const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, renewEvery: false }))
          await underWay(context, packets)
          await context.pass(timeoutMs * 1.5) // the second packet is refused
          await b.releaseLease(lease, BOB)
          const hold = await context.settle(waiting, 'the wait')
          await context.settle(hold.release(), 'the release')
          await arrive(context, packets)
          await vacant(context, lease)
        }),
      'faults',
    )

    clause(
      'a waiter that gave up leaves no term behind when its packet comes last',
      (context) =>
        hasty(context, async ({ client, faults, lease, timeoutMs, pastDeadline }) => {
          const { b, longMs } = context
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const manager = context.manage(client, { maxSleep: timeoutMs })
          const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, signal }))
          await underWay(context, packets)
          controller.abort()
          await assert.rejects(context.settle(waiting), (error) => error === signal.reason)
          await b.releaseLease(lease, BOB)
          await pastDeadline()
          await arrive(context, packets)
          await context.claimSoon(b, lease, CAROL, longMs)
        }),
      'faults',
    )

    clause(
      'a claim of any of several leases opens no term when its first packet comes after the release',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const leases = [lease, `${lease}-2`, `${lease}-3`]
          const packets = faults.holdBack(1)
          const hold = await context.settle(
            context.manage(client).holdAny(leases, ALICE, { duration: context.longMs, renewEvery: false }),
          )
          await context.settle(hold.release(), 'the release')
          await context.b.claimLease(hold.lease, { holder: BOB, duration: context.longMs })
          await pastDeadline()
          await arrive(context, packets)
          for (const one of leases) {
            same((await context.holding(context.b, one))?.holder, one === hold.lease ? BOB : undefined, 'the holder')
          }
        }),
      'faults',
    )

    clause(
      'a claim that was sent again after its term was revoked is granted a term that stands',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseReplies(1)
        const packets = faults.holdBack(1)
        const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        await context.until('sight of the first packet', async () => (await context.holding(b)) !== undefined)
        await context.settle(context.manage(b).revoke(lease), 'the revocation')
        await arrive(context, packets)
        await context.settle(claim, 'the claim')
        await context.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the release',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await context.pass(unitMs / 100)
        await client.releaseLease(lease, ALICE)
        await arrive(context, packets)
        await vacant(context, lease)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the release of the one that another process has adopted',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const hold = await context.settle(context.manage(b).hold(lease, ALICE, { duration: longMs, renewEvery: false }))
        await context.settle(hold.release(), 'the release of the adopter')
        await arrive(context, packets)
        await vacant(context, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the terms of others',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await context.pass(unitMs / 100)
        await client.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        await b.releaseLease(lease, BOB)
        await arrive(context, packets)
        await vacant(context, lease)
      },
      'serverClock',
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim does not bring back a term that was revoked',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await context.pass(unitMs / 100)
        await context.settle(context.manage(b).revoke(lease), 'the revocation')
        await arrive(context, packets)
        await vacant(context, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a waiter’s claim opens no term after the release',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        const manager = context.manage(client, { maxSleep: unitMs })
        const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, renewEvery: false }))
        await context.pass(unitMs / 10)
        const packets = faults.repeat(1)
        await b.releaseLease(lease, BOB)
        const hold = await context.settle(waiting, 'the wait')
        await context.pass(unitMs / 100)
        await context.settle(hold.release(), 'the release')
        await arrive(context, packets)
        await vacant(context, lease)
      },
      'serverClock', // without one, a copy of an earlier try of the waiter that was refused would open a term
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim of any of several leases opens no term after the release',
      async (context) => {
        const { unitMs, longMs } = context
        const leases = context.leases(3)
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        const hold = await context.settle(
          context.manage(client).holdAny(leases, ALICE, { duration: longMs, renewEvery: false }),
        )
        await context.pass(unitMs / 100)
        await context.settle(hold.release(), 'the release')
        await arrive(context, packets)
        for (const lease of leases) await vacant(context, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim of any of several leases opens no term on another of them',
      async (context) => {
        const { b, unitMs, longMs } = context
        const leases = context.leases(3)
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        const hold = await context.settle(
          context.manage(client).holdAny(leases, ALICE, { duration: longMs, renewEvery: false }),
        )
        await context.pass(unitMs / 100)
        await context.settle(hold.release(), 'the release')
        await b.claimLease(hold.lease, { holder: BOB, duration: longMs })
        await arrive(context, packets)
        for (const one of leases.filter((lease) => lease !== hold.lease)) await vacant(context, one)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim undoes no later value',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
        await arrive(context, packets)
        same((await context.holding(b, lease))?.value, 'second', 'the value')
      },
      'faults',
    )

    clause(
      'a claim that was sent again undoes no later value when its first packet comes last',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = context
          const packets = faults.holdBack(1)
          const claim = client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
          await context.settle(claim, 'the second packet')
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
          await pastDeadline()
          await arrive(context, packets)
          same((await context.holding(b, lease))?.value, 'second', 'the value')
        }),
      'faults',
    )

    // ── releases ──────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of a release by name ends no later term of the same holder',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: ALICE, duration: longMs })
        const term = known(b, lease)
        await arrive(context, packets)
        await context.stillHeld(context.a, term)
      },
      'faults',
    )

    clause(
      'a copy of a hold’s release ends no later hold of the same holder',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        const options = { duration: longMs, renewEvery: false } as const
        const first = await context.settle(manager.hold(lease, ALICE, options))
        const packets = faults.repeat(1)
        await context.settle(first.release(), 'the release')
        const second = await context.settle(manager.hold(lease, ALICE, options))
        await arrive(context, packets)
        await context.stillHeld(b, known(client, lease))
        same(second.held, true, 'whether the later hold is held')
      },
      'faults',
    )

    clause(
      'a copy of a revocation ends no later term of the same holder',
      async (context) => {
        const { a, b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await context.settle(context.manage(client).revoke(lease), 'the revocation')
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await arrive(context, packets)
        await context.stillHeld(b, known(a, lease))
      },
      'faults',
    )

    clause(
      'a release under way does not end the term that another process of this name has adopted',
      async (context) => {
        await claimDuringRelease(context, context.manage(context.b), 'the adoption')
      },
      'faults',
    )

    clause(
      'a release under way does not end the term that a process of this name claims once more, which had it before',
      async (context) => {
        const manager = context.manage(context.b)
        await context.settle(manager.claim(context.lease, ALICE, context.longMs), 'the claim')
        await claimDuringRelease(context, manager, 'the claim once more')
      },
      'faults',
    )

    // ── extensions and adoptions ──────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an extension revives no term after the release',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        await client.releaseLease(lease, ALICE)
        await arrive(context, packets)
        await vacant(context, lease)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
      },
      'faults',
    )

    clause(
      'a copy of an extension prolongs no later term of the same holder',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const { lease } = await context.whileLive(unitMs * 2, async (lease, duration) => {
          await client.claimLease(lease, { holder: ALICE, duration: longMs })
          const packets = faults.repeat(1)
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'of the earlier term' })
          await client.releaseLease(lease, ALICE)
          await client.claimLease(lease, { holder: ALICE, duration })
          const term = known(client, lease)
          await arrive(context, packets)
          await context.stillHeld(b, term, lease)
          const gainMs = known(b, lease).expiry.toMillis() - term.expiry.toMillis()
          assert(gainMs < longMs / 2, `the later term was prolonged by ${gainMs} ms`)
        })
        await context.claimSoon(b, lease, BOB, longMs)
      },
      'faults',
    )

    clause(
      'a renewal under way revives no term after the release',
      async (context) => {
        const { lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const hold = await context.settle(
          context.manage(client).hold(lease, ALICE, { duration: longMs, renewEvery: false }),
        )
        const packets = faults.holdBack(1)
        const renewal = later(hold.renew())
        await underWay(context, packets)
        await context.settle(hold.release(), 'the release')
        await arrive(context, packets)
        await vacant(context, lease)
        await rejects('LEASE_LOST', context.settle(renewal), 'the renewal')
      },
      'faults',
    )

    clause(
      'an extension that was sent again undoes no later value when its first packet comes last',
      (context) =>
        hasty(context, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = context
          await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
          const packets = faults.holdBack(1)
          const second = client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
          await context.settle(second, 'the second packet')
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'third' })
          await pastDeadline()
          await arrive(context, packets)
          same((await context.holding(b, lease))?.value, 'third', 'the value')
        }),
      'faults',
    )

    clause(
      'a copy of an extension undoes no later value',
      async (context) => {
        const { b, lease, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
        await context.pass(unitMs / 100)
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'third' })
        await arrive(context, packets)
        same((await context.holding(b, lease))?.value, 'third', 'the value')
      },
      'serverClock',
      'faults',
    )

    clause(
      'a copy of an adoption does not take the term from a later adopter',
      async (context) => {
        const { a, b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        const later = context.manage(b)
        const hold = await context.settle(later.hold(lease, ALICE, { duration: longMs, renewEvery: false }))
        await arrive(context, packets)
        await context.settle(hold.release(), 'the release of the later adopter')
        await vacant(context, lease)
      },
      'faults',
    )

    clause(
      'a copy of an adoption revives no term after the release',
      async (context) => {
        const { a, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        await client.releaseLease(lease, ALICE)
        await arrive(context, packets)
        await vacant(context, lease)
      },
      'faults',
    )

    // ── pins ──────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an unpin does not withdraw a later pin',
      async (context) => {
        const { a, b, lease } = context
        const { client, faults } = await context.openFaulty()
        await a.pinLease(lease, 'operator')
        const packets = faults.repeat(1)
        await client.unpinLease(lease, 'operator')
        await a.pinLease(lease, 'operator')
        await arrive(context, packets)
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
      },
      'faults',
    )

    clause(
      'an unpin under way does not withdraw a later pin',
      async (context) => {
        const { a, b, lease } = context
        const { client, faults } = await context.openFaulty()
        await a.pinLease(lease, 'operator')
        const packets = faults.holdBack(1)
        const unpin = later(client.unpinLease(lease, 'operator'))
        await underWay(context, packets)
        await a.pinLease(lease, 'operator')
        await arrive(context, packets)
        await context.settle(unpin, 'the unpin')
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
      },
      'faults',
    )

    clause(
      'a pin that was sent again does not come back when its first packet comes after the unpin',
      (context) =>
        hasty(context, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          await context.settle(client.pinLease(lease, 'operator'), 'the second packet')
          await client.unpinLease(lease, 'operator')
          await arrive(context, packets)
          same((await context.b.pinned()).get(lease), undefined, 'the pins')
        }),
      'faults',
    )

    clause(
      'a pin whose outcome stayed unknown does not come after the unpin',
      (context) =>
        hasty(context, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          await context.settle(rejects('LEASE_UNKNOWN', client.pinLease(lease, 'operator'), 'a pin without any reply'))
          faults.heal()
          await client.unpinLease(lease, 'operator')
          await arrive(context, packets)
          same((await context.b.pinned()).get(lease), undefined, 'the pins')
        }),
      'faults',
    )

    clause(
      'a copy of a pin does not come back after the unpin',
      async (context) => {
        const { b, lease, unitMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.pinLease(lease, 'operator')
        await context.pass(unitMs / 100)
        await b.unpinLease(lease, 'operator')
        await arrive(context, packets)
        same((await b.pinned()).get(lease), undefined, 'the pins')
      },
      'serverClock',
      'repeats',
      'faults',
    )

    clause(
      'a copy of an earlier pin does not take the place of a later one',
      async (context) => {
        const { a, b, lease, unitMs } = context
        const { client, faults } = await context.openFaulty()
        const packets = faults.repeat(1)
        await client.pinLease(lease, 'operator')
        await context.pass(unitMs / 100)
        await a.pinLease(lease, 'operator')
        const slow = await context.openFaulty()
        const unpinning = slow.faults.holdBack(1)
        const unpin = later(slow.client.unpinLease(lease, 'operator'))
        await underWay(context, unpinning)
        await arrive(context, packets)
        await arrive(context, unpinning)
        await context.settle(unpin, 'the unpin')
        same((await b.pinned()).get(lease), undefined, 'the pins')
      },
      'serverClock',
      'repeats',
      'faults',
    )

    // ── expiry ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an expiry does not vacate a later term',
      async (context) => {
        const { b, longMs } = context
        const { client, faults } = await context.openFaulty()
        const { lease, durationMs } = await context.brief()
        await context.lapse(lease, durationMs, client)
        const packets = faults.repeat(1)
        await client.expireLease(lease)
        await b.claimLease(lease, { holder: ALICE, duration: longMs })
        const term = known(b, lease)
        await arrive(context, packets)
        await context.stillHeld(context.a, term, lease)
      },
      'faults',
    )

    // ── durability ────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that was granted when it was sent again outlives a restart of the store',
      async (context) => {
        const { lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.loseReplies(1)
        await context.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the second packet')
        const term = known(client, lease)
        await context.restart()
        const fresh = await context.open()
        await context.until('answer after the restart', async () => {
          const [read] = await Promise.allSettled([context.holding(fresh, lease)])
          return read.status === 'fulfilled' || describeError(read.reason)
        })
        await context.stillHeld(fresh, term)
      },
      'restart',
      'faults',
    )
  },
}

/** A client whose requests are given up soon. */
interface Way {
  readonly client: Client
  readonly faults: Faults
  readonly lease: string
  readonly timeoutMs: number
  /** Lets time pass until the store must not execute anything any more that was sent before. */
  readonly pastDeadline: () => Promise<void>
}

/** A request that stands still should not cost much time. Where the store is slower than that, everything is tried again. */
export async function hasty(context: Context, attempt: (way: Way) => Promise<void>): Promise<void> {
  await context.undisturbed(context.unitMs * 2, async (lease, timeoutMs) => {
    const { client, faults } = await context.openFaulty(timeoutMs)
    try {
      // The client learns what the store's clock shows, to within this time at worst.
      const startedMs = context.clock.monotonic()
      await client.refresh([lease])
      const roundTripMs = context.clock.monotonic() - startedMs
      const pastDeadline = (): Promise<void> => context.pass(timeoutMs + roundTripMs + context.unitMs / 10)
      await attempt({ client, faults, lease, timeoutMs, pastDeadline })
    } catch (error) {
      if (!context.realTime || !isUnknown(error)) throw error
      throw new TooSlow({ message: `with ${timeoutMs} ms for a request: ${describeError(error)}` })
    }
  })
}

/** A request has been sent, and stands still. */
function underWay(context: Context, packets: Packets): Promise<void> {
  return context.until('request on its way', () => packets.count > 0)
}

/** It reaches the store. */
function arrive(context: Context, packets: Packets): Promise<void> {
  return context.settle(packets.letGo(), 'the late packet')
}

/** Nobody has it, by a fresh read. */
async function vacant(context: Context, lease: string): Promise<void> {
  const info: Info | undefined = await context.holding(context.b, lease)
  same(info?.holder, undefined, 'the holder after the late packet')
}

/** A release of another process of this name is under way while the manager over `b` claims, and arrives then: that ends nothing. */
async function claimDuringRelease(context: Context, manager: Manager, what: string): Promise<void> {
  const { b, lease, longMs } = context
  const { client, faults } = await context.openFaulty()
  const hold = await context.settle(context.manage(client).hold(lease, ALICE, { duration: longMs, renewEvery: false }))
  const packets = faults.holdBack(1)
  const releasing = later(hold.release())
  await underWay(context, packets)
  await context.settle(manager.claim(lease, ALICE, longMs), what)
  const term = known(b, lease)
  same(term.fencingToken, hold.fencingToken, 'the fencing token')
  await arrive(context, packets)
  const error = await context.settle(rejects('LEASE_NOT_HELD', releasing, 'the release'))
  same(error.reason, 'adopted', 'the reason')
  await context.stillHeld(context.a, term)
}
