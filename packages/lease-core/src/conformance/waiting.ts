import type { LeaseChange } from '../client.ts'
import type { Chapter, Scene } from './kit.ts'
import { ALICE, BOB, known, same } from './kit.ts'

/** Hints of change: whoever listens hears of a vacancy, whenever he began, and late comers can read what is. */
export const waiting: Chapter = {
  title: 'notification',
  state(clause) {
    clause(
      'a release by another is heard',
      async (scene) => {
        await hears(scene, scene.listen(scene.b), () => release(scene))
      },
      'notifications',
    )

    clause(
      'a watcher that starts after the claim hears its end',
      async (scene) => {
        const { a, lease, longMs } = scene
        const watcher = await scene.open()
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await hears(scene, scene.listen(watcher), () => release(scene))
      },
      'notifications',
    )

    clause(
      'a lapsed lease that somebody expires is heard of',
      async (scene) => {
        const { b } = scene
        const watcher = await scene.open()
        await hears(scene, scene.listen(watcher), async () => {
          const { lease, durationMs } = await scene.brief()
          await scene.lapse(lease, durationMs, b)
          await b.expireLease(lease)
        })
      },
      'notifications',
    )

    clause(
      'two listeners of one client both hear, and one that has stopped hears no more',
      async (scene) => {
        const client = await scene.open()
        const deaf: LeaseChange[] = []
        const stop = client.subscribe((change) => deaf.push(change))
        const [first, second] = [scene.listen(client), scene.listen(client)]
        stop()
        stop()
        await hears(scene, first, () => release(scene))
        await scene.until('hint for the second listener', () => tellsOf(second, scene.lease) || second)
        same(deaf, [], 'what the stopped listener heard')
      },
      'notifications',
    )

    clause(
      'whoever has stopped listening may begin again',
      async (scene) => {
        const client = await scene.open()
        client.subscribe(() => {})()
        await hears(scene, scene.listen(client), () => release(scene))
      },
      'notifications',
    )

    clause(
      'a claim that is announced is heard of, and so is a new value',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const heard = scene.listen(b)
        // More than once, for a subscription needs a moment to be in force.
        await scene.until('word of a claim', async () => {
          await a.releaseLease(lease, ALICE)
          await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'old', announce: true })
          await scene.pass(scene.unitMs / 10)
          return tellsOf(heard, lease, 'changed') || heard
        })
        await scene.pass(scene.unitMs)
        const before = heard.length
        await a.extendLease(lease, { holder: ALICE, duration: longMs, value: 'new', announce: true })
        await scene.until(
          'word of a value',
          () => tellsOf(heard.slice(before), lease, 'changed') || heard.slice(before),
        )
        await b.refresh([lease])
        same(known(b, lease).value, 'new', 'the value')
      },
      'notifications',
    )

    clause('a late observer sees the current holder at once', async (scene) => {
      const { a, lease, longMs } = scene
      await a.claimLease(lease, { holder: ALICE, duration: longMs, value: 'here' })
      await a.extendLease(lease, { holder: ALICE, duration: longMs })
      const late = await scene.open()
      await late.refresh([lease])
      same(known(late, lease).holder, ALICE, 'the holder')
      same(known(late, lease).value, 'here', 'the value')
      same(known(late, lease).fencingToken, known(a, lease).fencingToken, 'the fencing token')
    })

    clause('without any hint a lapse and a takeover are seen by reading', async (scene) => {
      const { a, b, longMs } = scene
      const { lease } = await scene.brief()
      await scene.holding(b)
      await scene.until('lapse', async () => (await scene.holding(b)) === undefined)
      // What a client counts may end a few milliseconds after the wall clock has shown the expiry.
      await scene.claimSoon(b, lease, BOB, longMs)
      await scene.stillHeld(a, known(b, lease))
    })
  },
}

/** Alice gives the lease up, which she claims first if it is vacant. */
async function release(scene: Scene): Promise<void> {
  const { a, lease, longMs } = scene
  if ((await scene.holding(a)) === undefined) await a.claimLease(lease, { holder: ALICE, duration: longMs })
  await a.releaseLease(lease, ALICE)
}

/**
 * Makes the clause's lease vacant until that is heard. More than once, for a subscription needs a moment to be in force, and
 * what happens before it is may be lost.
 */
async function hears(scene: Scene, heard: readonly LeaseChange[], vacate: () => Promise<void>): Promise<void> {
  await scene.until('hint of the vacancy', async () => {
    await vacate()
    for (let step = 0; step < 10 && !tellsOf(heard, scene.lease); step++) await scene.pass(scene.unitMs / 10)
    return tellsOf(heard, scene.lease) || heard
  })
}

function tellsOf(heard: readonly LeaseChange[], lease: string, kind: 'vacated' | 'changed' = 'vacated'): boolean {
  return heard.some((change) => change.kind === kind && change.lease === lease)
}
