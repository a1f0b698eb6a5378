/**
 * What the store did, and when by the true time: the model with which everything is compared that callers are notified.
 *
 * It listens where requests are executed. The time of the store is the true time.
 */
import type { MemoryStore } from 'lease-core'
import type { Op, Verdict } from 'lease-core/adapter'

export type MemoryNamespace = ReturnType<MemoryStore['namespace']>
type Stamp = NonNullable<Parameters<MemoryNamespace['apply']>[1]>

/** Where and when a request was sent. */
export interface Sent {
  /** The one life of a process: after a restart it has another number. */
  readonly life: number
  readonly atMs: number
  /** A copy of it was executed, and refused. */
  isRefused?: boolean
}

/** A caller was notified that it has this term. */
export interface Acknowledged {
  readonly life: number
  /** When the call began. */
  readonly fromMs: number
}

/** One term, as the store had it. */
export interface StoredTerm {
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  readonly openedMs: number
  readonly acknowledged: Acknowledged[]
  /** How it ended. */
  end?: TermEnding | undefined
}

export interface TermEnding {
  /** `unpin`: it had lapsed, but for a pin that was withdrawn. */
  readonly by: 'lapse' | 'release' | 'takeover' | 'unpin'
  readonly atMs: number
  /** Who sent the release, or the withdrawal. */
  readonly sent?: Sent | undefined
  /** Whether somebody asked for this release. */
  readonly isAsked: boolean
}

/** What the store had for a lease, from one instant to the next entry. */
export interface Entry {
  readonly fromMs: number
  readonly term: StoredTerm | undefined
  /** The last instant at which the term may be called held. */
  readonly heldUntilMs: number
  /** The first instant at which the lease may be called vacant. */
  readonly vacantFromMs: number
  readonly value: string | undefined
  readonly pins: ReadonlySet<string>
  readonly nonce: string | undefined
  readonly version: string | undefined
}

/** What the rest of the simulation wants to hear of, within the instant. */
export interface HistoryListener {
  executed(op: Op, sent: Sent | undefined): void
  opened(term: StoredTerm, sent: Sent | undefined): void
  /** Returns whether somebody asked for it. */
  released(term: StoredTerm, op: Op, sent: Sent | undefined, nonce: string | undefined): boolean
  pinned(lease: string, entity: string, sent: Sent | undefined, isPinned: boolean): void
  valued(term: StoredTerm, value: string): void
  /** Whether a store that does not know when a claim was sent may open a second term for it. */
  mayOpenAgain(term: StoredTerm, sent: Sent | undefined): boolean
  problem(rule: string, what: string): void
}

const NO_PINS: ReadonlySet<string> = new Set()

export class History {
  readonly #now: () => number
  readonly #listener: HistoryListener
  readonly #entries = new Map<string, Entry[]>()
  readonly #sent = new WeakMap<object, Sent>()
  /** By the nonce of the claim that opened it. */
  readonly #openedBy = new Map<string, StoredTerm>()
  readonly #lastTokens = new Map<string, bigint>()
  #namespace: MemoryNamespace | undefined
  /** How many terms were opened, and how many grants there were in all. */
  opened = 0
  granted = 0

  constructor(now: () => number, listener: HistoryListener) {
    this.#now = now
    this.#listener = listener
  }

  /** Listens to all that is executed here from now on. */
  follow(namespace: MemoryNamespace): void {
    this.#namespace = namespace
    const apply = namespace.apply.bind(namespace)
    namespace.apply = (op: Op, stamp?: Stamp): Verdict => {
      const verdict = apply(op, stamp)
      const sent = this.#sent.get(op)
      if (verdict.outcome === 'refused' && sent !== undefined) sent.isRefused = true
      if (verdict.outcome === 'granted') this.#executed(op, sent)
      return verdict
    }
  }

  /** These operations are sent now. */
  sending(op: object, sent: Sent): void {
    this.#sent.set(op, sent)
  }

  sentOf(op: object): Sent | undefined {
    return this.#sent.get(op)
  }

  /** What is in the store now. */
  latest(lease: string): Entry {
    return this.#of(lease).at(-1) as Entry
  }

  /** The term that stands now. */
  standing(lease: string): StoredTerm | undefined {
    const { term, heldUntilMs } = this.latest(lease)
    return this.#now() <= heldUntilMs ? term : undefined
  }

  term(lease: string, fencingToken: bigint): StoredTerm | undefined {
    const entries = this.#of(lease)
    for (let index = entries.length - 1; index >= 0; index--) {
      const { term } = entries[index] as Entry
      if (term !== undefined && term.fencingToken === fencingToken) return term
      if (term !== undefined && term.fencingToken < fencingToken) return undefined
    }
    return undefined
  }

  /** Whether this was true at some instant between these two. */
  wasTrue(
    lease: string,
    fromMs: number,
    toMs: number,
    test: (term: StoredTerm | undefined, entry: Entry) => boolean,
  ): boolean {
    const entries = this.#of(lease)
    let untilMs = Number.POSITIVE_INFINITY
    for (let index = entries.length - 1; index >= 0; index--) {
      const entry = entries[index] as Entry
      const low = Math.max(fromMs, entry.fromMs)
      const high = Math.min(toMs, untilMs)
      if (low <= high) {
        if (low <= entry.heldUntilMs && test(entry.term, entry)) return true
        if (entry.term !== undefined && high >= entry.vacantFromMs && test(undefined, entry)) return true
      }
      if (entry.fromMs < fromMs) return false
      untilMs = entry.fromMs
    }
    return false
  }

  /** Since when nobody has the lease, which its last holder gave up or lost to a revocation; undefined: somebody has it, or it lapsed. */
  releasedMs(lease: string): number | undefined {
    let sinceMs: number | undefined
    for (const { term, fromMs } of this.#of(lease).toReversed()) {
      if (term !== undefined) return term.end?.by === 'release' ? sinceMs : undefined
      sinceMs = fromMs
    }
    return undefined
  }

  /** When the term lapses, if nothing happens to it. */
  lapseOf(lease: string): number {
    const { term, vacantFromMs } = this.latest(lease)
    return term === undefined ? this.#now() : vacantFromMs
  }

  #of(lease: string): Entry[] {
    let entries = this.#entries.get(lease)
    if (entries === undefined) this.#entries.set(lease, (entries = [NOTHING]))
    return entries
  }

  #executed(op: Op, sent: Sent | undefined): void {
    const { lease } = op
    const namespace = this.#namespace as MemoryNamespace
    const nowMs = this.#now()
    const before = this.latest(lease)
    const holding = namespace.read([lease]).get(lease)
    const pins = namespace.pinned([lease]).get(lease)
    if (op.kind === 'claim' || op.kind === 'extend') this.granted++
    this.#listener.executed(op, sent)

    let term = before.term
    const hadLapsed = term !== undefined && nowMs > before.heldUntilMs
    if (term !== undefined && (hadLapsed || term.fencingToken !== holding?.fencingToken)) {
      if (hadLapsed) term.end = { by: 'lapse', atMs: before.heldUntilMs, isAsked: true }
      else if (op.kind === 'release') {
        // Set first: a process that is asked now must find the term over.
        const ending = { by: 'release', atMs: nowMs, sent, isAsked: true } as const
        term.end = ending
        term.end = { ...ending, isAsked: this.#listener.released(term, op, sent, before.nonce) }
      } else if (nowMs >= before.vacantFromMs) term.end = { by: 'takeover', atMs: nowMs, isAsked: true }
      else if (op.kind === 'unpin') term.end = { by: 'unpin', atMs: nowMs, sent, isAsked: true }
      else this.#listener.problem('store', `${op.kind} ended the live term ${term.fencingToken} of ${lease}`)
      term = undefined
    }
    const isNew = holding !== undefined && term === undefined
    if (isNew) {
      const { holder, fencingToken } = holding
      term = { lease, holder, fencingToken, openedMs: nowMs, acknowledged: [] }
    }
    this.#append(lease, nowMs, before, term, holding, pins)
    if (op.kind === 'claim' && isNew && term !== undefined) this.#opened(term, op.nonce, sent)
    if (term !== undefined && 'value' in op && op.value !== undefined && holding?.value === op.value) {
      this.#listener.valued(term, op.value)
    }
    if (op.kind === 'pin' || op.kind === 'unpin') {
      const isPinned = pins?.has(op.entity) === true
      if (isPinned !== before.pins.has(op.entity) || op.kind === 'pin')
        this.#listener.pinned(lease, op.entity, sent, isPinned)
    }
  }

  /** Another operation may have ended a term that has lapsed: the grant of another share. */
  compare(lease: string): void {
    const namespace = this.#namespace as MemoryNamespace
    const before = this.latest(lease)
    const { term, heldUntilMs, vacantFromMs } = before
    if (term === undefined || namespace.read([lease]).get(lease)?.fencingToken === term.fencingToken) return
    const nowMs = this.#now()
    const by = nowMs > heldUntilMs ? 'lapse' : 'takeover'
    term.end = { by, atMs: by === 'lapse' ? heldUntilMs : nowMs, isAsked: true }
    if (nowMs < vacantFromMs && by === 'takeover')
      this.#listener.problem('store', `another grant ended the live term ${term.fencingToken} of ${lease}`)
    this.#append(lease, nowMs, before, undefined, undefined, namespace.pinned([lease]).get(lease))
  }

  #append(
    lease: string,
    fromMs: number,
    before: Entry,
    term: StoredTerm | undefined,
    holding: ReturnType<ReturnType<MemoryNamespace['read']>['get']>,
    pinned: ReadonlyMap<string, string> | undefined,
  ): void {
    const pins = pinned === undefined ? NO_PINS : new Set(pinned.keys())
    const { value, nonce, version } = holding ?? {}
    let heldUntilMs = Number.POSITIVE_INFINITY
    let vacantFromMs = Number.POSITIVE_INFINITY
    if (holding !== undefined && version !== undefined) {
      const writtenMs = version === before.version ? (this.#written.get(lease) ?? fromMs) : fromMs
      this.#written.set(lease, writtenMs)
      if (pins.size === 0) vacantFromMs = writtenMs + holding.remainingMs
    } else if (holding !== undefined && pins.size === 0) vacantFromMs = heldUntilMs = fromMs + holding.remainingMs
    this.#of(lease).push({ fromMs, term, heldUntilMs, vacantFromMs, value, pins, nonce, version })
  }

  readonly #written = new Map<string, number>()

  #opened(term: StoredTerm, nonce: string, sent: Sent | undefined): void {
    const { lease, fencingToken } = term
    this.opened++
    if (fencingToken <= (this.#lastTokens.get(lease) ?? 0n)) {
      this.#listener.problem('3 fencing', `the token ${fencingToken} of ${lease} does not rise`)
    }
    this.#lastTokens.set(lease, fencingToken)
    const before = this.#openedBy.get(`${lease} ${nonce}`)
    // Sent again after the end of its first term, because nobody had answered, it is a claim of its own.
    const isCopy = before !== undefined && (sent?.atMs ?? 0) <= (before.end?.atMs ?? 0)
    if (isCopy && !this.#listener.mayOpenAgain(term, sent)) {
      this.#listener.problem(
        '4 twice',
        `one claim opened two terms of ${lease}, ${before.fencingToken} and ${fencingToken}`,
      )
    }
    this.#openedBy.set(`${lease} ${nonce}`, term)
    this.#listener.opened(term, sent)
  }
}

const NOTHING: Entry = {
  fromMs: Number.NEGATIVE_INFINITY,
  term: undefined,
  heldUntilMs: Number.POSITIVE_INFINITY,
  vacantFromMs: Number.POSITIVE_INFINITY,
  value: undefined,
  pins: NO_PINS,
  nonce: undefined,
  version: undefined,
}
