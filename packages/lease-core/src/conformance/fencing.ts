import type { Client } from '../client.ts'
import type { Suite } from './kit.ts'
import { ALICE, BOB, known, rises, same } from './kit.ts'

/** Fencing tokens order the terms of a lease for ever. */
export const fencing: Suite = {
  title: 'fencing tokens',
  state(clause) {
    clause('everyone reads the same token', async (context) => {
      const { a, b, lease, longMs } = context
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const seen = await context.holding(b)
      same(typeof seen?.fencingToken, 'bigint', 'the type of the fencing token')
      same(seen?.fencingToken, known(a, lease).fencingToken, 'the fencing token')
    })

    clause('a token rises with every term after a release, no matter who claims', async (context) => {
      const { a, b, lease, longMs } = context
      let last = -1n
      const terms: readonly (readonly [Client, string])[] = [
        [a, ALICE],
        [a, ALICE],
        [b, BOB],
        [b, ALICE],
        [a, BOB],
        [await context.open(), ALICE],
      ]
      for (const [client, holder] of terms) {
        await client.claimLease(lease, { holder, duration: longMs })
        const { fencingToken } = known(client, lease)
        rises(last, fencingToken)
        last = fencingToken
        await client.releaseLease(lease, holder)
      }
    })

    clause('terms in quick succession have strictly rising tokens', async ({ a, lease, longMs }) => {
      let last = -1n
      for (let term = 1; term <= 30; term++) {
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const { fencingToken } = known(a, lease)
        rises(last, fencingToken)
        last = fencingToken
        await a.releaseLease(lease, ALICE)
      }
    })

    clause('a token rises when a lapsed lease is taken over', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      await context.lapse(lease, durationMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      rises(known(a, lease).fencingToken, known(b, lease).fencingToken)
    })

    clause('a token rises after a lapsed lease was expired', async (context) => {
      const { a, b, longMs } = context
      const { lease, durationMs } = await context.brief()
      const { fencingToken } = known(a, lease)
      await context.lapse(lease, durationMs, b)
      await b.expireLease(lease)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      rises(fencingToken, known(a, lease).fencingToken)
    })

    clause(
      'a token rises over a restart of the store',
      async (context) => {
        const { unitMs, longMs } = context
        const before = await context.open()
        const { outcome: tokens } = await context.whileLive(unitMs * 4, async (lease, duration) => {
          const [held, released, lapsed] = [`${lease}-held`, `${lease}-released`, `${lease}-lapsed`]
          const tokens = new Map<string, bigint>()
          for (const name of [held, released, lapsed]) {
            await before.claimLease(name, { holder: ALICE, duration })
            tokens.set(name, known(before, name).fencingToken)
          }
          await before.releaseLease(released, ALICE)
          return tokens
        })
        await context.restart()
        const after = await context.open()
        for (const [name, token] of tokens) {
          await context.claimSoon(after, name, BOB, longMs)
          rises(token, known(after, name).fencingToken)
        }
      },
      'restart',
    )

    clause(
      'a lease that is held stays held over a restart of the store, or its token rises',
      async (context) => {
        const { lease, longMs } = context
        const before = await context.open()
        await before.claimLease(lease, { holder: ALICE, duration: longMs })
        const held = known(before, lease)
        await context.restart()
        const after = await context.open()
        const seen = await context.holding(after)
        if (seen !== undefined) {
          same(seen.holder, ALICE, 'the holder')
          same(seen.fencingToken, held.fencingToken, 'the fencing token')
        } else {
          await after.claimLease(lease, { holder: BOB, duration: longMs })
          rises(held.fencingToken, known(after, lease).fencingToken)
        }
      },
      'restart',
    )
  },
}
