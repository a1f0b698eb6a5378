import assert from 'node:assert/strict'
import { sleep } from '../clock.ts'
import { trustWindowMs } from '../skew.ts'
import type { Client } from '../client.ts'
import type { Suite, Context } from './kit.ts'
import { codeOf } from './kit.ts'

const LEASES = 12
const WORKERS_PER_CLIENT = 8
/** Of each worker, at least; more until enough leases have changed hands. */
const ROUNDS = 12

/** What the workers of one race share. */
interface Race {
  readonly names: readonly string[]
  readonly reliances: Reliance[]
  /** A lease lasts for several round trips. Doubled when an answer took longer than the lease. */
  durationMs: number
  /** The race ends then, with however many leases have changed hands. */
  readonly endsAtMs: number
}

/** One worker's reliance that it holds a lease: from the return of its claim to the end of its trust window. */
interface Reliance {
  readonly lease: string
  readonly fencingToken: bigint
  readonly claimedFromMs: number
  readonly fromMs: number
  untilMs: number
}

/** Mutual exclusion by time, and an order of terms that all agree on. */
export const exclusion: Suite = {
  title: 'exclusion',
  state(clause) {
    clause(
      'of two clients racing for many leases no two ever believe that they hold the same one',
      async (context) => {
        const { unitMs, patienceMs, clock } = context
        const names = context.leases(LEASES)
        const reliances: Reliance[] = []
        const durationMs = Math.min(unitMs, Math.max(unitMs / 4, 8 * (await roundTripMs(context))))
        const race: Race = { names, reliances, durationMs, endsAtMs: clock.monotonic() + patienceMs * (2 / 3) }
        const workers = [context.a, context.b].flatMap((client, which) =>
          Array.from({ length: WORKERS_PER_CLIENT }, (_, index) =>
            work(context, client, which * WORKERS_PER_CLIENT + index, race),
          ),
        )
        await context.settle(Promise.all(workers), 'the race')

        for (const lease of names) {
          const terms = reliances
            .filter((reliance) => reliance.lease === lease)
            .toSorted((one, other) => (one.fencingToken < other.fencingToken ? -1 : 1))
          for (let index = 1; index < terms.length; index++) {
            const [before, after] = [terms[index - 1], terms[index]] as [Reliance, Reliance]
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
        const contested = contestedIn(race)
        assert(contested > LEASES / 2, `only ${contested} leases changed hands: the race proves nothing`)
      },
      'alone',
    )
  },
}

/** How many leases were believed in more than once. */
function contestedIn({ names, reliances }: Race): number {
  return names.filter((lease) => reliances.filter((reliance) => reliance.lease === lease).length > 1).length
}

/** The longest of a few. */
async function roundTripMs({ a, clock }: Context): Promise<number> {
  let longestMs = 0
  for (let turn = 0; turn < 5; turn++) {
    const sentMs = clock.monotonic()
    await a.refresh(['nobody-holds-this'])
    longestMs = Math.max(longestMs, clock.monotonic() - sentMs)
  }
  return longestMs
}

/** Claims leases in turn; releases some, extends some, and walks away from the rest. Contends by the clock's timers. */
async function work({ clock }: Context, client: Client, seed: number, race: Race): Promise<void> {
  const { names, reliances, endsAtMs } = race
  const holder = `worker-${seed}`
  let turn = seed
  for (let round = 0; round < ROUNDS || contestedIn(race) <= LEASES / 2; round++) {
    if (clock.monotonic() > endsAtMs) return
    turn += 1 + (round % 3)
    const { durationMs } = race
    const asked = { holder, duration: durationMs }
    const lease = names[turn % names.length] as string
    const claimedFromMs = clock.monotonic()
    if (!(await granted(client.claimLease(lease, asked)))) {
      await sleep(clock, durationMs / 5)
      continue
    }
    const fromMs = clock.monotonic()
    const untilMs = claimedFromMs + trustWindowMs(durationMs)
    const info = client.leases().get(lease)
    // The answer took longer than the lease: there is nothing to believe in.
    if (untilMs <= fromMs) {
      race.durationMs = Math.max(race.durationMs, durationMs * 2)
      continue
    }
    if (info?.holder !== holder) continue
    const reliance: Reliance = { lease, fencingToken: info.fencingToken, claimedFromMs, fromMs, untilMs }
    reliances.push(reliance)
    await sleep(clock, durationMs / 2)
    if (turn % 3 === 0) {
      const extendedFromMs = clock.monotonic()
      try {
        await client.extendLease(lease, asked)
        reliance.untilMs = Math.max(reliance.untilMs, extendedFromMs + trustWindowMs(durationMs))
      } catch (error) {
        if (codeOf(error) === 'LEASE_UNKNOWN') continue // the reliance was not prolonged
        if (codeOf(error) !== 'LEASE_INVALID') throw error
        assert(clock.monotonic() >= reliance.untilMs, `${holder} lost ${lease} while it relied on it`)
      }
    } else if (turn % 3 === 1) {
      reliance.untilMs = Math.min(reliance.untilMs, clock.monotonic())
      await granted(client.releaseLease(lease, holder)) // or it lapsed meanwhile, and another has it
    }
  }
}

/** Whether it was; refused and unknown are no reason to believe anything. */
async function granted(call: Promise<void>): Promise<boolean> {
  try {
    await call
    return true
  } catch (error) {
    if (codeOf(error) === 'LEASE_INVALID' || codeOf(error) === 'LEASE_UNKNOWN') return false
    throw error
  }
}
