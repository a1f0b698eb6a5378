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
}

/** For each term that a worker relied on, for how long at least, in the order of these windows. */
export function windowsIn(
  workers: readonly { readonly name: string; readonly reports: readonly Report[] }[],
): readonly Window[] {
  const windows = new Map<string, Window>()
  for (const { name, reports } of workers) {
    for (const { what, lease = '', token, atMs } of reports) {
      if (what !== 'relied' || token === undefined) continue
      const key = JSON.stringify([name, lease, token])
      windows.set(key, { name, lease, token, fromMs: windows.get(key)?.fromMs ?? atMs, toMs: atMs })
    }
  }
  return [...windows.values()].toSorted((a, b) => a.fromMs - b.fromMs)
}

/** Windows of one lease that overlap, or whose fencing token is not higher than that of the one before. */
export function trustConflicts(windows: readonly Window[]): string[] {
  return [...byLease(windows)].flatMap(([lease, all]) => {
    const wrong: string[] = []
    // The one that lasted longest until now: also one that began before the last can reach into the next.
    let longest: Window | undefined
    for (const [index, window] of all.entries()) {
      const before = all[index - 1]
      const overlapMs = longest === undefined ? 0 : longest.toMs - window.fromMs
      if (overlapMs > 0) wrong.push(`${window.name} while ${longest?.name} did, for ${overlapMs.toFixed(1)} ms`)
      if (before !== undefined && BigInt(window.token) <= BigInt(before.token)) {
        wrong.push(`token ${window.token} after ${before.token}`)
      }
      if (longest === undefined || window.toMs > longest.toMs) longest = window
    }
    return lease === '' ? wrong : wrong.map((one) => `${lease}: ${one}`)
  })
}

/** Instants at which more than so many relied on a term. */
export function crowds(windows: readonly Window[], limit: number): string[] {
  const edges = windows.flatMap(({ fromMs, toMs }) => [
    { atMs: fromMs, change: 1 },
    { atMs: toMs, change: -1 },
  ])
  edges.sort((a, b) => a.atMs - b.atMs || a.change - b.change)
  const wrong: string[] = []
  let active = 0
  for (const { atMs, change } of edges) {
    active += change
    if (active > limit) wrong.push(`${active} at ${atMs}`)
  }
  return wrong
}

/** What happened at the store, in the order in which the store says that it happened. */
export interface StoreEvent {
  readonly what: 'grant' | 'write'
  readonly lease: string
  readonly token: bigint
  /** Of a write, where the store knows: the fencing token of the write that it replaced. */
  readonly over?: bigint
}

/** Writes that came after a newer grant, after a newer write, or over one. */
export function staleWrites(log: readonly StoreEvent[]): string[] {
  return [...byLease(log)].flatMap(([lease, events]) => {
    let newest = 0n
    return events.flatMap(({ what, token, over = 0n }) => {
      const passed = over > newest ? over : newest
      if (token > newest) newest = token
      return what === 'write' && token < passed ? `${lease}: a write with token ${token} after ${passed}` : []
    })
  })
}

/** Writes that a worker recorded as `written` and that the log does not have, and those `refused` that it has. */
export function misreportedWrites(log: readonly StoreEvent[], reports: readonly Report[]): string[] {
  const written = new Set(log.flatMap(({ what, lease, token }) => (what === 'write' ? `${lease} ${token}` : [])))
  return reports.flatMap(({ what, lease = '', token = '' }) => {
    if (what !== 'written' && what !== 'refused') return []
    const isRight = written.has(`${lease} ${token}`) === (what === 'written')
    return isRight ? [] : `${lease}: the write with token ${token} was ${what}`
  })
}

function byLease<T extends { readonly lease: string }>(all: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const one of all) {
    const group = groups.get(one.lease)
    if (group === undefined) groups.set(one.lease, [one])
    else group.push(one)
  }
  return groups
}
