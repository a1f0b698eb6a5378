import assert from 'node:assert/strict'
import type { Suite, Context } from './kit.ts'
import { ALICE, BOB, describeError, known, notHeld, rejects } from './kit.ts'
import type { Info } from '../lease.ts'

/** Not a key of any substrate. */
const STRANGE_KEYS: readonly unknown[] = [
  null,
  false,
  true,
  0,
  1n,
  Number.NaN,
  '',
  'key',
  {},
  [],
  Symbol('key'),
  new Map(),
  Object.create(null),
]

/** A trapdoor opens for exactly one term of one lease, inside the caller's own transaction. */
export const trapdoor: Suite = {
  title: 'trapdoor',
  state(clause) {
    clause('without a key nothing is checked', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const { trapdoor } = known(a, lease)
      await trapdoor(undefined)
      await a.releaseLease(lease, ALICE)
      await trapdoor(undefined)
    })

    clause('a key of another kind is refused as such, whether the lease is held or not', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const { trapdoor } = known(a, lease)
      for (const key of STRANGE_KEYS) await rejects('LEASE_TRAPDOOR', trapdoor(key), `the key ${typeof key}`)
      await a.releaseLease(lease, ALICE)
      await rejects('LEASE_TRAPDOOR', trapdoor({}), 'a strange key after the release')
    })

    clause(
      'a key that needs a transaction is refused while none is open',
      async (context) => {
        const { a, lease, longMs, guard } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const { trapdoor } = known(a, lease)
        await rejects('LEASE_TRAPDOOR', guard.outside?.(trapdoor) ?? Promise.resolve(), 'a key outside a transaction')
        await opens(context, known(a, lease))
      },
      'keyOutside',
    )

    clause(
      'the holder’s write is committed',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await opens(context, known(a, lease))
      },
      'guard',
    )

    clause(
      'the write is committed through the eyes of any client that sees the same term',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await b.refresh([lease])
        await opens(context, known(b, lease))
      },
      'guard',
    )

    clause(
      'an extension does not close the trapdoor: it is the same term',
      async (context) => {
        const { a, unitMs, longMs } = context
        const {
          lease,
          durationMs,
          outcome: before,
        } = await context.whileLive(unitMs * 2, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration, value: 'old' })
          const before = known(a, lease)
          await a.extendLease(lease, { holder: ALICE, duration: longMs, value: 'new' })
          return before
        })
        await opens(context, before)
        await context.lapse(lease, durationMs, a)
        await opens(context, before)
        await opens(context, known(a, lease))
      },
      'guard',
    )

    clause(
      'after a release nothing is written',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const before = known(a, lease)
        await a.releaseLease(lease, ALICE)
        await shut(context, before)
      },
      'guard',
    )

    clause(
      'once another holds the lease nothing is written',
      async (context) => {
        const { a, b, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const before = known(a, lease)
        await a.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        await shut(context, before)
        await opens(context, known(b, lease))
      },
      'guard',
    )

    clause(
      'after a takeover of the lapsed lease nothing is written',
      async (context) => {
        const { a, b, longMs } = context
        const { lease, durationMs } = await context.brief()
        const before = known(a, lease)
        await context.lapse(lease, durationMs, b)
        await b.claimLease(lease, { holder: BOB, duration: longMs })
        await shut(context, before)
        await opens(context, known(b, lease))
      },
      'guard',
    )

    clause(
      'a later term of the same holder does not open the trapdoor of an earlier one',
      async (context) => {
        const { a, lease, longMs } = context
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const before = known(a, lease)
        await a.releaseLease(lease, ALICE)
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await shut(context, before)
        await opens(context, known(a, lease))
      },
      'guard',
    )

    clause(
      'past its expiry nothing is written, though nobody has claimed the lease',
      async (context) => {
        const { a } = context
        const { lease, durationMs } = await context.brief()
        const before = known(a, lease)
        await context.lapse(lease, durationMs, a)
        await shut(context, before)
      },
      'guard',
      'serverClock',
    )

    clause(
      'past the expiry of a pinned lease its holder still writes',
      async (context) => {
        const { a, unitMs } = context
        const {
          lease,
          durationMs,
          outcome: held,
        } = await context.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          await a.pinLease(lease, 'operator')
          return known(a, lease)
        })
        await context.lapse(lease, durationMs, a)
        await opens(context, held)
        await a.releaseLease(lease, ALICE)
        await shut(context, held)
        await a.unpinLease(lease, 'operator')
      },
      'guard',
    )

    clause(
      'the trapdoor of one lease has nothing to do with another lease of the same holder',
      async (context) => {
        const { a, longMs } = context
        const [one, other] = context.leases(2) as [string, string]
        await a.claimLease(one, { holder: ALICE, duration: longMs })
        await a.claimLease(other, { holder: ALICE, duration: longMs })
        const released = known(a, one)
        await a.releaseLease(one, ALICE)
        await shut(context, released)
        await opens(context, known(a, other))
      },
      'guard',
    )

    clause(
      'names of any script pass through the guard unharmed',
      async (context) => {
        const { a, longMs } = context
        for (const name of ["o'clock;--", 'lease-naïve-雪-🦉', '"quoted"\\back', '%s-{}-[]-*?']) {
          const [lease, holder] = [`${context.lease}-${name}`, `${name}-holder`]
          await a.claimLease(lease, { holder, duration: longMs })
          const before = known(a, lease)
          await opens(context, before)
          await a.releaseLease(lease, holder)
          await shut(context, before)
        }
      },
      'guard',
    )

    clause(
      'a substrate without a trapdoor understands no key',
      async ({ a, lease, longMs }) => {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await rejects('LEASE_TRAPDOOR', known(a, lease).trapdoor('open sesame'), 'the trapdoor')
      },
      'noGuard',
    )
  },
}

let texts = 0

/** The guarded write is committed. */
async function opens({ guard, lease }: Context, info: Info): Promise<void> {
  const text = `${lease}:${info.fencingToken}:${++texts}`
  try {
    await guard.write(info.trapdoor, text)
  } catch (error) {
    assert.fail(`the holder's guarded write was refused: ${describeError(error)}`)
  }
  assert((await guard.written()).includes(text), 'the guarded write resolved, but nothing was written')
}

/** The guarded write is refused, and nothing is written. */
async function shut({ guard, lease }: Context, info: Info): Promise<void> {
  const text = `${lease}:${info.fencingToken}:${++texts}`
  await notHeld(guard.write(info.trapdoor, text), 'a guarded write by a stale holder')
  assert(!(await guard.written()).includes(text), 'the guard refused, but the write is there')
}
