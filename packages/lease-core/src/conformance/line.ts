import assert from 'node:assert/strict'
import type { Client, LeaseChange } from '../client.ts'
import type { Turn } from '../line.ts'
import { ALICE, BOB, CAROL, known, rejects, same, type Chapter, type Scene } from './kit.ts'

/** Those who wait stand in line, so that a vacancy is not everybody's at once (`line.ts` of lease-core). */
export const line: Chapter = {
  title: 'waiting in line',
  state(clause) {
    clause(
      'each claim in line that is refused gives a place behind the others, and a place is kept',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await queue(scene, BOB), await queue(scene, CAROL)]
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        assert(bob.served < bob.place && carol.served < bob.place, 'nobody was served yet')
        const before = { ...bob }
        await rejects('LEASE_INVALID', claim(scene, BOB, bob), 'a second claim')
        same(bob, before, 'the place')
      },
      'lines',
    )

    clause(
      'whoever waits alone stands before an empty line',
      async (scene) => {
        await claim(scene, BOB, { place: 0, served: 0 })
        same((await scene.holding(scene.a))?.holder, BOB, 'the holder')
      },
      'lines',
    )

    clause(
      'whoever has no place does not get past those who have one, though the lease is vacant',
      async (scene) => {
        const { a, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const bob = await queue(scene, BOB)
        await a.releaseLease(lease, ALICE)
        const carol = await queue(scene, CAROL)
        same(await scene.holding(a), undefined, 'the holding')
        assert(carol.place > bob.place, `place ${carol.place} was given after ${bob.place}`)
        await claim(scene, BOB, bob)
        same((await scene.holding(a))?.holder, BOB, 'the holder')
      },
      'lines',
    )

    clause(
      'whoever has a place is granted a vacant lease, also before those ahead, who keep theirs',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await queue(scene, BOB), await queue(scene, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(scene, CAROL, carol)
        const { place } = bob
        await rejects('LEASE_INVALID', claim(scene, BOB, bob), "a claim of another's lease")
        same(bob.place, place, 'the place')
        await b.releaseLease(lease, CAROL)
        await claim(scene, BOB, bob)
        same((await scene.holding(a))?.holder, BOB, 'the holder')
      },
      'lines',
    )

    clause(
      'the line ends with its last place, and who comes then is granted a vacant lease at once',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        const [bob, carol] = [await queue(scene, BOB), await queue(scene, CAROL)]
        await a.releaseLease(lease, ALICE)
        await claim(scene, BOB, bob)
        const late = await queue(scene, 'dave')
        assert(late.served >= bob.place, `the line says that ${late.served} was served last, after ${bob.place} was`)
        for (const [before, next, turn] of [
          [BOB, CAROL, carol],
          [CAROL, 'dave', late],
        ] as const) {
          await b.releaseLease(lease, before)
          await claim(scene, next, turn)
        }
        await b.releaseLease(lease, 'dave')
        await claim(scene, 'erin', { place: 0, served: 0 })
        same((await scene.holding(a))?.holder, 'erin', 'the holder')
      },
      'lines',
    )

    clause(
      'a claim of one who does not wait knows nothing of lines',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        await a.claimLease(lease, { holder: ALICE, duration: longMs })
        await queue(scene, BOB)
        await a.releaseLease(lease, ALICE)
        await b.claimLease(lease, { holder: CAROL, duration: longMs })
        same((await scene.holding(a))?.holder, CAROL, 'the holder')
      },
      'lines',
    )

    clause(
      'a lapsed lease is taken in line as well, in a later term',
      async (scene) => {
        const { a, b, unitMs } = scene
        const { lease, durationMs, outcome } = await scene.whileLive(unitMs, async (lease, duration) => {
          await a.claimLease(lease, { holder: ALICE, duration })
          const { fencingToken } = known(a, lease)
          return { fencingToken, bob: await queue(scene, BOB) }
        })
        await scene.lapse(lease, durationMs, b)
        await claim(scene, BOB, outcome.bob)
        assert(known(b, lease).fencingToken > outcome.fencingToken, 'the fencing token did not rise')
      },
      'lines',
    )

    clause(
      'whoever was granted a lease in line is told of, with place and duration',
      async (scene) => {
        const { a, b, lease, longMs } = scene
        const heard = scene.listen(await scene.open())
        let turn: Turn = { place: 0, served: 0 }
        // More than once, for a subscription needs a moment to be in force.
        await scene.until('word of a grant in line', async () => {
          await b.releaseLease(lease, BOB)
          await a.claimLease(lease, { holder: ALICE, duration: longMs })
          turn = await queue(scene, BOB)
          await a.releaseLease(lease, ALICE)
          await claim(scene, BOB, turn)
          await scene.pass(scene.unitMs / 10)
          return heard.some((change) => isTaken(change) && change.lease === lease) || heard
        })
        const grants = heard.filter(isTaken).filter((grant) => grant.lease === lease)
        same(
          grants.every(({ durationMs }) => durationMs === longMs),
          true,
          'the duration told',
        )
        await scene.until(
          'word of the last grant',
          () => heard.some((it) => isTaken(it) && it.lease === lease && it.place === turn.place) || heard,
        )
      },
      'lines',
      'notifications',
    )
  },
}

/** One who waits claims in vain, and so gets in line. */
async function queue(scene: Scene, holder: string): Promise<Turn> {
  const turn = { place: 0, served: 0 }
  await rejects('LEASE_INVALID', claim(scene, holder, turn), 'a claim in line')
  assert(turn.place > 0, 'the refusal gave no place')
  return turn
}

function claim({ b, lease, longMs }: Scene, holder: string, turn: Turn): ReturnType<Client['claimLease']> {
  return b.claimLease(lease, { holder, duration: longMs }, { turn })
}

function isTaken(change: LeaseChange): change is Extract<LeaseChange, { kind: 'taken' }> {
  return change.kind === 'taken'
}
