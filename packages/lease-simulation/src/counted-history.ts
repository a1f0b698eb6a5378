/**
 * What the store did with counted leases, by the true time: how much of each was taken, of what capacity, and whether somebody waited.
 * Shares are leases: what became of each of them is in `history.ts`.
 */
import { countedOf, INTEREST_MS, type ClaimOp, type Op, type Verdict } from 'lease-core/adapter'
import type { History, MemoryNamespace, Sent } from './history.ts'

/** What the store had for a counted lease, from one instant to the next entry. */
export interface CountedEntry {
  readonly fromMs: number
  readonly capacity: number | undefined
  readonly generation: string | undefined
  /** By the share: its weight, and the last instant at which it may be called held. */
  readonly shares: ReadonlyMap<string, { readonly weight: number; readonly heldUntilMs: number }>
  /** Until when somebody waits at most. */
  readonly awaitedUntilMs: number
}

/** A share as it was granted. */
interface Granted {
  readonly weight: number
  readonly fencingToken: bigint
  /** In force at its grant. */
  readonly capacity: number
}

/** A call of `define`. */
export interface DefineCall {
  readonly life: number
  readonly name: string
  readonly fromMs: number
  isDone: boolean
}

export interface CountedHistoryParts {
  readonly history: History
  readonly clockless: boolean
  readonly now: () => number
  /** Whether a request that was sent then must not be executed any more, as its process has been heard of since. */
  readonly isOutdated: (sent: Sent) => boolean
  readonly problem: (rule: string, what: string) => void
}

export class CountedHistory {
  /** All shares that ever were. */
  readonly shares: Set<string> = new Set()
  readonly #parts: CountedHistoryParts
  readonly #entries = new Map<string, CountedEntry[]>()
  readonly #granted = new Map<string, Granted>()
  /** Of each counted lease the first in its queue for whom there is room, and since when that was so each time that it was looked at. */
  readonly #served = new Map<string, { readonly place: number; readonly sinceMs: number }>()
  readonly #defines: DefineCall[] = []
  #namespace: MemoryNamespace | undefined

  constructor(parts: CountedHistoryParts) {
    this.#parts = parts
  }

  /** Listens to all that is executed here from now on; to be called when the other history listens already. */
  follow(namespace: MemoryNamespace): void {
    this.#namespace = namespace
    const apply = namespace.apply.bind(namespace)
    namespace.apply = (op, stamp) => {
      const name = countedOf(op.lease)
      if (name === undefined) return apply(op, stamp)
      const waiting = [...namespace.waiting(name)]
      const verdict = apply(op, stamp)
      if (verdict.outcome !== 'late') this.#executed(name, op, verdict, { namespace, waiting })
      return verdict
    }
  }

  latest(name: string): CountedEntry {
    return this.#of(name).at(-1) as CountedEntry
  }

  /** Whether this was true at some instant between these two. */
  wasTrue(name: string, fromMs: number, toMs: number, test: (entry: CountedEntry, atMs: number) => boolean): boolean {
    let untilMs = Number.POSITIVE_INFINITY
    for (const entry of this.#of(name).toReversed()) {
      const low = Math.max(fromMs, entry.fromMs)
      if (low <= Math.min(toMs, untilMs) && test(entry, low)) return true
      if (entry.fromMs < fromMs) return false
      untilMs = entry.fromMs
    }
    return false
  }

  weight(share: string): number {
    return this.#granted.get(share)?.weight ?? 0
  }

  /** To be called again and again: for how long there has been room for the first in the queue, always the same one. */
  lookAtFirst(name: string): number {
    const [first] = this.#namespace?.waiting(name) ?? []
    const before = this.#served.get(name)
    this.#served.delete(name)
    if (this.#namespace === undefined || first === undefined) return 0
    const { capacity = 0, shares } = this.#namespace.counted(name)
    let sum = first.weight
    for (const { weight = 0 } of shares.values()) sum += weight
    if (sum > capacity) return 0
    const sinceMs = before?.place === first.place ? before.sinceMs : this.#parts.now()
    this.#served.set(name, { place: first.place, sinceMs })
    return this.#parts.now() - sinceMs
  }

  /** The shares that somebody relies on at this moment are together within the capacity of the latest grant among them. */
  reliedOn(relied: ReadonlyMap<string, bigint>): void {
    const sums = new Map<string, { sum: number; capacity: number; latest: bigint }>()
    for (const [share, fencingToken] of relied) {
      const granted = this.#granted.get(share)
      const name = countedOf(share) as string
      if (granted?.fencingToken !== fencingToken) continue
      const { sum, capacity, latest } = sums.get(name) ?? { sum: 0, capacity: 0, latest: -1n }
      const isLater = fencingToken > latest
      sums.set(name, {
        sum: sum + granted.weight,
        capacity: isLater ? granted.capacity : capacity,
        latest: isLater ? fencingToken : latest,
      })
    }
    for (const [name, { sum, capacity }] of sums) {
      if (sum > capacity)
        this.#parts.problem('1 capacity', `shares of ${name} that weigh ${sum} are relied on, of ${capacity}`)
    }
  }

  /** From now on such a definition is asked for; its `isDone` says that it was acknowledged. */
  defining(life: number, name: string): DefineCall {
    const call = { life, name, fromMs: this.#parts.now(), isDone: false }
    this.#defines.push(call)
    return call
  }

  #of(name: string): CountedEntry[] {
    let entries = this.#entries.get(name)
    if (entries === undefined) this.#entries.set(name, (entries = [NOTHING]))
    return entries
  }

  #executed(
    name: string,
    op: Op,
    verdict: Verdict,
    { namespace, waiting }: { readonly namespace: MemoryNamespace; readonly waiting: readonly Waiting[] },
  ): void {
    const { history, now, problem } = this.#parts
    const before = this.latest(name)
    const nowMs = now()
    const { capacity, generation, shares } = namespace.counted(name)
    if (generation !== before.generation) {
      if (before.generation !== (op.kind === 'define' ? op.from : undefined))
        problem('5 define', `a ${op.kind} made ${name} ${generation}, which was ${before.generation}`)
      this.#noteDefinition(name, op, generation)
    }
    for (const share of this.shares) if (countedOf(share) === name && share !== op.lease) history.compare(share)
    const isClaim = op.kind === 'claim' && op.share !== undefined && verdict.outcome === 'granted'
    if (isClaim && history.latest(op.lease).term?.openedMs === nowMs)
      this.#noteGrant(name, op, { capacity: capacity ?? 0, waiting })
    const standing = [...shares].map(([share, { weight = 0, remainingMs, pinned, version, holder }]) => {
      if (share !== name + holder) problem('1 doubled', `${share} is the share of ${holder}`)
      const isOpen = pinned || version !== undefined
      return [share, { weight, heldUntilMs: isOpen ? Number.POSITIVE_INFINITY : nowMs + remainingMs }] as const
    })
    const awaits = waiting.length + namespace.waiting(name).length > 0
    const awaitedUntilMs = awaits ? nowMs + INTEREST_MS : -1
    this.#of(name).push({ fromMs: nowMs, capacity, generation, shares: new Map(standing), awaitedUntilMs })
  }

  /** What stands by the history of each share, and not by what the store counts, is within the capacity. */
  #noteGrant(
    name: string,
    op: ClaimOp,
    { capacity, waiting }: { readonly capacity: number; readonly waiting: readonly Waiting[] },
  ): void {
    const { history, clockless, now, problem } = this.#parts
    const { term } = history.latest(op.lease)
    this.shares.add(op.lease)
    const weight = op.share?.weight ?? 0
    this.#granted.set(op.lease, { weight, capacity, fencingToken: term?.fencingToken ?? -1n })
    let sum = 0
    for (const share of this.shares) {
      const { term: other, vacantFromMs } = history.latest(share)
      const stands = other !== undefined && (clockless ? now() < vacantFromMs : history.standing(share) !== undefined)
      if (countedOf(share) === name && stands) sum += this.weight(share)
    }
    if (sum > capacity)
      problem('1 capacity', `the shares of ${name} weigh ${sum} with that of ${op.holder}, of ${capacity}`)
    const room = capacity - sum + weight
    const ahead = waiting.filter(({ place }) => (op.place ?? 0) === 0 || place < (op.place ?? 0))
    const passing = op.share?.passing ?? 0
    if ((op.share?.capacity ?? capacity) !== capacity)
      problem('1 capacity', `${op.lease} was granted as one of ${op.share?.capacity}, of a capacity of ${capacity}`)
    if (ahead.length > passing || ahead.some((one) => one.weight > room))
      problem('6 order', `${op.lease} was granted before ${ahead.length} in the queue, and may pass ${passing}`)
    for (const share of this.shares) {
      const token = history.latest(share).term?.fencingToken ?? -1n
      if (countedOf(share) === name && share !== op.lease && token >= (term?.fencingToken ?? 0n))
        problem('3 fencing', `the token ${term?.fencingToken} of ${op.lease} is not above ${token} of ${share}`)
    }
  }

  /** What was sent before an acknowledged definition was asked for must not change it. */
  #noteDefinition(name: string, op: Op, generation: string | undefined): void {
    const { history, isOutdated, problem } = this.#parts
    const sent = history.sentOf(op)
    if (sent === undefined || !isOutdated(sent)) return
    const later = this.#defines.find((call) => call.name === name && call.isDone && call.fromMs > sent.atMs)
    if (later === undefined) return
    const what = `a ${op.kind} that p${sent.life} sent at ${Math.round(sent.atMs)} made ${name} ${generation}`
    problem('4 define', `${what}, though another definition was asked for at ${Math.round(later.fromMs)}`)
  }
}

type Waiting = ReturnType<MemoryNamespace['waiting']>[number]

/** Whether a claim of this weight cannot be granted at this instant without a ticket. */
export function isFullFor(weight: number): (entry: CountedEntry, atMs: number) => boolean {
  return ({ capacity = 0, shares, awaitedUntilMs }, atMs) => {
    let sum = weight
    for (const { weight: taken, heldUntilMs } of shares.values()) if (atMs <= heldUntilMs) sum += taken
    return sum > capacity || atMs <= awaitedUntilMs
  }
}

const NOTHING: CountedEntry = {
  fromMs: Number.NEGATIVE_INFINITY,
  capacity: undefined,
  generation: undefined,
  shares: new Map(),
  awaitedUntilMs: -1,
}
