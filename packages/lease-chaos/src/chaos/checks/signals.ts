/**
 * C6: `held` is false once the signal has aborted, and the signal aborts no later than the trust window ends. Time in which the event loop
 * of the worker did not run does not count.
 */
import { groupedBy } from '../../checker.ts'
import type { ChaosEvent } from '../event.ts'
import type { Facts, Violation } from './facts.ts'

/** What a timer may be late on a machine that is not overloaded. */
const LATE_MS = 25
/** Only the wall clock has moved: the next look at the clocks shows it. */
const CLOCK_WATCH_MS = 1000
/** The two clocks differ by more than their rates do. */
const JUMP_MS = 5
/** Samples are taken more often than this. */
const SAMPLED_MS = 50

export function checkSignals({ history: { events } }: Facts): Violation[] {
  const workers = groupedBy(events, ({ worker }) => worker)
  return [...workers.values()].flatMap((own) => {
    const late = own.filter(({ what }) => what === 'late')
    const relied = groupedBy(
      own.filter(({ what }) => what === 'relied'),
      keyOf,
    )
    return own.flatMap((event) => {
      if (event.what !== 'aborted') return []
      return [...heldAfter(event), ...abortedLate(event, relied.get(keyOf(event))?.at(-1), late)]
    })
  })
}

function keyOf({ lease, token }: ChaosEvent): string {
  return `${lease} ${token}`
}

function heldAfter({ held, worker, lease = '', token, atMs }: ChaosEvent): Violation[] {
  if (held !== true) return []
  return [{ check: 'C6', lease, atMs, what: `${worker} still held token ${token} when its signal had aborted` }]
}

/** @param last the last sample that said yes */
function abortedLate(event: ChaosEvent, last: ChaosEvent | undefined, stalls: readonly ChaosEvent[]): Violation[] {
  const { atMs, lease = '', worker, token, wallMs = 0, detail = '' } = event
  const untilMs = last?.trustedUntilMs
  // A term that is renewed in time goes on: only the last sample before the loss bounds it, and a release is no loss.
  if (untilMs === undefined || detail === 'AbortError' || atMs <= untilMs) return []
  // Samples that ended before the window did say nothing about a renewal after them.
  if (untilMs - (last?.atMs ?? 0) - lostBetween(stalls, last?.atMs ?? 0, untilMs) > SAMPLED_MS) return []
  const lostMs = lostBetween(stalls, untilMs, atMs)
  const jumped = Math.abs(wallMs - (last?.wallMs ?? wallMs)) > JUMP_MS
  const lateMs = atMs - untilMs - lostMs - LATE_MS - (jumped ? CLOCK_WATCH_MS : 0)
  if (lateMs <= 0) return []
  const what = `the signal of ${worker} for token ${token} aborted ${(lateMs + LATE_MS).toFixed(1)} ms after its trust window`
  return [{ check: 'C6', lease, atMs, what }]
}

/** How long the event loop did not run. @param stalls of one worker, in their order: they do not overlap */
function lostBetween(stalls: readonly ChaosEvent[], fromMs: number, toMs: number): number {
  let sum = 0
  for (let index = firstAfter(stalls, fromMs); index < stalls.length; index++) {
    const { atMs, lostMs = 0 } = stalls[index] as ChaosEvent
    if (atMs - lostMs >= toMs) break
    sum += Math.max(0, Math.min(toMs, atMs) - Math.max(fromMs, atMs - lostMs))
  }
  return sum
}

/** The first event that is later than this instant. */
function firstAfter(events: readonly ChaosEvent[], ms: number): number {
  let low = 0
  for (let high = events.length; low < high;) {
    const middle = (low + high) >>> 1
    if ((events[middle] as ChaosEvent).atMs <= ms) low = middle + 1
    else high = middle
  }
  return low
}
