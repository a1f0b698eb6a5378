import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { ErrClaimDenied, ErrLost } from '../errors.ts'
import type { Hold } from '../hold.ts'
import type { Info } from '../lease.ts'
import type { HoldOptions } from '../roles.ts'
import { trustWindowMs } from '../skew.ts'
import type { Chapter, Scene } from './kit.ts'
import {
  ALICE,
  BOB,
  CAROL,
  codeOf,
  describeError,
  known,
  later,
  notHeld,
  rejects,
  rises,
  same,
  TooSlow,
} from './kit.ts'

/** The Manager keeps its promises over this client. */
export const manager: Chapter = {
  title: 'manager',
  state(clause) {
    // ── claim, check, release ─────────────────────────────────────────────────────────────────────────────────────

    clause('a claim is granted, and its token checks', async (scene) => {
      const { a, b, lease, longMs } = scene
      const manager = scene.manage(a)
      await manager.claim(lease, ALICE, longMs, { value: 'here' })
      const info = await manager.token(lease, ALICE).check()
      same(info.holder, ALICE, 'the holder')
      await scene.stillHeld(b, info)
      same(info.value, 'here', 'the value')
    })

    clause("a claim of another's lease is denied, with who holds it and until when", async (scene) => {
      const { a, b, lease, longMs, clock } = scene
      await scene.manage(a).claim(lease, ALICE, longMs)
      const denial = await scene.settle(denied(scene.manage(b).claim(lease, BOB, longMs)))
      same(denial.currentHolder, ALICE, 'the holder named by the denial')
      assert((denial.expiry?.toMillis() ?? 0) > clock.now() + longMs / 2, 'the denial does not say until when')
    })

    clause('a holder that claims again renews its own term, from anywhere', async (scene) => {
      const { a, b, unitMs, longMs } = scene
      const manager = scene.manage(a)
      const {
        lease,
        durationMs,
        outcome: before,
      } = await scene.whileLive(unitMs * 2, async (lease, duration) => {
        await manager.claim(lease, ALICE, duration)
        const before = known(a, lease)
        await scene.settle(manager.claim(lease, ALICE, longMs))
        assert.equal(known(a, lease).fencingToken, before.fencingToken, 'it is another term')
        return before
      })
      await scene.settle(scene.manage(b).claim(lease, ALICE, longMs))
      assert.equal(known(b, lease).fencingToken, before.fencingToken, 'it is another term elsewhere')
      await scene.lapse(lease, durationMs, a, b)
      await scene.stillHeld(b, before)
    })

    clause('a claim takes over a lapsed lease, from a holder that is then told so', async (scene) => {
      const { a, b, unitMs, longMs } = scene
      const [first, second] = [scene.manage(a), scene.manage(b)]
      const claim = (lease: string, duration: number): Promise<unknown> => first.claim(lease, ALICE, duration)
      const { lease, durationMs } = await scene.whileLive(unitMs, claim)
      await scene.lapse(lease, durationMs, b)
      await scene.settle(second.claim(lease, BOB, longMs))
      await notHeld(scene.settle(first.token(lease, ALICE).check()), 'the check of the displaced holder')
      await denied(scene.settle(first.claim(lease, ALICE, longMs)))
      same((await second.token(lease, BOB).check()).holder, BOB, 'the holder')
    })

    clause('of two holders that claim at once exactly one is granted, and the other is denied', async (scene) => {
      const { a, b, longMs } = scene
      const [first, second] = [scene.manage(a), scene.manage(b)]
      for (const lease of scene.leases(5)) {
        const outcomes = await scene.settle(
          Promise.allSettled([first.claim(lease, ALICE, longMs), second.claim(lease, BOB, longMs)]),
        )
        const codes = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? 'granted' : codeOf(outcome.reason)))
        same(new Set(codes), new Set(['granted', 'LEASE_CLAIM_DENIED']), 'the outcomes')
      }
    })

    clause('two claims by one holder at once are both granted, in one term', async (scene) => {
      const { a, b, longMs } = scene
      const [first, second] = [scene.manage(a), scene.manage(b)]
      for (const lease of scene.leases(5)) {
        await scene.settle(Promise.all([first.claim(lease, ALICE, longMs), second.claim(lease, ALICE, longMs)]))
        same(
          (await scene.holding(a, lease))?.fencingToken,
          (await scene.holding(b, lease))?.fencingToken,
          'the fencing token',
        )
      }
    })

    clause('a check within one’s own term reads nothing, any other reads once', async (scene) => {
      const { lease, longMs } = scene
      const [mine, theirs] = [counting(scene.a), counting(await scene.open())]
      const holder = scene.manage(mine.client)
      await holder.claim(lease, ALICE, longMs)
      const readsBefore = mine.reads()
      for (let times = 1; times <= 3; times++) await holder.token(lease, ALICE).check()
      assert.equal(mine.reads(), readsBefore, 'a check of one’s own term did a read')

      const other = scene.manage(theirs.client)
      const token = other.token(lease, ALICE)
      assert.equal(theirs.reads(), 0, 'making a token did a read')
      const infos = await scene.settle(Promise.all([token.check(), token.check(), token.check()]))
      for (const info of infos) same(info.holder, ALICE, 'the holder')
      assert.equal(theirs.reads(), 1, 'checks at the same time share one read')
    })

    clause('a check of a lease that is not held so is refused after one read', async (scene) => {
      const { a, lease, longMs } = scene
      const { client, reads } = counting(await scene.open())
      const manager = scene.manage(client)
      await notHeld(scene.settle(manager.token(lease, ALICE).check()), 'the check of a vacant lease')
      same(reads(), 1, 'the number of reads')
      await a.claimLease(lease, { holder: BOB, duration: longMs })
      await notHeld(scene.settle(manager.token(lease, ALICE).check()), "the check of another's lease")
      same(reads(), 2, 'the number of reads')
    })

    clause('a check with a key takes the key to the trapdoor', async (scene) => {
      const { a, lease, longMs } = scene
      const manager = scene.manage(a)
      await manager.claim(lease, ALICE, longMs)
      const token = manager.token(lease, ALICE)
      await rejects('LEASE_TRAPDOOR', token.check({ strange: 'key' }), 'a check with a strange key')
      await rejects('LEASE_TRAPDOOR', token.check(null), 'a check with null')
      await token.check(undefined)
    })

    clause(
      'a check with a key of this substrate gates the caller’s own write',
      async (scene) => {
        const { a, b, lease, longMs, guard } = scene
        const manager = scene.manage(a)
        await manager.claim(lease, ALICE, longMs)
        const token = manager.token(lease, ALICE)
        const checked = async (key: unknown): Promise<void> => void (await token.check(key))
        const [held, lost] = [`${lease}:held`, `${lease}:lost`]
        await guard.write(checked, held)
        assert((await guard.written()).includes(held), 'the write of the holder is not there')
        await b.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        await notHeld(guard.write(checked, lost), 'a gated write after the lease was taken away')
        assert(!(await guard.written()).includes(lost), 'the refused write is there')
      },
      'guard',
    )

    clause('a release frees the lease; twice, or when it is vacant, it resolves', async (scene) => {
      const { a, b, lease, longMs } = scene
      const manager = scene.manage(a)
      await manager.release(lease, ALICE)
      await manager.claim(lease, ALICE, longMs)
      await manager.release(lease, ALICE)
      await manager.release(lease, ALICE)
      await notHeld(manager.token(lease, ALICE).check(), 'a check after the release')
      await scene.manage(b).claim(lease, BOB, longMs)
      await notHeld(scene.settle(manager.release(lease, ALICE)), "a release of another's lease")
      same((await scene.holding(a))?.holder, BOB, 'the holder')
    })

    clause('an operator revokes a lease, pinned or not', async (scene) => {
      const { a, b, longMs } = scene
      const operator = scene.manage(b)
      for (const lease of scene.leases(2)) {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        if (lease.endsWith('1')) await operator.pin(lease, 'operator')
        await scene.settle(operator.revoke(lease))
        same(await scene.holding(a, lease), undefined, 'the holding')
        await scene.settle(operator.revoke(lease))
      }
    })

    clause('pins and leases are there for the operator to see', async (scene) => {
      const { a, b, longMs } = scene
      const [held, pinned] = scene.leases(2) as [string, string]
      const operator = scene.manage(b)
      await a.claimLease(held, { holder: ALICE, duration: longMs })
      await operator.pin(pinned, 'operator')
      same((await operator.pinned()).get(pinned), ['operator'], 'the pins')
      const leases = await operator.leases()
      same(leases.get(held)?.holder, ALICE, 'the holder')
      same(leases.has(pinned), false, 'whether the client knows it')
      await operator.unpin(pinned, 'operator')
      same((await operator.pinned()).has(pinned), false, 'whether it is in the list of pins')
    })

    clause('a late observer sees the current holder at once', async (scene) => {
      const { a, lease, longMs } = scene
      await scene.manage(a).claim(lease, ALICE, longMs)
      const late = scene.manage(await scene.open())
      same((await late.token(lease, ALICE).check()).holder, ALICE, 'the holder')
      same((await late.leases()).get(lease)?.holder, ALICE, 'the holder')
    })

    clause('bad input is refused as such, and always answered', async (scene) => {
      const { a, lease, longMs } = scene
      const manager = scene.manage(a)
      await rejects('LEASE_NOT_VALID', manager.claim('', ALICE, longMs), 'a claim without a name')
      await rejects('LEASE_NOT_VALID', manager.claim(lease, 'a b', longMs), 'a claim with a bad holder')
      await rejects('LEASE_NOT_VALID', manager.claim(lease, ALICE, 0), 'a claim for no time')
      await rejects('LEASE_NOT_VALID', manager.token('', ALICE).check(), 'a check without a name')
      await rejects('LEASE_NOT_VALID', manager.release(lease, ''), 'a release without a holder')
      await rejects('LEASE_NOT_VALID', manager.revoke('#'), 'a revocation of a bad name')
      await rejects('LEASE_NOT_VALID', manager.waitUntilExpired('$'), 'a wait for a bad name')
      await rejects('LEASE_NOT_VALID', manager.pin(lease, ''), 'a pin without an entity')
      await rejects('LEASE_NOT_VALID', manager.hold(lease, ALICE, { duration: -1 }), 'a hold for no time')
      same(await scene.holding(a), undefined, 'the holding')
    })

    clause('after stop calls are answered with ErrStopped, and leases stay held', async (scene) => {
      const { a, b, lease, longMs } = scene
      const manager = scene.manage(a)
      await manager.claim(lease, ALICE, longMs)
      const waiting = later(manager.waitUntilExpired(lease))
      await scene.settle(manager.stop())
      await scene.settle(manager.stop())
      await rejects('LEASE_STOPPED', waiting, 'the wait that was going on')
      await rejects('LEASE_STOPPED', manager.claim(lease, ALICE, longMs), 'a claim')
      same((await scene.holding(b))?.holder, ALICE, 'the holder')
    })

    // ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    clause('a wait for a vacant lease ends at once', async (scene) => {
      const { a, lease, longMs } = scene
      const manager = scene.manage(a)
      await scene.settle(manager.waitUntilExpired(lease))
      await manager.claim(lease, ALICE, longMs)
      await manager.release(lease, ALICE)
      await scene.settle(manager.waitUntilExpired(lease))
    })

    clause('a wait ends when the lease lapses, by the clock alone', async (scene) => {
      const { a, b, unitMs, clock } = scene
      const {
        lease,
        durationMs,
        outcome: sentMs,
      } = await scene.whileLive(unitMs * 2, async (lease, duration) => {
        const sentMs = clock.monotonic()
        await a.claimLease(lease, { holder: ALICE, duration })
        return sentMs
      })
      await scene.settle(scene.manage(deaf(b)).waitUntilExpired(lease), 'the wait')
      const afterMs = clock.monotonic() - sentMs
      assert(afterMs >= durationMs * 0.999 - 1, `the wait ended after ${afterMs} ms of ${durationMs}`)
      same(await scene.holding(b), undefined, 'the holding')
    })

    clause('a wait that outlives an extension ends with the extended lease', async (scene) => {
      const { a, b, unitMs, clock } = scene
      const manager = scene.manage(b)
      const { durationMs, outcome } = await scene.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const wait = later(manager.waitUntilExpired(lease))
        await scene.pass(duration / 2)
        const extendedMs = clock.monotonic()
        await a.extendLease(lease, { holder: ALICE, duration })
        return { wait, extendedMs }
      })
      await scene.settle(outcome.wait, 'the wait')
      const afterMs = clock.monotonic() - outcome.extendedMs
      assert(afterMs >= durationMs * 0.999 - 1, `the wait ended ${afterMs} ms after an extension by ${durationMs}`)
    })

    clause(
      'a wait ends when another releases the lease, also one that began after the claim',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const wait = later(scene.manage(await scene.open()).waitUntilExpired(lease))
        await scene.pass(scene.unitMs)
        await a.releaseLease(lease, ALICE)
        await scene.settle(wait, 'the wait')
      },
      'notifications',
    )

    clause('without any hint a wait ends by reading again, at least every maxSleep', async (scene) => {
      const { a, b, lease, unitMs, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const wait = later(scene.manage(deaf(b), { maxSleep: unitMs }).waitUntilExpired(lease))
      await scene.pass(unitMs / 2)
      await a.releaseLease(lease, ALICE)
      await scene.settle(wait, 'the wait')
    })

    clause('an aborted wait rejects with the signal’s reason', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const controller = new AbortController()
      const wait = later(scene.manage(b).waitUntilExpired(lease, { signal: controller.signal }))
      await scene.pass(scene.unitMs / 5)
      const reason = new Error('enough')
      controller.abort(reason)
      await assert.rejects(scene.settle(wait), (error) => error === reason)
    })

    clause(
      'an observer sees who holds the lease at once, and then every change that is announced',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const worker = scene.manage(a)
        await worker.claim(lease, ALICE, longMs, { value: 'first' })
        const seen: string[] = []
        const controller = new AbortController()
        const watching = later(
          (async () => {
            for await (const info of scene.manage(b).observe(lease, { signal: controller.signal })) {
              seen.push(info === undefined ? 'vacant' : `${info.holder}: ${info.value}`)
            }
          })(),
        )
        const next = (what: string): Promise<void> => scene.until(what, () => seen.at(-1) === what || seen)
        await next('alice: first')
        await scene.pass(scene.unitMs) // the subscription is in force
        await worker.claim(lease, ALICE, longMs, { value: 'second', announce: true })
        await next('alice: second')
        await worker.release(lease, ALICE)
        await next('vacant')
        const hold = await worker.hold(lease, BOB, { duration: longMs, value: 'third', announce: true })
        await next('bob: third')
        await hold.update('fourth')
        await next('bob: fourth')
        const reason = new Error('enough')
        controller.abort(reason)
        await assert.rejects(scene.settle(watching), (error) => error === reason)
        await hold.release()
        same(seen, ['alice: first', 'alice: second', 'vacant', 'bob: third', 'bob: fourth'], 'what was seen')
      },
      'notifications',
    )

    clause('without any hint an observer sees a takeover after the expiry that it knows', async (scene) => {
      const { a, b, unitMs, longMs } = scene
      const manager = scene.manage(deaf(b))
      // All before the expiry that the observer knows: so long it has no reason to look.
      const { outcome } = await scene.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const observing = manager.observe(lease)
        same((await scene.settle(observing.next())).value?.holder, ALICE, 'the holder')
        const second = later(observing.next())
        await a.extendLease(lease, { holder: ALICE, duration: duration * 1.5 })
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: BOB, duration: longMs })
        return { observing, second }
      })
      same((await scene.settle(outcome.second)).value?.holder, BOB, 'the holder')
      await scene.settle(outcome.observing.return(undefined as never))
    })

    // ── hold ──────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a hold outlives its duration many times over in one term, and its release frees the lease',
      async (scene) => {
        const { a, b, unitMs, longMs } = scene
        await scene.undisturbed(unitMs * 2, async (lease, duration) => {
          const { client, whileHeld } = renewing(scene, a)
          const manager = scene.manage(client)
          const hold = await scene.inTime(duration, () => manager.hold(lease, ALICE, { duration, value: 'old' }))
          await whileHeld(hold, duration, async () => {
            await scene.settle(hold.update('new'))
            const before = await scene.holding(b)
            assert(before !== undefined, 'nobody holds it')
            same(before.fencingToken, hold.fencingToken, 'the fencing token')
            same(before.value, 'new', 'the value')
            for (let times = 1; times <= 4; times++) {
              await scene.pass(duration / 2)
              assert(hold.held, `the hold ended: ${describeError(hold.signal.reason)}`)
              await denied(scene.settle(scene.manage(b).claim(lease, BOB, longMs)))
            }
            await scene.stillHeld(b, before)
            await scene.settle(hold.release())
            same(hold.held, false, 'whether it is held')
            assert.notEqual(codeOf(hold.signal.reason), 'LEASE_LOST', 'a release by the holder is not a loss')
            same(await scene.holding(b), undefined, 'the holding')
          })
        })
      },
    )

    clause(
      'a hold that does not wait is denied at once, one that waits in vain is denied in the end',
      async (scene) => {
        const { a, b, unitMs, longMs, clock } = scene
        const manager = scene.manage(b)
        await scene.undisturbed(unitMs, async (lease, waitMs) => {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const denial = await denied(scene.settle(manager.hold(lease, BOB, { duration: longMs })))
          same(denial.currentHolder, ALICE, 'the holder named by the denial')
          const startedMs = clock.monotonic()
          const inVain = later(scene.settle(manager.hold(lease, BOB, { duration: longMs, wait: waitMs })))
          const [outcome] = await Promise.allSettled([inVain])
          assert(clock.monotonic() - startedMs >= waitMs * 0.99 - 1, 'it gave up before its time')
          if (scene.realTime && outcome.status === 'rejected' && codeOf(outcome.reason) === 'LEASE_UNKNOWN') {
            throw new TooSlow({ message: `no claim was answered in ${waitMs} ms: ${describeError(outcome.reason)}` })
          }
          await denied(inVain)
        })
      },
    )

    clause(
      'a hold that waits gets the lease when it is released',
      async (scene) => {
        const { a, b, lease, unitMs, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const hold = later(scene.manage(b).hold(lease, BOB, { duration: longMs, wait: true }))
        await scene.pass(unitMs)
        await a.releaseLease(lease, ALICE)
        const granted = await scene.settle(hold, 'the hold')
        assert(granted.held, 'the hold is over already')
        same((await scene.holding(a))?.holder, BOB, 'the holder')
        await scene.settle(granted.release())
      },
      'notifications',
    )

    clause(
      'those who wait in different processes are served in the order in which they came',
      async (scene) => {
        const inLine = ['first', 'second', 'third']
        const served: string[] = []
        const inOrder = (): number => served.filter((round) => round === inLine.join(', ')).length
        // On a busy machine a waiter may ask so late that its turn is over: then there are further rounds.
        const rounds = scene.realTime ? 30 : 3
        for (const lease of scene.leases(rounds)) {
          served.push((await serve(scene, lease, inLine)).join(', '))
          if (inOrder() === 3) return
        }
        assert.fail(`they were served in this order: ${served.join('; ')}`)
      },
      'queues',
      'notifications',
    )

    clause('a hold that waits gets the lease when it lapses, by the clock alone', async (scene) => {
      const { a, b, longMs } = scene
      const { lease, outcome: before } = await scene.brief()
      const hold = await scene.settle(scene.manage(deaf(b)).hold(lease, BOB, { duration: longMs, wait: true }))
      assert(hold.held, 'the hold is over already')
      rises(before.fencingToken, hold.fencingToken)
      same((await scene.holding(a))?.holder, BOB, 'the holder')
      await scene.settle(hold.release())
    })

    clause('an aborted hold stops waiting and leaves nothing behind', async (scene) => {
      const { a, b, clock, unitMs, longMs } = scene
      const attempt = async (lease: string, duration: number): Promise<void> => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const controller = new AbortController()
        const hold = later(scene.manage(b).hold(lease, BOB, { duration, wait: true, signal: controller.signal }))
        await scene.pass(unitMs / 5)
        const reason = new Error('enough')
        controller.abort(reason)
        await assert.rejects(scene.settle(hold), (error) => error === reason)
        await a.releaseLease(lease, ALICE)
        await scene.pass(unitMs)
        // A claim that was under way when it was given up may have been granted; then it is withdrawn.
        let seen: Info | undefined
        await scene.until('vacancy', async () => {
          const info = await scene.holding(a, lease)
          seen = info ?? seen
          return info === undefined
        })
        assert(seen === undefined || clock.now() < seen.expiry.toMillis(), 'the aborted hold kept the lease')
        await a.claimLease(lease, { holder: CAROL, duration })
      }
      await scene.undisturbed(longMs, (lease, duration) => scene.inTime(duration, () => attempt(lease, duration)))
    })

    clause('a holder whose lease was taken by another learns that it lost, within its duration', async (scene) => {
      const { a, b, lease, longMs } = scene
      const hold = await scene.manage(a).hold(lease, ALICE, renewed(scene))
      await b.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await lost(scene, hold.signal, 'taken', 'revoked') // whichever the hold came to see first
      same(hold.held, false, 'whether it is held')
      assert.throws(
        () => hold.assertHeld(),
        (error) => codeOf(error) === 'LEASE_LOST',
      )
      same((await scene.holding(b))?.holder, BOB, 'the holder')
    })

    clause('a holder whose lease was revoked learns it, and does not claim it again', async (scene) => {
      const { a, b, lease, unitMs } = scene
      const hold = await scene.manage(deaf(a)).hold(lease, ALICE, renewed(scene))
      await scene.settle(scene.manage(b).revoke(lease))
      await lost(scene, hold.signal, 'revoked')
      await scene.pass(unitMs)
      assert.equal(await scene.holding(b), undefined, 'a renewal claimed it again')
    })

    // ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'renewals that fail and recover before the deadline keep the hold',
      async (scene) => {
        const { b, unitMs } = scene
        const faulty = await scene.openFaulty()
        const { faults } = faulty
        await scene.undisturbed(unitMs * 4, async (lease, duration) => {
          faults.heal()
          const { client, whileHeld } = renewing(scene, faulty.client)
          const manager = scene.manage(client)
          const hold = await scene.inTime(duration, () => scene.settle(manager.hold(lease, ALICE, { duration })))
          await whileHeld(hold, duration, async () => {
            faults.loseRequests()
            await scene.pass(duration / 2) // past the time of the first renewal
            assert(hold.held, 'it gave up before the deadline')
            faults.heal()
            await scene.pass(duration * 0.75) // past the end of the first grant
            assert(hold.held, `the hold ended: ${describeError(hold.signal.reason)}`)
            same((await scene.holding(b))?.fencingToken, hold.fencingToken, 'the fencing token')
          })
        })
      },
      'faults',
    )

    clause(
      'renewals that fail to the deadline abort the signal before another can have the lease',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        const { lease, outcome: hold } = await scene.whileLive(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const hold = await scene.settle(manager.hold(lease, ALICE, { duration }))
          faults.loseRequests()
          return hold
        })
        await scene.claimSoon(b, lease, BOB, longMs)
        assert.equal(hold.held, false, 'two hold it')
        await lost(scene, hold.signal, 'unreachable', 'expired')
        rises(hold.fencingToken, known(b, lease).fencingToken)
      },
      'faults',
    )

    clause(
      'renewals that hang abort the signal before another can have the lease',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        const { lease, outcome: hold } = await scene.whileLive(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const hold = await scene.settle(manager.hold(lease, ALICE, { duration }))
          faults.hang()
          return hold
        })
        await scene.claimSoon(b, lease, BOB, longMs)
        assert.equal(hold.held, false, 'two hold it')
        await lost(scene, hold.signal, 'unreachable', 'expired')
      },
      'faults',
    )

    clause(
      'a release during a renewal leaves the lease vacant',
      async (scene) => {
        const { b, unitMs } = scene
        const faulty = await scene.openFaulty()
        const { faults } = faulty
        await scene.undisturbed(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const { client, whileHeld, inFlight } = renewing(scene, faulty.client)
          const manager = scene.manage(client)
          const hold = await scene.inTime(duration, () => scene.settle(manager.hold(lease, ALICE, { duration })))
          await whileHeld(hold, duration, async () => {
            faults.delayRequests(unitMs) // less than a renewal may take, however long the lease is
            await scene.until('renewal', () => inFlight() || !hold.held)
            await scene.settle(hold.release(), 'the release')
            same(await scene.holding(b), undefined, 'the holding')
            faults.heal()
            await scene.pass((duration * 2) / 3)
            assert.equal(await scene.holding(b), undefined, 'the renewal brought it back')
            assert.notEqual(codeOf(hold.signal.reason), 'LEASE_LOST')
          })
        })
      },
      'faults',
    )

    clause(
      'a claim whose answer takes longer than the lease is not believed',
      async (scene) => {
        const { b, unitMs, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        await scene.undisturbed(unitMs, async (lease, durationMs) => {
          faults.heal()
          faults.delayReplies(durationMs * 1.6)
          const claim = later(manager.claim(lease, ALICE, durationMs))
          await scene.sightOf('the claim', lease, durationMs)
          await scene.claimSoon(b, lease, BOB, longMs)
          await scene.settle(Promise.allSettled([claim]))
          faults.heal()
          await notHeld(scene.settle(manager.token(lease, ALICE).check()), 'the check of a claim that came too late')
          same((await scene.holding(b))?.holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a lost reply does not keep a holder out of its own lease',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        faults.loseReplies(1)
        await scene.settle(manager.claim(lease, ALICE, longMs), 'the claim')
        const info = await manager.token(lease, ALICE).check()
        await scene.stillHeld(b, info)
      },
      'faults',
    )

    clause(
      'a holder that crashed between claim and reply finds its term again under the same name',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        faults.delayReplies(scene.unitMs * 30)
        void later(scene.manage(client).claim(lease, ALICE, longMs))
        await scene.until('sight of the claim', async () => (await scene.holding(b)) !== undefined)
        faults.loseRequests()
        const again = scene.manage(await scene.open())
        await scene.settle(again.claim(lease, ALICE, longMs), 'the claim after the crash')
        const info = await again.token(lease, ALICE).check()
        same(info.fencingToken, known(b, lease).fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a store that cannot be reached is ErrUnknown, and the manager goes on when it is back',
      async (scene) => {
        const { b, lease, longMs } = scene
        const { client, faults } = await scene.openFaulty()
        const manager = scene.manage(client)
        faults.loseRequests()
        await rejects('LEASE_UNKNOWN', scene.settle(manager.claim(lease, ALICE, longMs)), 'a claim')
        await rejects('LEASE_UNKNOWN', scene.settle(manager.token(lease, ALICE).check()), 'a check')
        faults.heal()
        await scene.settle(manager.claim(lease, ALICE, longMs), 'a claim when the store is back')
        same((await scene.holding(b))?.holder, ALICE, 'the holder')
      },
      'faults',
    )
  },
}

async function denied(call: Promise<unknown>): Promise<ErrClaimDenied> {
  return (await rejects('LEASE_CLAIM_DENIED', call, "a claim of another's lease")) as ErrClaimDenied
}

/** The hold ends with a loss for one of these reasons. */
async function lost(scene: Scene, signal: AbortSignal, ...reasons: readonly ErrLost['reason'][]): Promise<void> {
  await scene.until('loss of the hold', () => signal.aborted)
  const error = signal.reason as ErrLost
  assert.equal(codeOf(error), 'LEASE_LOST', `the hold ended with ${describeError(error)}`)
  assert(reasons.includes(error.reason), `lost because "${error.reason}" instead of "${reasons.join('" or "')}"`)
}

/**
 * A hold that learns soon what became of its lease. On a real clock its own time does not run out before that, however slow the
 * store is: so the reason of a loss is exact.
 */
function renewed({ realTime, unitMs, longMs }: Scene): HoldOptions {
  return realTime ? { duration: longMs, renewEvery: unitMs } : { duration: unitMs * 3 }
}

/** The client for a hold that has to survive on its renewals. */
interface Renewing {
  readonly client: Client
  /** Whether an extension is on its way. */
  readonly inFlight: () => boolean
  /** Takes steps that need the hold. @throws TooSlow if they failed after the hold ended because no renewal came in time */
  readonly whileHeld: (hold: Hold, durationMs: number, steps: () => Promise<void>) => Promise<void>
}

/**
 * Notes when grants were asked for, in order to judge a hold that ended. A grant was asked for no earlier than the one before
 * was answered. So a hold that ends less than its trust window after that answer has no excuse.
 */
function renewing(scene: Scene, client: Client): Renewing {
  const { clock, realTime } = scene
  let answeredMs = clock.monotonic()
  let reliedOnFromMs = answeredMs
  let extending = 0
  const granted = async (call: Promise<void>): Promise<void> => {
    const askedNoEarlierThanMs = answeredMs
    await call
    reliedOnFromMs = Math.max(reliedOnFromMs, askedNoEarlierThanMs)
    answeredMs = clock.monotonic()
  }
  return {
    client: {
      ...bound(client),
      claimLease: (...args) => granted(client.claimLease(...args)),
      extendLease: (...args) => {
        extending++
        return granted(client.extendLease(...args)).finally(() => extending--)
      },
    },
    inFlight: () => extending > 0,
    async whileHeld(hold, durationMs, steps) {
      const isLate = (): boolean => clock.monotonic() >= reliedOnFromMs + trustWindowMs(durationMs) * 0.99 - 5
      let endedLate: boolean | undefined // judged at its end: an answer that comes later makes it no better
      hold.signal.addEventListener('abort', () => (endedLate = isLate()), { once: true })
      try {
        await steps()
      } catch (error) {
        const lost = !hold.held && (hold.signal.reason === undefined || codeOf(hold.signal.reason) === 'LEASE_LOST')
        if (!realTime || !lost || !(endedLate ?? isLate())) throw error
        throw new TooSlow({ message: `no renewal came in time: ${describeError(error)}` })
      }
    },
  }
}

/** The client without notifications: only the clock is left. */
function deaf(client: Client): Client {
  return { ...bound(client), subscribe: () => () => {}, unwatch: undefined }
}

/** Lets them get in line for a held lease, each in a process of his own, and vacates it: in which order they were granted it. */
async function serve(scene: Scene, lease: string, inLine: readonly string[]): Promise<readonly string[]> {
  const { a, longMs } = scene
  await a.claimLease(lease, { holder: ALICE, duration: longMs })
  const served: string[] = []
  const holds = []
  for (const holder of inLine) {
    const { client, refused } = refusing(await scene.open())
    const manager = scene.manage(client)
    const hold = manager.hold(lease, holder, { duration: longMs, wait: true }).then(async (granted) => {
      served.push(holder)
      await granted.release()
      await manager.stop()
    })
    holds.push(later(hold))
    await scene.until('place in line', refused)
  }
  await a.releaseLease(lease, ALICE)
  await scene.settle(Promise.all(holds), 'the holds')
  return served
}

/** The client, and whether a claim of it was refused. */
function refusing(client: Client): { readonly client: Client; readonly refused: () => boolean } {
  let refused = false
  const claimLease: Client['claimLease'] = async (...args) => {
    try {
      await client.claimLease(...args)
    } catch (error) {
      refused = true
      throw error
    }
  }
  return { client: { ...bound(client), claimLease }, refused: () => refused }
}

/** The client, and how many reads it has been asked for. */
function counting(client: Client): { readonly client: Client; readonly reads: () => number } {
  let reads = 0
  const refresh: Client['refresh'] = (leases, options) => {
    reads++
    return client.refresh(leases, options)
  }
  return { client: { ...bound(client), refresh }, reads: () => reads }
}

/** The same client as an object that can be spread: its methods know whose they are. */
export function bound(client: Client): Client {
  return {
    claimLease: (lease, request, options) => client.claimLease(lease, request, options),
    extendLease: (lease, request, options) => client.extendLease(lease, request, options),
    expireLease: (lease, options) => client.expireLease(lease, options),
    releaseLease: (lease, holder, options) => client.releaseLease(lease, holder, options),
    pinLease: (lease, entity, options) => client.pinLease(lease, entity, options),
    unpinLease: (lease, entity, options) => client.unpinLease(lease, entity, options),
    pinned: () => client.pinned(),
    leases: () => client.leases(),
    refresh: (leases, options) => client.refresh(leases, options),
    subscribe: (listener, options) => client.subscribe(listener, options),
    unwatch: client.unwatch && ((lease, watcher) => client.unwatch?.(lease, watcher)),
    leaveQueue: (lease, ticket) => client.leaveQueue?.(lease, ticket),
    waiting: client.waiting?.bind(client),
    counted: client.counted,
    close: () => client.close(),
  }
}
