import assert from 'node:assert/strict'
import type { Client } from '../client.ts'
import type { ErrClaimDenied, ErrLost } from '../errors.ts'
import type { Hold } from '../hold.ts'
import type { Info } from '../lease.ts'
import type { HoldOptions } from '../roles.ts'
import { trustWindowMs } from '../skew.ts'
import type { Suite, Context } from './kit.ts'
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
export const manager: Suite = {
  title: 'manager',
  state(clause) {
    // ── claim, check, release ─────────────────────────────────────────────────────────────────────────────────────

    clause('a claim is granted, and its token checks', async (context) => {
      const { a, b, lease, longMs } = context
      const manager = context.manage(a)
      await manager.claim(lease, ALICE, longMs, { value: 'here' })
      const info = await manager.token(lease, ALICE).check()
      same(info.holder, ALICE, 'the holder')
      await context.stillHeld(b, info)
      same(info.value, 'here', 'the value')
    })

    clause("a claim of another's lease is denied, with who holds it and until when", async (context) => {
      const { a, b, lease, longMs, clock } = context
      await context.manage(a).claim(lease, ALICE, longMs)
      const denial = await context.settle(denied(context.manage(b).claim(lease, BOB, longMs)))
      same(denial.currentHolder, ALICE, 'the holder named by the denial')
      assert((denial.expiry?.toMillis() ?? 0) > clock.now() + longMs / 2, 'the denial does not say until when')
    })

    clause('a holder that claims again renews its own term, from anywhere', async (context) => {
      const { a, b, unitMs, longMs } = context
      const manager = context.manage(a)
      const {
        lease,
        durationMs,
        outcome: before,
      } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await manager.claim(lease, ALICE, duration)
        const before = known(a, lease)
        await context.settle(manager.claim(lease, ALICE, longMs))
        assert.equal(known(a, lease).fencingToken, before.fencingToken, 'it is another term')
        return before
      })
      await context.settle(context.manage(b).claim(lease, ALICE, longMs))
      assert.equal(known(b, lease).fencingToken, before.fencingToken, 'it is another term elsewhere')
      await context.lapse(lease, durationMs, a, b)
      await context.stillHeld(b, before)
    })

    clause('a claim takes over a lapsed lease, from a holder that is then notified', async (context) => {
      const { a, b, unitMs, longMs } = context
      const [first, second] = [context.manage(a), context.manage(b)]
      const claim = (lease: string, duration: number): Promise<unknown> => first.claim(lease, ALICE, duration)
      const { lease, durationMs } = await context.whileLive(unitMs, claim)
      await context.lapse(lease, durationMs, b)
      await context.settle(second.claim(lease, BOB, longMs))
      await notHeld(context.settle(first.token(lease, ALICE).check()), 'the check of the displaced holder')
      await denied(context.settle(first.claim(lease, ALICE, longMs)))
      same((await second.token(lease, BOB).check()).holder, BOB, 'the holder')
    })

    clause('of two holders that claim at once exactly one is granted, and the other is denied', async (context) => {
      const { a, b, longMs } = context
      const [first, second] = [context.manage(a), context.manage(b)]
      for (const lease of context.leases(5)) {
        const outcomes = await context.settle(
          Promise.allSettled([first.claim(lease, ALICE, longMs), second.claim(lease, BOB, longMs)]),
        )
        const codes = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? 'granted' : codeOf(outcome.reason)))
        same(new Set(codes), new Set(['granted', 'LEASE_CLAIM_DENIED']), 'the outcomes')
      }
    })

    clause('two claims by one holder at once are both granted, in one term', async (context) => {
      const { a, b, longMs } = context
      const [first, second] = [context.manage(a), context.manage(b)]
      for (const lease of context.leases(5)) {
        await context.settle(Promise.all([first.claim(lease, ALICE, longMs), second.claim(lease, ALICE, longMs)]))
        same(
          (await context.holding(a, lease))?.fencingToken,
          (await context.holding(b, lease))?.fencingToken,
          'the fencing token',
        )
      }
    })

    clause('a check within one’s own term reads nothing, any other reads once', async (context) => {
      const { lease, longMs } = context
      const [mine, theirs] = [counting(context.a), counting(await context.open())]
      const holder = context.manage(mine.client)
      await holder.claim(lease, ALICE, longMs)
      const readsBefore = mine.reads()
      for (let times = 1; times <= 3; times++) await holder.token(lease, ALICE).check()
      assert.equal(mine.reads(), readsBefore, 'a check of one’s own term did a read')

      const other = context.manage(theirs.client)
      const token = other.token(lease, ALICE)
      assert.equal(theirs.reads(), 0, 'making a token did a read')
      const infos = await context.settle(Promise.all([token.check(), token.check(), token.check()]))
      for (const info of infos) same(info.holder, ALICE, 'the holder')
      assert.equal(theirs.reads(), 1, 'checks at the same time share one read')
    })

    clause('a check of a lease that is not held so is refused after one read', async (context) => {
      const { a, lease, longMs } = context
      const { client, reads } = counting(await context.open())
      const manager = context.manage(client)
      await notHeld(context.settle(manager.token(lease, ALICE).check()), 'the check of a vacant lease')
      same(reads(), 1, 'the number of reads')
      await a.claimLease(lease, { holder: BOB, duration: longMs })
      await notHeld(context.settle(manager.token(lease, ALICE).check()), "the check of another's lease")
      same(reads(), 2, 'the number of reads')
    })

    clause('a check with a key takes the key to the trapdoor', async (context) => {
      const { a, lease, longMs } = context
      const manager = context.manage(a)
      await manager.claim(lease, ALICE, longMs)
      const token = manager.token(lease, ALICE)
      await rejects('LEASE_TRAPDOOR', token.check({ strange: 'key' }), 'a check with a strange key')
      await rejects('LEASE_TRAPDOOR', token.check(null), 'a check with null')
      await token.check(undefined)
    })

    clause(
      'a check with a key of this substrate gates the caller’s own write',
      async (context) => {
        const { a, b, lease, longMs, guard } = context
        const manager = context.manage(a)
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

    clause('a release frees the lease; twice, or when it is vacant, it resolves', async (context) => {
      const { a, b, lease, longMs } = context
      const manager = context.manage(a)
      await manager.release(lease, ALICE)
      await manager.claim(lease, ALICE, longMs)
      await manager.release(lease, ALICE)
      await manager.release(lease, ALICE)
      await notHeld(manager.token(lease, ALICE).check(), 'a check after the release')
      await context.manage(b).claim(lease, BOB, longMs)
      await notHeld(context.settle(manager.release(lease, ALICE)), "a release of another's lease")
      same((await context.holding(a))?.holder, BOB, 'the holder')
    })

    clause('an operator revokes a lease, pinned or not', async (context) => {
      const { a, b, longMs } = context
      const operator = context.manage(b)
      for (const lease of context.leases(2)) {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        if (lease.endsWith('1')) await operator.pin(lease, 'operator')
        await context.settle(operator.revoke(lease))
        same(await context.holding(a, lease), undefined, 'the holding')
        await context.settle(operator.revoke(lease))
      }
    })

    clause('pins and leases are there for the operator to see', async (context) => {
      const { a, b, longMs } = context
      const [held, pinned] = context.leases(2) as [string, string]
      const operator = context.manage(b)
      await a.claimLease(held, { holder: ALICE, duration: longMs })
      await operator.pin(pinned, 'operator')
      same((await operator.pinned()).get(pinned), ['operator'], 'the pins')
      const leases = await operator.leases()
      same(leases.get(held)?.holder, ALICE, 'the holder')
      same(leases.has(pinned), false, 'whether the client knows it')
      await operator.unpin(pinned, 'operator')
      same((await operator.pinned()).has(pinned), false, 'whether it is in the list of pins')
    })

    clause('a late observer sees the current holder at once', async (context) => {
      const { a, lease, longMs } = context
      await context.manage(a).claim(lease, ALICE, longMs)
      const late = context.manage(await context.open())
      same((await late.token(lease, ALICE).check()).holder, ALICE, 'the holder')
      same((await late.leases()).get(lease)?.holder, ALICE, 'the holder')
    })

    clause('bad input is refused as such, and always answered', async (context) => {
      const { a, lease, longMs } = context
      const manager = context.manage(a)
      await rejects('LEASE_NOT_VALID', manager.claim('', ALICE, longMs), 'a claim without a name')
      await rejects('LEASE_NOT_VALID', manager.claim(lease, 'a b', longMs), 'a claim with a bad holder')
      await rejects('LEASE_NOT_VALID', manager.claim(lease, ALICE, 0), 'a claim for no time')
      await rejects('LEASE_NOT_VALID', manager.token('', ALICE).check(), 'a check without a name')
      await rejects('LEASE_NOT_VALID', manager.release(lease, ''), 'a release without a holder')
      await rejects('LEASE_NOT_VALID', manager.revoke('#'), 'a revocation of a bad name')
      await rejects('LEASE_NOT_VALID', manager.waitUntilExpired('$'), 'a wait for a bad name')
      await rejects('LEASE_NOT_VALID', manager.pin(lease, ''), 'a pin without an entity')
      await rejects('LEASE_NOT_VALID', manager.hold(lease, ALICE, { duration: -1 }), 'a hold for no time')
      same(await context.holding(a), undefined, 'the holding')
    })

    clause('after stop calls are answered with ErrStopped, and leases stay held', async (context) => {
      const { a, b, lease, longMs } = context
      const manager = context.manage(a)
      await manager.claim(lease, ALICE, longMs)
      const waiting = later(manager.waitUntilExpired(lease))
      await context.settle(manager.stop())
      await context.settle(manager.stop())
      await rejects('LEASE_STOPPED', waiting, 'the wait that was going on')
      await rejects('LEASE_STOPPED', manager.claim(lease, ALICE, longMs), 'a claim')
      same((await context.holding(b))?.holder, ALICE, 'the holder')
    })

    // ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    clause('a wait for a vacant lease ends at once', async (context) => {
      const { a, lease, longMs } = context
      const manager = context.manage(a)
      await context.settle(manager.waitUntilExpired(lease))
      await manager.claim(lease, ALICE, longMs)
      await manager.release(lease, ALICE)
      await context.settle(manager.waitUntilExpired(lease))
    })

    clause('a wait ends when the lease lapses, by the clock alone', async (context) => {
      const { a, b, unitMs, clock } = context
      const {
        lease,
        durationMs,
        outcome: sentMs,
      } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        const sentMs = clock.monotonic()
        await a.claimLease(lease, { holder: ALICE, duration })
        return sentMs
      })
      await context.settle(context.manage(deaf(b)).waitUntilExpired(lease), 'the wait')
      const afterMs = clock.monotonic() - sentMs
      assert(afterMs >= durationMs * 0.999 - 1, `the wait ended after ${afterMs} ms of ${durationMs}`)
      same(await context.holding(b), undefined, 'the holding')
    })

    clause('a wait that outlives an extension ends with the extended lease', async (context) => {
      const { a, b, unitMs, clock } = context
      const manager = context.manage(b)
      const { durationMs, outcome } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const wait = later(manager.waitUntilExpired(lease))
        await context.pass(duration / 2)
        const extendedMs = clock.monotonic()
        await a.extendLease(lease, { holder: ALICE, duration })
        return { wait, extendedMs }
      })
      await context.settle(outcome.wait, 'the wait')
      const afterMs = clock.monotonic() - outcome.extendedMs
      assert(afterMs >= durationMs * 0.999 - 1, `the wait ended ${afterMs} ms after an extension by ${durationMs}`)
    })

    clause(
      'a wait ends when another releases the lease, also one that began after the claim',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const wait = later(context.manage(await context.open()).waitUntilExpired(lease))
        await context.pass(context.unitMs)
        await a.releaseLease(lease, ALICE)
        await context.settle(wait, 'the wait')
      },
      'notifications',
    )

    clause('without any hint a wait ends by reading again, at least every maxSleep', async (context) => {
      const { a, b, lease, unitMs, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const wait = later(context.manage(deaf(b), { maxSleep: unitMs }).waitUntilExpired(lease))
      await context.pass(unitMs / 2)
      await a.releaseLease(lease, ALICE)
      await context.settle(wait, 'the wait')
    })

    clause('an aborted wait rejects with the signal’s reason', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const controller = new AbortController()
      const wait = later(context.manage(b).waitUntilExpired(lease, { signal: controller.signal }))
      await context.pass(context.unitMs / 5)
      const reason = new Error('enough')
      controller.abort(reason)
      await assert.rejects(context.settle(wait), (error) => error === reason)
    })

    clause(
      'an observer sees who holds the lease at once, and then every change that is announced',
      async (context) => {
        const { a, b, lease, longMs } = context
        const worker = context.manage(a)
        await worker.claim(lease, ALICE, longMs, { value: 'first' })
        const seen: string[] = []
        const controller = new AbortController()
        const watching = later(
          (async () => {
            for await (const info of context.manage(b).observe(lease, { signal: controller.signal })) {
              seen.push(info === undefined ? 'vacant' : `${info.holder}: ${info.value}`)
            }
          })(),
        )
        const next = (what: string): Promise<void> => context.until(what, () => seen.at(-1) === what || seen)
        await next('alice: first')
        await context.pass(context.unitMs) // the subscription is in force
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
        await assert.rejects(context.settle(watching), (error) => error === reason)
        await hold.release()
        same(seen, ['alice: first', 'alice: second', 'vacant', 'bob: third', 'bob: fourth'], 'what was seen')
      },
      'notifications',
    )

    clause('without any hint an observer sees a takeover after the expiry that it knows', async (context) => {
      const { a, b, unitMs, longMs } = context
      const manager = context.manage(deaf(b))
      // All before the expiry that the observer knows: so long it has no reason to look.
      const { outcome } = await context.whileLive(unitMs * 2, async (lease, duration) => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const observing = manager.observe(lease)
        same((await context.settle(observing.next())).value?.holder, ALICE, 'the holder')
        const second = later(observing.next())
        await a.extendLease(lease, { holder: ALICE, duration: duration * 1.5 })
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: BOB, duration: longMs })
        return { observing, second }
      })
      same((await context.settle(outcome.second)).value?.holder, BOB, 'the holder')
      await context.settle(outcome.observing.return(undefined as never))
    })

    // ── hold ──────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'a hold outlives its duration many times over in one term, and its release frees the lease',
      async (context) => {
        const { a, b, unitMs, longMs } = context
        await context.undisturbed(unitMs * 2, async (lease, duration) => {
          const { client, whileHeld } = renewing(context, a)
          const manager = context.manage(client)
          const hold = await context.inTime(duration, () => manager.hold(lease, ALICE, { duration, value: 'old' }))
          await whileHeld(hold, duration, async () => {
            await context.settle(hold.update('new'))
            const before = await context.holding(b)
            assert(before !== undefined, 'nobody holds it')
            same(before.fencingToken, hold.fencingToken, 'the fencing token')
            same(before.value, 'new', 'the value')
            for (let times = 1; times <= 4; times++) {
              await context.pass(duration / 2)
              assert(hold.held, `the hold ended: ${describeError(hold.signal.reason)}`)
              await denied(context.settle(context.manage(b).claim(lease, BOB, longMs)))
            }
            await context.stillHeld(b, before)
            await context.settle(hold.release())
            same(hold.held, false, 'whether it is held')
            assert.notEqual(codeOf(hold.signal.reason), 'LEASE_LOST', 'a release by the holder is not a loss')
            same(await context.holding(b), undefined, 'the holding')
          })
        })
      },
    )

    clause(
      'a hold that does not wait is denied at once, one that waits in vain is denied in the end',
      async (context) => {
        const { a, b, unitMs, longMs, clock } = context
        const manager = context.manage(b)
        await context.undisturbed(unitMs, async (lease, waitMs) => {
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          const denial = await denied(context.settle(manager.hold(lease, BOB, { duration: longMs })))
          same(denial.currentHolder, ALICE, 'the holder named by the denial')
          const startedMs = clock.monotonic()
          const inVain = later(context.settle(manager.hold(lease, BOB, { duration: longMs, wait: waitMs })))
          const [outcome] = await Promise.allSettled([inVain])
          assert(clock.monotonic() - startedMs >= waitMs * 0.99 - 1, 'it gave up before its time')
          if (context.realTime && outcome.status === 'rejected' && codeOf(outcome.reason) === 'LEASE_UNKNOWN') {
            throw new TooSlow({ message: `no claim was answered in ${waitMs} ms: ${describeError(outcome.reason)}` })
          }
          await denied(inVain)
        })
      },
    )

    clause(
      'a hold that waits gets the lease when it is released',
      async (context) => {
        const { a, b, lease, unitMs, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const hold = later(context.manage(b).hold(lease, BOB, { duration: longMs, wait: true }))
        await context.pass(unitMs)
        await a.releaseLease(lease, ALICE)
        const granted = await context.settle(hold, 'the hold')
        assert(granted.held, 'the hold is over already')
        same((await context.holding(a))?.holder, BOB, 'the holder')
        await context.settle(granted.release())
      },
      'notifications',
    )

    clause(
      'those who wait in different processes are served in the order in which they came',
      async (context) => {
        const inLine = ['first', 'second', 'third']
        const served: string[] = []
        const inOrder = (): number => served.filter((round) => round === inLine.join(', ')).length
        // On a busy machine a waiter may ask so late that its turn is over: then there are further rounds.
        const rounds = context.realTime ? 30 : 3
        for (const lease of context.leases(rounds)) {
          served.push((await serve(context, lease, inLine)).join(', '))
          if (inOrder() === 3) return
        }
        assert.fail(`they were served in this order: ${served.join('; ')}`)
      },
      'queues',
      'notifications',
    )

    clause('a hold that waits gets the lease when it lapses, by the clock alone', async (context) => {
      const { a, b, longMs } = context
      const { lease, outcome: before } = await context.brief()
      const hold = await context.settle(context.manage(deaf(b)).hold(lease, BOB, { duration: longMs, wait: true }))
      assert(hold.held, 'the hold is over already')
      rises(before.fencingToken, hold.fencingToken)
      same((await context.holding(a))?.holder, BOB, 'the holder')
      await context.settle(hold.release())
    })

    clause('an aborted hold stops waiting and leaves nothing behind', async (context) => {
      const { a, b, clock, unitMs, longMs } = context
      const attempt = async (lease: string, duration: number): Promise<void> => {
        await a.claimLease(lease, { holder: ALICE, duration })
        const controller = new AbortController()
        const hold = later(context.manage(b).hold(lease, BOB, { duration, wait: true, signal: controller.signal }))
        await context.pass(unitMs / 5)
        const reason = new Error('enough')
        controller.abort(reason)
        await assert.rejects(context.settle(hold), (error) => error === reason)
        await a.releaseLease(lease, ALICE)
        await context.pass(unitMs)
        // A claim that was under way when it was given up may have been granted; then it is withdrawn.
        let seen: Info | undefined
        await context.until('vacancy', async () => {
          const info = await context.holding(a, lease)
          seen = info ?? seen
          return info === undefined
        })
        assert(seen === undefined || clock.now() < seen.expiry.toMillis(), 'the aborted hold kept the lease')
        await a.claimLease(lease, { holder: CAROL, duration })
      }
      await context.undisturbed(longMs, (lease, duration) => context.inTime(duration, () => attempt(lease, duration)))
    })

    clause('a holder whose lease was taken by another learns that it lost, within its duration', async (context) => {
      const { a, b, lease, longMs } = context
      const hold = await context.manage(a).hold(lease, ALICE, renewed(context))
      await b.releaseLease(lease, ALICE)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      await lost(context, hold.signal, 'taken', 'revoked') // whichever the hold came to see first
      same(hold.held, false, 'whether it is held')
      assert.throws(
        () => hold.assertHeld(),
        (error) => codeOf(error) === 'LEASE_LOST',
      )
      same((await context.holding(b))?.holder, BOB, 'the holder')
    })

    clause('a holder whose lease was revoked learns it, and does not claim it again', async (context) => {
      const { a, b, lease, unitMs } = context
      const hold = await context.manage(deaf(a)).hold(lease, ALICE, renewed(context))
      await context.settle(context.manage(b).revoke(lease))
      await lost(context, hold.signal, 'revoked')
      await context.pass(unitMs)
      assert.equal(await context.holding(b), undefined, 'a renewal claimed it again')
    })

    // ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────

    clause(
      'renewals that fail and recover before the deadline keep the hold',
      async (context) => {
        const { b, unitMs } = context
        const faulty = await context.openFaulty()
        const { faults } = faulty
        await context.undisturbed(unitMs * 4, async (lease, duration) => {
          faults.heal()
          const { client, whileHeld } = renewing(context, faulty.client)
          const manager = context.manage(client)
          const hold = await context.inTime(duration, () => context.settle(manager.hold(lease, ALICE, { duration })))
          await whileHeld(hold, duration, async () => {
            faults.loseRequests()
            await context.pass(duration / 2) // past the time of the first renewal
            assert(hold.held, 'it gave up before the deadline')
            faults.heal()
            await context.pass(duration * 0.75) // past the end of the first grant
            assert(hold.held, `the hold ended: ${describeError(hold.signal.reason)}`)
            same((await context.holding(b))?.fencingToken, hold.fencingToken, 'the fencing token')
          })
        })
      },
      'faults',
    )

    clause(
      'renewals that fail to the deadline abort the signal before another can have the lease',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        const { lease, outcome: hold } = await context.whileLive(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const hold = await context.settle(manager.hold(lease, ALICE, { duration }))
          faults.loseRequests()
          return hold
        })
        await context.claimSoon(b, lease, BOB, longMs)
        assert.equal(hold.held, false, 'two hold it')
        await lost(context, hold.signal, 'unreachable', 'expired')
        rises(hold.fencingToken, known(b, lease).fencingToken)
      },
      'faults',
    )

    clause(
      'renewals that hang abort the signal before another can have the lease',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        const { lease, outcome: hold } = await context.whileLive(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const hold = await context.settle(manager.hold(lease, ALICE, { duration }))
          faults.hang()
          return hold
        })
        await context.claimSoon(b, lease, BOB, longMs)
        assert.equal(hold.held, false, 'two hold it')
        await lost(context, hold.signal, 'unreachable', 'expired')
      },
      'faults',
    )

    clause(
      'a release during a renewal leaves the lease vacant',
      async (context) => {
        const { b, unitMs } = context
        const faulty = await context.openFaulty()
        const { faults } = faulty
        await context.undisturbed(unitMs * 3, async (lease, duration) => {
          faults.heal()
          const { client, whileHeld, inFlight } = renewing(context, faulty.client)
          const manager = context.manage(client)
          const hold = await context.inTime(duration, () => context.settle(manager.hold(lease, ALICE, { duration })))
          await whileHeld(hold, duration, async () => {
            faults.delayRequests(unitMs) // less than a renewal may take, however long the lease is
            await context.until('renewal', () => inFlight() || !hold.held)
            await context.settle(hold.release(), 'the release')
            same(await context.holding(b), undefined, 'the holding')
            faults.heal()
            await context.pass((duration * 2) / 3)
            assert.equal(await context.holding(b), undefined, 'the renewal brought it back')
            assert.notEqual(codeOf(hold.signal.reason), 'LEASE_LOST')
          })
        })
      },
      'faults',
    )

    clause(
      'a claim whose answer takes longer than the lease is not believed',
      async (context) => {
        const { b, unitMs, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        await context.undisturbed(unitMs, async (lease, durationMs) => {
          faults.heal()
          faults.delayReplies(durationMs * 1.6)
          const claim = later(manager.claim(lease, ALICE, durationMs))
          await context.sightOf('the claim', lease, durationMs)
          await context.claimSoon(b, lease, BOB, longMs)
          await context.settle(Promise.allSettled([claim]))
          faults.heal()
          await notHeld(context.settle(manager.token(lease, ALICE).check()), 'the check of a claim that came too late')
          same((await context.holding(b))?.holder, BOB, 'the holder')
        })
      },
      'faults',
    )

    clause(
      'a lost reply does not keep a holder out of its own lease',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        faults.loseReplies(1)
        await context.settle(manager.claim(lease, ALICE, longMs), 'the claim')
        const info = await manager.token(lease, ALICE).check()
        await context.stillHeld(b, info)
      },
      'faults',
    )

    clause(
      'a holder that crashed between claim and reply finds its term again under the same name',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        faults.delayReplies(context.unitMs * 30)
        void later(context.manage(client).claim(lease, ALICE, longMs))
        await context.until('sight of the claim', async () => (await context.holding(b)) !== undefined)
        faults.loseRequests()
        const again = context.manage(await context.open())
        await context.settle(again.claim(lease, ALICE, longMs), 'the claim after the crash')
        const info = await again.token(lease, ALICE).check()
        same(info.fencingToken, known(b, lease).fencingToken, 'the fencing token')
      },
      'faults',
    )

    clause(
      'a store that cannot be reached is ErrUnknown, and the manager goes on when it is back',
      async (context) => {
        const { b, lease, longMs } = context
        const { client, faults } = await context.openFaulty()
        const manager = context.manage(client)
        faults.loseRequests()
        await rejects('LEASE_UNKNOWN', context.settle(manager.claim(lease, ALICE, longMs)), 'a claim')
        await rejects('LEASE_UNKNOWN', context.settle(manager.token(lease, ALICE).check()), 'a check')
        faults.heal()
        await context.settle(manager.claim(lease, ALICE, longMs), 'a claim when the store is back')
        same((await context.holding(b))?.holder, ALICE, 'the holder')
      },
      'faults',
    )
  },
}

async function denied(call: Promise<unknown>): Promise<ErrClaimDenied> {
  return (await rejects('LEASE_CLAIM_DENIED', call, "a claim of another's lease")) as ErrClaimDenied
}

/** The hold ends with a loss for one of these reasons. */
async function lost(context: Context, signal: AbortSignal, ...reasons: readonly ErrLost['reason'][]): Promise<void> {
  await context.until('loss of the hold', () => signal.aborted)
  const error = signal.reason as ErrLost
  assert.equal(codeOf(error), 'LEASE_LOST', `the hold ended with ${describeError(error)}`)
  assert(reasons.includes(error.reason), `lost because "${error.reason}" instead of "${reasons.join('" or "')}"`)
}

/**
 * A hold that learns soon what became of its lease. On a real clock its own time does not run out before that, however slow the
 * store is: so the reason of a loss is exact.
 */
function renewed({ realTime, unitMs, longMs }: Context): HoldOptions {
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
function renewing(context: Context, client: Client): Renewing {
  const { clock, realTime } = context
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

/** Puts them into the queue for a held lease, each in a process of its own, and vacates it: in which order they were granted it. */
async function serve(context: Context, lease: string, inLine: readonly string[]): Promise<readonly string[]> {
  const { a, longMs } = context
  await a.claimLease(lease, { holder: ALICE, duration: longMs })
  const served: string[] = []
  const holds = []
  for (const holder of inLine) {
    const { client, refused } = refusing(await context.open())
    const manager = context.manage(client)
    const hold = manager.hold(lease, holder, { duration: longMs, wait: true }).then(async (granted) => {
      served.push(holder)
      await granted.release()
      await manager.stop()
    })
    holds.push(later(hold))
    await context.until('place in the queue', refused)
  }
  await a.releaseLease(lease, ALICE)
  await context.settle(Promise.all(holds), 'the holds')
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
