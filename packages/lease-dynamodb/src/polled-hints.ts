/**
 * Hints without a push: what somebody waits for or watches is read again, with growing pauses.
 *
 *     asked for ──250 ms──▶ read ──375 ms──▶ read … ──5 s──▶ read …
 *                              └─ it has changed: a hint, and the pauses begin again
 *
 * - Only what this client has asked for is read: leases whose claim was refused to a waiter, and leases that it watches. Who waits renews that
 *   with each claim; what is not renewed is forgotten after `INTEREST_MS`.
 * - One lease costs at most 20 reads in the first minute, and 12 in every later one, for any number of waiters in the process. Leases that are
 *   due at about the same time are read in one request.
 * - A change counts from the state that the waiter saw: a release before the first read is found by it. A term that came and went between two
 *   reads shows in the fencing token.
 */
import type { Clock, LeaseChange } from 'lease-core'
import { INTEREST_MS, type Counted, type warnOfNoHints } from 'lease-core/adapter'

/** What is compared of a lease, or of a counted lease with its shares. */
export interface Sight {
  /** Differs after each term, and after each change of a value. */
  readonly content: string
  /** Whether nobody who waits can find it open. */
  readonly isHeld: boolean
}

/** How sights are made, and what is done with them. */
export interface PolledHintsOptions {
  readonly clock: Clock
  /** Looks at these leases; undefined: at all of the namespace. Those that are not in the answer are vacant. */
  readonly look: (leases: readonly string[] | undefined) => Promise<ReadonlyMap<string, Sight>>
  readonly failed: ReturnType<typeof warnOfNoHints>
}

interface Interest {
  /** By the lease; undefined: not seen yet. */
  seen: ReadonlyMap<string, Sight> | undefined
  pauseMs: number
  dueMs: number
  /** Until when it is remembered of those who wait, and of those who watch. */
  readonly untilMs: { waits: number; watches: number }
}

const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 5_000
/** What is due so soon after another is read with it. */
const TOGETHER_MS = 100
/** Of what was never claimed. */
const VACANT: Sight = sightOf({ fencingToken: 0n })
/** Stands for all leases of the namespace. */
const ALL = ''

export class PolledHints {
  readonly #options: PolledHintsOptions
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  readonly #interests = new Map<string, Interest>()
  #timer: { readonly atMs: number; cancel(): void } | undefined
  #failures = 0
  #isLooking = false

  /** @param all whether all of the namespace is of interest, for as long as somebody listens */
  constructor(options: PolledHintsOptions, { all }: { readonly all: boolean }) {
    this.#options = options
    if (all) this.#interests.set(ALL, this.#interest(undefined, Number.POSITIVE_INFINITY))
  }

  get isUsed(): boolean {
    return this.#listeners.size > 0
  }

  add(listener: (change: LeaseChange) => void): void {
    this.#listeners.add(listener)
    // What is asked for is known from then on; of the namespace, after the first look.
    if (!this.#interests.has(ALL)) queueMicrotask(() => this.#tell({ kind: 'resync' }, [listener]))
    this.#schedule()
  }

  delete(listener: (change: LeaseChange) => void): void {
    this.#listeners.delete(listener)
    this.#schedule()
  }

  /** Looks at this lease from now on. @param sight as its waiter, or who watches it, has seen it */
  want(lease: string, sight: Sight, why: 'waits' | 'watches'): void {
    const interest = this.#interests.get(lease) ?? this.#interest(new Map([[lease, sight]]))
    interest.untilMs[why] = this.#options.clock.monotonic() + INTEREST_MS
    this.#interests.set(lease, interest)
    this.#schedule()
  }

  /** Nobody watches this lease any more. */
  unwatch(lease: string): void {
    const interest = this.#interests.get(lease)
    if (interest !== undefined) interest.untilMs.watches = 0
  }

  #interest(seen: Interest['seen'], untilMs: number = 0): Interest {
    const dueMs = this.#options.clock.monotonic() + FIRST_PAUSE_MS
    return { seen, pauseMs: FIRST_PAUSE_MS, dueMs, untilMs: { waits: 0, watches: untilMs } }
  }

  #schedule(): void {
    const first =
      this.isUsed && !this.#isLooking ? Math.min(...[...this.#interests.values()].map(({ dueMs }) => dueMs)) : Infinity
    if (this.#timer?.atMs === first) return
    this.#timer?.cancel()
    this.#timer = undefined
    if (first === Number.POSITIVE_INFINITY) return
    const { clock } = this.#options
    const timer = clock.setTimer(Math.max(0, first - clock.monotonic()), () => void this.#wake())
    this.#timer = { atMs: first, cancel: () => timer.cancel() }
  }

  async #wake(): Promise<void> {
    this.#timer = undefined
    const nowMs = this.#options.clock.monotonic()
    for (const [lease, { untilMs }] of this.#interests) {
      if (Math.max(untilMs.waits, untilMs.watches) < nowMs) this.#interests.delete(lease)
    }
    const due = [...this.#interests].filter(([, { dueMs }]) => dueMs <= nowMs + TOGETHER_MS)
    this.#isLooking = true
    try {
      const leases = due.flatMap(([lease]) => (lease === ALL ? [] : [lease]))
      const all = due.some(([lease]) => lease === ALL)
      if (due.length > 0) this.#compare(due, await this.#options.look(all ? undefined : leases))
      this.#failures = 0
    } catch (error) {
      this.#options.failed(error, ++this.#failures)
    }
    this.#isLooking = false
    const afterMs = this.#options.clock.monotonic()
    for (const [, interest] of due) {
      interest.dueMs = afterMs + interest.pauseMs
      interest.pauseMs = Math.min(LONGEST_PAUSE_MS, interest.pauseMs * 1.5)
    }
    this.#schedule()
  }

  #tell(change: LeaseChange, listeners: Iterable<(change: LeaseChange) => void> = this.#listeners): void {
    for (const listener of [...listeners]) if (this.#listeners.has(listener)) listener(change)
  }

  #compare(due: readonly (readonly [string, Interest])[], found: ReadonlyMap<string, Sight>): void {
    for (const [lease, interest] of due) {
      const { seen } = interest
      const now = lease === ALL ? found : new Map([[lease, found.get(lease) ?? VACANT]])
      interest.seen = now
      if (seen === undefined) this.#tell({ kind: 'resync' })
      const names = new Set(seen === undefined ? [] : [...seen.keys(), ...now.keys()])
      let changed = false
      for (const name of names) {
        const change = changeOf(name, seen?.get(name) ?? VACANT, now.get(name) ?? VACANT)
        if (change === undefined) continue
        changed = true
        this.#tell(change)
      }
      if (changed) interest.pauseMs = FIRST_PAUSE_MS
    }
  }
}

function changeOf(lease: string, before: Sight, now: Sight): LeaseChange | undefined {
  if (before.content === now.content) return undefined
  return { kind: now.isHeld ? 'changed' : 'vacated', lease }
}

/** Of a lease. @param found its latest token and what of its term is news; the state and the holding have both */
export function sightOf({ fencingToken, holder, value }: Seen): Sight {
  return { content: [String(fencingToken), holder ?? '', value ?? ''].join('\n'), isHeld: holder !== undefined }
}

/** Of a counted lease. */
export function countedSightOf({ generation, shares }: Counted): Sight {
  const parts = [...shares].map(([name, { fencingToken }]) => `${name} ${fencingToken}`).toSorted()
  return { content: [generation ?? '', ...parts].join('\n'), isHeld: false }
}

interface Seen {
  readonly fencingToken: bigint
  readonly holder?: string | undefined
  readonly value?: string | undefined
}
