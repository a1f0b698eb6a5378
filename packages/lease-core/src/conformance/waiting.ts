import type { LeaseChange } from '../client.ts'
import type { Suite, Context } from './kit.ts'
import { ALICE, BOB, known, same } from './kit.ts'

/** Hints of change: anyone who listens hears of a vacancy, whenever it began, and late comers can read what is. */
export const waiting: Suite = {
  title: 'notification',
  state(clause) {
    clause(
      'a release by another is heard',
      async (context) => {
        await hears(context, context.listen(context.b), () => release(context))
      },
      'notifications',
    )

    clause(
      'a watcher that starts after the claim hears its end',
      async (context) => {
        const { a, lease, longMs } = context
        const watcher = await context.open()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await hears(context, context.listen(watcher), () => release(context))
      },
      'notifications',
    )

    clause(
      'a lapsed lease that somebody expires is heard of',
      async (context) => {
        const { b } = context
        const watcher = await context.open()
        await hears(context, context.listen(watcher), async () => {
          const { lease, durationMs } = await context.brief()
          await context.lapse(lease, durationMs, b)
          await b.expireLease(lease)
        })
      },
      'notifications',
    )

    clause(
      'two listeners of one client both hear, and one that has stopped hears no more',
      async (context) => {
        const client = await context.open()
        const deaf: LeaseChange[] = []
        const stop = client.subscribe((change) => deaf.push(change))
        const [first, second] = [context.listen(client), context.listen(client)]
        stop()
        stop()
        await hears(context, first, () => release(context))
        await context.until('hint for the second listener', () => tellsOf(second, context.lease) || second)
        same(deaf, [], 'what the stopped listener heard')
      },
      'notifications',
    )

    clause(
      'a listener that has stopped may begin again',
      async (context) => {
        const client = await context.open()
        client.subscribe(() => {})()
        await hears(context, context.listen(client), () => release(context))
      },
      'notifications',
    )

    clause(
      'a claim that is announced is heard of, and so is a new value',
      async (context) => {
        const { a, b, lease, longMs } = context
        const heard = context.listen(b)
        // More than once, for a subscription needs a moment to be in force.
        await context.until('word of a claim', async () => {
          await a.releaseLease(lease, ALICE)
          await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old', announce: true })
          await context.pass(context.unitMs / 10)
          return tellsOf(heard, lease, 'changed') || heard
        })
        await context.pass(context.unitMs)
        const before = heard.length
        await a.extendLease(lease, { holder: ALICE, duration: longMs, value: 'new', announce: true })
        await context.until(
          'word of a value',
          () => tellsOf(heard.slice(before), lease, 'changed') || heard.slice(before),
        )
        await b.refresh([lease])
        same(known(b, lease).value, 'new', 'the value')
      },
      'notifications',
    )

    clause('a late observer sees the current holder at once', async (context) => {
      const { a, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'here' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs })
      const late = await context.open()
      await late.refresh([lease])
      same(known(late, lease).holder, ALICE, 'the holder')
      same(known(late, lease).value, 'here', 'the value')
      same(known(late, lease).fencingToken, known(a, lease).fencingToken, 'the fencing token')
    })

    clause('without any hint a lapse and a takeover are seen by reading', async (context) => {
      const { a, b, longMs } = context
      const { lease } = await context.brief()
      await context.holding(b)
      await context.until('lapse', async () => (await context.holding(b)) === undefined)
      // What a client counts may end a few milliseconds after the wall clock has shown the expiry.
      await context.claimSoon(b, lease, BOB, longMs)
      await context.stillHeld(a, known(b, lease))
    })
  },
}

/** Alice gives the lease up, which she claims first if it is vacant. */
async function release(context: Context): Promise<void> {
  const { a, lease, longMs } = context
  if ((await context.holding(a)) === undefined) await a.claimLease(lease, { holder: ALICE, duration: longMs })
  await a.releaseLease(lease, ALICE)
}

/**
 * Makes the clause's lease vacant until that is heard. More than once, for a subscription needs a moment to be in force, and
 * what happens before it is may be lost.
 */
async function hears(context: Context, heard: readonly LeaseChange[], vacate: () => Promise<void>): Promise<void> {
  await context.until('hint of the vacancy', async () => {
    await vacate()
    for (let step = 0; step < 10 && !tellsOf(heard, context.lease); step++) await context.pass(context.unitMs / 10)
    return tellsOf(heard, context.lease) || heard
  })
}

function tellsOf(heard: readonly LeaseChange[], lease: string, kind: 'vacated' | 'changed' = 'vacated'): boolean {
  return heard.some((change) => change.kind === kind && change.lease === lease)
}
