import type { Client } from '../client.ts'
import type { Chapter } from './kit.ts'
import { ALICE, BOB, known, rises, same } from './kit.ts'

/** Fencing tokens order the terms of a lease for ever. */
export const fencing: Chapter = {
  title: 'fencing tokens',
  state(clause) {
    clause('everyone reads the same token', async (scene) => {
      const { a, b, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      const seen = await scene.holding(b)
      same(typeof seen?.fencingToken, 'bigint', 'the type of the fencing token')
      same(seen?.fencingToken, known(a, lease).fencingToken, 'the fencing token')
    })

    clause('a token rises with every term after a release, whoever claims', async (scene) => {
      const { a, b, lease, longMs } = scene
      let last = -1n
      const terms: readonly (readonly [Client, string])[] = [
        [a, ALICE],
        [a, ALICE],
        [b, BOB],
        [b, ALICE],
        [a, BOB],
        [await scene.open(), ALICE],
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

    clause('a token rises when a lapsed lease is taken over', async (scene) => {
      const { a, b, lease, unitMs, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: unitMs })
      await scene.lapse(lease, unitMs, b)
      await b.claimLease(lease, { holder: BOB, duration: longMs })
      rises(known(a, lease).fencingToken, known(b, lease).fencingToken)
    })

    clause('a token rises after a lapsed lease was expired', async (scene) => {
      const { a, b, lease, unitMs, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: unitMs })
      const { fencingToken } = known(a, lease)
      await scene.lapse(lease, unitMs, b)
      await b.expireLease(lease)
      await a.claimLease(lease, { holder: ALICE, duration: longMs })
      rises(fencingToken, known(a, lease).fencingToken)
    })

    clause(
      'a token rises over a restart of the store',
      async (scene) => {
        const { lease, unitMs, longMs } = scene
        const names = [`${lease}-held`, `${lease}-released`, `${lease}-lapsed`] as const
        const before = await scene.open()
        const tokens = new Map<string, bigint>()
        for (const name of names) {
          await before.claimLease(name, { holder: ALICE, duration: unitMs * 4 })
          tokens.set(name, known(before, name).fencingToken)
        }
        await before.releaseLease(names[1], ALICE)
        await scene.restart()
        const after = await scene.open()
        for (const name of names) {
          await scene.claimSoon(after, name, BOB, longMs)
          rises(tokens.get(name) ?? -1n, known(after, name).fencingToken)
        }
      },
      'restart',
    )

    clause(
      'a lease that is held stays held over a restart of the store, or its token rises',
      async (scene) => {
        const { lease, longMs } = scene
        const before = await scene.open()
        await before.claimLease(lease, { holder: ALICE, duration: longMs })
        const held = known(before, lease)
        await scene.restart()
        const after = await scene.open()
        const seen = await scene.holding(after)
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
