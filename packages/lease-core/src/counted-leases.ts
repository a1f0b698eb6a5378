/**
 * Counted leases of one client: what they are, how they are defined, and what keeps a share from those who were refused one.
 */
import type { CountedInfo } from './client.ts'
import { ErrInvalid, ErrUnknown } from './errors.ts'
import type { KeyedMutex } from './keyed-mutex.ts'
import type { LeaseState, LeaseStates } from './lease-states.ts'
import type { ElapsedTime } from './elapsed-time.ts'
import type { RoundTrips } from './round-trips.ts'
import type { Settlement } from './settlement.ts'
import type { Call, Counted, DefineOp, Verdict } from './substrate.ts'

export interface CountedLeasesParts {
  readonly time: ElapsedTime
  readonly states: LeaseStates
  readonly mutex: KeyedMutex
  readonly trips: RoundTrips
  readonly settlement: Settlement
  /** The store's. */
  readonly read: (lease: string, call: Call) => Promise<Counted>
}

export class CountedLeases {
  readonly #parts: CountedLeasesParts
  /** Of each counted lease that this client waits for: the shares that the last refusal has shown. */
  readonly #shown = new Map<string, readonly string[]>()
  /** The same of those that were asked for without waiting, of a store without a clock: to observe them the client must know them. */
  readonly #tried = new Map<string, readonly string[]>()

  constructor(parts: CountedLeasesParts) {
    this.#parts = parts
  }

  /** @param name as stores have it */
  async read(name: string): Promise<CountedInfo> {
    const { trips, states, time, read } = this.#parts
    const question = states.open()
    try {
      const counted = await trips.ask(`counted lease "${name.slice(0, -1)}"`, (call) => read(name, call))
      const now = time.read()
      for (const [share, holding] of counted.shares) states.learn(share, holding, { question, now })
      const shares = [...counted.shares.keys()]
      if (this.#shown.has(name)) this.#shown.set(name, shares)
      else this.#learnTried(name, counted)
      return this.#infoOf(counted)
    } finally {
      states.close(question)
    }
  }

  /** @returns the new generation */
  async define(
    name: string,
    { capacity, from }: Pick<DefineOp, 'capacity' | 'from'>,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const { settlement, mutex } = this.#parts
    const generation = settlement.newNonce()
    const op: DefineOp = { kind: 'define', lease: name, capacity, from, generation }
    const { verdict, doubt } = await mutex.inTurn(name, () => settlement.sent(op, signal))
    if (verdict.outcome === 'granted') return generation
    const reason = 'its definition is another'
    const named = `counted lease "${name.slice(0, -1)}"`
    if (doubt === undefined) throw new ErrInvalid(`cannot define ${named}: ${reason}`, { lease: name, reason })
    // The attempt whose answer was lost may have made a definition that another one has replaced.
    throw new ErrUnknown(`could not define ${named}, it may have happened: ${reason}`, { lease: name, reason })
  }

  /** A claim of a share was refused or granted. */
  learn(name: string, { outcome, counted }: Verdict, { waits }: { readonly waits: boolean }): void {
    if (waits) {
      if (outcome === 'granted' || counted === undefined) this.#shown.delete(name)
      else this.#shown.set(name, [...counted.shares.keys()])
    } else if (counted !== undefined) this.#learnTried(name, counted)
  }

  #learnTried(name: string, { shares }: Counted): void {
    this.#tried.delete(name)
    const [first] = shares.values()
    if (first?.version === undefined) return
    this.#tried.set(name, [...shares.keys()])
    const [oldest] = this.#tried.keys()
    if (this.#tried.size > MOST_TRIED && oldest !== undefined) this.#tried.delete(oldest)
  }

  forget(name: string): void {
    this.#shown.delete(name)
  }

  /** Of the shares that the last refusal of one who waits has shown, the one that may lapse first; undefined: one of them is over. */
  blocking(name: string): LeaseState | undefined {
    const { states, time } = this.#parts
    const now = time.read()
    let first: LeaseState | undefined
    for (const share of this.#shown.get(name) ?? []) {
      const state = states.get(share)
      if (state === undefined || state.isLapsed()) return undefined
      if (first === undefined || untilLapseMs(state) < untilLapseMs(first)) first = state
    }
    return first

    function untilLapseMs(state: LeaseState): number {
      return state.pinned ? Number.POSITIVE_INFINITY : state.lapsesInMs(now)
    }
  }

  /** Of a store without a clock: the shares that were observed to be lapsed, with their versions. */
  lapsed(name: string): ReadonlyMap<string, string> {
    const { states, time } = this.#parts
    const shares = this.#shown.get(name) ?? this.#tried.get(name)
    if (shares === undefined) return NONE
    const now = time.read()
    const lapsed = new Map<string, string>()
    for (const share of shares) {
      const version = states.get(share)?.lapsedVersion(now)
      if (version !== undefined) lapsed.set(share, version)
    }
    return lapsed
  }

  #infoOf({ capacity, generation, shares }: Counted): CountedInfo {
    const infos = new Map<string, LeaseState>()
    for (const share of shares.keys()) {
      const state = this.#parts.states.get(share)
      if (state !== undefined) infos.set(share, state)
    }
    return { capacity, generation, shares: infos }
  }
}

/** So many counted leases are remembered that were asked for without waiting. */
const MOST_TRIED = 1024

const NONE: ReadonlyMap<string, string> = new Map()
