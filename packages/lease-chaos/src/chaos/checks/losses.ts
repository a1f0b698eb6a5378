/**
 * What a set-up of a store may forget by its guarantees: a promoted replica that was behind, a log that was not on the disk, an older state
 * that was restored. The run records when the store may have forgotten what it had answered. A violation is named by the guarantees only if
 * it concerns a term that was granted, relied on or changed in that time.
 */
import type { Loss } from '../../ground.ts'
import { RUN } from '../event.ts'
import type { Facts, Violation } from './facts.ts'

/** A violation that a loss explains. */
export interface NamedViolation {
  readonly violation: Violation
  readonly loss: Loss
}

/** Promises about leases, their tokens and what is written under them. Signals, liveness and leftovers hold in spite of losses. */
const LOSABLE: ReadonlySet<string> = new Set(['C1', 'C2', 'C3', 'C4', 'C8'])

/** The losses that the run recorded. */
export function lossesIn({ history: { events } }: Facts): Loss[] {
  return events.flatMap(({ worker, what, detail = '', atMs, sampledMs = atMs }) =>
    worker === RUN && what === 'lost' ? { what: detail, fromMs: atMs, toMs: sampledMs } : [],
  )
}

/** The loss that explains the violation; undefined: none does. */
export function explaining(violation: Violation, losses: readonly Loss[], facts: Facts): Loss | undefined {
  if (!LOSABLE.has(violation.check)) return undefined
  return losses.find((loss) => explains(loss, violation, facts))
}

function explains({ fromMs, toMs }: Loss, { lease, tokens, atMs }: Violation, facts: Facts): boolean {
  const { calls, windows, history } = facts
  const concerns = (one: { readonly lease?: string; readonly token?: unknown }): boolean =>
    one.lease === lease && (tokens === undefined || tokens.includes(String(one.token)))
  const meets = (beganMs: number, endedMs: number): boolean => beganMs <= toMs && endedMs >= fromMs
  // Where no term is known, what was lost must have had its effect while it could last.
  const lastMs = toMs + 2 * history.settings.leaseMs
  if (tokens === undefined && (atMs < fromMs || atMs > lastMs)) return false
  return (
    calls.some((call) => call.outcome === 'granted' && concerns(call) && meets(call.sentMs, call.answeredMs)) ||
    windows.some((window) => concerns(window) && meets(window.fromMs, window.toMs)) ||
    history.events.some((event) => isEffect(event.what) && concerns(event) && meets(event.atMs, event.atMs))
  )
}

function isEffect(what: string): boolean {
  return what === 'written' || what === 'begun' || what === 'done'
}
