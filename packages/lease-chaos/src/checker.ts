/**
 * Checks what a race has recorded. Each check is one-sided: it reports nothing that could have been right, however slow the
 * machine was.
 */
import type { Report } from './recorder.ts'

/** The time for which it is certain that a worker relied on a term: from the first to the last instant that it recorded. */
export interface Window {
  readonly name: string
  /** Empty in a race for one lease. */
  readonly lease: string
  readonly token: string
  readonly fromMs: number
  readonly toMs: number
  /** How much of the capacity it takes, of a share of a counted lease; otherwise 1. */
  readonly weight: number
  /** When the worker began to ask for it, where that was recorded: the grant came later. */
  readonly askedMs?: number
}

/** For each term that a worker relied on, for how long at least, in the order of these windows. */
export function windowsIn(
  workers: readonly { readonly name: string; readonly reports: readonly Report[] }[],
): readonly Window[] {
  const windows = new Map<string, Window>()
  for (const { name, reports } of workers) {
    for (const { what, lease = '', token, atMs, sampledMs = atMs, weight = 1, askedMs } of reports) {
      if (what !== 'relied' || token === undefined) continue
      const key = JSON.stringify([name, lease, token])
      const fromMs = windows.get(key)?.fromMs ?? sampledMs
      windows.set(key, { name, lease, token, fromMs, toMs: atMs, weight, ...(askedMs !== undefined && { askedMs }) })
    }
  }
  // Of a single sample nothing is certain: it was so at some instant while it was taken.
  return [...windows.values()].filter(({ fromMs, toMs }) => fromMs <= toMs).toSorted((a, b) => a.fromMs - b.fromMs)
}

/** Something that must not have been. */
export interface Conflict {
  readonly lease: string
  readonly atMs: number
  readonly what: string
  /** The fencing tokens of the terms concerned. */
  readonly tokens: readonly string[]
}

/** Windows of one lease that overlap, or whose fencing token is not higher than that of the one before. */
export function trustConflicts(windows: readonly Window[]): string[] {
  return conflictsIn(windows).map(inWords)
}

/**
 * The same, with where and when.
 *
 * @param leastMs what an overlap must exceed. @default 0
 */
export function conflictsIn(windows: readonly Window[], leastMs: number = 0): Conflict[] {
  return [...byLease(windows)].flatMap(([lease, all]) => {
    const wrong: Conflict[] = []
    // The one that lasted longest until now: also one that began before the last can reach into the next.
    let longest: Window | undefined
    for (const [index, window] of all.entries()) {
      const before = all[index - 1]
      const overlapMs = longest === undefined ? 0 : longest.toMs - window.fromMs
      const report = (what: string, other: Window): void => {
        wrong.push({ lease, atMs: window.fromMs, what, tokens: [other.token, window.token] })
      }
      if (longest !== undefined && overlapMs > leastMs) {
        report(`${window.name} while ${longest.name} did, for ${overlapMs.toFixed(1)} ms`, longest)
      }
      if (before !== undefined && BigInt(window.token) <= BigInt(before.token)) {
        report(`token ${window.token} after ${before.token}`, before)
      }
      if (longest === undefined || window.toMs > longest.toMs) longest = window
    }
    return wrong
  })
}

/** Instants at which the weights of what was relied on exceeded this. */
export function crowds(windows: readonly Window[], capacity: number): string[] {
  return crowdsIn(windows, capacity).map(({ active, atMs }) => `${active} at ${atMs}`)
}

/** The same, with how much was taken, and when. */
export function crowdsIn(
  windows: readonly Window[],
  capacity: number,
): { readonly active: number; readonly atMs: number }[] {
  const edges = windows.flatMap(({ fromMs, toMs, weight }) => [
    { atMs: fromMs, change: weight },
    { atMs: toMs, change: -weight },
  ])
  edges.sort((a, b) => a.atMs - b.atMs || a.change - b.change)
  const wrong: { readonly active: number; readonly atMs: number }[] = []
  let active = 0
  for (const { atMs, change } of edges) {
    active += change
    if (change > 0 && active > capacity) wrong.push({ active, atMs })
  }
  return wrong
}

/**
 * Shares of one counted lease whose fencing token is not higher than that of one that was surely granted before: it was relied on when
 * this one was asked for; or it was relied on for the last time when this one was for the first time, and the two do not fit the
 * capacity together. And shares that have one token between them.
 */
export function misorderedShares(windows: readonly Window[], capacity: number): string[] {
  const tokens = new Set(windows.map(({ token }) => token))
  const twice = tokens.size === windows.length ? [] : [`${windows.length} shares with ${tokens.size} tokens`]
  return [...twice, ...misorderedSharesIn(windows, capacity).map(({ what }) => what)]
}

/** The shares among these whose fencing token is not high enough, with where and when. */
export function misorderedSharesIn(windows: readonly Window[], capacity: number): Conflict[] {
  const asked = notAbove(
    windows,
    ({ fromMs }) => fromMs,
    ({ askedMs = 0 }) => askedMs,
    () => true,
  )
  const exclusive = notAbove(
    windows,
    ({ toMs }) => toMs,
    ({ fromMs }) => fromMs,
    (one, other) => one + other > capacity,
  )
  return [...asked, ...exclusive]
}

/** Windows whose token is not above that of another one that had reached `end` before this one reached `start`. */
function notAbove(
  windows: readonly Window[],
  end: (window: Window) => number,
  start: (window: Window) => number,
  concerns: (weight: number, other: number) => boolean,
): Conflict[] {
  const ended = windows.toSorted((a, b) => end(a) - end(b))
  /** The highest token of those that have ended, by their weight. */
  const highest = new Map<number, bigint>()
  let next = 0
  const wrong: Conflict[] = []
  for (const window of windows.toSorted((a, b) => start(a) - start(b))) {
    for (let one = ended[next]; one !== undefined && end(one) < start(window); one = ended[++next]) {
      const token = BigInt(one.token)
      if (token > (highest.get(one.weight) ?? -1n)) highest.set(one.weight, token)
    }
    const token = BigInt(window.token)
    for (const [weight, before] of highest) {
      if (token > before || !concerns(weight, window.weight)) continue
      const tokens = [String(before), window.token]
      wrong.push({ lease: window.lease, atMs: window.fromMs, what: `token ${token} after ${before}`, tokens })
    }
  }
  return wrong
}

/**
 * Runs of jobs that must not have been: of a slot that is not above the one before, in the order of their fencing tokens. With `retry` a
 * slot may run again, unless its run was `done` when the next one was asked for. A run is recorded as `begun` with its slot as the detail.
 */
export function repeatedRuns(reports: readonly Report[], how: { readonly retry: boolean }): string[] {
  return repeatedRunsIn(reports, how).map(inWords)
}

/** The same, with where and when. */
export function repeatedRunsIn(reports: readonly Report[], { retry }: { readonly retry: boolean }): Conflict[] {
  const done = new Map<string, number>()
  for (const { what, lease = '', token, atMs } of reports) if (what === 'done') done.set(`${lease} ${token}`, atMs)
  const runs = reports.flatMap(({ what, lease = '', token, detail: slot = '', askedMs = 0, atMs }) => {
    if (what !== 'begun' || token === undefined) return []
    return { lease, token: BigInt(token), slot, askedMs, atMs, doneMs: done.get(`${lease} ${token}`) }
  })
  return [...byLease(runs)].flatMap(([lease, all]) => {
    all.sort((a, b) => (a.token < b.token ? -1 : 1))
    let last = ''
    let lastToken = ''
    /** When a run of the last slot was done first. */
    let lastDoneMs = Number.POSITIVE_INFINITY
    return all.flatMap(({ slot, askedMs, atMs, token, doneMs = Number.POSITIVE_INFINITY }) => {
      const isWrong = slot < last || (slot === last && !(retry && lastDoneMs >= askedMs))
      const tokens = [lastToken, String(token)]
      const wrong: Conflict[] = isWrong ? [{ lease, atMs, what: `slot ${slot} after ${last}`, tokens }] : []
      lastDoneMs = slot === last ? Math.min(lastDoneMs, doneMs) : doneMs
      last = slot
      lastToken = String(token)
      return wrong
    })
  })
}

/** What happened at the store, in the order in which the store says that it happened. */
export interface StoreEvent {
  readonly what: 'grant' | 'write'
  readonly lease: string
  readonly token: bigint
  /** Of a write, where the store knows: the fencing token of the write that it replaced. */
  readonly over?: bigint
}

/** A write that must not be in the log of the store, or that is missing there. */
export interface WrongWrite {
  readonly lease: string
  /** The fencing token with which it was written. */
  readonly token: bigint
  /** The newer one over which it was written. */
  readonly over?: bigint
  readonly what: string
}

/** Writes that came after a newer grant, after a newer write, or over one. */
export function staleWrites(log: readonly StoreEvent[]): string[] {
  return staleWritesIn(log).map(inWords)
}

/** The same, with the lease and the fencing tokens. */
export function staleWritesIn(log: readonly StoreEvent[]): WrongWrite[] {
  return [...byLease(log)].flatMap(([lease, events]) => {
    let newest = 0n
    return events.flatMap(({ what, token, over = 0n }) => {
      const passed = over > newest ? over : newest
      if (token > newest) newest = token
      const isStale = what === 'write' && token < passed
      return isStale ? { lease, token, over: passed, what: `a write with token ${token} after ${passed}` } : []
    })
  })
}

/** Writes that a worker recorded as `written` and that the log does not have, and those `refused` that it has. */
export function misreportedWrites(log: readonly StoreEvent[], reports: readonly Report[]): string[] {
  return misreportedWritesIn(log, reports).map(inWords)
}

/** The same, with the lease and the fencing token. */
export function misreportedWritesIn(log: readonly StoreEvent[], reports: readonly Report[]): WrongWrite[] {
  const written = new Set(log.flatMap(({ what, lease, token }) => (what === 'write' ? `${lease} ${token}` : [])))
  return reports.flatMap(({ what, lease = '', token = '' }) => {
    if (what !== 'written' && what !== 'refused') return []
    const isRight = written.has(`${lease} ${token}`) === (what === 'written')
    return isRight ? [] : { lease, token: BigInt(token), what: `the write with token ${token} was ${what}` }
  })
}

function inWords({ lease, what }: { readonly lease: string; readonly what: string }): string {
  return lease === '' ? what : `${lease}: ${what}`
}

function byLease<T extends { readonly lease: string }>(all: readonly T[]): Map<string, T[]> {
  return groupedBy(all, ({ lease }) => lease)
}

/** These in groups of one key each, in their order. */
export function groupedBy<T>(all: readonly T[], keyOf: (one: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const one of all) {
    const key = keyOf(one)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [one])
    else group.push(one)
  }
  return groups
}
