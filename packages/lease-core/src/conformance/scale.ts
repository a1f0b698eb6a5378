import assert from 'node:assert/strict'
import type { Suite } from './kit.ts'
import { ALICE, BOB, grants, same } from './kit.ts'

/** Thousands of calls at once are all answered, each with the answer of its own lease. */
export const scale: Suite = {
  title: 'thousands at once',
  state(clause) {
    clause(
      'thousands of claims at once are all granted, each to its own holder',
      async (context) => {
        const { a, b, longMs } = context
        const names = context.leases(context.thousands)
        await Promise.all(
          names.map((lease) => a.claimLease(lease, { holder: `of-${lease}`, duration: longMs, value: `v-${lease}` })),
        )
        await b.refresh(names)
        const [mine, theirs] = [a.leases(), b.leases()]
        for (const lease of names) {
          assert.equal(mine.get(lease)?.holder, `of-${lease}`, `${lease} has another's holder`)
          assert.equal(theirs.get(lease)?.holder, `of-${lease}`, `${lease} is read with another's holder`)
          assert.equal(theirs.get(lease)?.value, `v-${lease}`, `${lease} is read with another's value`)
          same(theirs.get(lease)?.fencingToken, mine.get(lease)?.fencingToken, 'the fencing token')
        }
      },
      'alone',
    )

    clause(
      'thousands of claims, some on held leases: exactly those are refused',
      async (context) => {
        const { a, b, longMs } = context
        const names = context.leases(context.thousands)
        const taken = names.filter((_, index) => index % 3 === 1)
        await Promise.all(taken.map((lease) => b.claimLease(lease, { holder: BOB, duration: longMs })))
        const { granted, refused } = await grants(
          names.map((lease) => [lease, a.claimLease(lease, { holder: ALICE, duration: longMs })]),
        )
        assert.deepEqual(refused, taken, 'others were refused than those that were held')
        assert.equal(granted.length, names.length - taken.length)
        const seen = a.leases()
        for (const [index, lease] of names.entries()) {
          assert.equal(seen.get(lease)?.holder, index % 3 === 1 ? BOB : ALICE, `${lease} shows the wrong holder`)
        }
      },
      'alone',
    )

    clause(
      'thousands of different operations at once each get their own answer',
      async (context) => {
        const { a, b, longMs } = context
        const names = context.leases(context.thousands)
        const mine = names.filter((_, index) => index % 2 === 0)
        await Promise.all(mine.map((lease) => a.claimLease(lease, { holder: ALICE, duration: longMs })))
        // Four cases in turn: extend a held lease, claim a vacant one, release a held one, extend a vacant one.
        const calls = names.map((lease, index): readonly [string, Promise<void>] => {
          const request = { holder: ALICE, duration: longMs }
          switch (index % 4) {
            case 0:
              return [lease, a.extendLease(lease, request)]
            case 1:
              return [lease, a.claimLease(lease, request)]
            case 2:
              return [lease, a.releaseLease(lease, ALICE)]
            default:
              return [lease, a.extendLease(lease, request)]
          }
        })
        const { refused } = await grants(calls)
        const vacant = names.filter((_, index) => index % 4 === 3)
        assert.deepEqual(refused, vacant, 'others were refused than those that were vacant')
        await b.refresh(names)
        const seen = b.leases()
        for (const [index, lease] of names.entries()) {
          assert.equal(seen.get(lease)?.holder, index % 4 < 2 ? ALICE : undefined, `${lease} shows the wrong holder`)
        }
      },
      'alone',
    )

    clause(
      'two clients at once for thousands of leases: each lease has exactly one holder',
      async (context) => {
        const { a, b, longMs } = context
        const names = context.leases(context.thousands)
        const calls = names.flatMap((lease, index): readonly (readonly [string, Promise<void>])[] => {
          const claims = [
            () => a.claimLease(lease, { holder: ALICE, duration: longMs }),
            () => b.claimLease(lease, { holder: BOB, duration: longMs }),
          ]
          return (index % 2 === 0 ? claims : claims.toReversed()).map((claim) => [lease, claim()])
        })
        const { granted } = await grants(calls)
        // A claim whose first answer was lost may be refused for that attempt, which is then undone: nobody has the lease.
        const once = new Set(granted)
        const open = context.realTime ? names.filter((lease) => !once.has(lease)) : []
        for (const lease of open) await context.claimSoon(a, lease, ALICE, longMs)
        await b.refresh(open)
        assert.deepEqual([...granted, ...open].toSorted(), names.toSorted(), 'not each lease was granted exactly once')
        const [mine, theirs] = [a.leases(), b.leases()]
        for (const lease of names) {
          assert.equal(mine.get(lease)?.holder, theirs.get(lease)?.holder, 'the two disagree about who holds it')
          same(mine.get(lease)?.fencingToken, theirs.get(lease)?.fencingToken, 'the fencing token')
        }
      },
      'alone',
    )
  },
}
