import assert from 'node:assert/strict'
import { sleep } from '../clock.ts'
import { trustWindowMs } from '../skew.ts'
import type { Client } from '../client.ts'
import type { Chapter, Scene } from './kit.ts'
import { codeOf } from './kit.ts'

const LEASES = 12
const WORKERS_PER_CLIENT = 8
const ROUNDS = 12

/** One worker's belief that it holds a lease: from the return of its claim to the end of its trust window. */
interface Belief {
  readonly lease: string
  readonly fencingToken: bigint
  readonly claimedFromMs: number
  readonly fromMs: number
  untilMs: number
}

/** Mutual exclusion by time, and an order of terms that all agree on. */
export const exclusion: Chapter = {
  title: 'exclusion',
  state(clause) {
    clause('of two clients racing for many leases no two ever believe that they hold the same one', async (scene) => {
      const names = scene.leases(LEASES)
      const beliefs: Belief[] = []
      const workers = [scene.a, scene.b].flatMap((client, which) =>
        Array.from({ length: WORKERS_PER_CLIENT }, (_, index) =>
          work(scene, client, which * WORKERS_PER_CLIENT + index, names, beliefs),
        ),
      )
      await scene.settle(Promise.all(workers), 'the race')

      for (const lease of names) {
        const terms = beliefs
          .filter((belief) => belief.lease === lease)
          .toSorted((one, other) => (one.fencingToken < other.fencingToken ? -1 : 1))
        for (let index = 1; index < terms.length; index++) {
          const [before, after] = [terms[index - 1], terms[index]] as [Belief, Belief]
          assert.notEqual(before.fencingToken, after.fencingToken, `two terms of ${lease} have the same token`)
          const overlapMs = before.untilMs - after.fromMs
          assert(
            overlapMs <= 0,
            `two holders of ${lease} believe for ${overlapMs} ms (${before.fencingToken} and after)`,
          )
          assert(
            before.claimedFromMs <= after.fromMs,
            `the tokens of ${lease} fell: ${after.fencingToken} was granted before ${before.fencingToken} was asked for`,
          )
        }
      }
      const contested = names.filter((lease) => beliefs.filter((belief) => belief.lease === lease).length > 1)
      assert(contested.length > LEASES / 2, `only ${contested.length} leases changed hands: the race proves nothing`)
    })
  },
}

/** Claims leases in turn; releases some, extends some, and walks away from the rest. Contends by the clock's timers. */
async function work(
  { clock, unitMs }: Scene,
  client: Client,
  seed: number,
  names: readonly string[],
  beliefs: Belief[],
): Promise<void> {
  const holder = `worker-${seed}`
  const short = unitMs / 4
  let turn = seed
  for (let round = 0; round < ROUNDS; round++) {
    turn += 1 + (round % 3)
    const lease = names[turn % names.length] as string
    const claimedFromMs = clock.monotonic()
    try {
      await client.claimLease(lease, { holder, duration: short })
    } catch (error) {
      if (codeOf(error) !== 'LEASE_INVALID') throw error
      await sleep(clock, short / 5)
      continue
    }
    const fromMs = clock.monotonic()
    const untilMs = claimedFromMs + trustWindowMs(short)
    const info = client.leases().get(lease)
    // The answer took longer than the lease: there is nothing to believe in.
    if (untilMs <= fromMs || info?.holder !== holder) continue
    const belief: Belief = { lease, fencingToken: info.fencingToken, claimedFromMs, fromMs, untilMs }
    beliefs.push(belief)
    await sleep(clock, short / 2)
    if (turn % 3 === 0) {
      const extendedFromMs = clock.monotonic()
      try {
        await client.extendLease(lease, { holder, duration: short })
        belief.untilMs = Math.max(belief.untilMs, extendedFromMs + trustWindowMs(short))
      } catch (error) {
        if (codeOf(error) !== 'LEASE_INVALID') throw error
        assert(clock.monotonic() >= belief.untilMs, `${holder} lost ${lease} while it relied on it`)
      }
    } else if (turn % 3 === 1) {
      belief.untilMs = Math.min(belief.untilMs, clock.monotonic())
      try {
        await client.releaseLease(lease, holder)
      } catch (error) {
        if (codeOf(error) !== 'LEASE_INVALID') throw error // it lapsed meanwhile, and another has it
      }
    }
  }
}
