import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { Info } from '../lease.ts'
import type { Manager } from '../manager.ts'
import type { Faults, Packets } from './harness.ts'
import type { Chapter, Scene } from './kit.ts'
import { ALICE, BOB, CAROL, describeError, invalid, isUnknown, known, later, rejects, same, TooSlow } from './kit.ts'

/**
 * A request may be executed at any time after it was sent, also when its client has given it up, and twice. What comes late does
 * nothing: it opens no term, ends or prolongs none but its own, and sets or withdraws no pin.
 */
export const late: Chapter = {
  title: 'late packets',
  state(clause) {
    // ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that was sent again opens no term when its first packet comes after the release',
      (scene) =>
        hasty(scene, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          await scene.settle(client.claimLease(lease, { holder: ALICE, duration: scene.longMs }), 'the second packet')
          await client.releaseLease(lease, ALICE)
          await arrive(scene, packets)
          await vacant(scene, lease)
        }),
      'faults',
    )

    clause(
      'a claim that was sent again opens no term when its first packet comes after terms of others',
      (scene) =>
        hasty(scene, async ({ client, faults, lease }) => {
          const { b, longMs } = scene
          const packets = faults.holdBack(1)
          await scene.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the second packet')
          await client.releaseLease(lease, ALICE)
          for (const holder of [BOB, ALICE]) {
            await b.claimLease(lease, { holder, duration: longMs })
            await b.releaseLease(lease, holder)
          }
          await arrive(scene, packets)
          await vacant(scene, lease)
        }),
      'faults',
    )

    clause(
      'a claim that was refused at last opens no term when its first packet comes after the release',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = scene
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
          await underWay(scene, packets)
          await invalid(scene.settle(claim, 'the second packet'), 'the claim')
          await b.releaseLease(lease, BOB)
          await pastDeadline() // until then it may open a term, which the clean-up of the claim ends
          await arrive(scene, packets)
          await vacant(scene, lease)
        }),
      'faults',
    )

    clause(
      'a claim whose outcome stayed unknown leaves no term behind when its packet comes last',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          const claim = client.claimLease(lease, { holder: ALICE, duration: scene.longMs })
          await scene.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
          faults.heal()
          await pastDeadline()
          await arrive(scene, packets)
          await scene.claimSoon(scene.b, lease, BOB, scene.longMs)
        }),
      'faults',
    )

    clause(
      'a claim whose outcome stayed unknown leaves no term behind when its packet comes at once',
      (scene) =>
        hasty(scene, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          const claim = client.claimLease(lease, { holder: ALICE, duration: scene.longMs })
          await scene.settle(rejects('LEASE_UNKNOWN', claim, 'a claim without any reply'))
          faults.heal()
          await arrive(scene, packets)
          await scene.claimSoon(scene.b, lease, BOB, scene.longMs)
        }),
      'faults',
    )

    clause(
      'an aborted claim leaves no term behind when its packet comes last',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const claim = later(client.claimLease(lease, { holder: ALICE, duration: scene.longMs }, { signal }))
          await underWay(scene, packets)
          controller.abort()
          await assert.rejects(scene.settle(claim), (error) => error === signal.reason)
          await pastDeadline()
          await arrive(scene, packets)
          await scene.claimSoon(scene.b, lease, BOB, scene.longMs)
        }),
      'faults',
    )

    clause(
      'what cleans up after an aborted claim ends no later term of the same holder',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const request = { holder: ALICE, duration: scene.longMs }
          const aborted = later(client.claimLease(lease, request, { signal }))
          await underWay(scene, packets)
          controller.abort()
          await scene.settle(client.claimLease(lease, request), 'the next claim')
          const term = known(client, lease)
          await assert.rejects(aborted, (error) => error === signal.reason)
          await pastDeadline()
          await arrive(scene, packets)
          await pastDeadline()
          await scene.stillHeld(scene.b, term, lease)
        }),
      'faults',
    )

    clause(
      'a claim of a waiter opens no term when its first packet comes after the release',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, timeoutMs }) => {
          const { b, longMs } = scene
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const manager = scene.manage(client, { maxSleep: timeoutMs })
          const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, renewEvery: false }))
          await underWay(scene, packets)
          await scene.pass(timeoutMs * 1.5) // the second packet is refused
          await b.releaseLease(lease, BOB)
          const hold = await scene.settle(waiting, 'the wait')
          await scene.settle(hold.release(), 'the release')
          await arrive(scene, packets)
          await vacant(scene, lease)
        }),
      'faults',
    )

    clause(
      'a waiter that gave up leaves no term behind when its packet comes last',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, timeoutMs, pastDeadline }) => {
          const { b, longMs } = scene
          await b.claimLease(lease, { holder: BOB, duration: longMs })
          const packets = faults.holdBack(1)
          const controller = new AbortController()
          const { signal } = controller
          const manager = scene.manage(client, { maxSleep: timeoutMs })
          const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, signal }))
          await underWay(scene, packets)
          controller.abort()
          await assert.rejects(scene.settle(waiting), (error) => error === signal.reason)
          await b.releaseLease(lease, BOB)
          await pastDeadline()
          await arrive(scene, packets)
          await scene.claimSoon(b, lease, CAROL, longMs)
        }),
      'faults',
    )

    clause(
      'a claim of any of several leases opens no term when its first packet comes after the release',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const leases = [lease, `${lease}-2`, `${lease}-3`]
          const packets = faults.holdBack(1)
          const hold = await scene.settle(
            scene.manage(client).holdAny(leases, ALICE, { duration: scene.longMs, renewEvery: false }),
          )
          await scene.settle(hold.release(), 'the release')
          await scene.b.claimLease(hold.lease, { holder: BOB, duration: scene.longMs })
          await pastDeadline()
          await arrive(scene, packets)
          for (const one of leases) {
            same((await scene.holding(scene.b, one))?.holder, one === hold.lease ? BOB : undefined, 'the holder')
          }
        }),
      'faults',
    )

    clause(
      'a claim that was sent again after its term was revoked is granted a term that stands',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies(1)
        const packets = faults.holdBack(1)
        const claim = later(client.claimLease(lease, { holder: ALICE, duration: longMs }))
        await scene.until('sight of the first packet', async () => (await scene.holding(b)) !== undefined)
        await scene.settle(scene.manage(b).revoke(lease), 'the revocation')
        await arrive(scene, packets)
        await scene.settle(claim, 'the claim')
        await scene.stillHeld(b, known(client, lease))
      },
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the release',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await scene.pass(unitMs / 100)
        await client.releaseLease(lease, ALICE)
        await arrive(scene, packets)
        await vacant(scene, lease)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the release of the one that another process has adopted',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const hold = await scene.settle(scene.manage(b).hold(lease, ALICE, { duration: longMs, renewEvery: false }))
        await scene.settle(hold.release(), 'the release of the adopter')
        await arrive(scene, packets)
        await vacant(scene, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim opens no term after the terms of others',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await scene.pass(unitMs / 100)
        await client.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        await b.releaseLease(lease, BOB)
        await arrive(scene, packets)
        await vacant(scene, lease)
      },
      'serverClock',
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim does not bring back a term that was revoked',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        await scene.pass(unitMs / 100)
        await scene.settle(scene.manage(b).revoke(lease), 'the revocation')
        await arrive(scene, packets)
        await vacant(scene, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a waiter’s claim opens no term after the release',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        const manager = scene.manage(client, { maxSleep: unitMs })
        const waiting = later(manager.hold(lease, ALICE, { duration: longMs, wait: true, renewEvery: false }))
        await scene.pass(unitMs / 10)
        const packets = faults.repeat(1)
        await b.releaseLease(lease, BOB)
        const hold = await scene.settle(waiting, 'the wait')
        await scene.pass(unitMs / 100)
        await scene.settle(hold.release(), 'the release')
        await arrive(scene, packets)
        await vacant(scene, lease)
      },
      'serverClock', // without one, a copy of an earlier try of the waiter that was refused would open a term
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim of any of several leases opens no term after the release',
      async (scene) => {
        const { unitMs, longMs } = scene
        const leases = scene.leases(3)
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        const hold = await scene.settle(
          scene.manage(client).holdAny(leases, ALICE, { duration: longMs, renewEvery: false }),
        )
        await scene.pass(unitMs / 100)
        await scene.settle(hold.release(), 'the release')
        await arrive(scene, packets)
        for (const lease of leases) await vacant(scene, lease)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim of any of several leases opens no term on another of them',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const leases = scene.leases(3)
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        const hold = await scene.settle(
          scene.manage(client).holdAny(leases, ALICE, { duration: longMs, renewEvery: false }),
        )
        await scene.pass(unitMs / 100)
        await scene.settle(hold.release(), 'the release')
        await b.claimLease(hold.lease, { holder: BOB, duration: longMs })
        await arrive(scene, packets)
        for (const one of leases.filter((lease) => lease !== hold.lease)) await vacant(scene, one)
      },
      'repeats',
      'faults',
    )

    clause(
      'a copy of a claim undoes no later value',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
        await arrive(scene, packets)
        same((await scene.holding(b, lease))?.value, 'second', 'the value')
      },
      'faults',
    )

    clause(
      'a claim that was sent again undoes no later value when its first packet comes last',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = scene
          const packets = faults.holdBack(1)
          const claim = client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
          await scene.settle(claim, 'the second packet')
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
          await pastDeadline()
          await arrive(scene, packets)
          same((await scene.holding(b, lease))?.value, 'second', 'the value')
        }),
      'faults',
    )

    // ── releases ──────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of a release by name ends no later term of the same holder',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: ALICE, duration: longMs })
        const term = known(b, lease)
        await arrive(scene, packets)
        await scene.stillHeld(scene.a, term)
      },
      'faults',
    )

    clause(
      'a copy of a hold’s release ends no later hold of the same holder',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        const options = { duration: longMs, renewEvery: false } as const
        const first = await scene.settle(manager.hold(lease, ALICE, options))
        const packets = faults.repeat(1)
        await scene.settle(first.release(), 'the release')
        const second = await scene.settle(manager.hold(lease, ALICE, options))
        await arrive(scene, packets)
        await scene.stillHeld(b, known(client, lease))
        same(second.held, true, 'whether the later hold is held')
      },
      'faults',
    )

    clause(
      'a copy of a revocation ends no later term of the same holder',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await scene.settle(scene.manage(client).revoke(lease), 'the revocation')
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await arrive(scene, packets)
        await scene.stillHeld(b, known(a, lease))
      },
      'faults',
    )

    clause(
      'a release under way does not end the term that another process of this name has adopted',
      async (scene) => {
        await claimDuringRelease(scene, scene.manage(scene.b), 'the adoption')
      },
      'faults',
    )

    clause(
      'a release under way does not end the term that a process of this name claims once more, which had it before',
      async (scene) => {
        const manager = scene.manage(scene.b)
        await scene.settle(manager.claim(scene.lease, ALICE, scene.longMs), 'the claim')
        await claimDuringRelease(scene, manager, 'the claim once more')
      },
      'faults',
    )

    // ── extensions and adoptions ──────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an extension revives no term after the release',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        await client.releaseLease(lease, ALICE)
        await arrive(scene, packets)
        await vacant(scene, lease)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
      },
      'faults',
    )

    clause(
      'a copy of an extension prolongs no later term of the same holder',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const { lease } = await scene.whileLive(unitMs * 2, async (lease, duration) => {
          await client.claimLease(lease, { holder: ALICE, duration: longMs })
          const packets = faults.repeat(1)
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'of the earlier term' })
          await client.releaseLease(lease, ALICE)
          await client.claimLease(lease, { holder: ALICE, duration })
          const term = known(client, lease)
          await arrive(scene, packets)
          await scene.stillHeld(b, term, lease)
          const gainMs = known(b, lease).expiry.toMillis() - term.expiry.toMillis()
          assert(gainMs < longMs / 2, `the later term was prolonged by ${gainMs} ms`)
        })
        await scene.claimSoon(b, lease, BOB, longMs)
      },
      'faults',
    )

    clause(
      'a renewal under way revives no term after the release',
      async (scene) => {
        const { lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const hold = await scene.settle(
          scene.manage(client).hold(lease, ALICE, { duration: longMs, renewEvery: false }),
        )
        const packets = faults.holdBack(1)
        const renewal = later(hold.renew())
        await underWay(scene, packets)
        await scene.settle(hold.release(), 'the release')
        await arrive(scene, packets)
        await vacant(scene, lease)
        await rejects('LEASE_LOST', scene.settle(renewal), 'the renewal')
      },
      'faults',
    )

    clause(
      'an extension that was sent again undoes no later value when its first packet comes last',
      (scene) =>
        hasty(scene, async ({ client, faults, lease, pastDeadline }) => {
          const { b, longMs } = scene
          await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
          const packets = faults.holdBack(1)
          const second = client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
          await scene.settle(second, 'the second packet')
          await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'third' })
          await pastDeadline()
          await arrive(scene, packets)
          same((await scene.holding(b, lease))?.value, 'third', 'the value')
        }),
      'faults',
    )

    clause(
      'a copy of an extension undoes no later value',
      async (scene) => {
        const { b, lease, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await client.claimLease(lease, { holder: ALICE, duration: longMs, value: 'first' })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'second' })
        await scene.pass(unitMs / 100)
        await client.extendLease(lease, { holder: ALICE, duration: longMs, value: 'third' })
        await arrive(scene, packets)
        same((await scene.holding(b, lease))?.value, 'third', 'the value')
      },
      'serverClock',
      'faults',
    )

    clause(
      'a copy of an adoption does not take the term from a later adopter',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        const later = scene.manage(b)
        const hold = await scene.settle(later.hold(lease, ALICE, { duration: longMs, renewEvery: false }))
        await arrive(scene, packets)
        await scene.settle(hold.release(), 'the release of the later adopter')
        await vacant(scene, lease)
      },
      'faults',
    )

    clause(
      'a copy of an adoption revives no term after the release',
      async (scene) => {
        const { a, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const packets = faults.repeat(1)
        await client.extendLease(lease, { holder: ALICE, duration: longMs })
        await client.releaseLease(lease, ALICE)
        await arrive(scene, packets)
        await vacant(scene, lease)
      },
      'faults',
    )

    // ── pins ──────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an unpin does not withdraw a later pin',
      async (scene) => {
        const { a, b, lease } = scene
        const { client, faults } = await scene.openFaulty()
        await a.pinLease(lease, 'operator')
        const packets = faults.repeat(1)
        await client.unpinLease(lease, 'operator')
        await a.pinLease(lease, 'operator')
        await arrive(scene, packets)
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
      },
      'faults',
    )

    clause(
      'an unpin under way does not withdraw a later pin',
      async (scene) => {
        const { a, b, lease } = scene
        const { client, faults } = await scene.openFaulty()
        await a.pinLease(lease, 'operator')
        const packets = faults.holdBack(1)
        const unpin = later(client.unpinLease(lease, 'operator'))
        await underWay(scene, packets)
        await a.pinLease(lease, 'operator')
        await arrive(scene, packets)
        await scene.settle(unpin, 'the unpin')
        same((await b.pinned()).get(lease), ['operator'], 'the pins')
      },
      'faults',
    )

    clause(
      'a pin that was sent again does not come back when its first packet comes after the unpin',
      (scene) =>
        hasty(scene, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          await scene.settle(client.pinLease(lease, 'operator'), 'the second packet')
          await client.unpinLease(lease, 'operator')
          await arrive(scene, packets)
          same((await scene.b.pinned()).get(lease), undefined, 'the pins')
        }),
      'faults',
    )

    clause(
      'a pin whose outcome stayed unknown does not come after the unpin',
      (scene) =>
        hasty(scene, async ({ client, faults, lease }) => {
          const packets = faults.holdBack(1)
          faults.loseRequests()
          await scene.settle(rejects('LEASE_UNKNOWN', client.pinLease(lease, 'operator'), 'a pin without any reply'))
          faults.heal()
          await client.unpinLease(lease, 'operator')
          await arrive(scene, packets)
          same((await scene.b.pinned()).get(lease), undefined, 'the pins')
        }),
      'faults',
    )

    clause(
      'a copy of a pin does not come back after the unpin',
      async (scene) => {
        const { b, lease, unitMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.pinLease(lease, 'operator')
        await scene.pass(unitMs / 100)
        await b.unpinLease(lease, 'operator')
        await arrive(scene, packets)
        same((await b.pinned()).get(lease), undefined, 'the pins')
      },
      'serverClock',
      'repeats',
      'faults',
    )

    clause(
      'a copy of an earlier pin does not take the place of a later one',
      async (scene) => {
        const { a, b, lease, unitMs } = scene
        const { client, faults } = await scene.openFaulty()
        const packets = faults.repeat(1)
        await client.pinLease(lease, 'operator')
        await scene.pass(unitMs / 100)
        await a.pinLease(lease, 'operator')
        const slow = await scene.openFaulty()
        const unpinning = slow.faults.holdBack(1)
        const unpin = later(slow.client.unpinLease(lease, 'operator'))
        await underWay(scene, unpinning)
        await arrive(scene, packets)
        await arrive(scene, unpinning)
        await scene.settle(unpin, 'the unpin')
        same((await b.pinned()).get(lease), undefined, 'the pins')
      },
      'serverClock',
      'repeats',
      'faults',
    )

    // ── expiry ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a copy of an expiry does not vacate a later term',
      async (scene) => {
        const { b, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const { lease, durationMs } = await scene.brief()
        await scene.lapse(lease, durationMs, client)
        const packets = faults.repeat(1)
        await client.expireLease(lease)
        await b.claimLease(lease, { holder: ALICE, duration: longMs })
        const term = known(b, lease)
        await arrive(scene, packets)
        await scene.stillHeld(scene.a, term, lease)
      },
      'faults',
    )

    // ── durability ────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a claim that was granted when it was sent again outlives a restart of the store',
      async (scene) => {
        const { lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.loseReplies(1)
        await scene.settle(client.claimLease(lease, { holder: ALICE, duration: longMs }), 'the second packet')
        const term = known(client, lease)
        await scene.restart()
        const fresh = await scene.open()
        await scene.until('answer after the restart', async () => {
          const [read] = await Promise.allSettled([scene.holding(fresh, lease)])
          return read.status === 'fulfilled' || describeError(read.reason)
        })
        await scene.stillHeld(fresh, term)
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
export async function hasty(scene: Scene, attempt: (way: Way) => Promise<void>): Promise<void> {
  await scene.undisturbed(scene.unitMs * 2, async (lease, timeoutMs) => {
    const { client, faults } = await scene.openFaulty(timeoutMs)
    try {
      // The client learns what the store's clock shows, to within this time at worst.
      const startedMs = scene.clock.monotonic()
      await client.refresh([lease])
      const roundTripMs = scene.clock.monotonic() - startedMs
      const pastDeadline = (): Promise<void> => scene.pass(timeoutMs + roundTripMs + scene.unitMs / 10)
      await attempt({ client, faults, lease, timeoutMs, pastDeadline })
    } catch (error) {
      if (!scene.realTime || !isUnknown(error)) throw error
      throw new TooSlow({ message: `with ${timeoutMs} ms for a request: ${describeError(error)}` })
    }
  })
}

/** A request has been sent, and stands still. */
function underWay(scene: Scene, packets: Packets): Promise<void> {
  return scene.until('request on its way', () => packets.count > 0)
}

/** It reaches the store. */
function arrive(scene: Scene, packets: Packets): Promise<void> {
  return scene.settle(packets.letGo(), 'the late packet')
}

/** Nobody has it, by a fresh read. */
async function vacant(scene: Scene, lease: string): Promise<void> {
  const info: Info | undefined = await scene.holding(scene.b, lease)
  same(info?.holder, undefined, 'the holder after the late packet')
}

/** A release of another process of this name is under way while the manager over `b` claims, and arrives then: that ends nothing. */
async function claimDuringRelease(scene: Scene, manager: Manager, what: string): Promise<void> {
  const { b, lease, longMs } = scene
  const { client, faults } = await scene.openFaulty()
  const hold = await scene.settle(scene.manage(client).hold(lease, ALICE, { duration: longMs, renewEvery: false }))
  const packets = faults.holdBack(1)
  const releasing = later(hold.release())
  await underWay(scene, packets)
  await scene.settle(manager.claim(lease, ALICE, longMs), what)
  const term = known(b, lease)
  same(term.fencingToken, hold.fencingToken, 'the fencing token')
  await arrive(scene, packets)
  const error = await scene.settle(rejects('LEASE_NOT_HELD', releasing, 'the release'))
  same(error.reason, 'adopted', 'the reason')
  await scene.stillHeld(scene.a, term)
}
